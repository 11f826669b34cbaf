"""cocotb tests of the control path, run by test_faults.py on the tiny accelerator with a layer in memory."""

import cocotb
from cocotb.triggers import Timer

from rowmesh.hw.registers import ErrorCode
from rowmesh.sim.host import CYCLE_NS, Session


async def begin(session):
    host = session.host
    await host.ready()
    await host.write("PROGRAM", session.job["runs"][0]["program_address"])
    return host


@cocotb.test()
async def a_start_while_busy_is_an_error(dut):
    session = Session(dut)
    host = await begin(session)
    await host.start(limit=100_000)
    await host.command("start")
    assert await host.finish()
    assert await host.read("ERROR") == ErrorCode.START_WHILE_BUSY


@cocotb.test()
async def a_soft_reset_recovers(dut):
    session = Session(dut)
    host = await begin(session)
    cycles = []
    for interrupted in (False, True, True):
        if interrupted:
            await host.command("start")
            await Timer(900 * CYCLE_NS, "ns")
            await host.command("soft_reset")
            while await host.field("STATUS", "busy"):
                await Timer(10 * CYCLE_NS, "ns")
        await host.start(limit=100_000)
        assert await host.finish()
        assert await host.read("ERROR") == ErrorCode.NONE
        cycles.append(await host.read("CYCLES"))
        await host.clear_irq()
        assert not host.irq
        assert await host.field("STATUS", "done")  # a soft reset would clear it
    assert cycles[0] == cycles[1] == cycles[2]
