"""Datasets of frame interpolation as people have them on disk, read clip by clip.

A layout is recognised by what lies in the folder. Nothing is held but the clip at hand: pictures
are paths until a task reads them, and a video's frames are decoded as they are asked for.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from surgery.engines.frames import from_8bit, read_png
from surgery.errors import SurgeryError

if TYPE_CHECKING:
    from collections.abc import Iterable

# A file, or a frame that came out of a video or travels to a worker: uint8 [H,W,3].
Picture: TypeAlias = "Path | np.ndarray"

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
VIDEOS = frozenset({".mp4", ".mkv", ".avi", ".mov", ".webm", ".y4m", ".m4v", ".mpg", ".ts"})
# Every other frame is left out by default, and less cannot be.
EVERY = 2
# Source: the Vimeo-90K README; tri_ is for triplets, sep_ for septuplets.
VIMEO_FRAMES = "sequences"
TRIPLET = ("im1.png", "im2.png", "im3.png")
VIMEO_LISTS = ("tri_testlist.txt", "sep_testlist.txt")
# Source: the UCF101 part of the Deep Voxel Flow evaluation, as RIFE's benchmark reads it.
UCF101_FRAMES = ("frame_00.png", "frame_01_gt.png", "frame_02.png")
# Source: the SNU-FILM lists, a line for each triplet, paths as their authors' disks had them.
SNU_LISTS = "test-*.txt"
SNU_FOLDERS = (".", "eval_modes")
SNU_ORDER = ("easy", "medium", "hard", "extreme")


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """Two frames, and the true ones between them.

    Attributes:
        name: tells it from the others of its dataset.
        in0: the frame at time 0.
        in1: the frame at time 1.
        truths: what is between, each with its timestep.
        group: a part of the dataset with a total of its own; empty where there are none.
        fault: why it cannot be read, where whoever made the clip found that.
    """

    name: str
    in0: Picture
    in1: Picture
    truths: tuple[tuple[float, Picture], ...]
    group: str = ""
    fault: str = ""

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All of its frames, in their order."""
        return (self.in0, *(picture for _, picture in self.truths), self.in1)


@dataclasses.dataclass(frozen=True)
class Layout:
    """A way to arrange a dataset.

    Attributes:
        name: what `--layout` takes.
        expects: what it is known by, in words.
        matches: whether a path looks like it.
        read: yields the clips of a path; the number says that one of so many frames is given.
        is_cut: whether that number matters, clips being cut from longer sequences.
    """

    name: str
    expects: str
    matches: Callable[[Path], bool]
    read: Callable[[Path, int], Iterator[Clip]]
    is_cut: bool = False


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset with its layout.

    Attributes:
        path: a folder, or a video.
        layout: how it is arranged.
        every: in a sequence, one of so many frames is given and those between are asked for.
        limit: how many clips to read; None for all.
    """

    path: Path
    layout: Layout
    every: int = EVERY
    limit: int | None = None

    def read(self) -> Iterator[Clip]:
        """Yield the clips, in the same order every time."""
        return itertools.islice(self.layout.read(self.path, self.every), self.limit)


def open_dataset(
    path: Path, layout: str | None = None, *, every: int = EVERY, limit: int | None = None
) -> Dataset:
    """Recognise a dataset, or take it for what `layout` says.

    Raises:
        SurgeryError: there is no such path or layout, nothing in it looks like a dataset, or it
            has no clip whose pictures are all there.
    """
    expected = "\n".join(f"  {one.name}: {one.expects}" for one in LAYOUTS.values())
    if not path.exists():
        raise SurgeryError(f"--dataset {path}: no such folder or video; accepted:\n{expected}")
    if every < EVERY:
        raise SurgeryError(f"--every {every}; 2 leaves every other frame out, and is the least")
    if layout is not None and layout not in LAYOUTS:
        raise SurgeryError(f"layout {layout!r}; accepted: {', '.join(LAYOUTS)}")
    chosen = (
        LAYOUTS[layout]
        if layout
        else next((one for one in LAYOUTS.values() if one.matches(path)), None)
    )
    if chosen is None:
        raise SurgeryError(
            f"--dataset {path} looks like no dataset{_name_above(path)}; accepted:\n{expected}"
        )
    dataset = Dataset(path, chosen, every, limit)
    lacking: list[Picture] = []
    fault = ""
    for clip in dataset.read():
        fault = fault or clip.fault
        lacking = [one for one in clip.pictures if isinstance(one, Path) and not one.is_file()]
        if not lacking and not clip.fault:
            return dataset
    if fault:
        raise SurgeryError(fault)
    if lacking:
        raise SurgeryError(f"--dataset {path}: no clip is whole; {lacking[0]} is not there")
    raise SurgeryError(f"--dataset {path} has no clip{_name_above(path)}; {_tell_need(dataset)}")


def _name_above(path: Path) -> str:
    """The folder that was meant, where its sequences are named instead."""
    above = path.resolve().parent
    is_inside = path.resolve() == above / VIMEO_FRAMES and _is_vimeo(above)
    return f"; give the folder above, {above}" if is_inside else ""


def _tell_need(dataset: Dataset) -> str:
    """What a dataset without a clip lacks."""
    layout, every = dataset.layout, dataset.every
    expected = f"{layout.name} is {layout.expects}"
    if not layout.is_cut:
        return expected
    need = f"--every {every}{', the default,' if every == EVERY else ''} takes {every + 1} in a row"
    # Of two frames in a row each: one less than there are frames.
    pairs = Counter(clip.group for clip in layout.read(dataset.path, 1))
    if not pairs:
        return f"{expected}; {need}"
    longest = max(pairs.values()) + 1
    found = f"its longest sequence has {longest} frames, and {need}"
    return f"{found}; a smaller --every takes fewer" if longest > EVERY else found


def load_picture(picture: Picture) -> np.ndarray:
    """A frame as float32 [1,3,H,W] in 0..1.

    Raises:
        SurgeryError: the file is absent or no picture.
    """
    return read_png(picture) if isinstance(picture, Path) else from_8bit(picture)


def measure_picture(picture: Picture) -> tuple[int, int]:
    """Width and height of a frame in pixels, without reading it.

    Raises:
        SurgeryError: the file is absent or no picture.
    """
    if not isinstance(picture, Path):
        return picture.shape[1], picture.shape[0]
    from PIL import Image

    try:
        with Image.open(picture) as opened:
            width, height = opened.size
    except (OSError, Image.DecompressionBombError) as error:
        raise SurgeryError(f"{picture} is not a picture: {error}") from error
    return width, height


# ---- layouts -----------------------------------------------------------------------------------


def _make_clip(name: str, frames: Sequence[Picture], group: str = "") -> Clip:
    """A clip of frames at equal distances: the first and the last are given."""
    steps = len(frames) - 1
    truths = tuple((index / steps, frames[index]) for index in range(1, steps))
    return Clip(name, frames[0], frames[-1], truths, group)


def _is_vimeo(path: Path) -> bool:
    return (path / VIMEO_FRAMES).is_dir()


def _read_vimeo(path: Path, every: int) -> Iterator[Clip]:
    for name in _list_vimeo(path):
        folder = path / VIMEO_FRAMES / name
        frames = sorted(folder.glob("im*.png"), key=sort_naturally)
        # One that lacks a frame is told when that is looked for.
        yield _make_clip(name, frames if len(frames) >= 3 else [folder / one for one in TRIPLET])


def _list_vimeo(path: Path) -> list[str]:
    """The test set where a list names it, else every sequence."""
    for name in VIMEO_LISTS:
        if (path / name).is_file():
            return (path / name).read_text(encoding="utf-8").split()
    folders = [one for one in (path / VIMEO_FRAMES).glob("*/*") if one.is_dir()]
    return ["/".join(one.parts[-2:]) for one in sorted(folders, key=sort_naturally)]


def _is_ucf101(path: Path) -> bool:
    return next(_read_ucf101(path, 2), None) is not None


def _read_ucf101(path: Path, every: int) -> Iterator[Clip]:
    for folder in _list_folders(path):
        frames = [folder / name for name in UCF101_FRAMES]
        if all(frame.is_file() for frame in frames):
            yield _make_clip(folder.name, frames)


def _is_snu_film(path: Path) -> bool:
    return bool(_find_snu_lists(path))


def _find_snu_lists(path: Path) -> list[Path]:
    found = [one for folder in SNU_FOLDERS for one in sorted((path / folder).glob(SNU_LISTS))]
    order = {f"test-{name}": index for index, name in enumerate(SNU_ORDER)}
    return sorted(found, key=lambda one: order.get(one.stem, len(order)))


def _read_snu_film(path: Path, every: int) -> Iterator[Clip]:
    for listed in _find_snu_lists(path):
        group = listed.stem.removeprefix("test-")
        for number, line in enumerate(listed.read_text(encoding="utf-8").splitlines(), start=1):
            names = line.split()
            if not names:
                continue
            if len(names) < 3:
                raise SurgeryError(f"{listed}, line {number}: three paths are expected")
            frames = [_find_listed(path, name) for name in names]
            # The lists of several scenes have numbers in common, and so have the scenes of several
            # sources: the whole path tells them apart.
            middle = frames[len(frames) // 2]
            inside = middle.relative_to(path) if middle.is_relative_to(path) else middle
            yield _make_clip(f"{group}/{inside.with_suffix('').as_posix()}", frames, group)


def _find_listed(root: Path, name: str) -> Path:
    """A file of a list: as much of the end of its path as there is below the dataset.

    Of one that is nowhere, the place where it is listed.
    """
    parts = Path(name).parts
    tails = (root.joinpath(*parts[start:]) for start in range(len(parts)))
    return next((path for path in tails if path.is_file()), root / name)


def _is_frames(path: Path) -> bool:
    return any(_list_pictures(folder) for folder in (path, *_list_folders(path)))


def _read_frames(path: Path, every: int) -> Iterator[Clip]:
    for folder in (path, *_list_folders(path)):
        group = "" if folder == path else folder.name
        yield from _cut(_list_pictures(folder), every, group)


def _is_video(path: Path) -> bool:
    return bool(_list_videos(path))


def _read_video(path: Path, every: int) -> Iterator[Clip]:
    videos = _list_videos(path)
    stems = Counter(video.stem for video in videos)
    for video in videos:
        group = video.stem if stems[video.stem] == 1 else video.name
        yield from _read_one_video(video, every, group if len(videos) > 1 else "")


def _read_one_video(path: Path, every: int, group: str) -> Iterator[Clip]:
    """The clips of a video; where it breaks, one that says so is the last."""
    try:
        yield from _cut(_decode(path), every, group)
    except SurgeryError as error:
        yield Clip(f"{path.name}, the rest", path, path, ((0.5, path),), group, str(error))


def _decode(path: Path) -> Iterator[np.ndarray]:
    try:
        import av
    except ImportError as error:
        raise SurgeryError(f"{path}: reading a video takes 'pip install av'") from error
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except (av.error.FFmpegError, IndexError) as error:
        raise SurgeryError(f"{path} is no video that PyAV reads: {error}") from error


def _cut(frames: Iterable[Picture], every: int, group: str) -> Iterator[Clip]:
    """Clips of a sequence: each begins with the frame that the one before it ends with."""
    prefix = f"{group}/" if group else ""
    window: list[Picture] = []
    for index, frame in enumerate(frames):
        window.append(frame)
        if len(window) == every + 1:
            yield _make_clip(f"{prefix}{index - every:05d}", window, group)
            window = [frame]


def sort_naturally(path: Path) -> tuple[tuple[list[str | int], str], ...]:
    """A key that has 10 come after 9, in every part of a path: frames are numbered without zeros.

    Names that say the same number in other ways keep one order, too.
    """
    return tuple((_cut_numbers(part), part) for part in path.parts)


def _cut_numbers(text: str) -> list[str | int]:
    # Text and numbers take turns, beginning with text: no number is compared with text.
    parts = re.split(r"([0-9]+)", text)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _list_folders(path: Path) -> list[Path]:
    folders = [one for one in path.iterdir() if one.is_dir()] if path.is_dir() else []
    return sorted(folders, key=sort_naturally)


def _list_pictures(path: Path) -> list[Picture]:
    return [*_list_files(path, PICTURES)]


def _list_videos(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return _list_files(path, VIDEOS)


def _list_files(path: Path, suffixes: frozenset[str]) -> list[Path]:
    found = path.iterdir() if path.is_dir() else iter(())
    return sorted(
        (one for one in found if one.suffix.lower() in suffixes and one.is_file()),
        key=sort_naturally,
    )


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            "vimeo90k",
            "sequences/00001/0001/im1.png to im3.png, or to im7.png; tri_testlist.txt if there is",
            _is_vimeo,
            _read_vimeo,
        ),
        Layout(
            "ucf101",
            "folders that hold frame_00.png, frame_01_gt.png and frame_02.png",
            _is_ucf101,
            _read_ucf101,
        ),
        Layout(
            "snu-film",
            "test-easy.txt, test-medium.txt, ... with three paths a line, and the frames",
            _is_snu_film,
            _read_snu_film,
        ),
        Layout("video", "a video file, or a folder of some", _is_video, _read_video, is_cut=True),
        Layout(
            "frames",
            "pictures that follow one another by name, or folders of such",
            _is_frames,
            _read_frames,
            is_cut=True,
        ),
    )
}
