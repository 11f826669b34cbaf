"""The core: engines, global buffer, array, banks, drain; all that a program drives, without control and AXI reads."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from rowmesh.hw.array import Array
from rowmesh.hw.axi import Axi4Write
from rowmesh.hw.block import Block
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import Engine
from rowmesh.hw.dma import Beats, Loader, Storer, request_layout
from rowmesh.hw.drain import Drain
from rowmesh.hw.glb import GlobalBank
from rowmesh.hw.issuer import Issuer
from rowmesh.hw.nest import ConfigBus
from rowmesh.hw.observer import PARTS, Observer
from rowmesh.hw.pe import PE_EVENTS, PE_WAITS
from rowmesh.hw.program import STARTABLE
from rowmesh.hw.psum_bank import BANK_EVENTS, PsumBank
from rowmesh.hw.reset import with_own_reset

__all__ = ["ENGINES", "LOADERS", "WAITS", "Core", "counter_widths"]

LOADERS = (Engine.LOAD_WEIGHT, Engine.LOAD_IACT, Engine.LOAD_PARAM)
"""Load engines in the order of their read ports."""

ENGINES = STARTABLE
"""Engines in the order of the core's start streams and idle bits."""

WAITS = (
    "load_iact_room",
    "load_weight_room",
    "load_param_room",
    "read_iact_fill",
    "read_weight_fill",
    "pe_iact",
    "pe_weight",
    "pe_psum",
    "bank_room",
    "drain_psum",
    "drain_param",
    "drain_beat",
    "store_beats",
)
"""Which engine waits for what: bits of the status register WAITS."""


def counter_widths(config: ArchConfig) -> dict[str, int]:
    """Performance counters and the widths of their increments a cycle."""
    words, beats = bits_for(config.flit_words), bits_for(config.burst_beats)
    pes, banks = bits_for(config.pes), bits_for(config.cols)
    return {
        **{f"part_{part}": 1 for part in PARTS},
        "beats_load_iact": beats,
        "beats_load_weight": beats,
        "beats_load_param": beats,
        "beats_store": 1,
        "words_store": words,
        "glb_iact_fill": 1,
        "glb_weight_fill": 1,
        "glb_iact_read": words,
        "glb_weight_read": words,
        "noc_iact_injected": words,
        "noc_weight_injected": words,
        **{f"pe_{event}": pes for event in PE_EVENTS},
        **{f"bank_{event}": banks for event in BANK_EVENTS},
    }


class Core(Block):
    """Everything that works on tensors.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    config : In(ConfigBus())
    starts : In(array of stream.Signature(1)), in the order of ENGINES
    idle : Out(len(ENGINES))
        Of each engine, ``idle_latency`` cycles ago.
    requests : Out(array of stream.Signature(request_layout(config))), in the order of LOADERS
    data : In(array of Beats(axi_data_width))
    axi : Out(Axi4Write)
    halt : In(1)
        Start no further write burst.
    writes_outstanding : Out
        Write bursts whose response has not come.
    write_error : Out(1)
    busy : In(1)
        A program runs (for the observer).
    counters : Out
        Increments of this cycle, fields of counter_widths(config) one after another.
    waits : Out(len(WAITS))
    progress : Out(1)
        Something moved.
    """

    idle_latency = 1

    def __init__(self, config: ArchConfig) -> None:
        self._config = config
        self._counters = counter_widths(config)
        super().__init__(
            {
                "config": In(ConfigBus()),
                "starts": In(stream.Signature(1)).array(len(ENGINES)),
                "idle": Out(len(ENGINES)),
                "requests": Out(stream.Signature(request_layout(config))).array(len(LOADERS)),
                "data": In(Beats(config.axi_data_width)).array(len(LOADERS)),
                "axi": Out(Axi4Write(config.axi_addr_width, config.axi_data_width)),
                "halt": In(1),
                "writes_outstanding": Out(range(config.read_bursts + 1)),
                "write_error": Out(1),
                "busy": In(1),
                "counters": Out(sum(self._counters.values())),
                "waits": Out(len(WAITS)),
                "progress": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        config = self._config

        load_iact = Loader(config, Engine.LOAD_IACT, clip=True, depth=config.glb_iact_flits)
        load_weight = Loader(config, Engine.LOAD_WEIGHT, clip=False, depth=config.glb_weight_flits)
        load_param = Loader(config, Engine.LOAD_PARAM, clip=False, depth=config.param_words)
        read_iact = GlobalBank(config, Engine.READ_IACT)
        read_weight = GlobalBank(config, Engine.READ_WEIGHT)
        issuer, drain, store, array = Issuer(config), Drain(config), Storer(config), Array(config)
        engines: dict[Engine, Any] = {
            Engine.LOAD_IACT: load_iact,
            Engine.LOAD_WEIGHT: load_weight,
            Engine.LOAD_PARAM: load_param,
            Engine.READ_IACT: read_iact,
            Engine.READ_WEIGHT: read_weight,
            Engine.STEP: issuer,
            Engine.DRAIN: drain,
            Engine.STORE: store,
        }
        for number, engine in enumerate(ENGINES):
            unit = engines[engine]
            m.submodules[engine.name.lower()] = with_own_reset(m, engine.name.lower(), unit)
            wiring.connect(m, wiring.flipped(self.config), unit.config)
            wiring.connect(m, wiring.flipped(self.starts[number]), unit.start)
            m.d.sync += self.idle[number].eq(unit.idle)
        m.submodules.array = array
        wiring.connect(m, wiring.flipped(self.config), array.config)

        for number, engine in enumerate(LOADERS):
            unit = engines[engine]
            wiring.connect(m, unit.request, wiring.flipped(self.requests[number]))
            wiring.connect(m, wiring.flipped(self.data[number]), unit.data)
        wiring.connect(m, load_iact.fill, read_iact.fill)
        wiring.connect(m, load_weight.fill, read_weight.fill)
        m.d.comb += [
            read_iact.skip.eq(load_iact.skip),
            load_iact.freed.eq(read_iact.freed),
            load_weight.freed.eq(read_weight.freed),
            load_param.freed.eq(drain.freed),
            drain.fill.valid.eq(load_param.fill.valid),
            drain.fill.payload.eq(load_param.fill.payload),
            load_param.fill.ready.eq(drain.fill.ready),
        ]
        wiring.connect(m, read_iact.o, array.iact)
        wiring.connect(m, read_weight.o, array.weight)
        wiring.connect(m, issuer.o, array.step)

        banks = []
        for col in range(config.cols):
            bank = PsumBank(config)
            m.submodules[f"bank{col}"] = with_own_reset(m, f"bank{col}", bank)
            banks.append(bank)
            wiring.connect(m, array.psum[col], bank.i)
            port = drain.banks[col]
            m.d.comb += [
                bank.offset.eq(port.offset),
                bank.enable.eq(port.enable),
                bank.free.eq(port.free),
                bank.release.eq(port.release),
                port.finals.eq(bank.finals),
                port.busy.eq(bank.busy),
                port.response.eq(bank.response),
            ]
        for lane in range(config.lanes):
            wiring.connect(m, drain.lanes[lane], store.lanes[lane])
        m.d.comb += drain.returned.eq(store.returned)
        wiring.connect(m, store.axi, wiring.flipped(self.axi))
        m.d.comb += [
            store.halt.eq(self.halt),
            self.writes_outstanding.eq(store.outstanding),
            self.write_error.eq(store.error),
        ]

        waits = {
            "load_iact_room": load_iact.waiting,
            "load_weight_room": load_weight.waiting,
            "load_param_room": load_param.waiting,
            "read_iact_fill": read_iact.starved,
            "read_weight_fill": read_weight.starved,
            **{f"pe_{name}": array.waits[k] for k, name in enumerate(PE_WAITS)},
            "bank_room": Cat(bank.blocked for bank in banks).any(),
            "drain_psum": drain.waits[0],
            "drain_param": drain.waits[1],
            "drain_beat": drain.waits[2],
            "store_beats": store.waiting,
        }
        m.d.sync += self.waits.eq(Cat(waits[name] for name in WAITS))

        event_width = array.event_width
        pe_events = {
            f"pe_{name}": array.events[k * event_width : (k + 1) * event_width] for k, name in enumerate(PE_EVENTS)
        }
        m.submodules.observer = observer = Observer()
        m.d.comb += [
            observer.busy.eq(self.busy),
            observer.active.eq(~issuer.idle),
            observer.mac.eq(pe_events["pe_mac"] != 0),
            observer.issued.eq(issuer.issued),
            observer.waits.eq(array.waits),
        ]
        # the array's waits are older than that
        m.d.sync += [
            observer.iact_starved.eq(read_iact.starved),
            observer.weight_starved.eq(read_weight.starved),
        ]
        increments = {
            **{f"part_{part}": observer.part[k] for k, part in enumerate(PARTS)},
            "beats_load_iact": load_iact.requested,
            "beats_load_weight": load_weight.requested,
            "beats_load_param": load_param.requested,
            "beats_store": store.written_beats,
            "words_store": store.written_words,
            "glb_iact_fill": load_iact.fill.valid,
            "glb_weight_fill": load_weight.fill.valid,
            "glb_iact_read": read_iact.read,
            "glb_weight_read": read_weight.read,
            "noc_iact_injected": read_iact.injected,
            "noc_weight_injected": read_weight.injected,
            **pe_events,
            **{f"bank_{name}": sum(bank.events[k] for bank in banks) for k, name in enumerate(BANK_EVENTS)},
        }
        at = 0
        moved = Signal()
        for name, width in self._counters.items():
            target = self.counters[at : at + width]
            if name.startswith("part_"):
                m.d.comb += target.eq(increments[name])
            else:
                m.d.sync += target.eq(increments[name])
            at += width
        m.d.sync += moved.eq(self.counters[len(PARTS) :].any())
        m.d.comb += self.progress.eq(moved)
        return m
