"""Eyexam: bounds that hold, in their order."""

import itertools

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.cli import main as cli
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.mapping.cluster import ceil_div
from rowmesh.sw.mapping.dataflow import ANY, Dataflow, Factor, load_dataflows
from rowmesh.sw.model.utilization import steps
from rowmesh.sw.results.eyexam import STEPS, examine
from rowmesh.sw.results.file import read_run
from rowmesh.sw.results.parallelism import best_split
from rowmesh.sw.search.pool import candidates
from rowmesh.sw.workload.layer import Layer
from rowmesh.sw.workload.lowering import flattened

FLOWS = {flow.name: flow for flow in load_dataflows(ANY)}
SMALL = ArchConfig(rows=4, cols=5, data_width=16, glb_iact_flits=512, glb_weight_flits=64, psum_bank_words=96)
ONE_ROW = ArchConfig(rows=1, cols=4)


def only(rows="", columns="", **factors):
    return Dataflow("own", "", frozenset(rows), frozenset(columns), ("weight",), factors.get("factors", {}))


def filters(count):
    return Layer(name="filters", M=count, C=1, H=1, W=1, R=1, S=1)


def test_fragmentation_as_in_the_book():
    # section 6.5.2, step 3: 7 parts on 4 PEs take two cycles
    split = best_split(ONE_ROW, [filters(7)], [only(columns="M")], 3)
    assert (split.cycles, dict(split.columns)["M"]) == (2, 4)
    assert best_split(ONE_ROW, [filters(7)], [only(columns="M")], 2).cycles == 1
    # step 4: the other axis has a single PE
    assert best_split(ONE_ROW, [filters(7)], [only(rows="M")], 3).cycles == 2
    assert best_split(ONE_ROW, [filters(7)], [only(rows="M")], 4).cycles == 7


def test_factors_of_a_dataflow_bound_the_parallelism():
    whole = {("pe", "M"): Factor(0)}
    assert best_split(ONE_ROW, [filters(8)], [only(columns="M", factors=whole)], 2).cycles == 8
    most = {("columns", "M"): Factor(2, most=True)}
    assert best_split(ONE_ROW, [filters(8)], [only(columns="M", factors=most)], 2).cycles == 4


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_the_best_split_is_the_best(data):
    layer = Layer(
        name="x",
        M=data.draw(st.integers(1, 7)),
        C=data.draw(st.integers(1, 7)),
        H=data.draw(st.integers(2, 7)),
        W=data.draw(st.integers(2, 7)),
        R=2,
        S=2,
    )
    flow = only(rows="CRM", columns="MP")
    for step in (3, 4):
        fewest = min(
            layer.s * layer.q * ceil_div(layer.m, m * y) * ceil_div(layer.c, c) * ceil_div(2, r) * ceil_div(layer.p, p)
            for m, y, c, r, p in itertools.product(range(1, 8), range(1, 8), range(1, 8), (1, 2), range(1, 7))
            if (r == 1 or y == 1)
            and (m * y * c * r * p <= SMALL.pes if step == 3 else y * c * r <= SMALL.rows and m * p <= SMALL.cols)
        )
        assert best_split(SMALL, [layer], [flow], step).cycles == fewest


@settings(deadline=None, max_examples=25)
@given(
    name=st.sampled_from(sorted(FLOWS)),
    kind=st.sampled_from(["conv", "conv", "depthwise"]),
    c=st.sampled_from([1, 3, 4, 8, 12]),
    m=st.sampled_from([2, 3, 8]),
    size=st.integers(3, 9),
    r=st.integers(1, 3),
)
def test_no_mapping_is_better_than_the_bound(name, kind, c, m, size, r):
    fields = {} if kind == "depthwise" else {"M": m}
    layer = Layer(name="x", kind=kind, C=c, H=size, W=size, R=r, S=r, **fields)
    flow = FLOWS[name]
    fewest = min((steps(found.cluster) for _, found in candidates(SMALL, layer, [flow])), default=None)
    assume(fewest is not None)
    shapes = [layer, *flattened(SMALL, layer)]
    bounds = [best_split(SMALL, shapes, [flow], step).cycles for step in (2, 3, 4)]
    assert bounds == sorted(bounds)
    assert bounds[-1] <= fewest


@pytest.mark.parametrize(
    "layer",
    [
        Layer(name="beats", kind="fc", M=11, C=37),
        Layer(name="packed", M=8, C=3, H=13, W=11, R=1, S=1, stride=2),
        Layer(name="tall", M=5, C=3, H=20, W=1, R=3, S=1, stride=[2, 1]),
        Layer(name="parts", M=4, C=8, H=9, W=9, R=1, S=7, padding=[0, 3]),
    ],
    ids=lambda layer: layer.name,
)
def test_steps_get_tighter_for_a_lowered_layer(layer):
    exam = examine(load_arch("tiny"), layer, tuple(FLOWS.values()))
    bounds = [step.bound for step in exam.steps]
    assert bounds == sorted(bounds, reverse=True)


def test_steps_get_tighter(run_file):
    runs = read_run(run_file())
    for run in runs:
        for given_run in (None, run):
            exam = examine(run.config, run.layer, (FLOWS["rs"],), given_run)
            bounds = [step.bound for step in exam.steps]
            assert bounds == sorted(bounds, reverse=True)
            assert [step.number for step in exam.steps] == list(range(1, 8))
            assert [step.constraint for step in exam.steps] == [constraint for constraint, _ in STEPS]
            assert bounds[0] == run.layer.macs
            assert bounds[3] <= run.config.pes
            assert bounds[-1] == pytest.approx(run.layer.macs / run.result.rtl.cycles)
            assert exam.steps[-1].what.endswith("in RTL" if given_run else "predicted")


def test_the_command(run_file, tmp_path, capsys):
    out = tmp_path / "e.html"
    assert cli.main(["eyexam", "tiny", "demo", "--layer", "ODD", "--html", str(out)]) == 0
    printed = capsys.readouterr().out
    assert all(constraint in printed for constraint, _ in STEPS)
    page = out.read_text()
    assert (page.count("<svg"), "<script" in page, "table 6.2" in page) == (2, False, True)
    run = str(run_file())
    for argv, message in (
        (["--run", run], "holds no layer PHOTO; choose layers with --layer"),
        (["--run", str(tmp_path / "none.json")], "no such file"),
        (["--dataflow", "rx"], "did you mean rs?"),
        (["--html", str(tmp_path / "no" / "e.html"), "--layer", "ODD"], "cannot be written"),
    ):
        assert cli.main(["eyexam", "tiny", "demo", *argv]) == 2
        out, err = capsys.readouterr()
        assert (message in err, err.count("\n")) == (True, 1)


def test_results_of_something_else_are_refused(run_file, tmp_path, capsys):
    path = tmp_path / "w.yaml"
    path.write_text("workload: {layers: [{name: CONV, M: 8, C: 8, H: 7, W: 9, R: 3, S: 3}]}\n")
    assert cli.main(["eyexam", "tiny", str(path), "--run", str(run_file())]) == 2
    assert "layer CONV was run on small, not on this tiny" in capsys.readouterr().err
    arch = tmp_path / "small.yaml"
    arch.write_text(
        "architecture:\n  array: {rows: 4, cols: 5}\n  data: {data_width: 16}\n  spads: {iact: 12}\n"
        "  glb: {iact_flits: 512, weight_flits: 64, psum_bank_words: 96}\n"
    )
    assert cli.main(["eyexam", str(arch), str(path), "--run", str(run_file())]) == 2
    assert "layer CONV was run as CONV: conv N=1 M=8" in capsys.readouterr().err
    path.write_text(
        "workload: {layers: [{name: CONV, M: 8, C: 8, H: 7, W: 9, R: 3, S: 3, padding: 1, output: requant}]}\n"
    )
    assert cli.main(["eyexam", str(arch), str(path), "--run", str(run_file()), "--dataflow", "ws"]) == 2
    assert "was run with dataflow rs, not with ws" in capsys.readouterr().err
    assert cli.main(["eyexam", str(arch), str(path), "--run", str(run_file())]) == 0
    assert "in RTL" in capsys.readouterr().out
