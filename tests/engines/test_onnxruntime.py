from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from surgery.engines import Sample
from surgery.engines import onnxruntime as engine_module
from surgery.engines.onnx_reference import ReferenceEngine
from surgery.engines.onnxruntime import OnnxRuntimeEngine
from surgery.errors import EngineError, HubError, KernelMissing
from surgery.kernel_library import ops_library
from surgery.proof.tolerances import KERNEL_FP32

if TYPE_CHECKING:
    from tests.engines.conftest import TinyNetwork

MakeSample = Callable[..., Sample]


@pytest.fixture
def kernel() -> Path:
    try:
        return ops_library()
    except KernelMissing as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("optimise", [True, False])
@pytest.mark.parametrize("kind", ["native", "function"])
def test_both_warps_agree_with_the_reference(
    kind: engine_module.Kernel,
    optimise: bool,
    hub_file: Path,
    request: pytest.FixtureRequest,
    make_sample: MakeSample,
) -> None:
    if kind == "native":
        request.getfixturevalue("kernel")
    # Neither size is a multiple of the padding; the second run has no profile.
    samples = [make_sample(40, 50), make_sample(33, 20, 0.75)]
    engine = OnnxRuntimeEngine(hub_file, kind, optimise=optimise)
    expected = ReferenceEngine(hub_file).run(samples)
    for frame, truth in zip(engine.run(samples), expected, strict=True):
        assert frame.shape == truth.shape
        assert frame.dtype == np.float32
        assert KERNEL_FP32.accepts(float(abs(frame - truth).max()))
    assert engine.ran == Counter({"Warp" if kind == "native" else "GridSample": 1})


def test_the_timestep_and_the_frames_matter(hub_file: Path, make_sample: MakeSample) -> None:
    engine = OnnxRuntimeEngine(hub_file, "function")
    first, later = engine.run([make_sample(32, 32, 0.25), make_sample(32, 32, 0.75)])
    assert abs(first - later).max() > 0.1


def test_bytes_are_a_model_too(
    network: TinyNetwork, hub_file: Path, make_sample: MakeSample
) -> None:
    sample = make_sample(32, 32)
    from_bytes = OnnxRuntimeEngine(network.make_hub().SerializeToString(), "function").run(
        [sample]
    )[0]
    assert np.array_equal(from_bytes, OnnxRuntimeEngine(hub_file, "function").run([sample])[0])


def test_a_kernel_that_did_not_run_is_an_error(
    hub_file: Path, monkeypatch: pytest.MonkeyPatch, make_sample: MakeSample
) -> None:
    # Registered nothing: the function body takes over silently, and only the profile tells.
    monkeypatch.setattr(engine_module, "_find_library", lambda kernel: None)
    engine = OnnxRuntimeEngine(hub_file, "native")
    with pytest.raises(EngineError, match=r"shows 1 GridSample .* Warp alone should have run"):
        engine.run([make_sample(32, 32)])
    # It stays refused: the session of a refused run is not kept.
    with pytest.raises(EngineError, match="Warp alone should have run"):
        engine.run([make_sample(32, 32)])


def test_a_function_body_that_did_not_run_is_an_error(
    hub_file: Path, kernel: Path, monkeypatch: pytest.MonkeyPatch, make_sample: MakeSample
) -> None:
    monkeypatch.setattr(engine_module, "_find_library", lambda kind: kernel)
    with pytest.raises(EngineError, match=r"shows 1 Warp .* GridSample alone should have run"):
        OnnxRuntimeEngine(hub_file, "function").run([make_sample(32, 32)])


def test_a_missing_kernel_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Path:
        raise KernelMissing("not built")

    monkeypatch.setattr(sys.modules["surgery.kernel_library"], "ops_library", refuse)
    with pytest.raises(KernelMissing, match="not built"):
        OnnxRuntimeEngine(b"", "native")


def test_a_file_that_is_no_kernel_is_an_error(
    hub_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_sample: MakeSample
) -> None:
    broken = tmp_path / "librife_ops.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(engine_module, "_find_library", lambda kind: broken)
    with pytest.raises(EngineError, match=r"cannot load librife_ops\.so"):
        OnnxRuntimeEngine(hub_file, "native").run([make_sample(32, 32)])


@pytest.mark.parametrize("content", [b"", b"no model at all"])
def test_a_file_that_is_no_model_is_an_error(content: bytes, make_sample: MakeSample) -> None:
    with pytest.raises(EngineError, match="refuses the model"):
        OnnxRuntimeEngine(content, "function").run([make_sample(32, 32)])


def test_a_model_without_metadata_is_an_error(
    network: TinyNetwork, make_sample: MakeSample
) -> None:
    hub = network.make_hub()
    del hub.metadata_props[:]
    with pytest.raises(HubError, match="not a hub model"):
        OnnxRuntimeEngine(hub.SerializeToString(), "function").run([make_sample(32, 32)])


@pytest.mark.parametrize("is_reference", [True, False])
def test_a_fixed_timestep_is_kept_to(
    is_reference: bool, network: TinyNetwork, make_sample: MakeSample
) -> None:
    model = network.make_hub(timestep="fixed 0.5")
    engine = (
        ReferenceEngine(model)
        if is_reference
        else OnnxRuntimeEngine(model.SerializeToString(), "function")
    )
    assert engine.run([make_sample(32, 32, 0.5)])[0].shape == (1, 3, 32, 32)
    with pytest.raises(EngineError, match=r"timestep 0\.25; the model's donor knows 0\.5 alone"):
        engine.run([make_sample(32, 32, 0.25)])
