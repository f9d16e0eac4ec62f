"""What the demo model is trained on, and the fixed set that it is scored on.

Scenes are textured layers (`surgery.proof.inputs`) that move, turn and grow, cover and uncover one
another. Photographs come from scikit-image; those that the test set shows are never trained on, and
no random number of one is used by the other.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from surgery.proof.inputs import LEVELS, Layer, Motion, NoiseTexture, Scene, Shape, Size, Texture

# Functions of `skimage.data` whose pictures lie in its wheel; nothing is downloaded.
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
    "stereo_motorcycle",
    "text",
)
TEST_PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
TEST_SEED, TRAINING_SEED = 7_000_000, 1
TEST_SIZE = (256, 192)
TEST_SCENES = 12  # of each kind
TEST_TIMESTEPS = (0.25, 0.5, 0.75)
NOISE, PHOTOGRAPHS = "noise", "photographs"
# What `surgery demo` interpolates.
DEMO_SIZE = (384, 256)
# How far anything moves between the two frames, in pixels.
SLOWEST, FASTEST = 2.0, 16.0
MOST_SHAPES = 4
# Half of a shape's width and height, as parts of the frame's shorter side.
SMALLEST_SHAPE, LARGEST_SHAPE = 0.08, 0.3
ROUNDNESS = (2.0, 4.0, 8.0)
# Noise is slow to draw: training takes pieces of pictures of it.
NOISE_PICTURES, NOISE_SIZE = 32, 320
TRAINING_PHOTO_PART = 0.7


@dataclass(frozen=True, eq=False)
class SampledTexture:
    """A picture, mirrored at its edges and interpolated cubically, by torch: fast, and zoomed.

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
        loaded = getattr(data, name)()
        pixels = np.asarray(loaded[0] if isinstance(loaded, tuple) else loaded)
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        scaled = pixels[..., :3].astype(np.float32) / LEVELS
        pictures.append(torch.from_numpy(scaled.transpose(2, 0, 1).copy())[None])
    return pictures


def make_noise_pictures() -> list[torch.Tensor]:
    """Pictures of noise to train on, as [1,3,H,W] in 0..1."""
    y, x = np.mgrid[:NOISE_SIZE, :NOISE_SIZE].astype(np.float64)
    generator = np.random.default_rng(TRAINING_SEED)
    drawn = (NoiseTexture.make_random(generator).draw(x, y) for _ in range(NOISE_PICTURES))
    return [torch.from_numpy(np.clip(one, 0, 1).astype(np.float32))[None] for one in drawn]


def make_test_scenes() -> Iterator[tuple[str, Scene]]:
    """Yield (kind, scene): the same ones on every machine, none of them ever trained on."""
    photos = load_photos(TEST_PHOTOS)
    for number, (kind, pictures) in enumerate(((NOISE, []), (PHOTOGRAPHS, photos))):
        for index in range(TEST_SCENES):
            generator = np.random.default_rng([TEST_SEED, number, index])
            yield kind, _make_test_scene(pictures, generator)


def make_test_set() -> Iterator[tuple[str, Example]]:
    """Yield (kind, example) for every test scene and timestep."""
    for kind, scene in make_test_scenes():
        for timestep in TEST_TIMESTEPS:
            yield kind, draw_example(scene, timestep)


def _make_test_scene(pictures: Sequence[torch.Tensor], generator: np.random.Generator) -> Scene:
    def draw_texture() -> Texture:
        if not pictures:
            return NoiseTexture.make_random(generator)
        return _cut_picture(pictures[int(generator.integers(len(pictures)))], TEST_SIZE, generator)

    textures = [draw_texture() for _ in range(1 + int(generator.integers(1, MOST_SHAPES + 1)))]
    return _make_scene(TEST_SIZE, textures, generator)


def make_demo_scene() -> Scene:
    """The scene of `surgery demo`: a cup, and a cat and an astronaut who cross in front of it."""
    coffee, chelsea, astronaut = load_photos(["coffee", "chelsea", "astronaut"])
    face = astronaut[..., 0:256, 96:352]  # in pixels of the photograph
    return Scene(
        *DEMO_SIZE,
        (
            Layer(
                SampledTexture(coffee, 1.1),
                Motion((192.0, 128.0), (-6.5, 2.5), rotation=0.008, zoom=1.01),
            ),
            Layer(
                SampledTexture(chelsea[..., :, 90:390], 1.5),
                Motion((110.0, 138.0), (12.5, -4.0), rotation=0.02),
                Shape(78.0, 84.0, 2.5),
            ),
            Layer(
                SampledTexture(face, 1.6),
                Motion((268.0, 118.0), (-11.0, 6.0), zoom=1.02),
                Shape(60.0, 70.0, 4.0),
            ),
        ),
    )


def make_training_example(
    size: Size, photos: Sequence[torch.Tensor], noises: Sequence[torch.Tensor], index: int
) -> Example:
    """The training example of a number: the same for the same number.

    It is a window into a scene of up to twice its size, so that some show many motions and some
    only one.
    """
    generator = np.random.default_rng([TRAINING_SEED, index])
    grown = generator.uniform(1, 2, 2)
    whole = (round(size[0] * grown[0]), round(size[1] * grown[1]))
    textures: list[Texture] = []
    for _ in range(1 + int(generator.integers(1, MOST_SHAPES + 1))):
        pictures = photos if generator.uniform() < TRAINING_PHOTO_PART else noises
        picture = pictures[int(generator.integers(len(pictures)))]
        textures.append(_cut_picture(picture, whole, generator))
    scene = _make_scene(whole, textures, generator)
    left, top = (generator.uniform(0, whole[axis] - size[axis]) for axis in (0, 1))
    layers = tuple(
        replace(layer, motion=_shift_start(layer.motion, -left, -top)) for layer in scene.layers
    )
    return draw_example(Scene(*size, layers), float(generator.uniform(0.05, 0.95)))


def draw_example(scene: Scene, timestep: float) -> Example:
    """Draw the three frames of a scene and its true flow."""
    in0, in1, truth = (scene.draw_frame(time)[0] for time in (0.0, 1.0, timestep))
    flow = np.concatenate([scene.displacement(timestep, time)[0] for time in (0.0, 1.0)])
    return Example(in0, in1, timestep, truth, flow.astype(np.float32))


def _make_scene(size: Size, textures: Sequence[Texture], generator: np.random.Generator) -> Scene:
    """A moving background and shapes in front of it that move differently."""
    width, height = size
    middle = (width / 2, height / 2)
    layers = [Layer(textures[0], _draw_motion(middle, math.hypot(*middle), generator))]
    for texture in textures[1:]:
        place = (generator.uniform(0, width), generator.uniform(0, height))
        half = generator.uniform(SMALLEST_SHAPE, LARGEST_SHAPE, 2) * min(size)
        shape = Shape(float(half[0]), float(half[1]), float(generator.choice(ROUNDNESS)))
        reach = math.hypot(shape.half_width, shape.half_height)
        layers.append(Layer(texture, _draw_motion(place, reach, generator), shape))
    return Scene(*size, tuple(layers))


def _cut_picture(
    picture: torch.Tensor, size: Size, generator: np.random.Generator
) -> SampledTexture:
    """A random part of a picture, zoomed a little."""
    height, width = picture.shape[-2:]
    zoom = float(generator.uniform(0.6, 1.2))
    parts = (min(height, round(size[1] * zoom)), min(width, round(size[0] * zoom)))
    top, left = (
        int(generator.integers(whole - part + 1))
        for whole, part in zip((height, width), parts, strict=True)
    )
    cut = picture[..., top : top + parts[0], left : left + parts[1]]
    return SampledTexture(cut.contiguous(), zoom)


def _draw_motion(
    place: tuple[float, float], reach: float, generator: np.random.Generator
) -> Motion:
    """A shift with, half of the time each, a turn and a zoom.

    Nothing within `reach` of the origin moves by less than `SLOWEST` or more than `FASTEST`: what
    the shift leaves of either is shared by the turn and the zoom.
    """
    length = generator.uniform(SLOWEST, FASTEST)
    angle = generator.uniform(0, 2 * math.pi)
    # The zoom pushes what the turn and the shift have moved, too.
    most = min(FASTEST - length, length - SLOWEST) / (2 * (reach + FASTEST))
    turn, zoom = generator.uniform(-most, most, 2) * generator.integers(0, 2, 2)
    return Motion(
        (float(place[0]), float(place[1])),
        (float(length * math.cos(angle)), float(length * math.sin(angle))),
        rotation=float(turn),
        zoom=float(1 + zoom),
    )


def _shift_start(motion: Motion, x: float, y: float) -> Motion:
    return replace(motion, start=(motion.start[0] + x, motion.start[1] + y))
