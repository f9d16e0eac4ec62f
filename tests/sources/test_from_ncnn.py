from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from surgery.engines.frames import network_inputs
from surgery.engines.ncnn import NcnnEngine
from surgery.engines.ncnn_networks import NcnnNetworksEngine
from surgery.errors import FormatError, HubError, UnsupportedOp
from surgery.formats import ncnn_layers as ncnn
from surgery.formats.ncnn_bin import write_weights
from surgery.formats.ncnn_folder import write_model
from surgery.formats.ncnn_param import Layer, NcnnGraph, parse
from surgery.formats.ncnn_random import fill_random_weights
from surgery.hub.model import HubModel
from surgery.proof.compare import compare, judge
from surgery.proof.inputs import KnownSample, make_samples
from surgery.proof.tolerances import NCNN_FP32, Tolerance
from surgery.sources.from_ncnn import import_folder, import_graph
from surgery.targets.make_ncnn import NcnnOptions, make_ncnn

SEED = 2
PUBLISHED = (
    "nihui-rife-v4",
    "nihui-rife-v4.6",
    "styler-rife-v4.13_ensembleFalse",
    "styler-rife-v4.22_lite_ensembleFalse",
    "styler-rife-v4.25_ensembleFalse",
    "styler-rife-v4.26_ensembleFalse",
    "styler-rife-v4.6_ensembleFalse",
    "styler-rife-v4.6_ensembleTrue",
    "styler-rife-v4.7_ensembleFalse",
)
FRAMES = "Input in0 0 1 in0\nInput in1 0 1 in1\nInput in2 0 1 in2\n"

WARPED = """
    Concat     join 3 1 in0_a in1 in2 x 0=0
    Convolution c0 1 1 x c0 0=5 1=3 4=1 5=1 6=315
    Crop       cut 1 1 c0 flow -23309=1,0 -23310=1,{channels} -23311=1,0
    {layer}    warp 2 1 in0_b flow out0 {params}
"""

Convert = Callable[[str], tuple[Path, object]]
MakeFolder = Callable[[str], Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Write a `.param` with two frames and a timestep, and a `.bin` of random weights for it."""

    def make(layers: str) -> Path:
        folder = tmp_path / "rife-v4-made"
        folder.mkdir()
        lines = [line for line in (FRAMES + layers).splitlines() if line.strip()]
        text = f"7767517\n{len(lines)} 99\n" + "\n".join(lines) + "\n"
        graph = parse(text)
        fill_random_weights(graph, SEED)
        (folder / "flownet.param").write_text(text, encoding="utf-8")
        (folder / "flownet.bin").write_bytes(write_weights(graph, fp16=False))
        return folder

    return make


@pytest.fixture
def folder(make_folder: MakeFolder) -> Path:
    """A folder of one convolution and one warp."""
    text = WARPED.format(channels=2, layer="rife.Warp", params="")
    return make_folder("Split s 1 2 in0 in0_a in0_b\n" + text)


def sample_frames(size: int = 32) -> KnownSample:
    return make_samples([(size, size)], [0.3], SEED)[0]


def run_hub(model: HubModel, sample: KnownSample) -> np.ndarray:
    """In onnxruntime itself: its engine refuses a network without a warp, as some here are."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(model.to_onnx().SerializeToString(), options)
    return session.run(None, network_inputs(sample, model.metadata.padding))[0]


def assert_same(expected: np.ndarray, found: np.ndarray, tolerance: Tolerance = NCNN_FP32) -> None:
    verdict = judge(compare(expected, found), tolerance)
    assert verdict.passed, verdict.sentence


def assert_imports_as_ncnn_runs(folder: Path) -> HubModel:
    model = import_folder(folder)
    sample = sample_frames()
    (expected,) = NcnnEngine(folder, 32).run([sample])
    assert expected.std() > 0.01, "a constant frame would prove nothing"
    assert_same(expected, run_hub(model, sample))
    return model


# ---- published graphs --------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_graph_imports_and_translates_to_what_ncnn_computes_of_it(
    name: str, published_folder: Path, tmp_path: Path
) -> None:
    text = (published_folder / f"{name}.param").read_text(encoding="utf-8")
    graph = parse(text)
    fill_random_weights(graph, SEED)
    original = tmp_path / "original"
    original.mkdir()
    (original / "flownet.param").write_text(text, encoding="utf-8")
    (original / "flownet.bin").write_bytes(write_weights(graph, fp16=False))

    model = import_folder(original)
    sample = sample_frames(model.metadata.padding)
    (expected,) = NcnnEngine(original, model.metadata.padding).run([sample])
    assert_same(expected, run_hub(model, sample))

    made = make_ncnn(model, NcnnOptions(fp16=False))
    assert "MemoryData" not in {layer.type for layer in made.graph.layers}
    translated = tmp_path / "translated"
    write_model(translated, made.graph, fp16=False)
    (found,) = NcnnEngine(translated, model.metadata.padding).run([sample])
    assert_same(expected, found)


def test_the_metadata_of_a_published_graph_is_read_off_its_blocks(published_folder: Path) -> None:
    graph = parse((published_folder / "styler-rife-v4.26_ensembleFalse.param").read_text())
    fill_random_weights(graph, SEED)
    model = import_graph(graph, label="rife-v4.26")
    facts = model.metadata
    assert (facts.padding, facts.warps, facts.ensemble) == (64, 18, False)
    assert facts.scale_list == (16.0, 8.0, 4.0, 2.0, 1.0)
    assert facts.donor == "rife-v4.26"
    assert not facts.folded_betas
    modules = {node.name.split("/")[1] for node in model.graph.nodes if node.op == "Conv"}
    assert modules >= {"encode", "block0", "block1", "block2", "block3", "block4"}


def test_an_ensemble_is_known_by_blocks_that_do_not_need_each_other(published_folder: Path) -> None:
    graph = parse((published_folder / "styler-rife-v4.6_ensembleTrue.param").read_text())
    fill_random_weights(graph, SEED)
    model = import_graph(graph, label="rife-v4.6")
    assert model.metadata.ensemble
    assert model.metadata.scale_list == (8.0, 4.0, 2.0, 1.0)
    names = {node.name.split("/")[1] for node in model.graph.nodes if node.op == "Conv"}
    assert names == {"block0", "block1", "block2", "block3"}


# ---- layers, as ncnn computes them -------------------------------------------------------------


def test_convolutions_with_every_activation_are_imported(make_folder: MakeFolder) -> None:
    folder = make_folder(
        """
        Concat     join 3 1 in0 in1 in2 x 0=0
        Convolution c0 1 1 x c0 0=8 1=3 3=2 4=1 5=1 6=504 9=1
        Convolution c1 1 1 c0 c1 0=8 1=3 11=1 4=1 14=0 5=1 6=192 9=2 -23310=1,2.000000e-01
        Convolution c2 1 1 c1 c2 0=8 1=3 2=2 4=2 5=0 6=576 9=3 -23310=2,-5.000000e-01,5.000000e-01
        ConvolutionDepthWise c3 1 1 c2 c3 0=8 1=3 4=1 5=1 6=288 7=2 9=4
        Deconvolution c4 1 1 c3 c4 0=6 1=4 3=2 4=1 5=1 6=768 9=2 -23310=1,1.000000e-01
        Crop       cut 1 1 c4 out0 -23309=1,1 -23310=1,4 -23311=1,0
        """
    )
    assert_imports_as_ncnn_runs(folder)


def test_a_deconvolution_with_output_padding_is_imported(make_folder: MakeFolder) -> None:
    folder = make_folder(
        """
        Concat     join 3 1 in0 in1 in2 x 0=0
        Convolution c0 1 1 x c0 0=5 1=3 3=2 4=1 5=1 6=315
        Deconvolution c1 1 1 c0 out0 0=3 1=3 3=2 4=1 5=1 6=135 18=1 19=1
        """
    )
    assert_imports_as_ncnn_runs(folder)


def test_elementwise_layers_and_constants_are_imported(make_folder: MakeFolder) -> None:
    folder = make_folder(
        """
        MemoryData beta 0 1 beta 0=1 1=1 2=3
        MemoryData flat 0 1 flat 0=3
        Split      s0 1 4 in0 a b c d
        Split      sb 1 2 beta beta_0 beta_1
        BinaryOp   m0 2 1 a beta_0 m0 0=2
        BinaryOp   m1 2 1 flat b m1 0=1
        BinaryOp   m2 1 1 m1 m2 0=7 1=1 2=1.000000e+00
        BinaryOp   m3 1 1 c m3 0=3 1=1 2=2.000000e+00
        BinaryOp   ma 1 1 in1 ma 0=0 1=1 2=5.000000e-01
        BinaryOp   m4 1 1 ma m4 0=8 1=1 2=-0.500000e+00
        BinaryOp   m5 1 1 m4 m5 0=4 1=1 2=-7.000000e-01
        Eltwise    e0 3 1 m0 m2 m3 e0 0=1 -23301=3,1.000000e+00,5.000000e-01,-2.000000e+00
        Eltwise    e1 2 1 e0 m5 e1 0=0
        UnaryOp    u0 1 1 d u0 0=1
        PReLU      p0 1 1 u0 p0 0=3
        Sigmoid    g0 1 1 p0 g0
        ReLU       r0 1 1 e1 r0 0=3.000000e-01
        BinaryOp   m6 2 1 beta_1 r0 m6 0=2
        BinaryOp   m7 2 1 m6 g0 m7 0=0
        BinaryOp   m8 2 1 m7 in2 m8 0=2
        Clip       k0 1 1 m8 out0 0=-8.000000e-01 1=8.000000e-01
        """
    )
    model = assert_imports_as_ncnn_runs(folder)
    assert not model.metadata.folded_betas


def test_slices_interps_and_shuffles_are_imported(make_folder: MakeFolder) -> None:
    folder = make_folder(
        """
        Concat     join 3 1 in0 in1 in2 x 0=0
        Interp     down 1 1 x down 0=2 1=2.500000e-01 2=2.500000e-01
        Convolution c0 1 1 down c0 0=28 1=3 4=1 5=1 6=1764
        PixelShuffle ps 1 1 c0 ps 0=2
        Slice      cut 1 3 ps p q r -23300=3,2,3,-233 1=0
        Split      sq 1 2 q q0 q1
        Crop       c1 1 1 p p1 -23309=1,-1 -23310=1,2147483647 -23311=1,0
        Concat     j2 3 1 p1 q0 r j2 0=0
        Crop       c2 1 1 j2 c2 -23309=1,0 -23310=1,3 -23311=1,0
        Interp     up 1 1 c2 up 0=2 1=2.000000e+00 2=2.000000e+00 6=0
        Interp     up2 1 1 q1 up2 0=2 1=2.000000e+00 2=2.000000e+00
        BinaryOp   m 2 1 up up2 m 0=2
        BinaryOp   n 1 1 m out0 0=0 1=1 2=1.000000e-01
        """
    )
    assert_imports_as_ncnn_runs(folder)


def test_float16_weights_are_imported_as_their_values(folder: Path, tmp_path: Path) -> None:
    graph = parse((folder / "flownet.param").read_text())
    fill_random_weights(graph, SEED)
    half = tmp_path / "half"
    write_model(half, graph, fp16=True)
    weight = import_folder(half).graph.nodes[1].inputs[1].values
    expected = next(one for one in graph.layers if one.type == "Convolution").weights["weight"]
    assert np.array_equal(weight, expected.astype(np.float16).astype(np.float32))


def test_the_shape_that_import_gives_an_output_is_checked(make_folder: MakeFolder) -> None:
    folder = make_folder("Concat join 3 1 in0 in1 in2 out0 0=0\n")
    with pytest.raises(HubError, match="out0 has 7 channels"):
        import_folder(folder)


# ---- warps -------------------------------------------------------------------------------------


def test_the_pow_of_two_blobs_is_undone_to_a_warp(make_folder: MakeFolder) -> None:
    split = "Split s 1 2 in0 in0_a in0_b\n"
    folder = make_folder(split + WARPED.format(channels=2, layer="rife.Warp", params="0=6"))
    sample = sample_frames()
    (expected,) = NcnnEngine(folder, 32).run([sample])
    assert import_folder(folder).metadata.baked == ()
    # A pow needs as many channels on either side, so the trick slices three.
    path = folder / "flownet.param"
    text = path.read_text().replace("-23310=1,2", "-23310=1,3").replace("rife.Warp", "BinaryOp")
    path.write_text(text, encoding="utf-8")
    model = import_folder(folder)
    assert model.metadata.warps == 1
    assert any("placeholder of a warp" in note for note in model.metadata.baked)
    assert_same(expected, run_hub(model, sample))


def test_a_warp_of_a_flow_of_one_channel_is_refused(make_folder: MakeFolder) -> None:
    text = WARPED.format(channels=1, layer="rife.Warp", params="")
    with pytest.raises(UnsupportedOp, match=r"rife.Warp warp: its flow has 1 channel\(s\)"):
        import_folder(make_folder("Split s 1 2 in0 in0_a in0_b\n" + text))


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ("Interp t 1 1 in0 t 0=1 1=1.000000e+00 2=1.000000e+00", "resize type 1"),
        ("Interp t 1 1 in0 t 0=2 6=1", "align_corner"),
        ("Interp t 1 1 in0 t 0=2 3=64 4=64", "a fixed output size"),
        ("Pooling t 1 1 in0 t 0=1 1=2 2=2", "import accepts"),
        ("Crop t 1 1 in0 t -23309=1,1 -23310=1,9 -23311=1,1", "cuts height or width"),
        ("Padding t 1 1 in0 t 0=1 1=1 2=1 3=1", "pads its input"),
        ("Concat t 1 1 in0 t 0=1", "axis 1"),
        ("Convolution t 1 1 in0 t 0=3 1=3 4=-233 5=1 6=81", "pads"),
        ("Convolution t 1 1 in0 t 0=3 1=3 4=1 5=1 6=81 18=1.000000e+00", "another value than 0"),
        ("Convolution t 1 1 in0 t 0=3 1=3 4=1 5=1 6=81 9=5", "activation 5"),
        ("BinaryOp t 1 1 in0 t 0=6 1=1 2=3.000000e+00", "operation pow"),
        ("BinaryOp t 1 1 in0 t 0=2 1=1 2=1", "is a float"),
        ("Eltwise t 2 1 in0 in1 t 0=2", "operation 2"),
        ("UnaryOp t 1 1 in0 t 0=7", "operation 7"),
        ("Reshape t 1 1 in0 t 0=0 1=0 2=0", "reshapes a computed blob"),
        ("Deconvolution t 1 1 in0 t 0=3 1=4 3=2 4=1 5=1 6=144 20=64", "a fixed output size"),
    ],
)
def test_a_layer_that_the_hub_cannot_express_is_refused(
    layer: str, reason: str, make_folder: MakeFolder
) -> None:
    folder = make_folder(f"{layer}\nBinaryOp end 1 1 t out0 0=2 1=1 2=2.000000e+00\n")
    with pytest.raises(UnsupportedOp) as refusal:
        import_folder(folder)
    assert reason in str(refusal.value)
    assert f"{layer.split()[0]} t" in str(refusal.value)


def test_every_refusal_is_listed_at_once(make_folder: MakeFolder) -> None:
    folder = make_folder("UnaryOp t 1 1 in0 t 0=7\nUnaryOp u 1 1 t u 0=8\nSigmoid e 1 1 u out0\n")
    with pytest.raises(UnsupportedOp) as refusal:
        import_folder(folder)
    assert refusal.value.refusals[0].startswith("UnaryOp t:")
    assert "UnaryOp u" in str(refusal.value)


def test_a_bin_with_bytes_left_over_is_refused(folder: Path) -> None:
    weights = folder / "flownet.bin"
    weights.write_bytes(weights.read_bytes() + bytes(4))
    with pytest.raises(FormatError, match="4 bytes are left"):
        import_folder(folder)


def test_a_folder_of_two_networks_is_refused(folder: Path) -> None:
    for end in ("param", "bin"):
        shutil.copy(folder / f"flownet.{end}", folder / f"contextnet.{end}")
    with pytest.raises(FormatError, match=r"fusionnet\.param"):
        import_folder(folder)


def test_wrong_counts_and_a_missing_split_are_repaired_and_noted(folder: Path) -> None:
    path = folder / "flownet.param"
    lines = path.read_text().splitlines()
    kept = [line for line in lines[2:] if not line.startswith("Split")]
    text = "\n".join(["7767517", "3 3", *kept]) + "\n"
    path.write_text(text.replace("in0_a", "in0").replace("in0_b", "in0"))
    model = import_folder(folder)
    assert any("layers announced" in note for note in model.metadata.baked)
    assert model.metadata.warps == 1


def test_what_a_folder_says_of_its_donor_is_kept_where_the_graph_agrees(folder: Path) -> None:
    facts = {"version": "4.99", "donor": "tiny:4.99", "warps": 1, "padding": 32}
    path = folder / "surgery.json"
    path.write_text(json.dumps({"model": facts}), encoding="utf-8")
    model = import_folder(folder)
    assert (model.metadata.version, model.metadata.donor) == ("4.99", "tiny:4.99")
    path.write_text(json.dumps({"model": facts | {"warps": 2}}), encoding="utf-8")
    assert import_folder(folder).metadata.version == ""


def test_a_network_that_ignores_the_timestep_says_so() -> None:
    graph = NcnnGraph(
        [
            Layer("Input", "in0", [], ["in0"]),
            Layer("Input", "in1", [], ["in1"]),
            Layer("Concat", "join", ["in0", "in1"], ["x"]),
            Layer(
                "Crop",
                "cut",
                ["x"],
                ["out0"],
                {ncnn.Crop.STARTS: [0], ncnn.Crop.ENDS: [3], ncnn.Crop.AXES: [0]},
            ),
        ]
    )
    assert import_graph(graph, label="no timestep").metadata.timestep == "fixed 0.5"


def test_the_same_folder_gives_the_same_bytes(folder: Path) -> None:
    first, second = (
        import_folder(folder).to_onnx().SerializeToString(deterministic=True) for _ in "ab"
    )
    assert first == second
    assert str(folder.parent).encode() not in first
    assert os.environ.get("HOME", "/nowhere").encode() not in first


# ---- three networks ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_three_networks_import_as_ncnn_runs_them(kind: str, convert_networks: Convert) -> None:
    folder, _ = convert_networks(kind)
    model = import_folder(folder)
    assert (model.metadata.kind, model.metadata.warps) == (kind, 12)
    assert model.metadata.donor == "train_log/RIFE_HD.py"
    (sample,) = make_samples([(96, 64)], [0.5], SEED)
    (expected,) = NcnnNetworksEngine(folder, kind, 32).run([sample])
    assert_same(expected, run_hub(model, sample))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            "BinaryOp flow.0 1 1",
            "Sigmoid flow.0 1 1 flow.1 flow.0",
            r"Sigmoid flow\.0 makes flow\.0; accepted is the negation of flow\.1",
        ),
        (
            "BinaryOp flow.0 1 1",
            "BinaryOp flow.0 1 1 flow.1 flow.0 0=7 1=1 2=1.0",
            r"BinaryOp flow\.0 makes flow\.0; accepted is the negation of flow\.1",
        ),
        (
            "Input flow.1 0 1 flow.1",
            "Input flow.2 0 1 flow.2",
            "flownet: flow has 2 channels; contextnet is of v2, where 4 are expected",
        ),
    ],
)
def test_a_flow_that_is_made_in_another_way_is_refused(
    old: str, new: str, complaint: str, convert_networks: Convert, tmp_path: Path
) -> None:
    folder = copy_and_replace(convert_networks("v1")[0], tmp_path / "rife", old, new)
    with pytest.raises(FormatError, match=complaint):
        import_folder(folder)


@pytest.mark.parametrize(
    "negation",
    ["BinaryOp flow.0 1 1 flow.1 flow.0 0=7 1=1 2=0.0", "UnaryOp flow.0 1 1 flow.1 flow.0 0=1"],
)
def test_a_flow_may_be_negated_in_other_ways(
    negation: str, convert_networks: Convert, tmp_path: Path
) -> None:
    original = convert_networks("v1")[0]
    folder = copy_and_replace(original, tmp_path / "rife", "BinaryOp flow.0 1 1", negation)
    one, other = (import_folder(path).to_onnx().graph for path in (original, folder))
    assert one == other


def copy_and_replace(original: Path, folder: Path, old: str, new: str) -> Path:
    """Copy a folder of three networks, one line of contextnet replaced, that begins like this."""
    shutil.copytree(original, folder)
    path = folder / "contextnet.param"
    lines = [" ".join(line.split()) for line in path.read_text(encoding="utf-8").splitlines()]
    assert sum(line.startswith(old) for line in lines) == 1
    changed = [new if line.startswith(old) else line for line in lines]
    path.write_text("\n".join(changed) + "\n", encoding="utf-8")
    return folder
