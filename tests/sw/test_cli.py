import json
import logging
import math
import os
import re
import shutil
import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rowmesh.sw
from rowmesh.sw.cli import main as cli
from rowmesh.sw.cli import progress
from rowmesh.sw.inputs.errors import InputError
from rowmesh.sw.mapping.dataflow import load_dataflows
from rowmesh.sw.model.energy import energy, load_energy
from rowmesh.sw.model.performance import ACCESSES, PARTS, Measurement, Prediction
from rowmesh.sw.report import tables as report
from rowmesh.sw.results import provenance
from rowmesh.sw.results.layer import LayerResult, Outputs, tolerance
from rowmesh.sw.search.objective import Objective
from rowmesh.sw.workload.layer import load_workload

DEMO = {layer.name: layer for layer in load_workload("demo").layers}


def numbers(cycles=10_000, **changes):
    """Consistent numbers; ``changes`` are parts (plus the total) or accesses by their names."""
    parts = dict.fromkeys(PARTS, 10) | {"compute": cycles - 60}
    accesses = {name: 100 + index for index, name in enumerate(ACCESSES)}
    for name, value in changes.items():
        key = name.replace("_", ".")
        (parts if key in parts else accesses)[key] += value
    return {"cycles": sum(parts.values()), "parts": parts, "accesses": accesses}


def layer_result(layer, *, predicted=None, rtl=None, mismatches=0, checked=None):
    return LayerResult(
        layer=layer.name,
        dataflow="rs",
        mapping={"loops": []},
        predicted=Prediction(**(predicted or numbers())),
        rtl=Measurement(**(rtl or numbers())),
        outputs=Outputs(checked=layer.outputs if checked is None else checked, mismatches=mismatches),
        macs=layer.macs,
        pes=168,
        cycles_per_second=50_000.0,
    )


class FakeFlow(types.ModuleType):
    """Stands in for rowmesh.sw.run: instant, and as wrong as a test wants it."""

    class UnmappableError(InputError):
        pass

    def __init__(self):
        super().__init__("rowmesh.sw.run")
        self.calls = []
        self.changes = {}
        self.unmappable = None
        self.crash = None

    def generate(self, arch, out_dir, **options):
        (out_dir / "sub").mkdir()
        written = [out_dir / f"{arch.name}.v", out_dir / "sub" / "regs.h"]
        for path in written:
            path.write_text(arch.name)
        if self.crash:
            raise self.crash
        return written

    def map_layer(self, arch, layer, flows, objective, budget, seed):
        self.calls.append(("map", layer.name, layer.n))
        if layer.name == self.unmappable:
            raise self.UnmappableError(f"{layer.name}: no mapping: \nthe filter rows do not fit")
        nest = "for m in 4  # DRAM\n  for [c] in 3  # spad\n"
        mapping = types.SimpleNamespace(
            loop_nest=lambda: nest, to_json=lambda: {"m0": 4}, dataflow=flows[0].name, layer=layer, origin=layer
        )
        counts = dict.fromkeys(("visited", "valid", "evaluated", "predicted"), 7)
        search = types.SimpleNamespace(
            describe=lambda: f"by {objective.text} and {objective.table.name}, {budget}, seed {seed}",
            rival=("ws", 0.125) if len(flows) > 1 else None,
            estimates={"rs": 8.0, "ws": 9.0, "is": math.inf},
            exhaustive=False,
            **counts,
        )
        return types.SimpleNamespace(mapping=mapping, predicted=Prediction(**numbers()), search=search)

    def run_sequence(self, mappings, *, seed, memory, progress):
        origins = [mapping.origin for mapping in mappings]
        layer = origins[0]
        self.calls.append(("run", layer.name, layer.n, seed, memory))
        if self.crash:
            raise self.crash
        for stage, fraction in (("build", None), ("simulate", 0.5), ("simulate", 1.5)):
            progress(stage, fraction)
        result = layer_result(layer, **self.changes.get(layer.name, {}))
        if len(origins) > 1:
            outputs = Outputs(checked=sum(each.outputs for each in origins), mismatches=0)
            result = replace(result, layer=" + ".join(each.name for each in origins), outputs=outputs)
        return result


@pytest.fixture
def flow(monkeypatch):
    fake = FakeFlow()
    monkeypatch.setitem(sys.modules, "rowmesh.sw.run", fake)
    monkeypatch.setattr(rowmesh.sw, "run", fake, raising=False)
    monkeypatch.setattr(cli, "require_tools", lambda: None)
    monkeypatch.delenv("COLUMNS", raising=False)
    return fake


@pytest.fixture
def bad(capsys):
    """Run the command line on bad input: exit 2 and one line, which is returned."""

    def run(*argv):
        code = cli.main([str(arg) for arg in argv])
        out, err = capsys.readouterr()
        assert (code, out) == (2, "")
        assert err.endswith("\n")
        assert err[:-1].isprintable()
        return err.removeprefix("rowmesh: ")[:-1]

    return run


def test_run_passes_and_prints_a_row_a_layer(flow, capsys):
    assert cli.main(["run", "eyeriss", "demo", "--seed", "7"]) == 0
    out, err = capsys.readouterr()
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert rows["PHOTO"][1:6] == ["rs", "10,000", "10,000", "+0.00%", "0.263"]
    assert rows["PHOTO"][6:] == ["406", "749", "916", "482", "16,384", "0", "pass"]
    assert rows["total"][2:4] == ["30,000", "30,000"]
    assert rows["total"][-1] == "pass"
    assert "all" not in rows
    assert out.startswith("eyeriss (12 x 14 PEs, 16-bit), seed 7, memory fast\n")
    assert max(map(len, out.splitlines())) <= 110
    assert [call[:2] for call in flow.calls] == [(what, name) for what in ("map", "run") for name in DEMO]
    assert {call[3:] for call in flow.calls if call[0] == "run"} == {(7, "fast")}
    assert err.splitlines()[:2] == ["[1/3] PHOTO: build", "[1/3] PHOTO: simulate"]
    assert len(err.splitlines()) == 7
    assert err.splitlines()[-1].startswith("note: sums of PHOTO, STRIDED, ODD can need up to 39 bits")


def test_counters_of_too_many_pes_are_refused(bad):
    assert bad("run", "squeezelerator32", "demo", "--pe-counters").startswith(
        "--pe-counters: must be false with more than 400 PEs, not true with 1024"
    )


def test_convolutions_have_a_subtotal_apart_from_other_layers(flow, capsys):
    flow.changes = {"FC8": {"mismatches": 3}}
    assert cli.main(["run", "eyeriss", "alexnet", "--layer", "CONV*", "--layer", "FC8"]) == 1
    lines = capsys.readouterr().out.splitlines()
    conv = next(line for line in lines if line.startswith("all conv"))
    total = next(line for line in lines if line.startswith("total"))
    assert ("50,000" in conv, conv.rstrip().endswith("pass")) == (True, True)
    assert ("60,000" in total, total.rstrip().endswith("FAIL")) == (True, True)
    assert "FC8: outputs: 3 of 1,000 words differ" in lines
    assert max(map(len, lines)) <= 110


def test_layers_of_one_program_have_one_row(flow, capsys):
    assert cli.main(["run", "eyeriss", "demo", "--one-program"]) == 0
    assert [call[:2] for call in flow.calls if call[0] == "run"] == [("run", next(iter(DEMO)))]
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows if row and row[-1] == "pass"] == [["3", "layers"]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mismatches": 1}, "outputs: 1 of 16,384 words differ"),
        ({"checked": 0}, "outputs: none was compared"),
        ({"checked": 16_000}, "outputs: 16,000 of 16,384 words were compared"),
        (
            {"rtl": numbers(noc=201)},
            "cycles: predicted 10,000, RTL 10,201 cycles, off by 201 (tolerance 200)",
        ),
        (
            {"rtl": numbers(noc=201, compute=-201)},
            "part noc: predicted 10, RTL 211 cycles, off by 201 (tolerance 200)",
        ),
        ({"rtl": numbers(glb_psum_read=1)}, "glb.psum.read: predicted 109, counted 110 words"),
        (
            {"rtl": numbers() | {"cycles": 9_999}},
            "parts: the RTL parts add up to 10,000, not to 9,999 cycles",
        ),
    ],
)
def test_run_fails_and_says_why(flow, capsys, changes, reason):
    flow.changes = {"PHOTO": changes}
    assert cli.main(["run", "eyeriss", "demo"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert f"PHOTO: {reason}" in out
    assert next(line for line in out if line.startswith("PHOTO ")).rstrip().endswith("FAIL")
    assert next(line for line in out if line.startswith("ODD ")).rstrip().endswith("pass")


def test_differing_words_show_both_sums(flow, capsys):
    flow.changes = {"PHOTO": {"rtl": numbers(dram_iact_read=5)}}
    assert cli.main(["run", "eyeriss", "demo", "--layer", "PHOTO"]) == 1
    assert "406 != 411" in capsys.readouterr().out
    flow.changes = {"PHOTO": {"rtl": numbers(dram_iact_read=5, dram_weight_read=-5)}}
    assert cli.main(["run", "eyeriss", "demo", "--layer", "PHOTO"]) == 1
    assert "but split" in capsys.readouterr().out
    big = {"predicted": numbers(dram_iact_read=10**7), "rtl": numbers(dram_iact_read=10**7 + 1)}
    flow.changes = {"PHOTO": big}
    assert cli.main(["run", "eyeriss", "demo", "--layer", "PHOTO"]) == 1
    out = capsys.readouterr().out
    assert "10,000,406 " in out
    assert "!= 10,000,407" in out


def test_random_stalls_are_judged_by_words_and_outputs_only(flow, capsys):
    flow.changes = {"PHOTO": {"rtl": numbers(dma=5_000)}}
    assert cli.main(["run", "eyeriss", "demo", "--memory", "axi-random"]) == 0
    assert {call[4] for call in flow.calls if call[0] == "run"} == {"axi-random"}
    flow.changes = {"PHOTO": {"rtl": numbers(dma=5_000), "mismatches": 1}}
    assert cli.main(["run", "eyeriss", "demo", "--memory", "axi-random"]) == 1
    capsys.readouterr()


def test_layers_batch_and_order(flow, capsys):
    assert cli.main(["run", "tiny", "alexnet", "--layer", "FC7", "--layer", "CONV[13]", "--batch", "4"]) == 0
    assert [call[1:3] for call in flow.calls if call[0] == "run"] == [("CONV1", 4), ("CONV3", 4), ("FC7", 4)]
    capsys.readouterr()


def test_json_has_the_promised_names(flow, tmp_path, capsys):
    path = tmp_path / "out.json"
    flow.changes = {"ODD": {"mismatches": 2}}
    assert cli.main(["run", "eyeriss", "demo", "--json", str(path)]) == 1
    layers = json.loads(path.read_text())
    assert [layer["layer"] for layer in layers] == list(DEMO)
    first = layers[0]
    assert {"layer", "dataflow", "mapping", "macs", "pes", "utilization", "cycles_per_second"} <= set(first)
    assert (first["schema"], first["version"]) == ("rowmesh-run-1", provenance.program_version())
    assert first["search"] == {"dataflow": "any", "objective": "cycles", "energy": "eyeriss_65nm"}
    for side in ("predicted", "rtl"):
        assert list(first[side]) == ["cycles", "parts", "accesses"]
        assert list(first[side]["parts"]) == ["config", "fill", "compute", "noc", "dma", "psum", "drain"]
        assert list(first[side]["accesses"]) == list(ACCESSES)
    assert layers[2]["outputs"] == {"checked": DEMO["ODD"].outputs, "mismatches": 2}
    assert first["utilization"] == pytest.approx(first["macs"] / (first["rtl"]["cycles"] * first["pes"]))
    assert os.listdir(tmp_path) == ["out.json"]
    capsys.readouterr()


def test_json_is_written_whole_or_left_alone(flow, tmp_path, capsys):
    path = tmp_path / "out.json"
    path.write_text("before")
    flow.crash = InputError("the build failed")
    assert cli.main(["run", "eyeriss", "demo", "--json", str(path)]) == 2
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["out.json"]
    assert capsys.readouterr().err.splitlines()[-1] == "rowmesh: the build failed"


@pytest.mark.parametrize("where", ["none/out.json", "", "file/out.json"])
def test_json_that_cannot_be_written_is_refused_before_the_run(flow, bad, tmp_path, where):
    (tmp_path / "file").touch()
    assert "cannot be written: " in bad("run", "eyeriss", "demo", "--json", tmp_path / where)
    assert flow.calls == []


def test_map_prints_nest_and_prediction(flow, capsys):
    assert cli.main(["map", "eyeriss", "alexnet", "--layer", "CONV3", "--dataflow", "rs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("CONV3: conv N=1 M=384 C=256")
    assert lines[1:4] == [
        "  for m in 4  # DRAM",
        "    for [c] in 3  # spad",
        "  cycles 10,000, 89.000 MACs per PE and cycle on 168 PEs",
    ]
    assert lines[4] == "  parts  config 10, fill 10, compute 9,940, noc 10, dma 10, psum 10, drain 10"
    assert "  GLB    iact.write 104, iact.read 105, weight.write 106" in lines[6]
    assert lines[10] == "  search by cycles and eyeriss_65nm, None, seed 0"
    assert lines[12] == "eyeriss (12 x 14 PEs, 16-bit), predicted, least cycles, energy by eyeriss_65nm"
    spent = report.short(round(energy(numbers()["accesses"])))
    assert lines[15].split() == ["CONV3", "rs", "10,000", "89.000", "406", "749", "916", "482", spent]
    assert len(lines) == 16


def test_map_ends_with_a_table_a_total_and_the_next_best_dataflow(flow, capsys):
    argv = ["map", "eyeriss", "demo", "--dataflow", "any", "--energy", "generic_45nm", "--objective", "energy"]
    assert cli.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    first = flow.map_layer(None, DEMO["PHOTO"], load_dataflows("any"), Objective("energy"), None, 0).mapping.dataflow
    assert lines.count(f"  flow   {first}; next best, by the estimates: ws +12.5%") == 3
    assert "  search by energy and generic_45nm, None, seed 0" in lines
    rows = [line.split() for line in lines[-4:]]
    assert [row[:5] for row in rows[:3]] == [[name, first, "ws", "+12.5%", "10,000"] for name in DEMO]
    assert rows[3][:3] == ["total", first, "30,000"]
    table = load_energy("generic_45nm")
    assert rows[3][-1] == report.short(round(3 * energy(numbers()["accesses"], table)))
    assert lines[-6].split()[-1] == "energy"
    assert lines[-5].split()[-1] == table.unit


def test_what_map_finds_can_be_had_as_json(flow, tmp_path, capsys):
    path = tmp_path / "map.json"
    assert cli.main(["map", "tiny", "demo", "--json", str(path), "--seed", "3"]) == 0
    entries = json.loads(path.read_text())
    assert [entry["layer"] for entry in entries] == list(DEMO)
    first = entries[0]
    assert (first["schema"], first["version"]) == ("rowmesh-map-1", provenance.program_version())
    assert first["predicted"] == numbers()
    assert first["energy"]["total"] == pytest.approx(energy(numbers()["accesses"]))
    assert first["search"]["seed"] == 3
    assert first["search"]["estimates"] == {"rs": 8.0, "ws": 9.0}
    capsys.readouterr()
    assert cli.main(["explain", str(path)]) == 2
    assert capsys.readouterr().err == (
        f"rowmesh: {path}: [0].schema: must be 'rowmesh-run-1', as this version writes it, not 'rowmesh-map-1': "
        "run the layers again\n"
    )


def test_an_energy_table_is_an_option_wherever_energy_matters(flow, bad, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("energy: {unit: pJ, costs: {dram: -1}}")
    run = tmp_path / "run.json"
    run.write_text("[]")
    for command in (
        ["map", "eyeriss", "demo"],
        ["run", "eyeriss", "demo"],
        ["report", run, "-o", tmp_path / "page.html"],
        ["eyexam", "eyeriss", "demo"],
        ["scorecard", "--search", "eyeriss"],
    ):
        assert "energy.costs.dram: must be a number of 0 or more, not -1" in bad(*command, "--energy", path)
    assert bad("run", "eyeriss", "demo", "--mapping", path, "--energy", path).startswith("--energy: steers the search")
    assert flow.calls == []


def test_only_what_takes_long_is_said_off_a_terminal(monkeypatch, capsys):
    log = logging.getLogger("rowmesh.sw.jit.kernels")
    monkeypatch.setattr(progress, "PATIENCE", 0.2)
    with progress.notes(), progress.StageBars() as bars:
        bars.layer("L", 0, 2)("map", None)
        bars.layer("M", 1, 2)("map", None)
    log.info("nobody listens")
    assert capsys.readouterr().err == ""
    with progress.notes(), progress.StageBars() as bars:
        stage = bars.layer("L", 0, 2)
        stage("map", None)
        log.info("compiling")
        time.sleep(0.6)
        stage("map", None)
        bars.layer("M", 1, 2)("map", None)
        log.warning("no room\nat all")
    assert capsys.readouterr().err.splitlines() == [
        "compiling",
        "[1/2] L: map",
        "[2/2] M: map",
        "rowmesh: no room at all",
    ]


def test_what_cannot_be_mapped_is_refused_before_anything_runs(flow, bad):
    flow.unmappable = "ODD"
    assert bad("run", "tiny", "demo") == "ODD: no mapping: the filter rows do not fit"
    assert bad("map", "tiny", "demo", "--layer", "ODD") == "ODD: no mapping: the filter rows do not fit"
    assert not any(call[0] == "run" for call in flow.calls)


def test_generate_moves_whole_results_only(flow, tmp_path, capsys, bad):
    out = tmp_path / "deep" / "out"
    flow.crash = InputError("no room")
    assert bad("generate", "tiny", "-o", out) == "no room"
    assert list(tmp_path.iterdir()) == []
    flow.crash = None
    assert cli.main(["generate", "tiny", "-o", str(out)]) == 0
    assert capsys.readouterr().out.split() == [str(out / "tiny.v"), str(out / "sub" / "regs.h")]
    assert (out / "sub" / "regs.h").read_text() == "tiny"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "out", "regs.h", "sub", "tiny.v"]
    (tmp_path / "file").touch()
    assert "cannot be written: is not a folder" in bad("generate", "tiny", "-o", tmp_path / "file")


def test_list_names_everything_that_is_shipped(capsys):
    assert cli.main(["list"]) == 0
    words = capsys.readouterr().out.split()
    assert {"eyeriss", "tiny", "square16", "primes", "alexnet", "vgg16", "demo"} <= set(words)


def test_version_and_help(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.split()[0] == "rowmesh"
    for command in ([], ["--help"], ["run", "--help"]):
        assert cli.main(command) == 0
        assert "Usage: rowmesh" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run"], "Missing argument"),
        (["frobnicate"], "No such command"),
        (["run", "eyeriss", "demo", "--colour"], "No such option"),
        (["run", "eyeriss", "demo", "--memory", "slow"], "'fast', 'axi-random'"),
        (["run", "eyeriss", "demo", "--dataflow", "wz"], "did you mean ws?"),
        (["map", "eyeriss", "demo", "--objective", "cycels"], "there is no cycels, did you mean cycles? its names are"),
        (["run", "eyeriss", "demo", "--objective", "cycles +"], "objective 'cycles +': is not an expression"),
        (["map", "eyeriss", "demo", "--budget", "fast"], "--budget: must be a number of mappings or of seconds (30s)"),
        (["map", "eyeriss", "demo", "--budget", "0"], "not '0'"),
        (["run", "eyeriss", "demo", "--batch", "0"], "--batch"),
        (["run", "eyeriss", "demo", "--batch", "70000"], "--batch"),
        (["run", "eyeriss", "demo", "--seed", "-1"], "--seed"),
        (["run", "eyeriss", "demo", "--seed", "x"], "--seed"),
        (["run", "eyeriss", "demo", "extra"], "extra"),
        (["generate", "eyeriss"], "Missing option"),
        (["run", "eyeris", "demo"], "no architecture named 'eyeris', did you mean eyeriss?"),
        (["run", "eyeriss", "dem"], "no workload named 'dem', did you mean demo?"),
        (["map", "demo", "eyeriss"], "no architecture named 'demo'"),
        (["map", "", "demo"], "no architecture named ''"),
        (["map", "a\nb.yaml", "demo"], "'a\\nb.yaml': no such file"),
        (["map", "tiny\0.yaml", "demo"], "tiny"),
        (
            ["map", "eyeriss", "demo", "--layer", "PHOT"],
            "did you mean PHOTO? Its layers are PHOTO, ",
        ),
        (["map", "eyeriss", "demo", "--layer", "conv*"], "no layer of demo is named 'conv*'"),
    ],
)
def test_bad_arguments(flow, bad, argv, message):
    assert message in bad(*argv)
    assert flow.calls == []


def test_errors_in_files_have_file_and_line(flow, bad, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("architecture:\n  array:\n    rows: 0\n    cols: 3\n")
    assert bad("map", path, "demo") == (
        f"{path}:3: architecture.array.rows: must be from 1 to 64, not 0 (nearest legal value: 1)"
    )


def test_a_fault_of_the_program_is_not_a_mismatch(flow, capsys):
    flow.crash = RuntimeError("a bug")
    assert cli.main(["run", "eyeriss", "demo"]) == 3
    err = capsys.readouterr().err
    assert "RuntimeError: a bug" in err
    assert "Traceback" in err
    flow.crash = KeyboardInterrupt()
    assert cli.main(["run", "eyeriss", "demo"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_missing_tool_is_named_with_its_package(monkeypatch, bad, flow, tmp_path):
    monkeypatch.undo()
    make = tmp_path / "make"
    make.write_text("#!/bin/sh\n")
    make.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bad("run", "eyeriss", "demo") == (
        "g++, perl, ar not found on PATH, needed to build a simulation: "
        "install with `apt install g++ perl binutils` (Debian, Ubuntu) or `dnf install gcc-c++ perl binutils` (Fedora)"
    )


word = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    command=st.sampled_from(["generate", "map", "run", "list", "explain", "report", "eyexam", "scorecard"]),
    argv=st.lists(
        word | st.sampled_from(["eyeriss", "demo", "--layer", "--batch", "--seed", "--memory", "0", "-1"]),
        max_size=6,
    ),
)
def test_random_arguments_never_end_in_a_traceback(flow, capsys, tmp_path, monkeypatch, command, argv):
    monkeypatch.chdir(tmp_path)
    flow.calls.clear()
    code = cli.main([command, *argv])
    out, err = capsys.readouterr()
    assert code in (0, 2)
    if code == 2:
        assert (out, len(err.splitlines())) == ("", 1)
        assert flow.calls == []


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    key=st.sampled_from(["N", "M", "C", "H", "W", "R", "S", "stride", "padding", "dilation", "groups", "kind", "name"]),
    value=st.integers(-100, 0) | word | st.floats() | st.lists(st.integers(-2, 0), min_size=3, max_size=5),
)
def test_random_values_in_a_file_are_one_line(flow, capsys, tmp_path, key, value):
    fields = {"name": "L", "M": 4, "C": 4, "H": 8, "W": 8, "R": 3, "S": 3, "padding": 1, key: value}
    path = tmp_path / "w.yaml"
    path.write_text(json.dumps({"workload": {"layers": [fields]}}), encoding="utf-8")
    code = cli.main(["map", "tiny", str(path)])
    out, err = capsys.readouterr()
    if code == 0:  # a name may be nearly anything, and no padding is legal
        assert key in ("name", "padding", "kind")
    else:
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert f"workload.layers[0].{key}: must be" in err


def test_the_installed_command_in_a_process_of_its_own(tmp_path):
    command = [str(Path(sys.executable).parent / "rowmesh")]
    if shutil.which(command[0]) is None:
        command = [sys.executable, "-c", "import sys; from rowmesh.sw.cli.main import main; sys.exit(main())"]
    done = subprocess.run([*command, "map", "nope.yaml", "demo"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "rowmesh: 'nope.yaml': no such file; shipped architectures are eyeriss, eyeriss_v2, fpga4x4, mesh1x4, "
        "mesh2x2, primes, square16, squeezelerator, squeezelerator32, systolic16, tiny\n"
    )


@pytest.mark.parametrize(
    ("cycles", "allowed"), [(0, 200), (49_999, 200), (50_000, 1_000), (50_049, 1_000), (1_000_000, 20_000)]
)
def test_tolerance(cycles, allowed):
    assert tolerance(cycles) == allowed


@pytest.mark.parametrize(("off", "passes"), [(1_000, True), (-1_000, True), (1_001, False), (-1_001, False)])
def test_the_limit_itself_passes(off, passes):
    layer = DEMO["PHOTO"]
    result = layer_result(layer, rtl=numbers(50_000), predicted=numbers(50_000, compute=off))
    assert result.passed is passes


def test_each_pe_counts():
    layer = DEMO["PHOTO"]
    counted = {"pe_macs": [[5, 6], [7, 0]]}
    assert layer_result(layer, rtl=numbers() | counted, predicted=numbers() | counted).passed
    for other in ([[5, 6], [7, 1]], [[5, 6]], []):
        result = layer_result(layer, rtl=numbers() | {"pe_macs": other}, predicted=numbers() | counted)
        assert [reason.partition(":")[0] for reason in result.failures()] == ["pe_macs"]


@pytest.mark.parametrize(("field", "missing"), [("parts", "dma"), ("accesses", "pe.mac")])
def test_counters_are_exactly_the_named_ones(field, missing):
    values = numbers()
    del values[field][missing]
    with pytest.raises(ValueError, match=missing):
        Prediction(**values)
    values[field] |= {missing: 1, "other": 1}
    with pytest.raises(ValueError, match="other"):
        Measurement(**values)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (99_999, "99,999"),
        (100_000, "100.0k"),
        (999_949, "999.9k"),
        (999_960, "1.000M"),
        (9_999_600, "10.00M"),
        (123_456_789, "123.5M"),
        (15_470_264_320, "15.47G"),
    ],
)
def test_short_counts(count, text):
    assert report.short(count) == text


WRONG = """workload:
  name: wrong
  layers:
    - {name: A, M: 4, C: 4, H: 4, W: 4, R: 1, S: 1}
    - {name: B, M: 4, C: 4, H: 4, W: 4, R: 9, S: 1}
    - {name: ODD, M: 4, C: 4, H: 4, W: 4, R: 1, S: 1}
"""


def test_a_layer_that_was_not_asked_for_is_not_checked(flow, capsys, bad, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(WRONG)
    assert cli.main(["run", "eyeriss", str(path), "--layer", "A"]) == 0
    capsys.readouterr()
    assert re.search(r"wrong\.yaml:5: workload\.layers\[1\]\.\S+: must be", bad("run", "eyeriss", path, "--layer", "B"))
    assert re.search(r"wrong\.yaml:5: workload\.layers\[1\]", bad("map", "eyeriss", path))


@pytest.mark.parametrize("command", ["map", "run"])
def test_keep_going(flow, capsys, bad, tmp_path, command):
    """Layers that can run do; those that are wrong, or have no mapping, are a line each, and the exit code is 2."""
    flow.unmappable = "ODD"
    path = tmp_path / "wrong.yaml"
    path.write_text(WRONG)
    assert cli.main([command, "eyeriss", str(path), "--keep-going"]) == 2
    out, err = capsys.readouterr()
    refused = [line for line in err.splitlines() if line.startswith("rowmesh: refused: ")]
    assert len(refused) == 2
    assert "layers[1]" in refused[0]
    assert "the filter rows do not fit" in refused[1]
    assert "A " in out
    assert "ODD" not in out
    assert "the filter rows do not fit" in bad(command, "eyeriss", path, "--layer", "ODD", "-k")
