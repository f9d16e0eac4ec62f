#!/bin/sh
# Installs what pip cannot bring, on Debian and its kin, where this user may: venv, a C++ compiler,
# the Vulkan loader (the wheel of rife-ncnn-vulkan links it), a software Vulkan driver, and a browser
# for the tests where they may skip nothing.
# Elsewhere it says in one line each what is missing and what follows.
set -eu

PYTHON=${PYTHON:-python3}

command -v "$PYTHON" >/dev/null || { echo "error: no $PYTHON; install Python 3.10 or newer" >&2; exit 1; }
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "error: $("$PYTHON" --version) is too old; 'make PYTHON=...' takes 3.10 or newer" >&2
    exit 1
}

has_venv() { "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; }
has_compiler() { command -v c++ >/dev/null; }
has_vulkan_loader() { "$PYTHON" -c 'import ctypes; ctypes.CDLL("libvulkan.so.1")' 2>/dev/null; }
has_vulkan_driver() {
    for driver in /usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json; do
        [ -e "$driver" ] && return
    done
    return 1
}
# Only tests need a browser, and only those that may skip nothing insist on it: it is large.
has_browser() {
    [ "${SURGERY_FORBID_SKIPS:-}" != 1 ] || command -v chromium >/dev/null ||
        command -v chromium-browser >/dev/null
}

list_missing() {
    has_venv || echo python3-venv
    has_compiler || echo g++
    has_vulkan_loader || echo libvulkan1
    has_vulkan_driver || echo mesa-vulkan-drivers
    has_browser || echo chromium
}

install_with_apt() {
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" -eq 0 ]; then
        as_root=
    elif sudo -n true 2>/dev/null; then
        as_root="sudo -n"
    else
        return 1
    fi
    echo "Installing with apt-get:" "$@"
    $as_root apt-get update -qq &&
        $as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}

missing=$(list_missing)
[ -n "$missing" ] || exit 0
# Word splitting is meant: one package each.
# shellcheck disable=SC2086
install_with_apt $missing || true

for package in $(list_missing); do
    case $package in
        python3-venv | g++)
            echo "error: $package is missing; as root: apt-get install $package" >&2
            exit 1
            ;;
        libvulkan1) without="rife-ncnn-vulkan is skipped" ;;
        chromium) without="the report is not looked at in a browser" ;;
        mesa-vulkan-drivers) without="what runs on Vulkan is skipped" ;;
    esac
    echo "note: $package is missing (as root: apt-get install $package): $without" >&2
done
