"""Frames as networks take them: padded, with a timestep plane; and as PNG files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from surgery.errors import SurgeryError
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
            pixels = np.asarray(picture.convert("RGB"), np.float32)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise SurgeryError(f"{path} is not a picture: {error}") from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[np.newaxis]) / np.float32(WHITE)


def to_8bit(frame: np.ndarray) -> np.ndarray:
    """Round a float frame [1,3,H,W] to uint8 [H,W,3], clamped to 0..255."""
    levels = np.clip(np.nan_to_num(frame[0]) * WHITE + 0.5, 0.0, WHITE)
    return np.ascontiguousarray(levels.astype(np.uint8).transpose(1, 2, 0))


def from_8bit(pixels: np.ndarray) -> np.ndarray:
    """Read uint8 [H,W,3] as float32 [1,3,H,W] in 0..1."""
    planes = pixels.transpose(2, 0, 1)[np.newaxis].astype(np.float32)
    return np.ascontiguousarray(planes) / np.float32(WHITE)


def write_png(path: Path, frame: np.ndarray, *, force: bool = False) -> None:
    """Write a float frame [1,3,H,W] as an 8-bit PNG, beside and then renamed.

    Raises:
        OutputExists: `path` is taken and `force` is not given.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(to_8bit(frame)).save(buffer, format="PNG")
    write_file_atomically(path, buffer.getvalue(), force=force)
