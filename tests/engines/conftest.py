from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from tiny_network import make_hub


@pytest.fixture
def hub() -> onnx.ModelProto:
    return make_hub()


@pytest.fixture
def hub_file(tmp_path: Path, hub: onnx.ModelProto) -> Path:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(hub.SerializeToString())
    return path
