from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from surgery.engines import Sample
from surgery.engines.frames import (
    check_sample,
    crop_frame,
    from_8bit,
    network_inputs,
    pad_frame,
    read_png,
    timestep_plane,
    to_8bit,
    write_png,
)
from surgery.errors import EngineError, OutputExists, SurgeryError

MakeSample = Callable[..., Sample]


@pytest.mark.parametrize(
    ("height", "width", "padded"),
    [(1, 1, (32, 32)), (32, 64, (32, 64)), (33, 64, (64, 64)), (40, 70, (64, 96))],
)
def test_padding_is_zeros_at_the_right_and_bottom(
    height: int, width: int, padded: tuple[int, int]
) -> None:
    frame = np.ones((1, 3, height, width), np.float32)
    result = pad_frame(frame, 32)
    assert result.shape == (1, 3, *padded)
    assert result.sum() == frame.sum()
    assert np.array_equal(crop_frame(result, height, width), frame)


def test_a_cropped_frame_owns_its_rows() -> None:
    cropped = crop_frame(np.zeros((1, 3, 64, 64), np.float32), 10, 20)
    assert cropped.flags.c_contiguous


def test_the_plane_holds_the_timestep() -> None:
    plane = timestep_plane(3, 5, 0.3)
    assert plane.shape == (1, 1, 3, 5)
    assert plane.dtype == np.float32
    assert np.all(plane == np.float32(0.3))


def test_network_inputs_are_padded_alike(make_sample: MakeSample) -> None:
    inputs = network_inputs(make_sample(20, 40), 32)
    shapes = {name: array.shape for name, array in inputs.items()}
    assert shapes == {"in0": (1, 3, 32, 64), "in1": (1, 3, 32, 64), "in2": (1, 1, 32, 64)}


_FRAME = np.zeros((1, 3, 4, 5), np.float32)


@pytest.mark.parametrize(
    ("in0", "in1"),
    [
        (_FRAME, _FRAME[:, :, :3]),
        (_FRAME[0], _FRAME[0]),
        (_FRAME[:, :2], _FRAME[:, :2]),
        (_FRAME[:, :, :0], _FRAME[:, :, :0]),
        (_FRAME, _FRAME.astype(np.float64)),
        (_FRAME.astype(np.uint8), _FRAME.astype(np.uint8)),
    ],
)
def test_frames_that_do_not_fit_are_refused(in0: np.ndarray, in1: np.ndarray) -> None:
    with pytest.raises(EngineError, match="with the same H and W are accepted"):
        check_sample(Sample(in0, in1, 0.5))


@pytest.mark.parametrize("timestep", [0.0, 1.0, -0.5, 2.0, float("nan")])
def test_timesteps_outside_are_refused(timestep: float) -> None:
    with pytest.raises(EngineError, match="between 0 and 1, both excluded"):
        check_sample(Sample(_FRAME, _FRAME, timestep))


def test_every_level_survives_8_bits() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    assert np.array_equal(to_8bit(from_8bit(levels)), levels)


def test_8_bits_clamp_and_round() -> None:
    frame = np.array([-1.0, 0.4 / 255, 0.6 / 255, 2.0, np.nan], np.float32)
    pixels = to_8bit(np.broadcast_to(frame, (1, 3, 1, 5)))
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 255, 0]


def test_a_png_reads_back(tmp_path: Path, make_sample: MakeSample) -> None:
    frame = make_sample(7, 9).in0
    path = tmp_path / "frame.png"
    write_png(path, frame)
    assert np.array_equal(read_png(path), frame)
    with pytest.raises(OutputExists, match="--force"):
        write_png(path, frame)
    write_png(path, frame[..., ::-1], force=True)
    assert np.array_equal(read_png(path), frame[..., ::-1])


def test_grey_and_transparent_pictures_become_rgb(tmp_path: Path) -> None:
    from PIL import Image

    for mode, colour in (("L", 51), ("RGBA", (51, 51, 51, 128))):
        path = tmp_path / f"{mode}.png"
        Image.new(mode, (4, 3), colour).save(path)
        picture = read_png(path)
        assert picture.shape == (1, 3, 3, 4)
        assert np.all(picture == np.float32(51) / np.float32(255))


def test_what_is_no_picture_is_refused(tmp_path: Path, make_sample: MakeSample) -> None:
    with pytest.raises(SurgeryError, match="no such file"):
        read_png(tmp_path / "absent.png")
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with pytest.raises(SurgeryError, match="is not a picture"):
        read_png(text)
    cut = tmp_path / "cut.png"
    write_png(cut, make_sample(40, 40).in0)
    cut.write_bytes(cut.read_bytes()[:-2000])
    with pytest.raises(SurgeryError, match="is not a picture"):
        read_png(cut)
