"""The chip's table beside runs; extrapolations stay apart."""

import dataclasses
import json

import pytest

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.cli import main as cli
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.mapping.dataflow import load_dataflow
from rowmesh.sw.mapping.file import read_mappings
from rowmesh.sw.model.counts import dram_beats
from rowmesh.sw.model.performance import ACCESSES
from rowmesh.sw.model.utilization import pe_steps
from rowmesh.sw.program.assemble import cannot_run
from rowmesh.sw.results import scorecard
from rowmesh.sw.results.file import read_run
from rowmesh.sw.search.objective import Objective
from rowmesh.sw.search.pool import candidates
from rowmesh.sw.workload.layer import Layer, load_workload

CONV5 = load_workload("alexnet").layers[4]


@pytest.fixture
def five(run_file, results, monkeypatch, tmp_path):
    """Write results of CONV5 for some batches; the search for the fewest words is left out."""
    monkeypatch.setattr(scorecard, "fewest_dram_words", lambda config, layer: 1_000_000 * layer.n)
    config = ArchConfig(
        name="eyeriss", rows=12, cols=14, data_width=16, glb_iact_flits=4096, glb_weight_flits=768, psum_bank_words=1280
    )
    _, mapping = next(candidates(config, CONV5, [load_dataflow("rs")]))

    def write(*batches, edit=lambda entry: None):
        entries = []
        for batch in batches:
            layer = CONV5.with_batch(batch)
            entry = results[0].to_json() | {
                "layer": layer.name,
                "macs": layer.macs,
                "pes": 168,
                "mapping": mapping.to_json(),
                "arch": dataclasses.asdict(config),
                "shape": layer.model_dump(by_alias=True),
            }
            edit(entry)
            entries.append(entry)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps(entries))
        return path

    return write


def test_scores(five):
    path = five(4)
    (score,) = scorecard.scores(read_run(path))
    (run,) = read_run(path)
    rtl = run.result.rtl
    assert (score.name, score.batch, score.cycles) == ("CONV5", 4, rtl.cycles)
    assert score.active_pes == pytest.approx(CONV5.with_batch(4).macs / pe_steps(run.mapping))
    assert score.glb == pytest.approx(2e-6 * rtl.words("glb"))
    assert score.dram == pytest.approx(2e-6 * rtl.words("dram"))
    assert score.chip.processing == 2_000_000


def test_extrapolation_scales_everything(five):
    (score,) = scorecard.scores(read_run(five(1)))
    four = scorecard.extrapolated(score)
    assert (four.batch, four.cycles, four.dram, four.glb) == (4, 4 * score.cycles, 4 * score.dram, 4 * score.glb)
    assert four.active_pes == score.active_pes


def test_the_chips_sums():
    found = [scorecard.Score(name, 4, 1, 168, 160.0, 1.0, 1.0, 1.0, chip) for name, chip in scorecard.CHIP.items()]
    whole = scorecard.total(found)
    assert (whole.chip.processing, whole.chip.active_pes) == (20_700_000, 148)
    assert (whole.chip.glb, whole.chip.dram) == (pytest.approx(208.6), pytest.approx(15.4))


def test_criteria():
    chip = scorecard.CHIP["CONV1"]
    good = scorecard.Score("CONV1", 4, chip.processing - 1, 168, 160.0, chip.glb, 7.0, 7.0, chip)
    assert all("holds" in line for line in scorecard.criteria([good]))
    bad = dataclasses.replace(good, cycles=chip.processing, glb=2 * chip.glb, dram=8.0)
    lines = scorecard.criteria([good, bad])
    assert [line.rsplit("not for CONV1 ", 1)[1] for line in lines] == [
        "1.00; 1.00 in total",
        "2.00; 1.50 in total",
        "1.14; 1.07 in total",
    ]


def test_the_fewest_words():
    config = ArchConfig(rows=4, cols=5, data_width=16, glb_iact_flits=512, glb_weight_flits=64, psum_bank_words=96)
    layer = Layer(name="x", M=8, C=8, H=5, W=5, R=3, S=3)
    fewest = scorecard.fewest_dram_words(config, layer)
    for _, mapping in candidates(config, layer, [load_dataflow("rs")]):
        assert fewest <= sum(dram_beats(mapping.cluster).values()) * 4 + layer.outputs
    assert fewest >= layer.m * layer.c * 9 + layer.c * 25 + layer.outputs


def test_the_command(five, run_file, capsys):
    assert cli.main(["scorecard", str(five(4))]) == 0
    out = capsys.readouterr().out
    assert "measured in RTL, batch 4 as the chip" in out
    assert "EXTRAPOLATED" not in out
    assert cli.main(["scorecard", str(five(1, 4))]) == 0
    out = capsys.readouterr().out
    assert out.index("measured in RTL") < out.index("EXTRAPOLATED to batch 4 from RTL runs of batch 1, 4 times each")
    assert "total" not in out
    assert cli.main(["scorecard", str(five(4)), "--out", "x.yaml"]) == 2
    assert "--out: is for mappings that are searched" in capsys.readouterr().err
    for argv in ([], [str(five(4)), "--search", "eyeriss"]):
        assert cli.main(["scorecard", *argv]) == 2
        assert "give either results (RUN.json) or --search ARCH" in capsys.readouterr().err
    for path, message in (
        (run_file(), "holds none of the layers CONV1, "),
        (five(4, 4), "layer CONV5 of batch 4 is there twice"),
        (five(4, edit=lambda entry: entry["shape"].update(padding=0)), "not that of alexnet"),
        (five(4, edit=lambda entry: entry.update(memory="axi-random")), "with memory axi-random, not fast"),
    ):
        assert cli.main(["scorecard", str(path)]) == 2
        out, err = capsys.readouterr()
        assert (message in err, err.count("\n")) == (True, 1)


def test_the_goal_puts_the_limits_before_energy():
    chip = scorecard.CHIP["CONV3"]
    goal = Objective(scorecard.goal(chip, fewest=1_000_000))

    def cost(cycles, glb, dram, spad=0):
        counts = dict.fromkeys(ACCESSES, 0) | {"glb.iact.read": glb, "dram.iact.read": dram, "spad.iact.read": spad}
        return goal.costs(cycles, list(counts.values()))[0]

    most = (chip.processing - 1, int(0.6e6 * chip.glb), 1_100_000)
    energy = 6 * most[1] + 200 * most[2]
    assert cost(*most) == pytest.approx(energy)
    assert cost(*most, spad=7) == pytest.approx(energy + 7)
    for place in range(3):
        beyond = [value + (value // 1000 if at == place else 0) for at, value in enumerate(most)]
        assert cost(*beyond) > 100 * cost(*most)


@pytest.mark.slow
def test_the_search_meets_what_can_be_met(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(scorecard, "CHIP", {"CONV3": scorecard.CHIP["CONV3"]})
    monkeypatch.setenv("COLUMNS", "150")
    path = tmp_path / "best.yaml"
    assert cli.main(["scorecard", "--search", "eyeriss", "--out", str(path)]) == 0
    out = capsys.readouterr().out
    best, fastest = out.split("PREDICTED, batch 4, mappings of least cycles")
    assert best.count(": holds; largest ratio CONV3") == 3
    assert "cycles below the chip's processing: holds" in fastest
    config, layer = load_arch("eyeriss"), load_workload("alexnet").layers[2].with_batch(4)
    (mapping,) = read_mappings(path, config, [layer], cannot_run)
    score = scorecard.predicted_score(layer, mapping)
    assert f"{score.cycles:,}" in best
    assert score.dram <= 1.1 * score.fewest
    assert score.glb <= 1.2 * score.chip.glb
