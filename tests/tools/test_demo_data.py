"""`tools/demo_data.py`: the test set never changes, moves as it says, and is not trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surgery.proof.inputs import LEVELS, Layer, NoiseTexture, Scene

pytest.importorskip("skimage")

TOOLS = Path(__file__).parents[2] / "tools"
# Fixed before the model was trained. A change of the test set makes its score worthless.
DIGEST = "f840ea544aa713a202c40c53f6653eb500694d91c0bc80247ba7903369d3ecca"
# Of nearest frame and averaging at timestep 0.5, in dB.
BASELINES = {"noise": (22.259, 25.621), "photographs": (19.190, 21.790)}
# In dB; how far interpolated pixels may round another way on other processors.
DRAWING_TOLERANCE = 0.005
# In pixels: a point that comes back further away than this was covered in between.
COVERED_DISTANCE = 1.0


@pytest.fixture(scope="module")
def data() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        import demo_data

        yield demo_data


@pytest.fixture(scope="module")
def scenes(data: Any) -> list[tuple[str, Scene]]:
    return list(data.make_test_scenes())


def _describe_layer(layer: Layer) -> Iterator[bytes]:
    motion, shape = layer.motion, layer.shape
    numbers = [*motion.start, *motion.shift, motion.rotation, motion.zoom]
    if shape is not None:
        numbers += [shape.half_width, shape.half_height, shape.roundness]
    texture: Any = layer.texture
    if isinstance(texture, NoiseTexture):
        numbers += [float(texture.colour.sum()), *(float(one.std()) for one in texture.lattices)]
    else:
        numbers.append(texture.zoom)
        yield np.rint(texture.pixels.numpy() * LEVELS).astype(np.uint8).tobytes()
    yield " ".join(f"{number:.6f}" for number in numbers).encode()


def _digest(scenes: list[tuple[str, Scene]]) -> str:
    digest = hashlib.sha256()
    for kind, scene in scenes:
        digest.update(f"{kind} {scene.width} {scene.height}".encode())
        for layer in scene.layers:
            for part in _describe_layer(layer):
                digest.update(part)
    return digest.hexdigest()


def test_the_test_set_is_the_one_that_was_fixed_before_training(
    data: Any, scenes: list[tuple[str, Scene]]
) -> None:
    assert len(scenes) == 2 * data.TEST_SCENES
    assert _digest(scenes) == DIGEST
    assert _digest(scenes[1:]) != DIGEST


def test_its_frames_are_drawn_as_they_were(data: Any, scenes: list[tuple[str, Scene]]) -> None:
    found: dict[str, list[tuple[float, float]]] = {}
    for kind, scene in scenes:
        one = data.draw_example(scene, 0.5)
        candidates = (one.in0, (one.in0 + one.in1) / 2)
        errors = [float(np.square(frame - one.truth).mean()) for frame in candidates]
        nearest, average = (-10 * np.log10(error) for error in errors)
        found.setdefault(kind, []).append((nearest, average))
    for kind, baseline in BASELINES.items():
        assert np.mean(found[kind], axis=0) == pytest.approx(baseline, abs=DRAWING_TOLERANCE)


def test_everything_in_it_moves_by_2_to_16_pixels(
    data: Any, scenes: list[tuple[str, Scene]]
) -> None:
    for _, scene in scenes:
        distance = np.hypot(*scene.displacement(0, 1)[0])
        assert distance.min() >= data.SLOWEST
        assert distance.max() <= data.FASTEST


def test_every_scene_of_it_covers_something(scenes: list[tuple[str, Scene]]) -> None:
    for _, scene in scenes:
        there = scene.displacement(0, 1)[0]
        y, x = np.mgrid[: scene.height, : scene.width]
        rows, columns = np.rint(y + there[1]).astype(int), np.rint(x + there[0]).astype(int)
        inside = (rows >= 0) & (rows < scene.height) & (columns >= 0) & (columns < scene.width)
        rows, columns = rows.clip(0, scene.height - 1), columns.clip(0, scene.width - 1)
        back = scene.displacement(1, 0)[0][:, rows, columns]
        covered = inside & (np.hypot(*(there + back)) > COVERED_DISTANCE)
        assert covered.mean() > 0.005


def test_no_photograph_of_it_is_trained_on(data: Any) -> None:
    assert not set(data.TEST_PHOTOS) & set(data.TRAINING_PHOTOS)


def test_a_true_flow_leads_from_the_middle_to_both_frames(data: Any) -> None:
    pictures = data.load_photos(["coins"])
    example = data.make_training_example((64, 64), pictures, pictures, 3)
    y, x = np.mgrid[:64, :64]
    for frame, flow in ((example.in0, example.flow[:2]), (example.in1, example.flow[2:])):
        columns = np.rint(x + flow[0]).astype(int).clip(0, 63)
        rows = np.rint(y + flow[1]).astype(int).clip(0, 63)
        followed = np.abs(frame[:, rows, columns] - example.truth).mean()
        assert followed < 0.5 * np.abs(frame - example.truth).mean()


def test_the_same_number_gives_the_same_training_example(data: Any) -> None:
    pictures = data.load_photos(["coins"])
    first, again, other = (
        data.make_training_example((32, 32), pictures, pictures, index) for index in (5, 5, 6)
    )
    np.testing.assert_array_equal(first.in0, again.in0)
    assert not np.array_equal(first.in0, other.in0)
