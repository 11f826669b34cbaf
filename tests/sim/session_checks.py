"""cocotb tests of the host's session, run by test_harness.py on the copy design."""

import cocotb
import pytest

from rowmesh.sim.host import RegisterError, Session

DESTINATION = 0x8000


@cocotb.test()
async def clearing_the_interrupt_clears_nothing_else(dut):
    session = Session(dut)
    host = session.host
    await host.ready()
    await host.write("SCRATCH", 0xDEADBEEF)
    await host.write("PROGRAM", session.job["runs"][0]["program_address"])
    await host.start(limit=10_000)
    assert await host.finish()
    await host.clear_irq()
    assert not host.irq
    assert await host.field("STATUS", "done")
    assert await host.read("SCRATCH") == 0xDEADBEEF
    await host.command("soft_reset")
    assert not await host.field("STATUS", "done")
    assert await host.read("SCRATCH") == 0


@cocotb.test()
async def two_runs_with_a_reset_between(dut):
    session = Session(dut)
    host = session.host
    await host.ready()
    cycles = []
    for word in (b"original", b"modified"):
        session.memory[0x1000:0x1008] = word
        await host.write("PROGRAM", session.job["runs"][0]["program_address"])
        await host.start(limit=10_000)
        assert await host.finish()
        assert host.irq
        assert session.memory[DESTINATION : DESTINATION + 8] == word
        cycles.append(host.cycles)
        await host.reset()
        assert await host.read("PROGRAM") == 0
        assert not host.irq
    assert cycles[0] == cycles[1]
    session.memory[DESTINATION : DESTINATION + 8] = b"changed!"


@cocotb.test()
async def a_register_that_is_not_there_is_an_error(dut):
    host = Session(dut).host
    await host.ready()
    assert (await host.access(0x7FC))[1] == 2
    with pytest.raises(RegisterError, match="SCRATCH"):
        await host.read("MISSING")
    with pytest.raises(RegisterError, match="CONTROL has no field halt; it has start, soft_reset, irq_clear"):
        await host.command("halt")
