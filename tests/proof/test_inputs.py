"""The scenes are what they claim: deterministic, on the 8-bit grid, and moved as they say."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.proof.inputs import Motion, Scene, Shape, make_samples

SIZE = (160, 96)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_samples([SIZE], [0.5], seed=3)[0].scene


def test_samples_come_in_the_order_of_sizes_then_timesteps() -> None:
    samples = make_samples([(64, 32), (33, 47)], [0.5, 0.25], seed=0)
    found = [(sample.in0.shape[2:], sample.timestep) for sample in samples]
    assert found == [((32, 64), 0.5), ((32, 64), 0.25), ((47, 33), 0.5), ((47, 33), 0.25)]


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (33, 1), (65, 43)])
def test_any_size_gives_frames_of_that_size(size: tuple[int, int]) -> None:
    (sample,) = make_samples([size], [0.5], seed=1)
    for frame in (sample.in0, sample.in1, sample.draw_truth()):
        assert frame.shape == (1, 3, size[1], size[0])
        assert frame.dtype == np.float32


def test_values_are_on_the_8_bit_grid() -> None:
    (sample,) = make_samples([SIZE], [0.37], seed=1)
    for frame in (sample.in0, sample.in1, sample.draw_truth()):
        levels = np.rint(frame * 255).astype(np.uint8)
        np.testing.assert_array_equal(levels.astype(np.float32) / np.float32(255), frame)
        assert len(np.unique(levels)) > 100


def test_same_seed_same_frames_other_seed_other_frames() -> None:
    first, again, other = (make_samples([SIZE], [0.5], seed=seed)[0] for seed in (4, 4, 5))
    np.testing.assert_array_equal(first.in0, again.in0)
    np.testing.assert_array_equal(first.in1, again.in1)
    assert np.abs(first.in0 - other.in0).mean() > 0.05


def test_a_scene_does_not_depend_on_the_sizes_after_it() -> None:
    alone = make_samples([SIZE], [0.5], seed=4)[0]
    followed = make_samples([SIZE, (32, 32)], [0.5], seed=4)[0]
    np.testing.assert_array_equal(alone.in1, followed.in1)


def test_truth_at_the_ends_is_the_two_frames(scene: Scene) -> None:
    (sample,) = make_samples([SIZE], [0.5], seed=3)
    np.testing.assert_array_equal(scene.draw_frame(0), sample.in0)
    np.testing.assert_array_equal(scene.draw_frame(1), sample.in1)
    np.testing.assert_array_equal(scene.draw_frame(0.5), sample.draw_truth())


def test_what_a_shape_covers_is_all_that_its_texture_changes(scene: Scene) -> None:
    frame = np.zeros((3, scene.height, scene.width))
    y, x = np.mgrid[: scene.height, : scene.width].astype(np.float64)
    for layer in scene.layers:
        there = layer.motion.to_layer(x, y, 0.5)
        cover = layer.shape.cover(*there) if layer.shape else 1.0
        frame += cover * (layer.texture.draw(*there) - frame)
    wanted = np.rint(np.clip(frame, 0, 1) * 255).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(scene.draw_frame(0.5)[0], wanted)


def test_motions_are_small_and_large_and_of_all_directions(scene: Scene) -> None:
    flow = scene.displacement(0, 1)
    length = np.hypot(flow[:, 0], flow[:, 1])
    assert 0.5 < np.median(length) < 4
    assert 8 < length.max() < 24
    assert flow[:, 0].std() > 2


def test_displacement_leads_to_the_same_colour_in_the_other_frame(scene: Scene) -> None:
    """Where nothing covers or uncovers a point, frame 0 is frame 1 looked up along the motion."""
    flow = scene.displacement(0, 1)[0]
    looked_up, inside = look_up(scene.draw_frame(1)[0], flow)
    back, _ = look_up(scene.displacement(1, 0)[0], flow)
    visible = inside & (np.abs(back + flow).max(axis=0) < 0.05)
    error = np.abs(looked_up - scene.draw_frame(0)[0]).max(axis=0)
    assert visible.mean() > 0.7
    # Bilinear lookup of the finest octave and rounding to 8 bits are left; edges are soft.
    assert np.quantile(error[visible], 0.95) < 0.02
    unmoved = np.abs(scene.draw_frame(1) - scene.draw_frame(0))[0].max(axis=0)
    assert np.quantile(unmoved[visible], 0.95) > 0.1


def test_something_is_covered_and_something_crosses_the_border(scene: Scene) -> None:
    flow = scene.displacement(0, 1)[0]
    back, inside = look_up(scene.displacement(1, 0)[0], flow)
    covered = inside & (np.abs(back + flow).max(axis=0) > 2)
    assert 0.01 < covered.mean() < 0.5
    assert 0.005 < (~inside).mean() < 0.5


def look_up(planes: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear values of `planes` at each pixel plus its flow, and where that is in the frame."""
    _, height, width = planes.shape
    rows, columns = np.mgrid[:height, :width]
    x, y = columns + flow[0], rows + flow[1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    left = np.clip(np.floor(x).astype(int), 0, width - 2)
    top = np.clip(np.floor(y).astype(int), 0, height - 2)
    part_x, part_y = np.clip(x - left, 0, 1), np.clip(y - top, 0, 1)
    upper = planes[:, top, left] * (1 - part_x) + planes[:, top, left + 1] * part_x
    lower = planes[:, top + 1, left] * (1 - part_x) + planes[:, top + 1, left + 1] * part_x
    return upper * (1 - part_y) + lower * part_y, inside


def test_motion_maps_back_and_forth() -> None:
    motion = Motion((10, 20), (3, -4), rotation=0.3, zoom=1.5)
    x, y = np.mgrid[-5.0:5.0, -5.0:5.0]
    for time in (0.0, 0.4, 1.0):
        round_trip = motion.to_layer(*motion.to_frame(x, y, time), time)
        np.testing.assert_allclose(round_trip, (x, y), atol=1e-12)


def test_motion_shifts_turns_and_grows() -> None:
    motion = Motion((10, 20), (3, -4), rotation=np.pi / 2, zoom=2)
    np.testing.assert_allclose(motion.to_frame(np.ones(1), np.zeros(1), 1), [[13], [18]])
    np.testing.assert_allclose(motion.to_frame(np.ones(1), np.zeros(1), 0), [[11], [20]])


def test_shape_covers_its_inside_only() -> None:
    shape = Shape(10, 5, 2)
    cover = shape.cover(np.array([0.0, 9.0, 11.0, 0.0, 0.0]), np.array([0.0, 0.0, 0.0, 4.4, 5.6]))
    np.testing.assert_allclose(cover, [1, 1, 0, 1, 0])
