"""The cocotb test that runs jobs; `rowmesh.sim.run.simulate_all` starts it."""

import json
import time
from typing import Any

import cocotb
from cocotb.triggers import Timer

from rowmesh.sim.host import CYCLE_NS, Host, Session

__all__ = ["run_jobs"]

_REPORT_CYCLES = {"fast": 50_000, "axi-random": 1_000}


async def _report(session: Session, before: int) -> None:
    """Leave the cycle count for the process that shows it."""
    path = session.folder / "progress"
    while True:
        await Timer(_REPORT_CYCLES[session.job["memory"]] * CYCLE_NS, "ns")
        path.write_text(str(before + session.host.cycles), encoding="utf-8")


async def _registers(host: Host, names: list[str]) -> dict[str, int]:
    return {name: await host.read(name) for name in names}


async def _run(session: Session, run: dict[str, Any], before: int) -> dict[str, Any]:
    """Write the registers, start, wait, read every register; ``before`` are the cycles of the jobs before."""
    host = session.host
    for name, value in run["register_writes"].items():
        await host.write(name, value)
    await host.write("PROGRAM", run["program_address"])
    assert not host.irq, "irq is high before the start"
    reporter = cocotb.start_soon(_report(session, before))
    moved = host.traffic
    begin = time.perf_counter()
    await host.start(run["max_cycles"])
    ended = await host.finish()
    seconds = time.perf_counter() - begin
    reporter.cancel()
    readable = [name for name, register in session.job["registers"].items() if register["readable"]]
    return {
        "cycles": host.cycles,
        "timed_out": not ended,
        "seconds": seconds,
        "traffic": {name: value - moved[name] for name, value in host.traffic.items()},
        "register_values": await _registers(host, readable),
    }


@cocotb.test()
async def run_jobs(dut: Any) -> None:
    """Run the jobs one after another."""
    session = Session(dut)
    await session.host.ready()
    results: list[dict[str, Any]] = []
    for number, run in enumerate(session.job["runs"]):
        if number:
            await session.host.clear_irq()
            session.exchange(number)
        results.append(await _run(session, run, sum(result["cycles"] for result in results)))
        if results[-1]["timed_out"] or results[-1]["register_values"].get("ERROR", 0):
            break
    (session.folder / "result.json").write_text(json.dumps(results), encoding="utf-8")
