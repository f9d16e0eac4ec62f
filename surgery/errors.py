"""Every error that a user can cause, as one family.

The command line prints the message of a `SurgeryError` as it is and exits with a status that is
not 0; any other exception is a fault of this package. A message says what was found, what is
accepted and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence


class SurgeryError(Exception):
    """Something the caller can act on; the message says how."""


class DonorError(SurgeryError):
    """A donor (source, version or architecture) that cannot be used as asked."""


class CheckpointError(SurgeryError):
    """A weights file that cannot be read, or does not fit the network."""


class HubError(SurgeryError):
    """An ONNX model that is not a legal hub model."""


class UnsupportedOp(SurgeryError):
    """Nodes that a target cannot express; all of them are listed at once."""

    def __init__(self, target: str, refusals: Sequence[str]) -> None:
        self.target = target
        self.refusals = tuple(refusals)
        lines = "\n".join(f"  {refusal}" for refusal in self.refusals)
        super().__init__(f"{target} cannot express {len(self.refusals)} node(s):\n{lines}")


class FormatError(SurgeryError):
    """A `.param` or `.bin` that breaks its format; the message names file, line and reason."""


class TruncatedFile(FormatError):
    """A file that ends before everything that it should hold."""


class RuntimeRefused(SurgeryError):
    """A runtime that cannot load, or cannot run, the model as asked."""


class EngineError(SurgeryError):
    """An engine that is not installed, did not run, or died."""


class EngineDied(EngineError):
    """An engine whose process crashed, took too long, or went on after a failure."""


class KernelMissing(EngineError):
    """The compiled onnxruntime kernel of `rife::Warp` is not in this installation."""


class OutputExists(SurgeryError):
    """An output path that is taken, without `--force`."""


class ProofFailed(SurgeryError):
    """A conversion that does not compute what its donor computes."""


class ProofCutShort(ProofFailed):
    """A conversion in which no fault was found before an engine died: another run may prove it."""
