"""The flows at the warps of any form of a model: they show whether frames prove the warps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from surgery.engines import Sample
from surgery.engines.frames import network_inputs
from surgery.engines.ncnn import NcnnEngine
from surgery.hub import warp
from surgery.proof.forms import DonorForm, FolderForm, Form, HubForm, is_folder_of_three
from surgery.proof.probes import Place, ProbedFolder, ProbedHub
from surgery.proof.structure import FLOW_CHANNELS, WARP_LAYER


def read_flows(form: Form, samples: Sequence[Sample]) -> list[list[np.ndarray]]:
    """The flows at the warps of a form, for each sample; empty where the form shows none.

    Shapes: each [1,2,H,W], in the order of the warps. Units: pixels.

    Raises:
        EngineError: the form does not run.
    """
    if isinstance(form, DonorForm):
        from surgery.engines.torch import TorchEngine

        engine = TorchEngine(form.opened.network)
        engine.run(samples)
        return engine.flows
    if isinstance(form, HubForm):
        hub = ProbedHub(form.model)
        names = _list_flows(hub.places)
        values = [
            hub.record_only(network_inputs(sample, form.padding), names) for sample in samples
        ]
    elif isinstance(form, FolderForm) and not is_folder_of_three(form):
        names = _list_flows(ProbedFolder(form.folder).places)
        read = NcnnEngine(form.folder, form.padding, blobs=list(dict.fromkeys(names)))
        values = read.record(samples).blobs
    else:
        return []
    return [[one[name][:, :FLOW_CHANNELS] for name in names] for one in values]


def _list_flows(places: Sequence[Place]) -> list[str]:
    return [one.inputs[1] for one in places if one.kind in (warp.OP_TYPE, WARP_LAYER)]
