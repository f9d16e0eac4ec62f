"""A hub model is opened and closed without losing anything; what is no hub model is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from surgery.errors import HubError, OutputExists
from surgery.hub import model as hub_model
from surgery.hub import warp
from surgery.hub.model import HubMetadata, from_onnx, load_hub, read_onnx, write_hub
from surgery.hub.verify import verify_hub


def _properties(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _to_bytes(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


class TestOpenAndClose:
    def test_metadata_stays(self, closed: onnx.ModelProto) -> None:
        opened = from_onnx(closed)
        assert opened.metadata == HubMetadata.from_properties(_properties(closed))
        assert opened.metadata.scale_list == (8.0, 4.0, 2.0, 1.0)
        assert opened.metadata.ensemble is True
        assert _properties(opened.to_onnx()) == _properties(closed)

    def test_names_of_nodes_tensors_and_sizes_stay(self, closed: onnx.ModelProto) -> None:
        again = from_onnx(closed).to_onnx()
        assert [node.name for node in again.graph.node] == [n.name for n in closed.graph.node]
        assert [list(n.output) for n in again.graph.node] == [
            list(n.output) for n in closed.graph.node
        ]
        for before, after in zip(
            (*closed.graph.input, *closed.graph.output),
            (*again.graph.input, *again.graph.output),
            strict=True,
        ):
            assert before.name == after.name
            assert before.type == after.type

    def test_domain_opsets_and_body_stay(self, closed: onnx.ModelProto) -> None:
        again = from_onnx(closed).to_onnx()
        assert {o.domain: o.version for o in again.opset_import} == {"": 18, "rife": 1}
        assert list(again.functions) == [warp.warp_function()]
        assert [node.domain for node in again.graph.node if node.op_type == "Warp"] == ["rife"] * 2
        verify_hub(again)

    def test_an_older_body_becomes_the_current_one(self, closed: onnx.ModelProto) -> None:
        closed.functions[0].doc_string = "of an earlier version"
        assert list(from_onnx(closed).to_onnx().functions) == [warp.warp_function()]

    def test_weights_stay_bit_for_bit(self, closed: onnx.ModelProto) -> None:
        def weights(model: onnx.ModelProto) -> list[bytes]:
            return sorted(onnx.numpy_helper.to_array(t).tobytes() for t in model.graph.initializer)

        assert weights(from_onnx(closed).to_onnx()) == weights(closed)

    def test_constants_are_named_after_their_reader(self, closed: onnx.ModelProto) -> None:
        names = {tensor.name for tensor in from_onnx(closed).to_onnx().graph.initializer}
        assert {"/block/raw.weight", "/block/raw.bias", "/block/flows.scales"} <= names
        assert "/block/flow0.start" in names

    def test_bytes_are_the_same_every_time(self, closed: onnx.ModelProto) -> None:
        first = _to_bytes(from_onnx(closed).to_onnx())
        assert _to_bytes(from_onnx(closed).to_onnx()) == first
        assert _to_bytes(from_onnx(onnx.load_from_string(first)).to_onnx()) == first

    def test_closing_twice_gives_the_same_bytes(self, closed: onnx.ModelProto) -> None:
        opened = from_onnx(closed)
        assert _to_bytes(opened.to_onnx()) == _to_bytes(opened.to_onnx())

    def test_opening_leaves_the_file_as_it_is(self, closed: onnx.ModelProto) -> None:
        before = _to_bytes(closed)
        from_onnx(closed).to_onnx()
        assert _to_bytes(closed) == before

    def test_what_an_exporter_tells_of_its_machine_goes(self, closed: onnx.ModelProto) -> None:
        closed.doc_string = closed.graph.doc_string = "/home/somebody/model.py"
        onnx.helper.set_model_props(closed, _properties(closed) | {"trace": "/home/somebody"})
        entry = closed.graph.node[0].metadata_props.add()
        entry.key, entry.value = "stack", "/home/somebody/model.py"
        assert b"/home/somebody" not in _to_bytes(from_onnx(closed).to_onnx())

    def test_stale_shapes_of_an_earlier_graph_go(self, closed: onnx.ModelProto) -> None:
        wrong = onnx.helper.make_tensor_value_info("raw", onnx.TensorProto.FLOAT, [1, 99, 2, 2])
        closed.graph.value_info.append(wrong)
        verify_hub(from_onnx(closed).to_onnx())

    def test_warps_come_in_order(self, closed: onnx.ModelProto) -> None:
        names = [node.name for node in from_onnx(closed).warps()]
        assert names == ["/block/warped0", "/block/warped1"]

    def test_metadata_changes_by_field(self, closed: onnx.ModelProto) -> None:
        opened = from_onnx(closed)
        opened.replace_metadata(folded_betas=True, padding=64)
        found = _properties(opened.to_onnx())
        assert (found["surgery.folded_betas"], found["surgery.padding"]) == ("true", "64")
        assert found["surgery.version"] == "4.6"

    def test_another_local_function_is_refused(self, closed: onnx.ModelProto) -> None:
        closed.functions.append(closed.functions[0])
        closed.functions[1].name = "Unwarp"
        with pytest.raises(HubError, match="local function rife::Unwarp"):
            from_onnx(closed)


class TestMetadata:
    def test_it_is_read_back_as_it_was_written(self, closed: onnx.ModelProto) -> None:
        metadata = from_onnx(closed).metadata
        assert HubMetadata.from_properties(metadata.to_properties()) == metadata

    def test_fields_of_an_older_file_get_their_defaults(self) -> None:
        assert HubMetadata.from_properties({"surgery.kind": "v4"}) == HubMetadata()

    def test_plain_onnx_is_told_apart(self) -> None:
        with pytest.raises(HubError, match=r"not a hub model.*surgery export"):
            HubMetadata.from_properties({"author": "somebody"})

    @pytest.mark.parametrize(
        ("field", "text", "reason"),
        [
            ("padding", "thirty-two", "is not JSON"),
            ("padding", '"32"', "JSON of type int"),
            ("padding", "true", "JSON of type int"),
            ("scale_list", "8", "a JSON list is expected"),
            ("scale_list", '["a"]', "a JSON list of numbers above 0"),
            ("scale_list", "[0]", "a JSON list of numbers above 0"),
            ("scale_list", "[1e999]", "a JSON list of numbers above 0"),
            ("baked", "[1]", "a JSON list of texts"),
            ("ensemble", "1", "JSON of type bool"),
        ],
    )
    def test_a_value_of_another_type_is_refused(self, field: str, text: str, reason: str) -> None:
        with pytest.raises(HubError, match=f"surgery.{field}.*{reason}"):
            HubMetadata.from_properties({"surgery.kind": "v4", f"surgery.{field}": text})


class TestFiles:
    def test_what_is_written_is_read(self, closed: onnx.ModelProto, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        write_hub(from_onnx(closed), path)
        assert _to_bytes(load_hub(path).to_onnx()) == path.read_bytes()
        assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]

    def test_an_illegal_model_is_not_written(self, closed: onnx.ModelProto, tmp_path: Path) -> None:
        opened = from_onnx(closed)
        opened.replace_metadata(warps=3)
        with pytest.raises(HubError, match="2 rife::Warp nodes"):
            write_hub(opened, tmp_path / "model.onnx")
        assert list(tmp_path.iterdir()) == []

    def test_a_taken_path_needs_force(self, closed: onnx.ModelProto, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(b"mine")
        with pytest.raises(OutputExists, match="--force"):
            write_hub(from_onnx(closed), path)
        assert path.read_bytes() == b"mine"
        write_hub(from_onnx(closed), path, force=True)
        load_hub(path)

    @pytest.mark.parametrize(
        ("contents", "reason"),
        [(b"\xff\xff not protobuf", "not an ONNX file"), (b"", "no graph or no opset")],
    )
    def test_what_is_no_onnx_is_refused(self, tmp_path: Path, contents: bytes, reason: str) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(contents)
        with pytest.raises(HubError, match=reason):
            read_onnx(path)

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(HubError, match="no such file"):
            read_onnx(tmp_path / "absent.onnx")

    def test_a_file_beyond_protobuf_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(b"12345")
        monkeypatch.setattr(hub_model, "MAX_MODEL_BYTES", 4)
        with pytest.raises(HubError, match="over 2 GiB"):
            read_onnx(path)

    def test_weights_outside_the_file_are_refused(
        self, closed: onnx.ModelProto, tmp_path: Path
    ) -> None:
        path = tmp_path / "model.onnx"
        _save_outside(closed, path)
        with pytest.raises(HubError, match="external data"):
            read_onnx(path)


def _save_outside(model: onnx.ModelProto, path: Path) -> None:
    options: dict[str, Any] = {"save_as_external_data": True, "size_threshold": 0}
    assert np.prod(model.graph.initializer[-1].dims) > 0
    onnx.save_model(model, path, location="weights.bin", **options)
