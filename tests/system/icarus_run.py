"""A layer in a simulator with four states: the cocotb side of test_icarus.py.

The memory is a second writing of the timing that docs/simulation.md promises, cycle by cycle in Python. No output may
be X after the reset: no valid, no ready, no interrupt, and no payload while it is valid.
"""

import json
import os
from collections import deque
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, RisingEdge

RESET_CYCLES = 16
READ = ("araddr", "arlen", "arsize", "arburst")
ADDRESS = ("awaddr", "awlen", "awsize", "awburst")


class Memory:
    """The five channels, one edge at a time."""

    def __init__(self, contents, beat_bytes, latency, write_latency):
        self.contents, self.beat_bytes = contents, beat_bytes
        self.latency, self.write_latency = latency, write_latency
        self.reads, self.writes, self.replies = deque(), deque(), deque()
        self.inputs = {"arready": 1, "awready": 1, "wready": 0, "rvalid": 0, "bvalid": 0, "rlast": 0, "rdata": 0}

    def edge(self, now, seen):
        """Take what was seen at an edge; the inputs behind it are then those of the next."""
        inputs = self.inputs
        load = bool(self.reads) and now >= self.reads[0][2] and (not inputs["rvalid"] or seen["rready"])
        if load:
            address, beats, _ = self.reads[0]
            inputs["rdata"] = int.from_bytes(self.contents[address : address + self.beat_bytes], "little")
            inputs["rlast"] = int(beats == 1)
            self.reads[0][:2] = address + self.beat_bytes, beats - 1
            if beats == 1:
                self.reads.popleft()
        if seen["arvalid"]:
            self.reads.append([seen["araddr"], seen["arlen"] + 1, now + self.latency - 1])
        if load or seen["rready"]:
            inputs["rvalid"] = int(load)

        answer = bool(self.replies) and now >= self.replies[0] and (not inputs["bvalid"] or seen["bready"])
        if answer:
            self.replies.popleft()
        if answer or seen["bready"]:
            inputs["bvalid"] = int(answer)
        if seen["wvalid"] and inputs["wready"]:
            address, beats = self.writes[0]
            for byte in range(self.beat_bytes):
                if seen["wstrb"] >> byte & 1:
                    self.contents[address + byte] = seen["wdata"] >> 8 * byte & 0xFF
            assert seen["wlast"] == (beats == 1)
            self.writes[0][:] = address + self.beat_bytes, beats - 1
            if beats == 1:
                self.writes.popleft()
                self.replies.append(now + self.write_latency - 1)
        if seen["awvalid"]:
            self.writes.append([seen["awaddr"], seen["awlen"] + 1])
        inputs["wready"] = int(bool(self.writes))


class Bench:
    """Clock, memory and registers."""

    def __init__(self, dut, job, memory):
        self.dut, self.job, self.memory = dut, job, memory
        self.now = 0
        self.seen = {}
        for name in ("awvalid", "wvalid", "arvalid", "awaddr", "wdata", "araddr", "awprot", "arprot"):
            getattr(dut, f"s_axil_{name}").value = 0
        for name, value in {"wstrb": 15, "bready": 1, "rready": 1}.items():
            getattr(dut, f"s_axil_{name}").value = value
        for name in ("bid", "bresp", "rid", "rresp"):
            getattr(dut, f"m_axi_{name}").value = 0
        self._drive()

    def _drive(self):
        for name, value in self.memory.inputs.items():
            getattr(self.dut, f"m_axi_{name}").value = value

    def known(self, name):
        value = getattr(self.dut, name).value
        assert set(str(value)) <= {"0", "1"}, f"{name} is {value} in cycle {self.now}"
        return int(value)

    async def step(self):
        """Let one edge pass; return what was seen on the register port."""
        await FallingEdge(self.dut.clk)
        seen = {name: self.known(f"m_axi_{name}") for name in ("arvalid", "awvalid", "wvalid", "rready", "bready")}
        for valid, payload in {"arvalid": READ, "awvalid": ADDRESS, "wvalid": ("wdata", "wstrb", "wlast")}.items():
            if seen[valid]:
                seen |= {name: self.known(f"m_axi_{name}") for name in payload}
        port = {name: self.known(f"s_axil_{name}") for name in ("awready", "wready", "arready", "bvalid", "rvalid")}
        port["irq"] = self.known("irq")
        if port["rvalid"]:
            port["rdata"] = self.known("s_axil_rdata")
        self.memory.edge(self.now, seen)
        self.now += 1
        await RisingEdge(self.dut.clk)
        self._drive()
        return port

    async def write(self, offset, value):
        """Write a register word; return the edge of the later of the two handshakes."""
        dut = self.dut
        dut.s_axil_awaddr.value, dut.s_axil_wdata.value = offset, value
        dut.s_axil_awvalid.value = dut.s_axil_wvalid.value = 1
        waiting, answered = {"aw", "w"}, False
        while waiting or not answered:
            port = await self.step()
            for channel in tuple(waiting):
                if port[f"{channel}ready"]:
                    getattr(dut, f"s_axil_{channel}valid").value = 0
                    waiting.remove(channel)
                    edge = self.now
            answered = answered or bool(port["bvalid"])
            if offset == 0 and not waiting:
                return edge
        return edge

    async def read(self, offset):
        """Read a register word."""
        self.dut.s_axil_araddr.value = offset
        self.dut.s_axil_arvalid.value = 1
        while not (port := await self.step())["arready"]:
            pass
        self.dut.s_axil_arvalid.value = 0
        while not port["rvalid"]:
            port = await self.step()
        return port["rdata"]


@cocotb.test()
async def run_layer(dut):
    folder = Path(os.environ["ROWMESH_JOB"])
    job = json.loads((folder / "job.json").read_text())
    contents = bytearray((folder / "memory.bin").read_bytes())
    memory = Memory(contents, len(dut.m_axi_rdata) // 8, job["latency"], job["write_latency"])
    bench = Bench(dut, job, memory)
    dut.rst.value = 1
    cocotb.start_soon(Clock(dut.clk, 10, unit="ns", impl="gpi").start())
    for _ in range(RESET_CYCLES):
        await RisingEdge(dut.clk)
    dut.rst.value = 0
    registers = job["registers"]
    for name, value in job["writes"].items():
        for word in range(registers[name]["width"] // 32):
            await bench.write(registers[name]["offset"] + 4 * word, value >> 32 * word & 0xFFFFFFFF)
    begin = await bench.write(registers["CONTROL"]["offset"], 1)
    while not (await bench.step())["irq"]:
        assert bench.now - begin < job["max_cycles"], "no interrupt"
    cycles = bench.now - begin
    values = {}
    for name in ("STATUS", "ERROR"):
        values[name] = await bench.read(registers[name]["offset"])
    (folder / "memory.bin").write_bytes(contents)
    (folder / "result.json").write_text(json.dumps({"cycles": cycles, "registers": values}))
