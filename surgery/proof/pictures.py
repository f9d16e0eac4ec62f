"""Frames, errors and flows as PNG pictures for a report."""

from __future__ import annotations

import base64
import io

import numpy as np

from surgery.engines.frames import to_8bit

# From black over blue, red and yellow to white: brightness rises all the way, so that the map can
# be read without its colours.
HEAT = np.array(
    [[0, 0, 0], [40, 20, 110], [150, 40, 110], [225, 90, 50], [250, 190, 60], [255, 255, 230]],
    np.float64,
)
# What is drawn at full brightness: less than the largest, which a few pixels have alone.
BRIGHTEST_PART = 0.99


def draw_frame(frame: np.ndarray) -> np.ndarray:
    """A frame [1,3,H,W], 1 is white, as uint8 [H,W,3]."""
    return to_8bit(frame)


def draw_error(wanted: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, float]:
    """The largest difference of the three colours at every pixel.

    Shapes: both [1,3,H,W]; the picture is uint8 [H,W,3]. Returns the difference that is drawn
    brightest, too: one pixel in a hundred has that much or more, and so has one that is not finite.
    """
    difference = np.abs(found.astype(np.float64) - wanted).max(axis=1)[0]
    finite = difference[np.isfinite(difference)]
    brightest = float(np.quantile(finite, BRIGHTEST_PART)) if finite.size else 0.0
    brightest = brightest or (float(finite.max()) if finite.size else 0.0)
    parts = np.where(np.isfinite(difference), difference / (brightest or 1.0), 1.0)
    places = np.linspace(0, 1, len(HEAT))
    planes = [np.interp(parts, places, HEAT[:, channel]) for channel in range(3)]
    return np.stack(planes, axis=-1).astype(np.uint8), brightest


def draw_flow(flow: np.ndarray) -> tuple[np.ndarray, float]:
    """A flow [1,2,H,W] in pixels: direction as hue, length as brightness.

    Returns the picture, uint8 [H,W,3], and the length in pixels that is drawn brightest.
    """
    x, y = np.nan_to_num(flow[0].astype(np.float64))
    length = np.hypot(x, y)
    longest = float(np.quantile(length, BRIGHTEST_PART)) or 1.0
    angle = np.arctan2(y, x) / (2 * np.pi) * 6
    hue = [np.clip(np.abs((angle + shift) % 6 - 3) - 1, 0, 1) for shift in (0, 4, 2)]
    brightness = np.clip(length / longest, 0, 1)
    planes = np.stack(hue, axis=-1) * brightness[..., np.newaxis]
    return (planes * 255).astype(np.uint8), longest


def to_data_uri(pixels: np.ndarray) -> str:
    """A picture, uint8 [H,W,3], as the text of an `img` tag's source."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
