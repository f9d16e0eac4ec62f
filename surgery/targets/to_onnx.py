"""Lower a hub model to plain ONNX: GridSample in the place of `rife::Warp`, no custom domain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from surgery.output import write_file_atomically

if TYPE_CHECKING:
    import onnx

    from surgery.hub.model import HubModel


def lower_plain(model: HubModel) -> onnx.ModelProto:
    """Put the function body of `rife::Warp` in the place of every call.

    The result runs in any onnxruntime, at opset 18; the hub's metadata stays.
    """
    import onnx
    from onnx import inliner

    from surgery.hub import warp

    lowered = inliner.inline_local_functions(model.to_onnx())
    kept = [opset for opset in lowered.opset_import if opset.domain != warp.DOMAIN]
    del lowered.opset_import[:]
    lowered.opset_import.extend(kept)
    onnx.checker.check_model(lowered)
    return lowered


def write_plain(model: HubModel, path: Path, *, force: bool = False) -> None:
    """Write `lower_plain` to a file, beside and then renamed.

    Raises:
        OutputExists: `path` is taken and `force` is not given.
    """
    data = lower_plain(model).SerializeToString(deterministic=True)
    write_file_atomically(path, data, force=force)
