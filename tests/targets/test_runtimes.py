from __future__ import annotations

import pytest

from surgery.errors import RuntimeRefused
from surgery.targets.runtimes import RUNTIMES, find_runtime, refuse_padding


def test_runtimes_are_found_by_name() -> None:
    for name, runtime in RUNTIMES.items():
        assert find_runtime(name) is runtime
        assert runtime.name == name


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(RuntimeRefused) as caught:
        find_runtime("tensorrt")
    assert all(name in str(caught.value) for name in RUNTIMES)


def test_missing_layers_are_listed_in_order() -> None:
    wanted = ["MemoryData", "Convolution", "ConvolutionDepthWise", "rife.Warp"]
    assert RUNTIMES["nihui"].lacks(wanted) == ["ConvolutionDepthWise", "MemoryData"]
    assert RUNTIMES["nihui-memorydata"].lacks(wanted) == ["ConvolutionDepthWise"]
    assert RUNTIMES["video2x"].lacks(wanted) == ["ConvolutionDepthWise"]
    for name in ("tntwise", "wheel", "vapoursynth", "ncnn"):
        assert RUNTIMES[name].lacks(wanted) == []


@pytest.mark.parametrize(
    ("padding", "able"),
    [
        (16, {"nihui", "nihui-memorydata", "tntwise", "wheel", "vapoursynth", "video2x", "ncnn"}),
        (32, {"nihui", "nihui-memorydata", "tntwise", "wheel", "vapoursynth", "video2x", "ncnn"}),
        (64, {"tntwise", "wheel", "vapoursynth", "video2x", "ncnn"}),
        (128, {"tntwise", "vapoursynth", "video2x", "ncnn"}),
        (256, {"ncnn"}),
    ],
)
def test_a_runtime_that_pads_too_little_is_left_out(padding: int, able: set[str]) -> None:
    reasons = {name: refuse_padding(runtime, padding) for name, runtime in RUNTIMES.items()}
    assert {name for name, reason in reasons.items() if not reason} == able
    assert all(f"padded to {padding}" in reason for reason in reasons.values() if reason)


def test_all_but_plain_ncnn_have_the_official_layers() -> None:
    official = RUNTIMES["nihui"].layers
    assert official is not None
    for runtime in RUNTIMES.values():
        assert runtime.layers is None or official <= runtime.layers
