"""Datasets in every layout that people have, and what is told of what is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from surgery.collection.datasets import Clip, load_picture, measure_picture, open_dataset
from surgery.errors import SurgeryError

SIZE = (32, 16)


def _draw(level: int) -> np.ndarray:
    return np.full((SIZE[1], SIZE[0], 3), level, np.uint8)


def _write(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_draw(level)).save(path)


def _read(path: Path, **options: object) -> tuple[str, list[Clip]]:
    dataset = open_dataset(path, **options)  # type: ignore[arg-type]
    return dataset.layout.name, list(dataset.read())


def _levels(clip: Clip) -> list[int]:
    return [round(float(load_picture(one).mean()) * 255) for one in clip.pictures]


def _times(clips: Sequence[Clip]) -> list[float]:
    return [timestep for clip in clips for timestep, _ in clip.truths]


def test_vimeo_triplets_are_those_of_the_test_list(tmp_path: Path) -> None:
    for name in ("00001/0001", "00001/0002", "00002/0001"):
        for index in (1, 2, 3):
            _write(tmp_path / "sequences" / name / f"im{index}.png", 10 * index)
    layout, clips = _read(tmp_path)
    assert layout == "vimeo90k"
    assert [clip.name for clip in clips] == ["00001/0001", "00001/0002", "00002/0001"]
    (tmp_path / "tri_testlist.txt").write_text("00002/0001\n\n")
    _, clips = _read(tmp_path)
    assert [(clip.name, _levels(clip)) for clip in clips] == [("00002/0001", [10, 20, 30])]
    assert _times(clips) == [0.5]


def test_vimeo_septuplets_have_five_timesteps(tmp_path: Path) -> None:
    for index in range(1, 8):
        _write(tmp_path / "sequences" / "00001" / "0001" / f"im{index}.png", 10 * index)
    _, (clip,) = _read(tmp_path)
    assert _levels(clip) == [10, 20, 30, 40, 50, 60, 70]
    assert _times([clip]) == pytest.approx([k / 6 for k in range(1, 6)], abs=1e-12)


def test_ucf101_folders_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for folder in ("1", "2", "10"):
        for level, name in ((10, "frame_00"), (20, "frame_01_gt"), (30, "frame_02")):
            _write(tmp_path / folder / f"{name}.png", level)
        _write(tmp_path / folder / "frame_01_ours.png", 99)
    layout, clips = _read(tmp_path)
    assert layout == "ucf101"
    assert [clip.name for clip in clips] == ["1", "2", "10"]
    assert _levels(clips[2]) == [10, 20, 30]


def test_snu_film_has_a_group_for_each_list_whatever_disk_it_names(tmp_path: Path) -> None:
    for index in range(1, 6):
        _write(tmp_path / "test" / "GOPRO_test" / "GOPR1" / f"{index:06d}.png", 10 * index)
    stem = "data/SNU-FILM/test/GOPRO_test/GOPR1"
    lists = tmp_path / "eval_modes"
    lists.mkdir()
    for name, (a, b, c) in {"hard": (1, 3, 5), "easy": (1, 2, 3)}.items():
        line = f"{stem}/{a:06d}.png {stem}/{b:06d}.png {stem}/{c:06d}.png\n\n"
        (lists / f"test-{name}.txt").write_text(line)
    layout, clips = _read(tmp_path)
    assert layout == "snu-film"
    assert [(clip.group, clip.name, _levels(clip)) for clip in clips] == [
        ("easy", "easy/test/GOPRO_test/GOPR1/000002", [10, 20, 30]),
        ("hard", "hard/test/GOPRO_test/GOPR1/000003", [10, 30, 50]),
    ]
    (lists / "test-easy.txt").write_text("a.png b.png c.png\n")
    # One that is not there stands in nobody's way, all of them do.
    assert len(_read(tmp_path)[1]) == 2
    (lists / "test-hard.txt").unlink()
    with pytest.raises(SurgeryError, match=r"no clip is whole; .*a\.png is not there"):
        _read(tmp_path)


def test_scenes_of_the_same_number_are_told_apart_by_where_they_are_from(tmp_path: Path) -> None:
    lines = []
    for source in ("GOPRO_test", "YouTube_test"):
        for index in (1, 2, 3):
            _write(tmp_path / "test" / source / "0001" / f"{index}.png", 10 * index)
        lines.append(" ".join(f"data/test/{source}/0001/{index}.png" for index in (1, 2, 3)))
    (tmp_path / "test-easy.txt").write_text("\n".join(lines))
    _, clips = _read(tmp_path)
    assert [clip.name for clip in clips] == [
        "easy/test/GOPRO_test/0001/2",
        "easy/test/YouTube_test/0001/2",
    ]


def test_of_a_folder_of_frames_every_other_one_is_left_out(tmp_path: Path) -> None:
    for index in range(6):
        _write(tmp_path / f"{index:03d}.png", 10 * index)
    layout, clips = _read(tmp_path)
    assert layout == "frames"
    assert [_levels(clip) for clip in clips] == [[0, 10, 20], [20, 30, 40]]
    _, clips = _read(tmp_path, every=4)
    assert [_levels(clip) for clip in clips] == [[0, 10, 20, 30, 40]]
    assert _times(clips) == [0.25, 0.5, 0.75]
    _, clips = _read(tmp_path, limit=1)
    assert len(clips) == 1


@pytest.mark.parametrize("name", ["{}.png", "frame{}.png", "9_{}_a.png"])
def test_frames_follow_one_another_by_number(tmp_path: Path, name: str) -> None:
    for index in range(1, 13):
        _write(tmp_path / name.format(index), 10 * index)
    _, clips = _read(tmp_path)
    assert [_levels(clip)[0] for clip in clips] == [10, 30, 50, 70, 90]


def test_folders_of_frames_are_groups(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        for index in range(3):
            _write(tmp_path / folder / f"{index}.jpg", 10 * index)
    _, clips = _read(tmp_path)
    assert [(clip.group, clip.name) for clip in clips] == [("a", "a/00000"), ("b", "b/00000")]


def test_a_video_gives_its_frames_without_files(tmp_path: Path) -> None:
    path = tmp_path / "video.mkv"
    write_video(path, [_draw(level) for level in (0, 60, 120, 180, 240)])
    layout, clips = _read(path)
    assert layout == "video"
    levels = [_levels(clip) for clip in clips]
    assert levels == [[0, 60, 120], [120, 180, 240]]
    assert measure_picture(clips[0].in0) == SIZE
    assert _read(tmp_path)[1][0].name == "00000"


def test_a_video_that_is_broken_is_a_clip_with_a_fault_and_the_others_are_read(
    tmp_path: Path,
) -> None:
    write_video(tmp_path / "b.mkv", [_draw(level) for level in (0, 60, 120)])
    shutil.copy(tmp_path / "b.mkv", tmp_path / "b.mov")
    (tmp_path / "a.mp4").write_bytes(b"no video")
    _, clips = _read(tmp_path)
    assert [clip.name for clip in clips] == ["a.mp4, the rest", "b.mkv/00000", "b.mov/00000"]
    assert "is no video that PyAV reads" in clips[0].fault
    assert [_levels(clip) for clip in clips[1:]] == [[0, 60, 120]] * 2


def test_a_video_that_breaks_midway_keeps_the_clips_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(path: Path) -> Iterator[np.ndarray]:
        yield from (_draw(level) for level in (0, 60, 120, 180))
        raise SurgeryError(f"{path} is cut short")

    monkeypatch.setattr("surgery.collection.datasets._decode", decode)
    (tmp_path / "video.mkv").touch()
    _, (whole, rest) = _read(tmp_path)
    assert (_levels(whole), whole.fault) == ([0, 60, 120], "")
    assert rest.fault.endswith("video.mkv is cut short")


def write_video(path: Path, frames: Sequence[np.ndarray]) -> None:
    """Without loss: FFV1 of RGB."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = SIZE[0], SIZE[1], "bgr0"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def test_a_sequence_that_is_too_short_is_told_with_what_is_needed(tmp_path: Path) -> None:
    for index in range(2):
        _write(tmp_path / "a" / f"{index}.png", index)
    short = "its longest sequence has {} frames, and --every {} takes {} in a row{}$"
    with pytest.raises(SurgeryError, match=short.format(2, "2, the default,", 3, "")):
        open_dataset(tmp_path)
    for index in range(7):
        _write(tmp_path / "b" / f"{index}.png", index)
    less = "; a smaller --every takes fewer"
    with pytest.raises(SurgeryError, match=short.format(7, "9", 10, less)):
        open_dataset(tmp_path, every=9)
    assert len(_read(tmp_path, every=6)[1]) == 1


@pytest.mark.parametrize("layout", [None, "vimeo90k"])
def test_the_folder_above_is_named_for_the_sequences_of_vimeo(
    tmp_path: Path, layout: str | None
) -> None:
    for index in (1, 2, 3):
        _write(tmp_path / "set" / "sequences" / "00001" / "0001" / f"im{index}.png", index)
    with pytest.raises(SurgeryError, match=f"; give the folder above, {tmp_path}/set; "):
        open_dataset(tmp_path / "set" / "sequences", layout)
    with pytest.raises(SurgeryError, match="no dataset; accepted"):
        open_dataset(tmp_path)


def test_what_is_no_dataset_is_told_with_what_is(tmp_path: Path) -> None:
    with pytest.raises(SurgeryError, match="no such folder or video"):
        open_dataset(tmp_path / "no")
    with pytest.raises(SurgeryError, match="looks like no dataset; accepted:\n  vimeo90k: "):
        open_dataset(tmp_path)
    with pytest.raises(SurgeryError, match="'vimeo'; accepted: vimeo90k, ucf101, snu-film"):
        open_dataset(tmp_path, "vimeo")
    _write(tmp_path / "0.png", 1)
    with pytest.raises(SurgeryError, match=r"has no clip; frames is pictures that .* takes 3"):
        open_dataset(tmp_path)
    with pytest.raises(SurgeryError, match="--every 1"):
        open_dataset(tmp_path, every=1)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(SurgeryError, match="is no video that PyAV reads"):
        open_dataset(tmp_path / "broken.mp4")
