"""What the demo model is trained on, and the fixed set that it is scored on.

Scenes are drawn from formulas (`surgery.proof.inputs`): textured layers that move, turn and grow,
cover and uncover one another. Photographs come from scikit-image; those that the test set shows are
never trained on, and no random number of one is used by the other.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from surgery.proof.inputs import (
    Layer,
    Motion,
    NoiseTexture,
    Scene,
    Shape,
    Texture,
)

LEVELS = 255
TRAINING_PHOTOS = (
    "brick",
    "camera",
    "cell",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "page",
    "retina",
    "text",
)
TEST_PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
TEST_SEED, TRAINING_SEED = 7_000_000, 1
TEST_SIZE = (256, 192)
TEST_SCENES = 12  # of each kind: noise, photographs
TEST_TIMESTEPS = (0.25, 0.5, 0.75)
# In pixels between the two frames.
SLOWEST, FASTEST = 2.0, 16.0
MOST_SHAPES = 4


@dataclass(frozen=True, eq=False)
class SampledTexture:
    """A picture, mirrored at its edges and interpolated cubically, by torch.

    Attributes:
        pixels: shape [1,3,H,W], values in 0..1.
        zoom: pixels of the picture for one of the frame.
    """

    pixels: torch.Tensor
    zoom: float = 1.0

    def draw(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Colours at points; the origin is the middle of the picture."""
        height, width = self.pixels.shape[-2:]
        points = np.stack([x * (2 * self.zoom / width), y * (2 * self.zoom / height)], axis=-1)
        drawn = torch.nn.functional.grid_sample(
            self.pixels,
            torch.from_numpy(points.astype(np.float32))[None],
            mode="bicubic",
            padding_mode="reflection",
            align_corners=False,
        )
        return np.asarray(drawn[0].numpy(), np.float64)


@dataclass(frozen=True, eq=False)
class Example:
    """Two frames, the one between them, and where everything in it was and will be.

    Shapes: frames [3,H,W] in 0..1; flow [4,H,W], x and y to the first frame, then to the second.
    Units: pixels.
    """

    in0: np.ndarray
    in1: np.ndarray
    timestep: float
    truth: np.ndarray
    flow: np.ndarray


def load_photos(names: Sequence[str]) -> list[torch.Tensor]:
    """Photographs that scikit-image brings along, as [1,3,H,W] in 0..1."""
    data = importlib.import_module("skimage.data")
    pictures = []
    for name in names:
        pixels = np.asarray(getattr(data, name)())
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        scaled = pixels[..., :3].astype(np.float32) / (LEVELS if pixels.dtype == np.uint8 else 1)
        pictures.append(torch.from_numpy(scaled.transpose(2, 0, 1).copy())[None])
    return pictures


def make_test_set() -> Iterator[tuple[str, Example]]:
    """Yield (kind, example): the same ones on every machine, none of them ever trained on."""
    photos = load_photos(TEST_PHOTOS)
    for kind, pictures in (("noise", []), ("photographs", photos)):
        for index in range(TEST_SCENES):
            generator = np.random.default_rng([TEST_SEED, len(pictures), index])
            scene = make_scene(TEST_SIZE, pictures, 1.0 if pictures else 0.0, generator)
            for timestep in TEST_TIMESTEPS:
                yield kind, draw_example(scene, timestep)


def make_training_example(
    size: tuple[int, int], photos: Sequence[torch.Tensor], index: int
) -> Example:
    """The training example of a number: the same for the same number."""
    generator = np.random.default_rng([TRAINING_SEED, index])
    scene = make_scene(size, photos, 0.7, generator)
    return draw_example(scene, float(generator.uniform(0.05, 0.95)))


def draw_example(scene: Scene, timestep: float) -> Example:
    """Draw the three frames of a scene and its true flow."""
    in0, in1, truth = (scene.draw_frame(time)[0] for time in (0.0, 1.0, timestep))
    flow = np.concatenate([scene.displacement(timestep, time)[0] for time in (0.0, 1.0)])
    return Example(in0, in1, timestep, truth, flow.astype(np.float32))


def make_scene(
    size: tuple[int, int],
    photos: Sequence[torch.Tensor],
    photo_part: float,
    generator: np.random.Generator,
) -> Scene:
    """A moving background and some shapes in front of it that move differently.

    Units: size is (width, height) in pixels. `photo_part` of the textures are photographs.
    """

    def texture() -> Texture:
        if photos and generator.uniform() < photo_part:
            return _cut_photo(photos[int(generator.integers(len(photos)))], size, generator)
        return NoiseTexture.make_random(generator)

    middle = (size[0] / 2, size[1] / 2)
    layers = [Layer(texture(), _draw_motion(middle, 0.1, generator))]
    for _ in range(generator.integers(1, MOST_SHAPES + 1)):
        place = (generator.uniform(0, size[0]), generator.uniform(0, size[1]))
        half = generator.uniform(0.08, 0.3, 2) * min(size)
        shape = Shape(float(half[0]), float(half[1]), float(generator.choice([2.0, 4.0, 8.0])))
        layers.append(Layer(texture(), _draw_motion(place, 0.25, generator), shape))
    return Scene(*size, tuple(layers))


def _cut_photo(
    photo: torch.Tensor, size: tuple[int, int], generator: np.random.Generator
) -> SampledTexture:
    """A random part of a photograph, at a random size and with random brightness."""
    height, width = photo.shape[-2:]
    zoom = float(generator.uniform(0.6, 1.2))
    top, left = (
        int(generator.integers(max(1, whole - round(part * zoom))))
        for whole, part in ((height, size[1]), (width, size[0]))
    )
    part = photo[
        ..., top : top + round(size[1] * zoom) + 1, left : left + round(size[0] * zoom) + 1
    ]
    return SampledTexture(part.contiguous(), zoom)


def _draw_motion(
    place: tuple[float, float], most_turn: float, generator: np.random.Generator
) -> Motion:
    length = generator.uniform(SLOWEST, FASTEST)
    angle = generator.uniform(0, 2 * math.pi)
    return Motion(
        (float(place[0]), float(place[1])),
        (float(length * math.cos(angle)), float(length * math.sin(angle))),
        rotation=float(generator.uniform(-most_turn, most_turn) * generator.integers(0, 2)),
        zoom=float(np.exp(generator.uniform(-most_turn, most_turn) * generator.integers(0, 2))),
    )
