"""What is said of a run on a mesh: read back, explained, reported, examined."""

import itertools
import json

import numpy as np
import pytest

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.cli import main as cli
from rowmesh.sw.mapping.dataflow import load_dataflows
from rowmesh.sw.mapping.layer import LayerMapping
from rowmesh.sw.model.predict import predict
from rowmesh.sw.model.utilization import link_cycles, pe_macs, pe_steps, used_pes
from rowmesh.sw.results import explain, scorecard
from rowmesh.sw.results.eyexam import examine
from rowmesh.sw.results.file import read_run
from rowmesh.sw.results.parallelism import best_split
from rowmesh.sw.search.pool import candidates, ways_of
from rowmesh.sw.workload.layer import Layer

MESH = ArchConfig(
    name="mesh",
    mesh_rows=2,
    mesh_cols=2,
    rows=3,
    cols=2,
    data_width=16,
    glb_iact_flits=256,
    glb_weight_flits=64,
    psum_bank_words=96,
)
LAYERS = (
    Layer(name="CONV", M=16, C=8, H=6, W=6, R=3, S=3, padding=1, output="requant"),
    Layer(name="DW", kind="depthwise", C=16, H=8, W=6, R=3, S=3),
    Layer(name="FC", kind="fc", M=32, C=64),
)
FLOWS = load_dataflows("any")


@pytest.fixture(scope="module")
def mesh_results(result_of):
    return [result_of(MESH, layer) for layer in LAYERS]


@pytest.fixture
def mesh_file(mesh_results, tmp_path):
    def write(edit=lambda entries: None):
        entries = json.loads(json.dumps([result.to_json() for result in mesh_results]))
        edit(entries)
        path = tmp_path / "mesh.json"
        path.write_text(json.dumps(entries))
        return path

    return write


def of_every_split(layer):
    """Yield a legal mapping for each way to split a layer over the mesh, that of the fewest steps."""
    for way in ways_of(MESH, layer)[0]:
        yield from itertools.islice((mapping for _, mapping in candidates(MESH, layer, FLOWS, way.splits)), 1)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_bounds_hold_for_every_split(layer):
    bounds = [best_split(MESH, [layer], FLOWS, step).cycles for step in (2, 3, 4)]
    assert bounds == sorted(bounds)
    seen = set()
    for mapping in of_every_split(layer):
        seen.add(mapping.splits)
        macs = pe_macs(mapping)
        assert (macs.sum(), macs.max()) == (layer.macs, pe_steps(mapping))
        assert np.count_nonzero(macs) == used_pes(mapping) <= MESH.pes
        assert bounds[-1] <= pe_steps(mapping)
        assert max(link_cycles(mapping).values()) <= predict(mapping).cycles
    assert len(seen) >= 6
    assert any(splits.rows * splits.cols == 4 for splits in seen)


def test_read_back(mesh_results, mesh_file):
    for run, result in zip(read_run(mesh_file()), mesh_results, strict=True):
        assert isinstance(run.mapping, LayerMapping)
        assert run.mapping.to_json().items() <= result.mapping.items()
        assert predict(run.mapping).cycles == result.rtl.cycles


def test_what_is_missing_is_named(mesh_file, capsys):
    for edit, message in (
        (lambda e: e[0]["mapping"].pop("clusters_m_y"), "layer CONV: mapping.clusters_m_y: is required"),
        (lambda e: e[0]["mapping"].update(clusters_p_x=4), "must be whole shares of 4 clusters"),
        (lambda e: e[0]["mapping"].update(clusters_p_x="x"), "must hold the factors of a mapping"),
    ):
        assert cli.main(["explain", str(mesh_file(edit)), "--no-search"]) == 2
        out, err = capsys.readouterr()
        assert (out, message in err, err.count("\n")) == ("", True, 1)


def test_losses_are_the_cycles(mesh_results, mesh_file):
    for run, result in zip(read_run(mesh_file()), mesh_results, strict=True):
        assert sum(loss.cycles for loss in explain.losses(result, run.mapping)) == result.rtl.cycles
        assert "busiest link" in explain.bound(result, run.mapping)


def test_more_clusters_are_looked_at(mesh_file):
    run = read_run(mesh_file())[2]
    before, found = explain.what_helps(run)
    changed = {change.parameter: change for change in found}
    assert before == run.result.rtl.cycles
    assert {"mesh_rows", "mesh_cols"} < changed.keys()
    assert changed["mesh_rows"].pes == 2 * MESH.pes
    assert not {"mesh_rows", "mesh_cols"} & {change.parameter for change, _ in explain.changes(MESH.cluster)}


def test_steps_get_tighter(mesh_file):
    for run in read_run(mesh_file()):
        for given in (None, run):
            exam = examine(MESH, run.layer, load_dataflows("rs"), given)
            bounds = [step.bound for step in exam.steps]
            assert bounds == sorted(bounds, reverse=True)
            assert bounds[3] <= MESH.pes
            assert bounds[-1] == pytest.approx(run.layer.macs / run.result.rtl.cycles)
    assert "clusters" in exam.steps[3].what


def test_the_report(mesh_file, tmp_path):
    page = tmp_path / "mesh.html"
    assert cli.main(["report", str(mesh_file()), "--out", str(page)]) == 0
    text = page.read_text()
    assert "mesh: 2 x 2 clusters of 3 x 2 PEs, 16-bit" in text
    assert "parallel-for m3" in text or "parallel-for p3" in text


def test_the_scorecard_takes_meshes(mesh_file, monkeypatch, capsys):
    layer = LAYERS[0].model_copy(update={"name": "CONV3"})
    monkeypatch.setattr(scorecard, "_alexnet", lambda: {"CONV3": layer})

    def edit(entries):
        entries[0]["layer"] = entries[0]["shape"]["name"] = "CONV3"

    assert cli.main(["scorecard", str(mesh_file(edit))]) == 0
    assert "CONV3" in capsys.readouterr().out
