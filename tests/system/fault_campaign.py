"""The cocotb side of the fault campaign of test_faults.py: one fault a run, each followed by a run without one.

Every run ends in time. Nothing is written outside of the window. After *done* nothing moves any more, and the next run,
without a reset, is right to the cycle; after an error it is so behind the recovery of docs/control.md.
"""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import Timer

from rowmesh.hw.control import RESET_CYCLES
from rowmesh.hw.registers import RESET_LIMIT, ErrorCode
from rowmesh.sim.host import CYCLE_NS, Host, Session

_QUIET = 300  # cycles after a run in which nothing may move
_SLACK = 100  # cycles of an access, and between an error and its interrupt


class Campaign:
    """The layers' memory images and what is done with them."""

    def __init__(self, session: Session, plan: dict[str, Any]) -> None:
        self.session, self.host, self.plan = session, session.host, plan
        self.layers = [
            {
                **layer,
                "image": bytes.fromhex(layer["image"]),
                "ofmap": bytes.fromhex(layer["ofmap"]),
            }
            for layer in plan["layers"]
        ]
        self.ends: Counter[str] = Counter()

    async def prepare(self, layer: dict[str, Any], patches: Any = ()) -> bytes:
        """Lay a layer's image into memory and write all registers; return the memory."""
        base, window = self.plan["base"], self.plan["window"]
        memory = bytearray(b"\x5a" * len(self.session.memory))
        memory[base : base + window] = layer["image"].ljust(window, b"\xa5")
        for address, change in patches:
            at = base + address
            if change.startswith("^"):
                word = int.from_bytes(memory[at : at + 4], "little") ^ int(change[1:], 16)
                memory[at : at + 4] = word.to_bytes(4, "little")
            else:
                memory[at : at + len(change) // 2] = bytes.fromhex(change)
        self.session.memory[:] = bytes(memory)
        for name, value in self.plan["registers"].items():
            await self.host.write(name, value)
        return bytes(memory)

    def assert_untouched(self, before: bytes) -> None:
        """Nothing outside of the window has changed."""
        base, end = self.plan["base"], self.plan["base"] + self.plan["window"]
        assert self.session.memory[:base] == before[:base], "written below the window"
        assert self.session.memory[end:] == before[end:], "written above the window"

    async def check(self, layer: dict[str, Any]) -> None:
        """A run without a fault is right, and takes the cycles that it takes alone."""
        before = await self.prepare(layer)
        await self.host.start(self.plan["budget"] + _SLACK)
        assert await self.host.finish(), "no end"
        assert await self.host.read("ERROR") == ErrorCode.NONE
        assert await self.host.field("STATUS", "done")
        at, ofmap = self.plan["base"] + layer["ofmap_at"], layer["ofmap"]
        after = self.session.memory[:]
        assert after[at : at + len(ofmap)] == ofmap, "wrong words"
        assert after[:at] + after[at + len(ofmap) :] == before[:at] + before[at + len(ofmap) :], "other memory changed"
        assert self.host.cycles == layer["cycles"], f"{self.host.cycles} cycles instead of {layer['cycles']}"
        await self.host.clear_irq()

    async def inject(self, injection: dict[str, Any]) -> str:
        """Run with a fault until the accelerator is ready for another run; return how it ended."""
        host = self.host
        layer = self.layers[injection["layer"]]
        before = await self.prepare(layer, injection["patches"])
        host.set_faults(**injection["faults"])
        await host.start(self.plan["budget"] + _SLACK)
        reset = False
        for cycle, action, arguments in injection["actions"]:
            if not reset and cycle > host.cycles:
                await Timer((cycle - host.cycles) * CYCLE_NS, "ns")
            reset |= action == "reset"
            await self.act(action, arguments)
        if not reset:
            await host.finish()
        await Timer(_QUIET * CYCLE_NS, "ns")
        for _ in range(self.plan["budget"] // _QUIET + 1):  # what actions have started after the end
            if not await host.field("STATUS", "busy"):
                break
            await Timer(_QUIET * CYCLE_NS, "ns")
        status = await host.read("STATUS")
        assert not await host.field("STATUS", "busy"), f"no end: STATUS {status:#x}"
        error = ErrorCode(await host.read("ERROR"))
        if not await host.field("STATUS", "error"):
            assert error == ErrorCode.NONE
            moved = host.traffic
            await Timer(_QUIET * CYCLE_NS, "ns")
            assert host.traffic == moved, "something moves after the end"
        else:
            assert error != ErrorCode.NONE
            await self.recover()
        self.assert_untouched(before)
        host.set_faults()
        await host.clear_irq()
        return "done" if error == ErrorCode.NONE else error.name.lower()

    async def act(self, action: str, arguments: list[int]) -> None:
        """Do what a fault's action says."""
        host: Host = self.host
        if action == "reset":
            await host.reset(*arguments)
        elif action in ("start", "soft_reset"):
            await host.command(action)
        else:
            offset, word = arguments
            await host.access(offset, word if action == "write" else None)

    async def recover(self) -> None:
        """Recover from an error as docs/control.md says."""
        host = self.host
        for _ in range(2):
            await host.command("soft_reset")
            for _ in range((RESET_LIMIT + RESET_CYCLES + _SLACK) // _SLACK):
                if not await host.field("STATUS", "busy"):
                    break
                await Timer(_SLACK * CYCLE_NS, "ns")
            assert not await host.field("STATUS", "busy"), "a soft reset without an end"
            if not await host.field("STATUS", "error"):
                return
            assert await host.read("ERROR") == ErrorCode.UNANSWERED
            host.set_faults()  # the memory answers at last
            await Timer(_QUIET * CYCLE_NS, "ns")
        raise AssertionError("a soft reset does not recover")


@cocotb.test()
async def campaign(dut: Any) -> None:
    """Run all faults of the plan."""
    session = Session(dut)
    await session.host.ready()
    plan = json.loads(Path(os.environ["ROWMESH_FAULTS"]).read_text())
    runs = Campaign(session, plan)
    for layer in runs.layers:
        await runs.check(layer)
    for number, injection in enumerate(plan["injections"]):
        try:
            end = await runs.inject(injection)
            runs.ends[f"{injection['kind']} {end}"] += 1
            await runs.check(runs.layers[number % len(runs.layers)])
        except AssertionError as failure:
            raise AssertionError(f"fault {number}, {json.dumps(injection)}: {failure}") from failure
    Path(os.environ["ROWMESH_FAULTS"]).with_suffix(".ends").write_text(json.dumps(runs.ends))
