"""Frame pairs whose motion is known, so that every frame between the two is known as well.

A scene is a textured background and several textured shapes in front of it. Each has a motion of
its own (shift by fractions of a pixel, rotation, zoom), and is drawn from formulas at any time: it
covers and uncovers what lies behind it, and some of it crosses the border. Nothing is resampled, so
the frame at time t is as sharp as the two at 0 and 1.

Every value is a multiple of 1/255: an engine that takes 8-bit pictures sees the very input that an
engine for floats sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from surgery.engines import Sample

LEVELS = 255
# In pixels from time 0 to time 1, of any shape; the camera itself moves up to 3.
FASTEST_SHIFT = 16.0
# No shape moves further than this part of the frame's shorter side, or small frames show noise.
FASTEST_PART = 1 / 6
SLOWEST_SHIFT = 1.0
# Octaves of the noise: distance of its random values in pixels, and their weight. The finest one is
# what makes a flow that is wrong by half a pixel show: values change by some levels from pixel to
# pixel.
OCTAVES = ((53.0, 0.5), (23.0, 0.4), (11.0, 0.3), (5.0, 0.2))
# How many random values an octave has along each side before it repeats.
LATTICE_SIZE = 61

Size = tuple[int, int]


class Texture(Protocol):
    """A coloured plane without end, known at every point of it."""

    def draw(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Colours at points; x and y in pixels, [H,W] each, to [3,H,W] of about 0..1.

        Any points: neighbours in the arrays need not be neighbours in the plane.
        """
        ...


@dataclass(frozen=True, eq=False)
class NoiseTexture:
    """Random values on lattices of several sizes, joined smoothly and summed.

    Attributes:
        colour: the mean colour, shape [3].
        lattices: for each of `OCTAVES` the random values, shape [3, LATTICE_SIZE, LATTICE_SIZE].
    """

    colour: np.ndarray
    lattices: tuple[np.ndarray, ...]

    @classmethod
    def make_random(cls, generator: np.random.Generator) -> NoiseTexture:
        """Draw a texture: mostly brightness, some colour, as in photographs."""
        lattices = []
        for _ in OCTAVES:
            grey = generator.uniform(-0.5, 0.5, (1, LATTICE_SIZE, LATTICE_SIZE))
            tint = generator.uniform(-0.5, 0.5, (3, LATTICE_SIZE, LATTICE_SIZE))
            lattices.append(0.8 * grey + 0.4 * tint)
        return cls(generator.uniform(0.35, 0.65, 3), tuple(lattices))

    def draw(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Colours at points; see `Texture`."""
        total = np.tile(self.colour[:, None, None], (1, *x.shape))
        for (period, weight), lattice in zip(OCTAVES, self.lattices, strict=True):
            total += weight * _interpolate(lattice, x / period, y / period)
        return np.asarray(total)


@dataclass(frozen=True)
class Motion:
    """Where a layer's origin is, and how the layer moves from time 0 to time 1.

    Attributes:
        start: the origin at time 0, in pixels (x, y).
        shift: how far the origin goes, in pixels (x, y).
        rotation: how far the layer turns around its origin, in radians.
        zoom: how many times larger the layer is at time 1.
    """

    start: tuple[float, float]
    shift: tuple[float, float]
    rotation: float = 0.0
    zoom: float = 1.0

    def to_layer(self, x: np.ndarray, y: np.ndarray, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Points of the frame at `time` as points of the layer."""
        x = x - self.start[0] - self.shift[0] * time
        y = y - self.start[1] - self.shift[1] * time
        cosine, sine = self._turn(time)
        return cosine * x + sine * y, cosine * y - sine * x

    def to_frame(self, x: np.ndarray, y: np.ndarray, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Points of the layer as points of the frame at `time`."""
        cosine, sine = self._turn(time)
        size = cosine * cosine + sine * sine
        return (
            (cosine * x - sine * y) / size + self.start[0] + self.shift[0] * time,
            (sine * x + cosine * y) / size + self.start[1] + self.shift[1] * time,
        )

    def _turn(self, time: float) -> tuple[float, float]:
        """Cosine and sine of the turn, both divided by the zoom."""
        angle, size = self.rotation * time, self.zoom**time
        return math.cos(angle) / size, math.sin(angle) / size


@dataclass(frozen=True)
class Shape:
    """A rounded shape around the origin: an ellipse at roundness 2, nearly a box at 8.

    Attributes:
        half_width: in pixels.
        half_height: in pixels.
        roundness: the exponent of the superellipse.
    """

    half_width: float
    half_height: float
    roundness: float

    def cover(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """How much of each point the shape covers, 0..1; its edge is about a pixel wide."""
        radius = np.abs(x / self.half_width) ** self.roundness
        radius += np.abs(y / self.half_height) ** self.roundness
        distance = (1 - radius ** (1 / self.roundness)) * min(self.half_width, self.half_height)
        return np.clip(distance + 0.5, 0, 1)


@dataclass(frozen=True)
class Layer:
    """A moving texture, everywhere or inside a shape."""

    texture: Texture
    motion: Motion
    shape: Shape | None = None


@dataclass(frozen=True)
class Scene:
    """Layers from back to front; the first one has no shape.

    Attributes:
        width: of the frames, in pixels.
        height: of the frames, in pixels.
        layers: the first covers everything.
    """

    width: int
    height: int
    layers: tuple[Layer, ...]

    def draw_frame(self, time: float) -> np.ndarray:
        """The frame at a time, usually 0..1; float32 [1,3,H,W], multiples of 1/255."""
        frame = np.zeros((3, self.height, self.width))
        x, y = self._pixels()
        for layer in self.layers:
            layer_x, layer_y = layer.motion.to_layer(x, y, time)
            if layer.shape is None:
                frame[:] = layer.texture.draw(layer_x, layer_y)
                continue
            cover = layer.shape.cover(layer_x, layer_y)
            seen = cover > 0  # a small part of the frame, and textures are slow to draw
            if seen.any():
                drawn = layer.texture.draw(layer_x[None, seen], layer_y[None, seen])[:, 0]
                frame[:, seen] += cover[seen] * (drawn - frame[:, seen])
        levels = np.rint(np.clip(frame, 0, 1) * LEVELS).astype(np.float32)
        return np.asarray(levels[None] / np.float32(LEVELS))

    def displacement(self, time: float, other: float) -> np.ndarray:
        """How far what a pixel shows at `time` has gone at `other`.

        Units: pixels, x first. Shape: float64 [1,2,H,W].
        """
        x, y = self._pixels()
        moved = np.zeros((2, self.height, self.width))
        for layer in self.layers:
            layer_x, layer_y = layer.motion.to_layer(x, y, time)
            there = np.stack(layer.motion.to_frame(layer_x, layer_y, other)) - np.stack([x, y])
            seen = True if layer.shape is None else layer.shape.cover(layer_x, layer_y) > 0.5
            moved = np.where(seen, there, moved)
        return moved[None]

    def _pixels(self) -> tuple[np.ndarray, np.ndarray]:
        y, x = np.mgrid[: self.height, : self.width].astype(np.float64)
        return x, y


@dataclass(frozen=True, eq=False)
class KnownSample(Sample):
    """A sample that knows the frame it asks for.

    Attributes:
        scene: what the frames show, at any time.
    """

    scene: Scene

    def draw_truth(self) -> np.ndarray:
        """The true frame at the sample's timestep; float32 [1,3,H,W]."""
        return self.scene.draw_frame(self.timestep)


def make_samples(sizes: Sequence[Size], timesteps: Sequence[float], seed: int) -> list[KnownSample]:
    """One scene for each size, one sample for each size and timestep, sizes outermost.

    Units: sizes are (width, height) in pixels, any from 1 x 1; timesteps lie between 0 and 1.
    The same arguments give the same samples, and a scene does not depend on the sizes before it.
    """
    scenes = [
        make_scene(size, np.random.default_rng([seed, index])) for index, size in enumerate(sizes)
    ]
    return _sample_scenes(scenes, timesteps)


def make_scene(size: Size, generator: np.random.Generator) -> Scene:
    """A scene of noise textures: small, large, turning and growing motions, and border crossings.

    Units: size is (width, height) in pixels.
    """
    layers = [Layer(NoiseTexture.make_random(generator), _make_background_motion(size, generator))]
    for motion, shape in _make_foreground(size, generator):
        layers.append(Layer(NoiseTexture.make_random(generator), motion, shape))
    return Scene(*size, tuple(layers))


def _sample_scenes(scenes: Sequence[Scene], timesteps: Sequence[float]) -> list[KnownSample]:
    samples = []
    for scene in scenes:
        in0, in1 = scene.draw_frame(0), scene.draw_frame(1)
        samples += [KnownSample(in0, in1, timestep, scene) for timestep in timesteps]
    return samples


def _make_background_motion(size: Size, generator: np.random.Generator) -> Motion:
    """A pan of a few pixels with a little turn and zoom, as of a camera held in the hand."""
    middle = (size[0] / 2, size[1] / 2)
    return Motion(
        middle,
        _draw_shift(SLOWEST_SHIFT, 3.0, generator),
        rotation=generator.uniform(-0.02, 0.02),
        zoom=generator.uniform(0.98, 1.03),
    )


def _make_foreground(size: Size, generator: np.random.Generator) -> list[tuple[Motion, Shape]]:
    """From back to front: a slow, a turning, a growing, a fast and a border-crossing shape."""
    width, height = size
    short = min(size)
    fastest = max(min(FASTEST_SHIFT, short * FASTEST_PART), SLOWEST_SHIFT)

    def place() -> tuple[float, float]:
        return generator.uniform(0.2, 0.8) * width, generator.uniform(0.2, 0.8) * height

    def outline(part: float) -> Shape:
        half_width, half_height = generator.uniform(0.7, 1.3, 2) * max(part * short, 1.5)
        roundness = generator.choice([2.0, 4.0, 8.0])
        return Shape(float(half_width), float(half_height), float(roundness))

    def shift(least: float, most: float) -> tuple[float, float]:
        return _draw_shift(min(least, fastest), min(most, fastest), generator)

    at_left_border = (0.0, generator.uniform(0.2, 0.8) * height)
    leftwards = (-fastest * generator.uniform(0.6, 0.9), generator.uniform(-1, 1))
    turn = generator.uniform(0.15, 0.35) * float(generator.choice([-1, 1]))
    return [
        (Motion(place(), shift(1, 2)), outline(0.22)),
        (Motion(place(), shift(2, 5), rotation=turn), outline(0.2)),
        (Motion(place(), shift(2, 5), zoom=generator.uniform(1.1, 1.25)), outline(0.16)),
        (Motion(place(), shift(0.7 * fastest, fastest)), outline(0.14)),
        (Motion(at_left_border, leftwards), outline(0.16)),
    ]


def _draw_shift(least: float, most: float, generator: np.random.Generator) -> tuple[float, float]:
    """A shift of a random length in a random direction."""
    length, angle = generator.uniform(least, most), generator.uniform(0, 2 * math.pi)
    return length * math.cos(angle), length * math.sin(angle)


def _interpolate(lattice: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values between lattice points, with a continuous slope; the lattice repeats."""
    left, top = np.floor(x), np.floor(y)
    along_x, along_y = _ease(x - left), _ease(y - top)
    columns = [np.mod(left + step, LATTICE_SIZE).astype(np.intp) for step in (0, 1)]
    rows = [np.mod(top + step, LATTICE_SIZE).astype(np.intp) for step in (0, 1)]
    flat = lattice.reshape(len(lattice), -1)  # one index is far faster to look up than two
    upper, lower = (
        flat.take(row * LATTICE_SIZE + columns[0], axis=1) * (1 - along_x)
        + flat.take(row * LATTICE_SIZE + columns[1], axis=1) * along_x
        for row in rows
    )
    return np.asarray(upper * (1 - along_y) + lower * along_y)


def _ease(part: np.ndarray) -> np.ndarray:
    """A smooth step from 0 to 1, level at both ends."""
    return np.asarray(part * part * (3 - 2 * part))
