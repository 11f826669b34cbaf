"""Files of results read back, activity of PEs, losses by cause, and what would help."""

import itertools
import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import Engine
from rowmesh.sw.cli import main as cli
from rowmesh.sw.inputs.errors import InputError
from rowmesh.sw.mapping.dataflow import ANY, load_dataflows
from rowmesh.sw.model.performance import PARTS
from rowmesh.sw.model.predict import STEPS_AHEAD, predict
from rowmesh.sw.model.utilization import link_cycles, pe_macs, pe_steps, used_pes
from rowmesh.sw.program.assemble import memory_map, programs
from rowmesh.sw.results import explain
from rowmesh.sw.results.file import read_run
from rowmesh.sw.search.pool import candidates
from rowmesh.sw.workload.layer import Layer

FLOWS = load_dataflows(ANY)
SMALL = ArchConfig(rows=4, cols=5, data_width=16, glb_iact_flits=512, glb_weight_flits=64, psum_bank_words=96)


@st.composite
def mappings(draw):
    kind = draw(st.sampled_from(["conv", "conv", "conv", "depthwise"]))
    r = draw(st.integers(1, 3))
    fields = {"H": draw(st.integers(r, 9)), "W": draw(st.integers(r, 9)), "R": r, "S": r}
    if kind == "conv":
        fields["M"] = draw(st.sampled_from([2, 3, 4, 6, 8]))
    layer = Layer(
        name="random",
        kind=kind,
        C=draw(st.sampled_from([1, 3, 4, 8, 12])),
        stride=draw(st.integers(1, 2)),
        **fields,
    )
    found = [mapping for _, mapping in itertools.islice(candidates(SMALL, layer, FLOWS), 300)]
    assume(found)
    return found[draw(st.integers(0, len(found) - 1))]


def plain(result):
    return json.loads(json.dumps(result.to_json()))


@settings(deadline=None, max_examples=60)
@given(mapping=mappings())
def test_activity_is_all_the_work(mapping):
    macs = pe_macs(mapping)
    assert pe_steps(mapping) == programs(mapping, memory_map(mapping)).shared[Engine.STEP].steps
    assert macs.sum() == mapping.layer.macs
    assert (macs.shape, (macs > 0).sum() <= used_pes(mapping)) == ((SMALL.rows, SMALL.cols), True)
    assert (macs.max(), macs.min() >= 0) == (pe_steps(mapping), True)


@settings(deadline=None, max_examples=30)
@given(mapping=mappings())
def test_no_link_is_busy_longer_than_the_layer_lasts(mapping):
    cycles = predict(mapping).cycles
    assert max(link_cycles(mapping).values()) <= cycles


def test_results_are_read_back(results, run_file):
    runs = read_run(run_file())
    assert [plain(run.result) for run in runs] == [plain(result) for result in results]
    assert [run.mapping.to_json().items() <= run.result.mapping.items() for run in runs] == [True, True]
    assert [run.layer.name for run in runs] == ["CONV", "POINT"]
    old = read_run(run_file(lambda entries: [entry.pop("arch") for entry in entries]))
    with pytest.raises(InputError, match=r"run\.json: layer CONV: arch: is required; the file is of an earlier"):
        _ = old[0].mapping


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda e: e.clear(), "holds no layer"),
        (lambda e: e[0].pop("macs"), "[0].macs: is required"),
        (lambda e: e[1]["rtl"].update(cycles="many"), "[1].rtl.cycles: input should be a valid integer"),
        (lambda e: e[1]["rtl"]["parts"].pop("noc"), "[1]: Measurement.parts must have exactly its named keys"),
        (lambda e: e[0]["shape"].update(C=0), "layer CONV: shape.C: C must be an integer from 1"),
        (lambda e: e[0]["arch"].update(rows=0), "layer CONV: arch: ArchConfig.rows must be from 1 to 64"),
        (lambda e: e[0]["arch"].update(wings=2), "layer CONV: arch:"),
        (lambda e: e[0]["mapping"].update(m_x=99), "columns exceed the array's 5"),
        (lambda e: e[0]["mapping"].update(m_x="x"), "must hold the factors of a mapping"),
        (lambda e: e[0]["mapping"].pop("q0"), "layer CONV: mapping.q0: is required"),
        (lambda e: e[0]["mapping"].update(order="QSR"), "layer CONV: mapping.order: must end with Q, S, R and C"),
        (lambda e: e[0]["mapping"].update(lowered=[["row"]]), "layer CONV: mapping.lowered: must be steps that can"),
        (lambda e: e[0]["mapping"].update(lowered=["row"]), "layer CONV: mapping.lowered: must be steps that can"),
    ],
)
def test_bad_results_are_one_line(run_file, capsys, edit, message):
    path = run_file(edit)
    assert cli.main(["explain", str(path), "--no-search"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), "Traceback" in err) == ("", 1, False)
    assert message in err


def test_files_that_are_no_results(tmp_path, run_file, capsys):
    path = tmp_path / "x.json"
    for text, message in (("[", "not valid JSON"), ("{}", "input should be a valid array"), ("[1]", "[0]: input")):
        path.write_text(text)
        assert cli.main(["explain", str(path)]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["explain", str(tmp_path / "none.json")]) == 2
    assert "no such file; a file of results is what `rowmesh run ... --json FILE` writes" in capsys.readouterr().err
    assert cli.main(["explain", str(run_file()), "--layer", "CON"]) == 2
    assert "did you mean CONV? Its layers are CONV, POINT" in capsys.readouterr().err


def test_losses_add_up_to_the_cycles(run_file):
    for run in read_run(run_file()):
        found = {loss.name: loss.cycles for loss in explain.losses(run.result, run.mapping)}
        assert sum(found.values()) == run.result.rtl.cycles
        assert found["PEs"] == round(run.layer.macs / 20)
        assert -2 * (STEPS_AHEAD + SMALL.uop_fifo) <= found.get("early steps", 0) <= 0
        assert set(PARTS) - {"compute"} <= set(found)
        assert min(found["unused PEs"], found["partial tiles"]) >= 0


def test_what_helps_is_what_the_search_finds(run_file):
    run = read_run(run_file())[0]
    before, found = explain.what_helps(run)
    assert before == run.result.predicted.cycles
    assert {change.parameter for change in found} == set(explain.CHANGED)
    predicted = [change for change in found if change.cycles is not None]
    assert [change.gain for change in predicted] == sorted((change.gain for change in predicted), reverse=True)
    best = predicted[0]
    assert best.gain == pytest.approx(1 - best.cycles / before)
    assert f"{best.parameter} {best.old} -> {best.new} helps most" in explain.verdict(before, found, run.result)
    assert explain.verdict(before, [], run.result).startswith("None of these saves 0.5%")


def test_what_helps_is_not_what_can_be_counted():
    counted = SMALL.replace(rows=16, cols=16, pe_counters=True)
    assert {"rows", "cols"} <= {change.parameter for change, config in explain.changes(counted) if config}


def test_changes_that_are_not_legal_are_named():
    found = {change.parameter: change for change, config in explain.changes(SMALL.replace(rows=40)) if config is None}
    assert found["rows"].reason == "not legal: must be from 1 to 64"


def test_a_mapping_that_was_given_is_kept(results, run_file):
    run = read_run(run_file(lambda e: e[0].update(search={"mapping": "m.yaml"})))[0]
    before, found = explain.what_helps(run)
    assert before == run.result.predicted.cycles
    cycles = {change.parameter: change.cycles for change in found}
    assert cycles["rows"] >= before - 10  # the same mapping on more rows; paths are not shorter


def test_explain_prints(run_file, capsys):
    assert cli.main(["explain", str(run_file()), "--layer", "CONV"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("CONV on small: ")
    assert all(words in out for words in ("partial tiles", "helps most", "busiest link", "MACs/PE/cycle"))
    assert "POINT" not in out
    assert "[1/1] CONV: rows 4 -> 8" in err
    assert cli.main(["explain", str(run_file()), "--no-search"]) == 0
    assert "helps most" not in capsys.readouterr().out


def test_json_of_a_result_has_what_explain_needs(results):
    entry = plain(results[0])
    assert entry["arch"]["rows"] == 4
    assert entry["shape"]["name"] == "CONV"
    assert entry["search"] == {"dataflow": "rs", "objective": "cycles"}
