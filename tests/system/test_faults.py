"""What goes wrong ends in an error code and an interrupt, and a soft reset recovers."""

import dataclasses
import json

import numpy as np
import pytest
from fault_injections import KINDS, Target, draw

from rowmesh.hw.descriptor import Engine
from rowmesh.hw.registers import ErrorCode
from rowmesh.sim.run import run_test, simulate
from rowmesh.sw import run as flow
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.mapping.dataflow import load_dataflow
from rowmesh.sw.mapping.layer import LayerMapping
from rowmesh.sw.model.timing.run import StuckError, run
from rowmesh.sw.model.timing.streams import streams
from rowmesh.sw.program import assemble as assembler
from rowmesh.sw.program import engines as compiler
from rowmesh.sw.program.assemble import memory_map, programs
from rowmesh.sw.program.deadlock import DeadlockError, check_deadlock_freedom
from rowmesh.sw.program.nest import Nest
from rowmesh.sw.search.mapper import find_mapping
from rowmesh.sw.workload.layer import Layer

LAYER = Layer(name="small", M=6, C=3, H=9, W=16, R=3, S=3, padding=1, input="photo")


def make_job(**changes):
    mapping = find_mapping(load_arch("tiny"), LAYER)
    data = flow.make_data(mapping.config, LAYER, 0)
    job = flow.make_job([(mapping, data)], seed=0, memory="fast", max_cycles=200_000)
    return mapping, data, dataclasses.replace(job, **changes)


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"fail_read": 9}, ErrorCode.AXI_READ), ({"fail_write": 2}, ErrorCode.AXI_WRITE)],
    ids=["read", "write"],
)
def test_a_memory_error_ends_the_run(changes, code):
    _, _, job = make_job(**changes)
    result = simulate(job)
    assert not result.timed_out
    assert result.registers["ERROR"] == code
    assert result.fields["STATUS"]["error"]
    assert not result.fields["STATUS"]["busy"]


def test_an_illegal_descriptor_ends_the_run():
    _, _, job = make_job()
    (address, program), *rest = job.image
    broken = program[:8] + b"\xff\xff\xff\xff" + program[12:]
    result = simulate(dataclasses.replace(job, image=[(address, broken), *rest]))
    assert not result.timed_out
    assert result.registers["ERROR"] == ErrorCode.ILLEGAL_DESCRIPTOR


def blocking_nests(nests, mapping, place):
    """The layer's nests with each iact row sent whole before the next one: more than a spad holds."""
    engines = nests(mapping, place)
    read = engines[Engine.READ_IACT]
    loops = [loop for loop in read.loops if loop.name != "x"]
    column = next(loop for loop in read.loops if loop.name == "x")
    return {**engines, Engine.READ_IACT: Nest([*loops, column], read.bases, read.conditions, read.values)}


def test_an_order_that_blocks_is_refused_and_does_block(monkeypatch):
    mapping, data, _ = make_job()
    # output rows across the columns, each of 18 iacts for a spad of 16
    own = dataclasses.replace(mapping.cluster, p_x=3, m_x=1, p0=1, q0=LAYER.q, m0=LAYER.m)
    mapping = LayerMapping.alone(own)
    blocked = blocking_nests(compiler.nests, own, memory_map(mapping))
    of_cluster = {engine: nest for engine, nest in blocked.items() if engine.name.split("_")[-1] in ("IACT", "WEIGHT")}
    shared = {engine: nest for engine, nest in blocked.items() if engine not in of_cluster}
    parts = dataclasses.replace(programs(mapping, memory_map(mapping)), shared=shared, clusters=[of_cluster])
    with pytest.raises(DeadlockError, match="spad"):
        check_deadlock_freedom(mapping.config, parts)
    with pytest.raises(StuckError):
        run(
            mapping.config,
            streams(mapping.config, parts),
            np.zeros(1, np.int64),
            read_latency=100,
            write_latency=20,
        )
    original = compiler.nests
    monkeypatch.setattr(assembler, "check_deadlock_freedom", lambda *_: None)
    monkeypatch.setattr(compiler, "nests", lambda m, place, *_: blocking_nests(original, m, place))
    job = flow.make_job([(mapping, data)], seed=0, memory="fast", max_cycles=200_000)
    result = simulate(dataclasses.replace(job, register_writes={"WATCHDOG": 5000}))
    assert not result.timed_out
    assert result.registers["ERROR"] == ErrorCode.WATCHDOG
    assert result.registers["WAITS"] != 0


BASE = 0x40000  # of the layers' memory, with memory below and above
WATCHDOG, BUDGET = 2_000, 20_000
OTHER = Layer(name="other", M=8, C=8, H=5, W=6, R=3, S=3, padding=1, output="requant")


def run_campaign(path, monkeypatch, seed, count):
    """Run faults one after another; return how often each kind has ended in which way."""
    config, jobs, results = load_arch("tiny"), [], []
    for layer, flow_name in ((LAYER, "rs"), (OTHER, "ws")):
        mapping = flow.map_layer(config, layer, (load_dataflow(flow_name),)).mapping
        data = flow.make_data(config, layer, 0)
        job = flow.make_job([(mapping, data)], seed=0, memory="fast", max_cycles=BUDGET, base=BASE)
        result = simulate(job)
        assert np.array_equal(mapping.ofmap_layout.unpack(result.dumps[0]), data.expected)
        assert not result.timed_out
        assert result.changed is None
        jobs.append(job)
        results.append(result)
    window = max(job.memory_size for job in jobs) - BASE
    layers, targets = [], []
    for job, result in zip(jobs, results, strict=True):
        image = b"".join(content for _, content in sorted(job.image))
        layers.append(
            {
                "image": image.hex(),
                "ofmap": result.dumps[0].hex(),
                "ofmap_at": job.dumps[0][0] - BASE,
                "cycles": result.cycles,
            }
        )
        length = 4 * int.from_bytes(image[4:8], "little")
        targets.append(
            Target(
                program=image[:length],
                image_bytes=len(image),
                read_bursts=result.traffic["read_bursts"],
                write_bursts=result.traffic["write_bursts"],
                cycles=result.cycles,
            )
        )
    plan = {
        "base": BASE,
        "window": window,
        "budget": BUDGET,
        "registers": {
            "WATCHDOG": WATCHDOG,
            "BUDGET": BUDGET,
            "WINDOW_FIRST": BASE,
            "WINDOW_LAST": BASE + window - 1,
            "IRQ_ENABLE": 3,
            "PROGRAM": BASE,
        },
        "layers": layers,
        "injections": [dataclasses.asdict(injection) for injection in draw(targets, seed, count)],
    }
    file = path / "plan.json"
    file.write_text(json.dumps(plan))
    monkeypatch.setenv("ROWMESH_FAULTS", str(file))
    job = dataclasses.replace(jobs[0], memory_size=BASE + window + 0x10000)
    run_test(job, "fault_campaign")
    ends = json.loads(file.with_suffix(".ends").read_text())
    assert sum(ends.values()) == count
    return ends


def test_faults_end_and_leave_nothing_behind(tmp_path, monkeypatch):
    ends = run_campaign(tmp_path, monkeypatch, seed=0, count=60)
    assert {end.split()[0] for end in ends} == set(KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_more_faults_end_and_leave_nothing_behind(tmp_path, monkeypatch, seed):
    ends = run_campaign(tmp_path, monkeypatch, seed, count=300)
    print(", ".join(f"{end} {times}" for end, times in sorted(ends.items())))


@pytest.mark.parametrize("testcase", ["a_start_while_busy_is_an_error", "a_soft_reset_recovers"])
def test_control(testcase):
    _, _, job = make_job()
    run_test(job, "fault_checks", testcase)
