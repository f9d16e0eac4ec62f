"""Frames as networks take them: padded, with a timestep plane; and as PNG files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from surgery.engines import Sample
from surgery.errors import EngineError, SurgeryError
from surgery.output import write_file_atomically

WHITE = 255.0


def pad_frame(frame: np.ndarray, padding: int) -> np.ndarray:
    """Pad with zeros at the right and bottom to multiples of `padding`, as the runtimes do.

    Shapes: [N,C,H,W]. Source: rife-ncnn-vulkan rife.cpp, `process_v4`.
    """
    height, width = frame.shape[-2:]
    return np.pad(frame, ((0, 0), (0, 0), (0, -height % padding), (0, -width % padding)))


def crop_frame(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Undo `pad_frame`."""
    return np.ascontiguousarray(frame[..., :height, :width])


def timestep_plane(height: int, width: int, timestep: float) -> np.ndarray:
    """The third input: float32 [1,1,H,W], the timestep everywhere."""
    return np.full((1, 1, height, width), timestep, np.float32)


def read_png(path: Path) -> np.ndarray:
    """Read a picture as float32 [1,3,H,W] in 0..1.

    Raises:
        SurgeryError: the file is absent or no picture that Pillow reads.
    """
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise SurgeryError(f"{path}: no such file; a picture (PNG, JPEG, ...) is expected")
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise SurgeryError(
            f"{path} is not a picture ({error}); PNG, JPEG and what else Pillow reads is accepted"
        ) from error
    return _scale_levels(pixels)


def to_8bit(frame: np.ndarray) -> np.ndarray:
    """Round a float frame [1,3,H,W] to uint8 [H,W,3], clamped to 0..255."""
    levels = np.clip(np.nan_to_num(frame[0]) * WHITE + 0.5, 0.0, WHITE)
    return np.ascontiguousarray(levels.astype(np.uint8).transpose(1, 2, 0))


def from_8bit(pixels: np.ndarray) -> np.ndarray:
    """Read uint8 [H,W,3] as float32 [1,3,H,W] in 0..1."""
    return _scale_levels(pixels)


def _scale_levels(pixels: np.ndarray) -> np.ndarray:
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)[np.newaxis], np.float32)
    planes /= np.float32(WHITE)
    return planes


def write_png(path: Path, frame: np.ndarray, *, force: bool = False) -> None:
    """Write a float frame [1,3,H,W] as an 8-bit PNG, beside and then renamed.

    Raises:
        OutputExists: `path` is taken and `force` is not given.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(to_8bit(frame)).save(buffer, format="PNG")
    write_file_atomically(path, buffer.getvalue(), force=force)


def network_inputs(sample: Sample, padding: int) -> dict[str, np.ndarray]:
    """The inputs of a v4 network by name, padded.

    Shapes: in0 and in1 [1,3,Hp,Wp], in2 [1,1,Hp,Wp], all float32.

    Raises:
        EngineError: a frame is not float32 [1,3,H,W], the two differ in size, or the timestep is
            not between 0 and 1.
    """
    check_sample(sample)
    in0, in1 = pad_frame(sample.in0, padding), pad_frame(sample.in1, padding)
    height, width = in0.shape[-2:]
    return {"in0": in0, "in1": in1, "in2": timestep_plane(height, width, sample.timestep)}


def check_sample(sample: Sample) -> None:
    """Refuse a sample that no engine can run.

    Raises:
        EngineError: as `network_inputs`.
    """
    shapes = [frame.shape for frame in (sample.in0, sample.in1)]
    types = [frame.dtype for frame in (sample.in0, sample.in1)]
    is_frame = len(shapes[0]) == 4 and shapes[0][:2] == (1, 3) and min(shapes[0]) > 0
    if not is_frame or shapes[0] != shapes[1] or set(types) != {np.dtype(np.float32)}:
        raise EngineError(
            f"frames of {types[0]} {shapes[0]} and {types[1]} {shapes[1]}; two of float32 "
            "[1, 3, H, W] with the same H and W are accepted"
        )
    if not 0 < sample.timestep < 1:
        raise EngineError(
            f"timestep {sample.timestep}; between 0 and 1, both excluded, is accepted"
        )
