from __future__ import annotations

from pathlib import Path

import pytest

from surgery.errors import RuntimeRefused
from surgery.targets.folder_names import read_folder_path, refuse_folder_path
from surgery.targets.read_checkout import read_checkout
from surgery.targets.runtimes import RUNTIMES, find_runtime

# Every layer that is switched on in the official build, as its file spells them.
OFFICIAL = [kind.lower() for kind in RUNTIMES["nihui"].layers or () if kind != "rife.Warp"]


def make_checkout(folder: Path, options: str, main: str = "") -> Path:
    source = folder / "rife-mine" / "src"
    source.mkdir(parents=True)
    (source / "CMakeLists.txt").write_text(options, encoding="utf-8")
    (source / "main.cpp").write_text(main, encoding="utf-8")
    return source.parent


def write_options(**changes: str) -> str:
    states = {**dict.fromkeys(OFFICIAL, "ON"), "memorydata": "OFF", "reshape": "OFF", **changes}
    return "\n".join(f'    option(WITH_LAYER_{name} "" {state})' for name, state in states.items())


def test_the_official_options_make_the_official_runtime(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path, write_options())
    for path in (checkout, checkout / "src", checkout / "src" / "CMakeLists.txt"):
        runtime = find_runtime(str(path))
        assert runtime.name == "rife-mine"
        assert runtime.layers == RUNTIMES["nihui"].layers
        assert runtime.paddings == RUNTIMES["nihui"].paddings
        assert runtime.breaks_1x1_convolution


@pytest.mark.parametrize(
    "line",
    [
        'option(WITH_LAYER_memorydata "" ON)',
        'OPTION( WITH_LAYER_memorydata "constants" on )',
        "set(WITH_LAYER_memorydata ON)",
        'set(WITH_LAYER_memorydata ON CACHE BOOL "" FORCE)',
    ],
)
def test_a_layer_is_switched_on_by_every_spelling(tmp_path: Path, line: str) -> None:
    checkout = make_checkout(tmp_path, f"{write_options()}\n{line}\n")
    assert read_checkout(checkout).lacks(["MemoryData", "ConvolutionDepthWise"]) == [
        "ConvolutionDepthWise"
    ]


def test_a_layer_is_switched_off(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path, write_options(pixelshuffle="OFF"))
    assert read_checkout(checkout).lacks(["PixelShuffle", "Convolution"]) == ["PixelShuffle"]


def test_comments_and_unknown_layers_are_passed_over(tmp_path: Path) -> None:
    text = f'{write_options(yolov9="ON")}\n# option(WITH_LAYER_memorydata "" ON)\n'
    runtime = read_checkout(make_checkout(tmp_path, text))
    assert runtime.lacks(["MemoryData", "GridSample"]) == ["GridSample", "MemoryData"]


def test_reshape_mends_convolutions_of_1x1(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path, write_options(reshape="ON"))
    assert not read_checkout(checkout).breaks_1x1_convolution


def test_paddings_are_read_from_the_source(tmp_path: Path) -> None:
    main = "int padding = 32; if (a) padding = 64; if (b) { padding=128; } padding = 0;"
    checkout = make_checkout(tmp_path, write_options(), main)
    assert read_checkout(checkout).paddings == (32, 64, 128)
    reading = read_folder_path("rife-v4.26", str(checkout))
    assert reading is not None
    assert reading.padding == 64


def test_folder_names_are_read_as_the_official_build_reads_them(tmp_path: Path) -> None:
    checkout = str(make_checkout(tmp_path, write_options()))
    assert refuse_folder_path("/m/rife-v4.6", 32, checkout) == ""
    assert "pads to 32" in refuse_folder_path("/m/rife-v4.26", 64, checkout)


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeRefused, match=r"holds no src/CMakeLists\.txt"):
        find_runtime(str(tmp_path))


def test_a_file_without_options_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeRefused, match="switches no layer"):
        read_checkout(make_checkout(tmp_path, "project(other)"))


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeRefused, match=r"no CMakeLists\.txt is so large"):
        read_checkout(make_checkout(tmp_path, " " * (1 << 20) + " "))


def test_a_path_that_does_not_exist_is_told_with_the_names_there_are() -> None:
    with pytest.raises(RuntimeRefused, match=r"accepted: nihui.*or the path of"):
        find_runtime("/nowhere/CMakeLists.txt")
