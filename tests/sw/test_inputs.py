"""Inputs at and beyond the limits: what is refused is refused in one line, in the fields that the user wrote."""

import json
import os
import subprocess
import sys

import pytest

from rowmesh.hw.config import COORDINATE_WIDTH, ArchConfig
from rowmesh.hw.nest import BOUND_WIDTH
from rowmesh.sw import run as flow
from rowmesh.sw.cli import main as cli
from rowmesh.sw.inputs import arch as spec
from rowmesh.sw.inputs.errors import InputError
from rowmesh.sw.mapping import dataflow
from rowmesh.sw.mapping.cluster import ClusterMapping, IllegalMappingError
from rowmesh.sw.mapping.layer import Splits, sub_layer
from rowmesh.sw.mapping.orders import WEIGHT
from rowmesh.sw.program.assemble import beyond_limits, memory_map
from rowmesh.sw.program.loads import load_weight
from rowmesh.sw.program.memory_map import MemoryMap
from rowmesh.sw.program.subscriptions import edge_flags_of
from rowmesh.sw.search import mapper
from rowmesh.sw.search.pool import candidates
from rowmesh.sw.workload.layer import LARGEST_PLANE, Layer
from rowmesh.sw.workload.limits import beyond_memory
from rowmesh.sw.workload.lowering import flattened

TINY = spec.load_arch("tiny")
SMALL_LAYER = "{name: L, kind: fc, M: 8, C: 16}"


@pytest.fixture
def refused(tmp_path, capsys):
    """Run a command on a layer or an architecture; return its one line, without the file's name."""

    def run(layers, arch="tiny", *options):
        workload = tmp_path / "w.yaml"
        workload.write_text(f"workload:\n  layers:\n    - {layers}\n", encoding="utf-8")
        if arch != "tiny":
            (tmp_path / "a.yaml").write_text(f"architecture:\n{arch}", encoding="utf-8")
            arch = tmp_path / "a.yaml"
        code = cli.main(["map", str(arch), str(workload), *options])
        out, err = capsys.readouterr()
        assert (code, out, err.count("\n")) == (2, "", 1), err
        return err.strip().replace(f"{tmp_path}/", "").removeprefix("rowmesh: ")

    return run


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("{name: L, M: 8, C: 8, H: 1, W: 65536, R: 1, S: 3}", "W: must be at most 32767, not 65536"),
        (
            "{name: L, M: 8, C: 8, H: 32767, W: 1, R: 3, S: 1, padding: [1, 0]}",
            "padding: must be at most 0 in all beside H = 32767",
        ),
        (
            "{name: L, kind: maxpool, C: 8, H: 3, W: 3, R: 3, S: 3, stride: 1, padding: 3}",
            "padding: must be less than the window (3 x 3) in a maxpool layer, not [3, 3, 3, 3] "
            "(nearest legal value: 2)",
        ),
        (
            "{name: L, kind: avgpool, C: 8, H: 3, W: 3, R: 1, S: 1, padding: [0, 0, 1, 0]}",
            "padding: must be less than the window (1 x 1) in a avgpool layer",
        ),
        (
            "{name: L, kind: maxpool, C: 8, H: 1, W: 9, R: 2, S: 1, dilation: 2, padding: [1, 0, 1, 0]}",
            "dilation: must be such that each window",
        ),
        ("{name: L, kind: add, C: 8, H: 512, W: 512}", "H: must be at most 63 with W = 512"),
        ("{name: L, kind: add, C: 8, H: 2, W: 2, stride: 2}", "stride: must be left out of an add layer"),
        ("{name: L, kind: add, C: 8, H: 2, W: 2, R: 3, S: 1, M: 8, groups: 8}", "R: must be left out of an add layer"),
        ("{name: L, kind: matmul, M: 40000, N: 1, K: 1}", "M: must be an integer from 1 to 32767, not 40000"),
        ("{name: L, kind: matmul, M: 4, N: 1, K: 1, H: 1}", "H: must be left out of a matmul layer"),
        ("{name: L, kind: depthwise, C: 4, M: 6, H: 2, W: 2, R: 1, S: 1}", "M: must be a multiple of C (4)"),
    ],
)
def test_fields_beyond_their_limits(refused, layer, message):
    assert f"w.yaml:3: workload.layers[0].{message}" in refused(layer)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("{name: L, M: 65536, C: 65536, H: 1, W: 1, R: 1, S: 1}", "M must be at most 65523, not 65536"),
        ("{name: L, kind: fc, N: 65536, M: 8, C: 65536}", "N must be at most 65496, not 65536"),
        ("{name: L, kind: matmul, N: 65536, M: 32767, K: 8192}", "M must be at most 13899, not 32767"),
        ("{name: L, kind: maxpool, N: 1, C: 65536, H: 300, W: 300, R: 2, S: 2}", "C must be at most "),
    ],
)
def test_more_memory_than_addresses_reach(refused, layer, message):
    line = refused(layer)
    assert line.startswith("layer L does not fit tiny: it needs ")
    assert "more than the 4,294,967,296 that addresses reach: " in line
    assert message in line


def test_the_largest_legal_size_is_legal():
    fits = Layer(name="L", kind="fc", N=65496, M=8, C=65536)
    assert beyond_memory(TINY, fits) == ""
    assert beyond_memory(TINY, fits.with_batch(65497))
    # more bits of an address help no further: the nests count in 32
    assert beyond_memory(TINY.replace(axi_addr_width=64), fits.with_batch(65497))


def test_layers_of_one_program_share_what_addresses_reach():
    mapping = mapper.find_mapping(TINY, Layer(name="L", kind="fc", M=1024, C=65536))
    size = memory_map(mapping, 0).size
    assert flow._places([mapping] * ((1 << 32) // size), 0)
    with pytest.raises(InputError, match=r"L do not fit the memory together: .*choose fewer with --layer"):
        flow._places([mapping] * ((1 << 32) // size + 1), 0)


def test_a_plane_too_large_for_a_row_is_no_row():
    layer = Layer(name="L", M=8, C=8, H=182, W=180, R=1, S=1)
    assert [row.w for row in flattened(TINY, layer)] == [182 * 180]
    assert LARGEST_PLANE == (1 << COORDINATE_WIDTH - 1) - 1 < 182 * 181
    assert flattened(TINY, Layer(name="L", M=8, C=8, H=182, W=181, R=1, S=1)) == []


def test_the_segments_of_many_weights_can_be_counted():
    layer = Layer(name="L", kind="fc", M=9 * 1024, C=64 * 1024)
    factors = {"r_s": 1, "c_s": 1, "c0": 8, "p_x": 1, "m_x": 1, "p0": 1, "q0": 1, "m0": 1, "resident": False}
    bare = ClusterMapping.bare(TINY, layer, **{"r0": 1, "q_x": 1, "p_y": 1, "m_y": 1, "g_y": 1, "g0": 1}, **factors)
    for name, value in {"m1": 1, "n0": 1, "c1": 1, "q1": 1, "m_outer": False, "ports": 1}.items():
        object.__setattr__(bare, name, value)
    object.__setattr__(bare, "order", WEIGHT)
    object.__setattr__(bare, "within", None)
    segment = load_weight(bare, MemoryMap(0, 0, 0, 0, 0, 0), 0).loops[-1]
    assert 1 < segment.bound <= 1 << BOUND_WIDTH


@pytest.mark.parametrize("flags", [1, 2])
def test_few_edge_flags_are_used_by_any_dimension(flags):
    layer = Layer(name="L", M=32, C=40, H=4, W=8, R=1, S=1)
    config = ArchConfig(name="few", rows=3, cols=3, edge_flags=flags)
    seen = set()
    for name in ("rs", "ws", "os-b"):
        for _, mapping in candidates(config, layer, [dataflow.load_dataflow(name)]):
            used = edge_flags_of(mapping.cluster)
            assert sorted(used.values()) == list(range(len(used)))
            assert len(used) <= flags
            if used and tuple(used) not in seen:
                seen.add(tuple(used))
                assert beyond_limits(mapping) == ""
    assert len(seen) > 1, seen


def test_a_share_in_the_padding_alone_is_no_share():
    layer = Layer(name="L", M=2, C=2, H=1, W=4, R=1, S=1, padding=[1, 0, 2, 0])
    with pytest.raises(IllegalMappingError, match="have no iacts, only padding"):
        sub_layer(layer, Splits(p_y=4), 0, 0)
    assert sub_layer(layer, Splits(p_y=2), 0, 0).layer.h == 1


def test_parameters_of_less_than_a_burst_name_both_fields(refused):
    text = "  array: {rows: 2, cols: 3}\n  output: {param_words: 8}\n"
    assert refused(SMALL_LAYER, text) == (
        "a.yaml:3: architecture.output.param_words: must be at least a burst (16 parameters with burst_beats 16), "
        "not 8 (nearest legal value: 16)"
    )


def test_all_errors_of_a_file_are_told(refused):
    text = "  array: {rows: 0, cols: 3}\n  spads: {wieght: 3}\n  data:\n    acc_width: 20\n"
    assert refused(SMALL_LAYER, text) == (
        "a.yaml:2: architecture.array.rows: must be from 1 to 64, not 0 (nearest legal value: 1); "
        "line 3: architecture.spads.wieght: unknown key, did you mean weight?; "
        "line 5: architecture.data.acc_width: must be one of 24, 32, not 20 (nearest legal value: 24)"
    )
    layers = "{name: A, kind: fc, M: 0, C: 3}\n    - {name: B, kind: fc, M: 4, C: 3, H: 2, R: 1, padding: 1}"
    assert refused(layers) == (
        "w.yaml:3: workload.layers[0].M: must be an integer from 1 to 65536, not 0 (nearest legal value: 1); "
        "line 4: workload.layers[1].R: must be equal to H (2) in an fc layer, not 1 (nearest legal value: 2); "
        "line 4: workload.layers[1].padding: must be 0 in an fc layer, not [1, 1, 1, 1] (nearest legal value: 0)"
    )
    many = "\n    - ".join(f"{{name: L{number}, kind: fc, M: 0, C: 3}}" for number in range(30))
    assert refused(many).endswith("; 10 more")


@pytest.mark.parametrize("arch", ["tiny", "mesh1x4"])
@pytest.mark.parametrize("text", ["cycles / 0", "cycles - cycles / (dram - dram)", "1e308 * 1e10 * cycles"])
def test_an_objective_without_a_finite_value(capsys, arch, text):
    assert cli.main(["map", arch, "demo", "--layer", "ODD", "--objective", text]) == 2
    assert capsys.readouterr().err == (
        f"rowmesh: objective {text!r}: must have a finite value, and has none for any mapping of layer ODD\n"
    )


def test_an_objective_with_a_number_beyond_all(capsys):
    assert cli.main(["map", "tiny", "demo", "--objective", "9" * 400]) == 2
    assert "a number must be at most 1.8e+308" in capsys.readouterr().err


def test_files_of_the_folder_are_suggested(refused, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("")
    for given in ("mine", "mne.yaml"):
        assert cli.main(["map", given, "demo"]) == 2
        assert ", did you mean 'mine.yaml'?" in capsys.readouterr().err
    assert cli.main(["map", "tiny", "demo", "--dataflow", "mine"]) == 2
    assert ", did you mean 'mine.yaml'?" in capsys.readouterr().err


def test_show_prints_every_parameter(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("architecture:\n  array: {rows: 2, cols: 3}\n  spads: {iact: 20}\n")
    assert cli.main(["show", str(path)]) == 0
    rows = {cells[0]: cells[1:] for line in capsys.readouterr().out.splitlines() if (cells := line.split())}
    assert {".".join(place) for place in spec.PARAMETERS} <= set(rows)
    assert rows["spads.iact"] == ["20", "2", "to", "1024"]
    assert rows["spads.weight"] == ["224", "default", "2", "to", "4096"]
    assert cli.main(["show", str(path), "--json"]) == 0
    parameters = json.loads(capsys.readouterr().out)["parameters"]
    assert parameters["array.rows"] == {"value": 2, "default": False}
    assert parameters["pe.max_pooling"] == {"value": True, "default": True}
    assert len(parameters) == len(spec.PARAMETERS)


def test_map_names_buffers_of_default_size(tmp_path, capsys):
    path, workload = tmp_path / "mine.yaml", tmp_path / "w.yaml"
    workload.write_text(f"workload:\n  layers:\n    - {SMALL_LAYER}\n")
    path.write_text("architecture:\n  array: {rows: 2, cols: 3}\n  spads: {iact: 20, weight: 100, psum: 9}\n")
    assert cli.main(["map", str(path), str(workload)]) == 0
    assert capsys.readouterr().err == (
        "note: mine has default sizes of glb.iact_flits 1024, glb.weight_flits 256, glb.psum_bank_words 512, "
        "output.param_words 256\n"
    )


def test_output_survives_a_terminal_without_the_characters(tmp_path):
    workload, out = tmp_path / "w.yaml", tmp_path / "out.yaml"
    text = "workload:\n  layers:\n    - {name: Schicht_ü漢, kind: fc, M: 8, C: 16}\n"
    workload.write_text(text, encoding="utf-8")
    program = "import sys; from rowmesh.sw.cli.main import main; sys.exit(main())"
    locale = {"PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONUTF8": "0"}
    surroundings = {**os.environ, **locale}
    command = [sys.executable, "-c", program, "map", "tiny", str(workload), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, env=surroundings, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"Schicht_\\xfc\\u6f22: fc N=1 ")
    assert "layer: Schicht_ü漢" in out.read_text(encoding="utf-8")
    shell = f"'{sys.executable}' -c '{program}' list >&-"
    closed = subprocess.run(shell, shell=True, capture_output=True, env=surroundings, check=False)
    assert (closed.returncode, closed.stderr) == (0, b"")
