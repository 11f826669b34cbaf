"""The core: engines, global buffer, array, banks, drain; all that a program drives, without control and AXI reads."""

import functools
from collections.abc import Callable, Iterable
from operator import add, and_, or_
from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from rowmesh.hw.array import Array
from rowmesh.hw.axi import Axi4Write
from rowmesh.hw.block import Block
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import ENGINE_STRIDE, PORT_STRIDE, Engine
from rowmesh.hw.drain import Drain
from rowmesh.hw.glb import GlobalBank
from rowmesh.hw.issuer import Issuer
from rowmesh.hw.loader import Loader
from rowmesh.hw.nest import ConfigBus
from rowmesh.hw.observer import PARTS, Observer
from rowmesh.hw.pe import PE_EVENTS, PE_WAITS
from rowmesh.hw.program import STARTABLE
from rowmesh.hw.psum_bank import BANK_EVENTS, PsumBank, PsumEntry
from rowmesh.hw.reset import with_own_reset
from rowmesh.hw.segments import Beats, request_layout
from rowmesh.hw.storer import Storer

__all__ = ["ENGINES", "WAITS", "Core", "counter_widths", "loaders"]


def loaders(config: ArchConfig) -> tuple[Engine, ...]:
    """Load engines in the order of their read ports."""
    return (
        *(Engine.LOAD_WEIGHT.at(port) for port in range(config.weight_ports)),
        *(Engine.LOAD_IACT.at(port) for port in range(config.iact_ports)),
        Engine.LOAD_PARAM,
    )


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


_PORT_BITS = -PORT_STRIDE * ENGINE_STRIDE & 0xFFFF  # of an address: which port's engine


def counter_widths(config: ArchConfig) -> dict[str, int]:
    """Performance counters and the widths of their increments a cycle."""
    words, beats = bits_for(config.flit_words), bits_for(config.burst_beats)
    iacts, weights = (bits_for(ports * config.flit_words) for ports in (config.iact_ports, config.weight_ports))
    pes, banks = bits_for(config.pes), bits_for(config.cols)
    return {
        **{f"part_{part}": 1 for part in PARTS},
        "beats_load_iact": bits_for(config.iact_ports * config.burst_beats),
        "beats_load_weight": bits_for(config.weight_ports * config.burst_beats),
        "beats_load_param": beats,
        "beats_store": 1,
        "words_store": words,
        "glb_iact_fill": bits_for(config.iact_ports),
        "glb_weight_fill": bits_for(config.weight_ports),
        "glb_iact_read": iacts,
        "glb_weight_read": weights,
        "noc_iact_injected": iacts,
        "noc_weight_injected": weights,
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
    requests : Out(array of stream.Signature(request_layout(config))), in the order of loaders(config)
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
                "requests": Out(stream.Signature(request_layout(config))).array(len(loaders(config))),
                "data": In(Beats(config.axi_data_width)).array(len(loaders(config))),
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

        issuer, drain, store, array = Issuer(config), Drain(config), Storer(config), Array(config)
        load_param = Loader(config, Engine.LOAD_PARAM, clip=False, depth=config.param_words)
        load_iact, load_weight = (
            [Loader(config, engine, clip=clip, depth=depth) for _ in range(ports)]
            for engine, clip, depth, ports in (
                (Engine.LOAD_IACT, True, config.glb_iact_flits, config.iact_ports),
                (Engine.LOAD_WEIGHT, False, config.glb_weight_flits, config.weight_ports),
            )
        )
        read_iact = [GlobalBank(config, Engine.READ_IACT) for _ in load_iact]
        read_weight = [GlobalBank(config, Engine.READ_WEIGHT) for _ in load_weight]
        engines: dict[Engine, list[Any]] = {
            Engine.LOAD_IACT: load_iact,
            Engine.LOAD_WEIGHT: load_weight,
            Engine.LOAD_PARAM: [load_param],
            Engine.READ_IACT: read_iact,
            Engine.READ_WEIGHT: read_weight,
            Engine.STEP: [issuer],
            Engine.DRAIN: [drain],
            Engine.STORE: [store],
        }
        opened = {"iact": array.iact_open, "weight": array.weight_open}
        for number, engine in enumerate(ENGINES):
            units = engines[engine]
            for port, unit in enumerate(units):
                name = engine.at(port).name.lower()
                m.submodules[name] = with_own_reset(m, name, unit)
                self._configure(m, port, unit)
            if len(units) == 1:
                wiring.connect(m, wiring.flipped(self.starts[number]), units[0].start)
            else:
                operand = "iact" if engine in (Engine.LOAD_IACT, Engine.READ_IACT) else "weight"
                self._start(m, number, units, opened[operand])
            m.d.sync += self.idle[number].eq(_over(and_, (unit.idle for unit in units)))
        m.submodules.array = array
        wiring.connect(m, wiring.flipped(self.config), array.config)

        for number, loader in enumerate(loaders(config)):
            unit = engines[loader.first][loader.port]
            wiring.connect(m, unit.request, wiring.flipped(self.requests[number]))
            wiring.connect(m, wiring.flipped(self.data[number]), unit.data)
        fed = list(zip([*load_iact, *load_weight], [*read_iact, *read_weight], strict=True))
        for load, read in fed:
            wiring.connect(m, load.fill, read.fill)
        m.d.comb += [read.skip.eq(load.skip) for load, read in fed[: config.iact_ports]]
        m.d.comb += [load.freed.eq(read.freed) for load, read in fed]
        m.d.comb += [
            load_param.freed.eq(drain.freed),
            drain.fill.valid.eq(load_param.fill.valid),
            drain.fill.payload.eq(load_param.fill.payload),
            load_param.fill.ready.eq(drain.fill.ready),
        ]
        for reads, first, more in (
            (read_iact, array.iact, array.iact_more),
            (read_weight, array.weight, array.weight_more),
        ):
            for read, trunk in zip(reads, [first, *more], strict=True):
                wiring.connect(m, read.o, trunk)
        wiring.connect(m, issuer.o, array.step)

        banks = []
        for col in range(config.cols):
            bank = PsumBank(config)
            m.submodules[f"bank{col}"] = with_own_reset(m, f"bank{col}", bank)
            banks.append(bank)
            m.submodules[f"entry{col}"] = entry = PsumEntry(config)
            wiring.connect(m, array.psum[col], entry.i)
            wiring.connect(m, entry.o, bank.i)
            port = drain.banks[col]
            m.d.comb += [
                bank.offset.eq(port.offset),
                bank.enable.eq(port.enable),
                bank.free.eq(port.free),
                bank.release.eq(port.release),
                port.finals.eq(bank.finals),
                port.busy_next.eq(entry.busy_next),
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
            "load_iact_room": _over(or_, (unit.waiting for unit in load_iact)),
            "load_weight_room": _over(or_, (unit.waiting for unit in load_weight)),
            "load_param_room": load_param.waiting,
            "read_iact_fill": _over(or_, (unit.starved for unit in read_iact)),
            "read_weight_fill": _over(or_, (unit.starved for unit in read_weight)),
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
            observer.iact_starved.eq(_over(or_, (unit.starved for unit in read_iact))),
            observer.weight_starved.eq(_over(or_, (unit.starved for unit in read_weight))),
        ]
        increments = {
            **{f"part_{part}": observer.part[k] for k, part in enumerate(PARTS)},
            "beats_load_iact": _over(add, (unit.requested for unit in load_iact)),
            "beats_load_weight": _over(add, (unit.requested for unit in load_weight)),
            "beats_load_param": load_param.requested,
            "beats_store": store.written_beats,
            "words_store": store.written_words,
            "glb_iact_fill": _over(add, (unit.fill.valid for unit in load_iact)),
            "glb_weight_fill": _over(add, (unit.fill.valid for unit in load_weight)),
            "glb_iact_read": _over(add, (unit.read for unit in read_iact)),
            "glb_weight_read": _over(add, (unit.read for unit in read_weight)),
            "noc_iact_injected": _over(add, (unit.injected for unit in read_iact)),
            "noc_weight_injected": _over(add, (unit.injected for unit in read_weight)),
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

    def _configure(self, m: Module, port: int, unit: Any) -> None:
        """Connect an engine's configuration bus; it takes the addresses of its port for those of the first."""
        if port == 0:
            wiring.connect(m, wiring.flipped(self.config), unit.config)
            return
        own = self.config.address & _PORT_BITS
        m.d.comb += [
            unit.config.valid.eq(self.config.valid & (own == port * PORT_STRIDE * ENGINE_STRIDE)),
            unit.config.bank.eq(self.config.bank),
            unit.config.address.eq(self.config.address & ~_PORT_BITS),
            unit.config.data.eq(self.config.data),
        ]

    def _start(self, m: Module, number: int, units: list[Any], opened: Any) -> None:
        """Give a start token to the engines of all open ports, at once."""
        token = self.starts[number]
        ready = [units[0].start.ready, *(unit.start.ready | ~opened[k] for k, unit in enumerate(units[1:]))]
        m.d.comb += token.ready.eq(Cat(ready).all())
        for port, unit in enumerate(units):
            others = Cat(ready[:port] + ready[port + 1 :]).all()
            m.d.comb += [
                unit.start.valid.eq(token.valid & others & (opened[port - 1] if port else 1)),
                unit.start.payload.eq(token.payload),
            ]


def _over(operation: Callable[[Any, Any], Any], values: Iterable[Any]) -> Any:
    """Return a value over those of all ports."""
    return functools.reduce(operation, values)
