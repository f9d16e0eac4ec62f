"""`surgery.proof.ranges`: what fp16 cannot hold is found, and nothing else."""

from __future__ import annotations

import math

from surgery.proof.ranges import LARGEST_FP16, find_overflows


def test_blobs_that_fp16_holds_are_no_findings() -> None:
    assert find_overflows({"a": 0.0, "b": LARGEST_FP16}) == []


def test_blobs_beyond_fp16_are_named_with_what_they_reach() -> None:
    (finding,) = find_overflows({"a": 1.0, "b": 131072.0})
    assert finding.where == "b"
    assert "1.311e+05" in finding.what


def test_values_that_are_not_finite_are_findings() -> None:
    found = find_overflows({"a": math.inf, "b": math.nan})
    assert [finding.where for finding in found] == ["a", "b"]
