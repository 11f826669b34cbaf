"""The cocotb test that runs one job; `rowmesh.sim.run.simulate` starts it."""

import json
import time
from typing import Any

import cocotb
from cocotb.triggers import Timer

from rowmesh.sim.host import CYCLE_NS, Host, Session

__all__ = ["run_job"]

_REPORT_CYCLES = {"fast": 50_000, "axi-random": 1_000}


async def _report(session: Session) -> None:
    """Leave the cycle count for the process that shows it."""
    path = session.folder / "progress"
    while True:
        await Timer(_REPORT_CYCLES[session.job["memory"]] * CYCLE_NS, "ns")
        path.write_text(str(session.host.cycles))


async def _registers(host: Host, names: list[str]) -> dict[str, int]:
    return {name: await host.read(name) for name in names}


@cocotb.test()
async def run_job(dut: Any) -> None:
    """Write the registers, start, wait, read every register."""
    session = Session(dut)
    host, job = session.host, session.job
    await host.ready()
    for name, value in job["register_writes"].items():
        await host.write(name, value)
    await host.write("PROGRAM", job["program_address"])
    assert not host.irq, "irq is high before the start"
    reporter = cocotb.start_soon(_report(session))
    begin = time.perf_counter()
    await host.start(job["max_cycles"])
    ended = await host.finish()
    seconds = time.perf_counter() - begin
    reporter.cancel()
    result = {
        "cycles": host.cycles,
        "timed_out": not ended,
        "seconds": seconds,
        "traffic": host.traffic,
        "register_values": await _registers(host, [n for n, r in job["registers"].items() if r["readable"]]),
    }
    (session.folder / "result.json").write_text(json.dumps(result))
