"""What goes wrong ends in an error code and an interrupt, and a soft reset recovers."""

import dataclasses

import numpy as np
import pytest

from rowmesh.hw.descriptor import Engine
from rowmesh.hw.registers import ErrorCode
from rowmesh.sim.run import run_test, simulate
from rowmesh.sw import assembler, compiler, flow
from rowmesh.sw.deadlock import DeadlockError, check_deadlock_freedom
from rowmesh.sw.mapper import find_mapping
from rowmesh.sw.nestprogram import Nest
from rowmesh.sw.programs import Programs
from rowmesh.sw.spec import load_arch
from rowmesh.sw.subscriptions import subscriptions
from rowmesh.sw.timing.run import StuckError, run
from rowmesh.sw.timing.streams import streams
from rowmesh.sw.workload import Layer

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
    mapping = dataclasses.replace(mapping, p_x=3, m_x=1, p0=1, q0=LAYER.q, m0=LAYER.m)
    with pytest.raises(DeadlockError, match="spad"):
        check_deadlock_freedom(
            mapping.config,
            blocking_nests(compiler.nests, mapping, compiler.MemoryMap.of(mapping)),
            subscriptions(mapping),
        )
    blocked = blocking_nests(compiler.nests, mapping, compiler.MemoryMap.of(mapping))
    of_cluster = {engine: nest for engine, nest in blocked.items() if engine.name.split("_")[-1] in ("IACT", "WEIGHT")}
    shared = {engine: nest for engine, nest in blocked.items() if engine not in of_cluster}
    with pytest.raises(StuckError):
        run(
            mapping.config,
            streams(mapping.config, Programs(shared, [of_cluster], [subscriptions(mapping)])),
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


@pytest.mark.parametrize("testcase", ["a_start_while_busy_is_an_error", "a_soft_reset_recovers"])
def test_control(testcase):
    _, _, job = make_job()
    run_test(job, "fault_checks", testcase)
