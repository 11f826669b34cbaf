"""The simulation harness against a small design: results, cycles, faults, cache."""

import dataclasses
import itertools
import random
import struct
from pathlib import Path

import pytest
from copy_dut import BURST, DECODE_ERROR, OVERHEAD, READ_ERROR, SLAVE_ERROR, WRITE_ERROR, write_copy_dut

from rowmesh.sim.bench import bench
from rowmesh.sim.build import BuildError, build_model
from rowmesh.sim.cache import VARIABLE, cache_folder
from rowmesh.sim.run import SimJob, SimulationError, model_of, run_test, simulate, simulate_all

PROGRAM, SOURCE, DESTINATION = 0x100, 0x1000, 0x8000


@pytest.fixture(scope="module")
def design(tmp_path_factory):
    return write_copy_dut(tmp_path_factory.mktemp("copy"))


def copy_job(design: Path, beats: int = 64, **changes) -> SimJob:
    content = random.Random(beats).randbytes(8 * beats)
    job = SimJob(
        verilog_dir=design,
        image=[(PROGRAM, struct.pack("<QQQ", SOURCE, DESTINATION, beats)), (SOURCE, content)],
        memory_size=1 << 16,
        program_address=PROGRAM,
        dumps=[(SOURCE, 8 * beats), (DESTINATION, 8 * beats)],
        max_cycles=20_000,
    )
    return dataclasses.replace(job, **changes)


def assert_copied(result):
    assert not result.timed_out
    assert result.dumps[0] == result.dumps[1]
    assert any(result.dumps[0])
    assert result.registers["ERROR"] == 0


@pytest.mark.parametrize(
    ("beats", "latency", "write_latency"), [(64, 100, 20), (64, 2, 2), (128, 37, 5), (16, 250, 100)]
)
def test_cycles_of_the_memory_model_are_exact(design, beats, latency, write_latency):
    result = simulate(copy_job(design, beats, latency=latency, write_latency=write_latency))
    assert_copied(result)
    # Descriptor (3 beats) and block each wait one latency, then move a beat a cycle; a response ends it.
    assert result.cycles == 2 * latency + 3 + beats + write_latency + OVERHEAD
    bursts = beats // BURST
    assert result.traffic == {
        "read_bursts": 1 + bursts,
        "read_beats": 3 + beats,
        "write_bursts": bursts,
        "write_beats": beats,
    }


@pytest.mark.parametrize("limit", [4, 3, 1])
def test_bytes_per_cycle_limits_the_rate(design, limit):
    short, long = (simulate(copy_job(design, beats, bytes_per_cycle=limit, memory_size=1 << 17)) for beats in (96, 192))
    assert_copied(short)
    assert_copied(long)
    assert abs(long.cycles - short.cycles - 96 * 8 / limit) <= 1


def test_same_job_takes_same_cycles(design):
    first, second = (simulate(copy_job(design)) for _ in range(2))
    assert (first.cycles, first.dumps, first.registers) == (second.cycles, second.dumps, second.registers)


@pytest.mark.parametrize("memory", ["fast", "axi-random"])
def test_jobs_one_after_another(design, memory):
    sizes = [(64, 1 << 16), (128, 1 << 15), (16, 1 << 17)]
    places = {"dumps": [(SOURCE, 128), (DESTINATION, 128)]}  # as much as the smallest copies
    jobs = [copy_job(design, beats, memory_size=size + 0x8000, memory=memory, **places) for beats, size in sizes]
    together = simulate_all(jobs)
    assert len(together) == len(jobs)
    for (beats, _), job, result in zip(sizes, jobs, together, strict=True):
        alone = simulate(job)
        assert_copied(result)
        assert (result.dumps, result.traffic, result.registers) == (alone.dumps, alone.traffic, alone.registers)
        assert result.traffic["write_beats"] == beats
        if memory == "fast":
            assert result.cycles == alone.cycles


def test_jobs_end_with_the_first_that_fails(design):
    jobs = [copy_job(design), copy_job(design, program_address=1 << 20), copy_job(design)]
    results = simulate_all(jobs)
    assert [result.registers["ERROR"] for result in results] == [0, READ_ERROR + DECODE_ERROR]
    with pytest.raises(ValueError, match=r"SimJob\.latency must be the same"):
        simulate_all([copy_job(design), copy_job(design, latency=7)])


def test_random_stalls_change_cycles_and_nothing_else(design):
    reference = simulate(copy_job(design))
    results = [simulate(copy_job(design, memory="axi-random", kind="regress", seed=seed)) for seed in (1, 2, 1)]
    for result in results:
        assert_copied(result)
        assert result.dumps == reference.dumps
        assert result.traffic == reference.traffic
    assert results[0].cycles == results[2].cycles != results[1].cycles


def test_what_has_no_reset_begins_at_random_in_a_regression(design):
    """SCRATCH is neither reset nor written; with the same seed it has the same content."""
    values = [
        simulate(copy_job(design, kind=kind, seed=seed)).registers["SCRATCH"]
        for kind, seed in (("run", 1), ("regress", 1), ("regress", 2), ("regress", 1))
    ]
    assert values[0] == 0
    assert values[1] == values[3] != values[2]


@pytest.mark.parametrize("memory", ["fast", "axi-random"])
@pytest.mark.parametrize(
    ("fault", "error"),
    [({"fail_read": 2}, READ_ERROR + SLAVE_ERROR), ({"fail_write": 3}, WRITE_ERROR + SLAVE_ERROR)],
)
def test_a_chosen_burst_fails(design, memory, fault, error):
    result = simulate(copy_job(design, memory=memory, **fault))
    assert not result.timed_out
    assert result.registers["ERROR"] == error


def test_a_failed_write_leaves_the_memory(design):
    result = simulate(copy_job(design, fail_write=3))
    wrong = [result.dumps[0][i : i + 128] != result.dumps[1][i : i + 128] for i in range(0, 512, 128)]
    assert wrong == [False, False, True, False]


@pytest.mark.parametrize(("memory", "response"), [("fast", DECODE_ERROR), ("axi-random", SLAVE_ERROR)])
def test_an_access_outside_the_memory_is_an_error(design, memory, response):
    result = simulate(copy_job(design, memory=memory, program_address=1 << 20))
    assert result.registers["ERROR"] == READ_ERROR + response
    assert result.traffic["read_bursts"] == 1


def test_a_run_without_interrupt_times_out_and_registers_can_be_read(design):
    seen = []
    job = copy_job(design, beats=0, max_cycles=400_000, dumps=[])
    result = simulate(job, progress=seen.append)
    assert result.timed_out
    assert result.cycles == 400_000
    assert result.fields["STATUS"] == {"busy": 1, "done": 0}
    assert seen == sorted(seen)


def test_registers_are_written_before_the_start_and_read_after(design):
    result = simulate(copy_job(design, register_writes={"SCRATCH": 0xDEADBEEF}))
    assert result.registers["SCRATCH"] == 0xDEADBEEF
    assert result.registers["PROGRAM"] == PROGRAM
    assert result.fields["STATUS"] == {"busy": 0, "done": 1}


def test_an_unknown_register_is_named_with_the_log(design):
    with pytest.raises(SimulationError, match="no register NOTHING"):
        simulate(copy_job(design, register_writes={"NOTHING": 1}))


@pytest.mark.parametrize("kind", ["run", "regress"])
def test_a_burst_that_crosses_4_kib_is_named(design, kind):
    image = [(PROGRAM, struct.pack("<QQQ", SOURCE + 0xFC0, DESTINATION, 64))]
    with pytest.raises(SimulationError, match="crosses a 4 KiB boundary"):
        simulate(copy_job(design, image=image, kind=kind))


def test_a_test_module_of_ones_own(design):
    # tests/sim/session_checks.py: two starts, a reset, and the memory seen and changed between them
    (dump,) = run_test(copy_job(design, dumps=[(DESTINATION, 8)]), "session_checks")
    assert dump == b"changed!"


def test_a_limit_wider_than_the_bus_is_named(design):
    with pytest.raises(SimulationError, match="bytes_per_cycle must be from 1 to 8, not 9"):
        simulate(copy_job(design, bytes_per_cycle=9))


def test_the_loop_agrees_with_cocotb(design):
    result = bench(copy_job(design))
    assert result.loop.cycles == result.cocotb.cycles
    assert result.ratio > 0


@pytest.fixture
def cache(design, tmp_path, monkeypatch):
    """A cache of its own, without models."""
    build_model(design)
    libraries = [path for path in cache_folder("models").glob("runtime-*") if (path / "verilated_vpi.o").exists()]
    assert libraries
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    cache = cache_folder("models")
    for library in libraries:  # one for each version of the tools that was ever used
        (cache / library.name).symlink_to(library)
    return cache


def test_cache(design, cache, tmp_path):
    stages = []
    first = build_model(design, progress=lambda stage, fraction: stages.append((stage, fraction)))
    again = build_model(design)
    assert not first.cached
    assert again.cached
    assert first.directory == again.directory
    assert again.seconds < 1
    assert {stage for stage, _ in stages} == {"verilate", "compile"}
    assert all(0 <= fraction <= 1 for _, fraction in stages)
    assert [path for path in cache.iterdir() if "." in path.name and path.suffix != ".lock"] == []

    text = (design / "rowmesh.v").read_text()
    other = tmp_path / "other"
    other.mkdir()
    (other / "rowmesh.json").write_text((design / "rowmesh.json").read_text())
    (other / "rowmesh.v").write_text(text + "syntax error\n")
    with pytest.raises(BuildError, match="syntax error"):
        build_model(other)
    models = [path for path in cache.iterdir() if path.is_dir() and not path.name.startswith("runtime-")]
    assert models == [first.directory]


@pytest.mark.usefixtures("cache")
def test_a_model_that_has_simulated_for_long_is_trained_and_does_the_same(design):
    job = copy_job(design)
    before, plain = simulate(job), model_of(job)
    plain.used(1.0)
    assert not model_of(job).trained
    plain.used(5 * float((plain.directory / "seconds").read_text()))
    stages = []
    trained = model_of(job, lambda stage, _: stages.append(stage))
    assert (trained.trained, trained.cached) == (True, False)
    assert [stage for stage, _ in itertools.groupby(stages)] == ["verilate", "compile", "train", "compile"]
    assert b"__gcov" not in trained.executable.read_bytes()
    after, again = simulate(job), model_of(dataclasses.replace(job, train=True))
    assert (again.directory, again.cached) == (trained.directory, True)
    assert (after.cycles, after.dumps, after.registers) == (before.cycles, before.dumps, before.registers)
    assert not model_of(dataclasses.replace(job, kind="regress")).trained


def test_no_inline_must_name_a_module(design, tmp_path):
    for name in ("rowmesh.v", "rowmesh.json"):
        (tmp_path / name).write_text((design / name).read_text().replace('"no_inline": []', '"no_inline": ["pe"]'))
    with pytest.raises(BuildError, match="no_inline of 'pe'"):
        build_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory": "slow"}, "SimJob.memory must be"),
        ({"latency": 1}, "SimJob.latency must be at least 2, not 1"),
        ({"dumps": [(0xFFFF, 2)]}, "SimJob.dumps must lie in the memory"),
    ],
)
def test_a_wrong_job_is_refused(design, change, message):
    with pytest.raises(ValueError, match=message):
        copy_job(design, **change)
