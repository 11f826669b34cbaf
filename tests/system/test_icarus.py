"""A whole layer in Icarus Verilog, which has four states: the same cycles as in Verilator, and no X at any port."""

import contextlib
import json
import shutil

import pytest
from cocotb_tools.runner import get_results, get_runner

from rowmesh.sim.run import simulate
from rowmesh.sw import run as flow
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.search.mapper import find_mapping
from rowmesh.sw.workload.layer import Layer, load_workload

SMALL = Layer(name="small", M=6, C=3, H=5, W=9, R=3, S=3, padding=1, input="photo", output="requant")


@pytest.mark.parametrize(
    ("layer", "initial_values"),
    [
        (SMALL, True),
        (SMALL, False),
        pytest.param(load_workload("demo").layers[2], True, marks=pytest.mark.slow),
        pytest.param(load_workload("demo").layers[2], False, marks=pytest.mark.slow),
    ],
    ids=lambda value: value.name if isinstance(value, Layer) else {True: "fpga", False: "asic"}[value],
)
def test_a_layer_takes_the_cycles_of_verilator_and_shows_no_x(layer, initial_values, tmp_path):
    if shutil.which("iverilog") is None:
        pytest.skip("iverilog is not installed (Debian's package iverilog)")
    config = load_arch("tiny")
    mapping = find_mapping(config, layer)
    data = flow.make_data(config, layer, 0)
    job = flow.make_job([(mapping, data)], seed=0, memory="fast", max_cycles=200_000)
    expected = simulate(job)

    flow.generate(config, tmp_path, initial_values=initial_values)
    description = json.loads((tmp_path / "rowmesh.json").read_text())
    contents = bytearray(job.memory_size)
    for address, part in job.image:
        contents[address : address + len(part)] = part
    (tmp_path / "memory.bin").write_bytes(contents)
    own = {name: getattr(job, name) for name in ("latency", "write_latency", "max_cycles")}
    own |= {"registers": description["registers"]}
    own |= {"writes": {**job.register_writes, "PROGRAM": job.program_address}}
    (tmp_path / "job.json").write_text(json.dumps(own))
    runner = get_runner("icarus")  # with the flags that cocotb gives it: -g2012
    log = tmp_path / "log"
    runner.build(
        sources=[tmp_path / "rowmesh.v"],
        hdl_toplevel=description["top"],
        build_dir=tmp_path,
        timescale=("1ns", "1ps"),
        log_file=tmp_path / "build.log",
    )
    with contextlib.suppress(SystemExit):  # a test that fails; its results are looked at below
        runner.test(
            test_module="icarus_run",
            hdl_toplevel=description["top"],
            hdl_toplevel_lang="verilog",
            build_dir=tmp_path,
            test_dir=tmp_path,
            results_xml=str(tmp_path / "results.xml"),
            extra_env={"ROWMESH_JOB": str(tmp_path), "COCOTB_ANSI_OUTPUT": "0"},
            log_file=log,
        )
    assert get_results(tmp_path / "results.xml") == (1, 0), log.read_text()[-3000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["cycles"] == expected.cycles
    after = (tmp_path / "memory.bin").read_bytes()
    assert [after[address : address + size] for address, size in job.dumps] == expected.dumps
    assert result["registers"] == {name: expected.registers[name] for name in ("STATUS", "ERROR")}
