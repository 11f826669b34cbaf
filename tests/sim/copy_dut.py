"""A small design with the accelerator's ports, to test the harness without the accelerator: it copies memory.

PROGRAM points at three 64-bit words: source, destination, length in beats (a multiple of BURST, at most
DEPTH). On a start it reads them, requests the whole source back to back, writes it back to back, and raises
irq with the last write response. A length of 0 never ends. A soft reset clears SCRATCH.
"""

import json
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import fifo, wiring
from amaranth.lib.wiring import In, Out
from pyosys import libyosys

__all__ = ["BURST", "DEPTH", "OVERHEAD", "CopyEngine", "write_copy_dut"]

BURST = 16
DEPTH = 256
ADDR_WIDTH = 40
DATA_WIDTH = 64

START, SOFT_RESET, IRQ_CLEAR = 7, 1, 12
"""Bits of CONTROL, not where the accelerator has them: the harness takes them from the register map."""

BUSY, DONE = 3, 9
"""Bits of STATUS."""

READ_ERROR, WRITE_ERROR = 0, 16
"""Added to an AXI response for the register ERROR."""

SLAVE_ERROR, DECODE_ERROR = 2, 3
"""AXI responses."""


def _bits(**places: int) -> dict[str, dict[str, int]]:
    return {name: {"low": low, "width": 1} for name, low in places.items()}


REGISTERS = {
    "CONTROL": {
        "offset": 0x00,
        "width": 32,
        "fields": _bits(start=START, soft_reset=SOFT_RESET, irq_clear=IRQ_CLEAR),
    },
    "STATUS": {"offset": 0x04, "width": 32, "fields": _bits(busy=BUSY, done=DONE)},
    "ERROR": {"offset": 0x08, "width": 32},
    "SCRATCH": {"offset": 0x0C, "width": 32},
    "PROGRAM": {"offset": 0x10, "width": 64},
}

OVERHEAD = 3
"""Cycles of a run beyond two read latencies, the beats read (3 + length), and a write latency.

With the start write at edge 0: the descriptor's address at 1, its beats at 1 + L to 3 + L, the first
address of the block at 4 + L, its beats at 4 + 2 L to 3 + 2 L + length, the last written two edges later
(the buffer), the response W after that, and irq is seen at the next edge.
"""


class CopyEngine(wiring.Component):
    """Reads a descriptor, copies, interrupts."""

    def __init__(self) -> None:
        address = {"id": 1, "addr": ADDR_WIDTH, "len": 8, "size": 3, "burst": 2}
        address |= {"lock": 1, "cache": 4, "prot": 3}
        channels = {
            "aw": address,
            "w": {"data": DATA_WIDTH, "strb": DATA_WIDTH // 8, "last": 1},
            "ar": address,
        }
        responses = {"b": {"id": 1, "resp": 2}, "r": {"id": 1, "data": DATA_WIDTH, "resp": 2, "last": 1}}
        members = {"irq": Out(1)}
        for flow, ready, group in ((Out, In, channels), (In, Out, responses)):
            for name, fields in group.items():
                for field, width in {**fields, "valid": 1}.items():
                    members[f"m_axi_{name}{field}"] = flow(width)
                members[f"m_axi_{name}ready"] = ready(1)
        for name, fields in {
            "aw": {"addr": 12, "prot": 3},
            "w": {"data": 32, "strb": 4},
            "ar": {"addr": 12, "prot": 3},
        }.items():
            for field, width in {**fields, "valid": 1}.items():
                members[f"s_axil_{name}{field}"] = In(width)
            members[f"s_axil_{name}ready"] = Out(1)
        for name, fields in {"b": {"resp": 2}, "r": {"data": 32, "resp": 2}}.items():
            for field, width in {**fields, "valid": 1}.items():
                members[f"s_axil_{name}{field}"] = Out(width)
            members[f"s_axil_{name}ready"] = In(1)
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        program = Signal(64)
        scratch = Signal(32, reset_less=True)
        error = Signal(32)
        busy = Signal()
        done = Signal()
        start = Signal()

        # Registers
        take = self.s_axil_awvalid & self.s_axil_wvalid & ~self.s_axil_bvalid
        m.d.comb += [self.s_axil_awready.eq(take), self.s_axil_wready.eq(take)]
        with m.If(self.s_axil_bready):
            m.d.sync += self.s_axil_bvalid.eq(0)
        with m.If(take):
            m.d.sync += [self.s_axil_bvalid.eq(1), self.s_axil_bresp.eq(0)]
            with m.Switch(self.s_axil_awaddr):
                with m.Case(0x00):
                    m.d.comb += start.eq(self.s_axil_wdata[START] & ~busy)
                    with m.If(self.s_axil_wdata[IRQ_CLEAR] | self.s_axil_wdata[SOFT_RESET]):
                        m.d.sync += self.irq.eq(0)
                    with m.If(self.s_axil_wdata[SOFT_RESET]):
                        m.d.sync += [scratch.eq(0), done.eq(0)]
                with m.Case(0x0C):
                    m.d.sync += scratch.eq(self.s_axil_wdata)
                with m.Case(0x10):
                    m.d.sync += program[:32].eq(self.s_axil_wdata)
                with m.Case(0x14):
                    m.d.sync += program[32:].eq(self.s_axil_wdata)
                with m.Default():
                    m.d.sync += self.s_axil_bresp.eq(2)
        look = self.s_axil_arvalid & ~self.s_axil_rvalid
        m.d.comb += self.s_axil_arready.eq(look)
        with m.If(self.s_axil_rready):
            m.d.sync += self.s_axil_rvalid.eq(0)
        with m.If(look):
            m.d.sync += [self.s_axil_rvalid.eq(1), self.s_axil_rresp.eq(0)]
            values = {0x04: busy << BUSY | done << DONE, 0x08: error, 0x0C: scratch}
            values |= {0x10: program[:32], 0x14: program[32:]}
            with m.Switch(self.s_axil_araddr):
                for offset, value in {0x00: 0, **values}.items():
                    with m.Case(offset):
                        m.d.sync += self.s_axil_rdata.eq(value)
                with m.Default():
                    m.d.sync += [self.s_axil_rdata.eq(0), self.s_axil_rresp.eq(2)]

        # Copy
        m.submodules.buffer = buffer = fifo.SyncFIFOBuffered(width=DATA_WIDTH, depth=DEPTH)
        fields = [Signal(64, name=name) for name in ("source", "destination", "length")]
        source, destination, length = fields
        index = Signal(2)
        requested = Signal(16)
        addressed = Signal(16)
        beat = Signal(4)
        written = Signal(16)
        answered = Signal(16)
        descriptor = Signal()
        copying = Signal()
        m.d.comb += [
            self.m_axi_arsize.eq(3),
            self.m_axi_awsize.eq(3),
            self.m_axi_arburst.eq(1),
            self.m_axi_awburst.eq(1),
            self.m_axi_wstrb.eq(0xFF),
            self.m_axi_rready.eq(1),
            self.m_axi_bready.eq(1),
            buffer.w_data.eq(self.m_axi_rdata),
            buffer.w_en.eq(copying & self.m_axi_rvalid),
            self.m_axi_arvalid.eq(descriptor | (copying & (requested != length))),
            self.m_axi_araddr.eq(Mux(copying, source + (requested << 3), program)),
            self.m_axi_arlen.eq(Mux(copying, BURST - 1, 2)),
            self.m_axi_awvalid.eq(copying & (addressed != length)),
            self.m_axi_awaddr.eq(destination + (addressed << 3)),
            self.m_axi_awlen.eq(BURST - 1),
            self.m_axi_wvalid.eq(buffer.r_rdy),
            self.m_axi_wdata.eq(buffer.r_data),
            self.m_axi_wlast.eq(beat == BURST - 1),
            buffer.r_en.eq(self.m_axi_wready),
        ]
        with m.If(start):
            m.d.sync += [busy.eq(1), descriptor.eq(1), index.eq(0), error.eq(0), self.irq.eq(0), done.eq(0)]
            m.d.sync += [s.eq(0) for s in (requested, addressed, beat, written, answered)]
        with m.If(self.m_axi_arvalid & self.m_axi_arready):
            m.d.sync += descriptor.eq(0)
            with m.If(copying):
                m.d.sync += requested.eq(requested + BURST)
        with m.If(busy & ~copying & self.m_axi_rvalid):
            m.d.sync += index.eq(index + 1)
            for i, field in enumerate(fields):
                with m.If(index == i):
                    m.d.sync += field.eq(self.m_axi_rdata)
            m.d.sync += copying.eq(index == 2)
        with m.If(self.m_axi_rvalid & (self.m_axi_rresp != 0)):
            m.d.sync += error.eq(READ_ERROR + self.m_axi_rresp)
        with m.If(self.m_axi_awvalid & self.m_axi_awready):
            m.d.sync += addressed.eq(addressed + BURST)
        with m.If(self.m_axi_wvalid & self.m_axi_wready):
            m.d.sync += beat.eq(beat + 1)
        with m.If(self.m_axi_bvalid):
            m.d.sync += answered.eq(answered + BURST)
            with m.If(self.m_axi_bresp != 0):
                m.d.sync += error.eq(WRITE_ERROR + self.m_axi_bresp)
            with m.If(answered + BURST == length):
                m.d.sync += [busy.eq(0), copying.eq(0), done.eq(1), self.irq.eq(1)]
        # A descriptor that cannot be read is an error at once.
        with m.If(busy & ~copying & self.m_axi_rvalid & (self.m_axi_rresp != 0)):
            m.d.sync += [busy.eq(0), copying.eq(0), self.irq.eq(1)]
        return m


def write_copy_dut(folder: Path) -> Path:
    """Write rowmesh.v and rowmesh.json of the design to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "rowmesh.il"
    source.write_text(rtlil.convert(CopyEngine(), name="rowmesh"))
    design = libyosys.Design()
    # without initial values, as `rowmesh generate --no-initial-values` has it: what a kind of model begins with counts
    commands = (f"read_rtlil {source}", "proc -nomux -norom", "setattr -unset init w:*", "memory_collect")
    for command in commands:
        libyosys.run_pass(command, design)
    libyosys.run_pass(f"write_verilog -norename {folder / 'rowmesh.v'}", design)
    source.unlink()
    metadata = {
        "top": "rowmesh",
        "parameters": {"axi_data_width": DATA_WIDTH, "axi_addr_width": ADDR_WIDTH},
        "registers": REGISTERS,
        "no_inline": [],
    }
    (folder / "rowmesh.json").write_text(json.dumps(metadata, indent=2))
    return folder
