from __future__ import annotations

import numpy as np
import pytest

from surgery.engines import banded_warp
from surgery.engines.banded_warp import warp_in_bands
from surgery.errors import EngineError
from surgery.hub.warp import warp_reference


def _make_operands(channels: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng([channels, height, width])
    image = generator.standard_normal((channels, height, width), np.float32)
    # Many positions inside, many on both sides of every border.
    flow = generator.standard_normal((2, height, width), np.float32) * np.float32(width / 3)
    return image, flow


@pytest.mark.parametrize(
    ("channels", "height", "width"), [(3, 37, 53), (1, 1, 1), (4, 1, 7), (2, 9, 1), (3, 96, 512)]
)
@pytest.mark.parametrize("band_pixels", [1, 300, banded_warp.BAND_PIXELS])
def test_every_bit_is_that_of_the_definition(
    channels: int, height: int, width: int, band_pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(banded_warp, "BAND_PIXELS", band_pixels)
    image, flow = _make_operands(channels, height, width)
    expected = warp_reference(image[None], flow[None])[0]
    assert warp_in_bands(image, flow).tobytes() == expected.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, -0.0])
@pytest.mark.parametrize("component", [0, 1])
def test_flows_that_are_no_numbers_are_those_of_the_definition(
    component: int, value: float
) -> None:
    image, flow = _make_operands(2, 6, 8)
    flow[component, 2:4, 1:5] = value
    expected = warp_reference(image[None], flow[None])[0]
    assert warp_in_bands(image, flow).tobytes() == expected.tobytes()


def test_operands_are_left_alone() -> None:
    image, flow = _make_operands(2, 6, 8)
    flow[0, 0, 0] = np.nan
    copies = image.copy(), flow.copy()
    warp_in_bands(image, flow)
    assert image.tobytes() == copies[0].tobytes()
    assert flow.tobytes() == copies[1].tobytes()


@pytest.mark.parametrize("shape", [(3, 6, 8), (4, 6, 8), (2, 6, 7), (1, 2, 6, 8), (2, 3, 4)])
def test_flows_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    image, _ = _make_operands(2, 6, 8)
    with pytest.raises(EngineError, match=r"are accepted"):
        warp_in_bands(image, np.zeros(shape, np.float32))
