from __future__ import annotations

import re

import pytest

from surgery.errors import RuntimeRefused
from surgery.targets.folder_names import (
    MAX_PATH_BYTES,
    PATH_RULES,
    Reading,
    name_folder,
    read_folder_path,
    refuse_folder_path,
)
from surgery.targets.runtimes import RUNTIMES

V1, V2, V4 = Reading("v1", 32), Reading("v2", 32), Reading("v4", 32)
V4_64, V4_128 = Reading("v4", 64), Reading("v4", 128)
COLUMNS = ("nihui", "tntwise", "wheel", "vapoursynth", "video2x")
# What each runtime's source says of a path, read case by case; columns as above.
READINGS = {
    "models/rife-v2.3": (V2, V2, V2, V2, V2),
    "models/rife-v3.1": (V2, V2, V2, V2, V2),
    "models/rife-v3.6": (V2, V4, V2, V2, V2),
    "models/rife-v3.9": (V2, V4, V2, V4, V2),
    "models/rife-v4": (V4, V4, V4, V4, V4),
    "models/rife-v4.6": (V4, V4, V4, V4, V4),
    "models/rife-v4.24": (V4, V4, V4, V4, V4),
    "models/rife-v4.25": (V4, V4_64, V4_64, V4_64, V4_64),
    "models/rife-v4.25-lite": (V4, V4_128, V4_64, V4_128, V4_128),
    "models/rife-v4.25_lite": (V4, V4_64, V4_64, V4_64, V4_64),
    "models/rife-v4.26": (V4, V4_64, V4_64, V4_64, V4_64),
    "models/rife-v4.26-heavy": (V4, V4_64, V4_64, V4_64, V4_64),
    # The last padding found counts, not the largest.
    "models/rife-v4.25-lite-as-rife-v4.26": (V4, V4_64, V4_64, V4_64, V4_64),
    "models/rife-v5": (V1, V4, V1, V1, V1),
    "models/rife4.6": (V1, V1, V4, V4, V1),
    "models/rife-4.6": (V1, V1, V4, V1, V1),
    "models/rife": (V1, V1, V1, V1, V1),
    "models/RIFE-V4.6": (None, None, V1, None, None),
    "models/flow": (None, None, V1, None, None),
    # Parents count, for all but video2x, which is given a name.
    "rife-v2/rife-v4.6": (V2, V2, V4, V2, V4),
    "rife-v3.9/rife-v4.26": (V2, V4, V4_64, Reading("v4", 64), V4_64),
    "rife-v4.26/flow": (V4, V4_64, V4_64, V4_64, None),
    "rife/rife-v4.6": (V4, V4, V4, V4, V4),
    "rife-v2/rife-v4.26": (V2, V2, V4_64, Reading("v2", 64), V4_64),
}


@pytest.mark.parametrize("column", range(len(COLUMNS)), ids=COLUMNS)
@pytest.mark.parametrize("path", READINGS)
def test_paths_are_read_as_the_runtimes_read_them(path: str, column: int) -> None:
    assert read_folder_path(path, COLUMNS[column]) == READINGS[path][column]


def test_the_official_build_reads_paths_alike_with_and_without_memorydata() -> None:
    for path in READINGS:
        assert read_folder_path(path, "nihui") == read_folder_path(path, "nihui-memorydata")


def test_every_runtime_but_plain_ncnn_has_rules() -> None:
    assert RUNTIMES.keys() - PATH_RULES.keys() == {"ncnn"}
    assert PATH_RULES.keys() <= RUNTIMES.keys()


@pytest.mark.parametrize("runtime", PATH_RULES)
def test_the_paddings_that_names_select_are_those_of_the_runtime(runtime: str) -> None:
    rules = PATH_RULES[runtime]
    selected = {rules.padding, *(padding for _, padding in rules.paddings)}
    assert selected == set(RUNTIMES[runtime].paddings)


def test_plain_ncnn_reads_no_path() -> None:
    assert refuse_folder_path("anything at all", 128, "ncnn") == ""
    with pytest.raises(ValueError, match="does not read the path"):
        read_folder_path("rife-v4", "ncnn")


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(RuntimeRefused, match="accepted: nihui"):
        refuse_folder_path("rife-v4", 32, "tensorrt")


@pytest.mark.parametrize(
    ("path", "padding", "runtime"),
    [
        ("/m/rife-v4.6", 32, "nihui"),
        ("/m/rife-v4.6", 16, "nihui"),
        ("/m/rife-v4.26", 32, "nihui"),
        ("/m/rife-v4.26", 64, "tntwise"),
        ("/m/rife-v4.25-lite", 128, "tntwise"),
        ("/m/rife-v4.25-lite", 64, "vapoursynth"),
        ("/m/rife4.6", 32, "wheel"),
    ],
)
def test_paths_that_work_are_not_refused(path: str, padding: int, runtime: str) -> None:
    assert refuse_folder_path(path, padding, runtime) == ""


@pytest.mark.parametrize(
    ("path", "padding", "runtime", "fault", "advice"),
    [
        ("/m/mine", 32, "nihui", "refuses the path", "rife-v4-mine is a name that works"),
        ("/m/mine", 64, "tntwise", "refuses the path", "rife-v4.26-mine is a name that works"),
        ("/m/mine", 32, "wheel", "for a RIFE v1 of three networks", "rife-v4-mine is a name"),
        ("/m/rife-v3.1", 32, "wheel", "for a RIFE v2", "; rife-v4 is a name that works"),
        # The old name cannot stay inside the new one: it would still be found first.
        ("/m/rife-v3.1", 32, "nihui", "for a RIFE v2", "; rife-v4 is a name that works"),
        ("/m/rife-v4.6", 64, "tntwise", "pads to 32", "; rife-v4.26 is a name that works"),
        ("/m/rife-v4.26", 128, "tntwise", "pads to 64", "; rife-v4.25-lite is a name that works"),
        ("/m/rife-v4.26", 64, "nihui", "pads to 32", "no name makes nihui pad to 64"),
        ("/m/rife-v4.25-lite", 128, "wheel", "pads to 64", "no name makes wheel pad to 128"),
        ("/rife-v2/rife-v4", 32, "nihui", "for a RIFE v2", "choose another parent folder: rife-v4"),
        ("/x" * 130 + "/rife-v4", 32, "nihui", "268 bytes", "choose another parent folder"),
    ],
)
def test_paths_that_are_misread_are_refused_with_a_way_out(
    path: str, padding: int, runtime: str, fault: str, advice: str
) -> None:
    refusal = refuse_folder_path(path, padding, runtime)
    assert fault in refusal
    assert advice in refusal


def test_the_longest_path_that_fits_is_accepted() -> None:
    longest = "/rife-v4".ljust(MAX_PATH_BYTES, "x")
    assert len(f"{longest}/flownet.param") == 255
    assert refuse_folder_path(longest, 32, "nihui") == ""
    # The second letter takes two bytes.
    assert "bytes" in refuse_folder_path(longest[:-1] + "\u00e9", 32, "nihui")


@pytest.mark.parametrize("runtime", PATH_RULES)
def test_proposed_names_work(runtime: str) -> None:
    for padding in RUNTIMES[runtime].paddings:
        for name in ("", "mine", "rife-v2", "rife-v4.25-lite"):
            proposal = name_folder(padding, runtime, name, "/models")
            assert proposal is not None
            assert refuse_folder_path(f"/models/{proposal}", padding, runtime) == ""
    assert name_folder(256, runtime) is None


@pytest.mark.parametrize(
    ("path", "mode", "complaint"),
    [
        ("/m/rife-v2.3", "v2", ""),
        ("/m/rife-v3.1", "v2", ""),
        ("/m/rife-HD", "v1", ""),
        ("/m/rife-v4", "v2", "for a RIFE v4 of one network; rife-v2"),
        ("/m/rife-HD", "v2", "for a RIFE v1 of three networks; rife-v2"),
        ("/m/rife-v2.3", "v1", "for a RIFE v2 of three networks; .*rife"),
        ("/m/flow", "v1", "it looks for 'rife' in it; rife-flow is a name that works"),
    ],
)
def test_three_networks_want_a_name_of_their_mode(path: str, mode: str, complaint: str) -> None:
    found = refuse_folder_path(path, 32, "nihui", mode)
    assert bool(found) == bool(complaint)
    assert re.search(complaint, found)


def test_the_longest_name_of_three_networks_needs_room() -> None:
    path = "/rife-v2" + "x" * (MAX_PATH_BYTES - len("/rife-v2"))
    assert refuse_folder_path(path.replace("v2", "v4"), 32, "nihui") == ""
    assert "has room for" in refuse_folder_path(path, 32, "nihui", "v2")
