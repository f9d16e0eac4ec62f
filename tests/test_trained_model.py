"""What the package brings along: a checkpoint in upstream's form, and frames that fit together."""

from __future__ import annotations

import numpy as np
import torch

from surgery.sources.architectures import describe_tensors
from surgery.trained_model import FRAMES, TRUTH, WEIGHTS, find_data, read_frames

# In bytes.
LARGEST = 6_000_000


def test_the_checkpoint_is_small_and_in_the_form_of_upstream() -> None:
    path = find_data(WEIGHTS)
    assert path.stat().st_size < LARGEST
    state = torch.load(path, weights_only=True)
    assert all(name.startswith("module.") for name in state)
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    bare = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    assert "4.15.lite" in describe_tensors(bare)


def test_the_frames_differ_and_the_true_one_lies_between() -> None:
    in0, in1, truth = read_frames()
    assert in0.shape == in1.shape == truth.shape
    assert in0.shape[:2] == (1, 3)
    assert in0.dtype == np.float32
    between = [np.abs(frame - truth).mean() for frame in (in0, in1)]
    assert max(between) < np.abs(in0 - in1).mean()
    assert min(between) > 0.01


def test_their_origin_and_licence_are_told() -> None:
    told = find_data("README.md").read_text(encoding="utf-8")
    for word in (WEIGHTS, *FRAMES, TRUTH, "licence", "train_demo.py", "CC0", "public domain"):
        assert word in told
