from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from surgery.sources import scan_pickle
from surgery.sources.scan_pickle import Scan


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_names_what_tensors_need(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "weights.pkl"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=zipped)
    scan = scan_pickle.scan_pickle(path)
    assert set(scan.names) >= {"torch._utils._rebuild_tensor_v2", "torch.FloatStorage"}
    assert scan.fault == ""


@pytest.mark.parametrize("protocol", [2, 4])
def test_names_are_found_in_every_protocol_and_up_to_where_it_breaks(
    tmp_path: Path, protocol: int
) -> None:
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps(os.getcwd, protocol)[:-1] + b"\xff")
    scan = scan_pickle.scan_pickle(path)
    assert scan.names == (f"{os.name}.getcwd",)
    assert "opcode b'\\xff' unknown" in scan.fault


def test_a_pickle_that_is_too_long_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.pkl"
    path.write_bytes(pickle.dumps([[] for _ in range(99)]))
    monkeypatch.setattr(scan_pickle, "MAX_OPCODES", 50)
    assert scan_pickle.scan_pickle(path) == Scan((), "a pickle of more than 50 steps")
