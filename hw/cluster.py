"""A cluster: an array of PEs with its own banks of the global buffer, their engines, and routers to its neighbours."""

import functools
from collections.abc import Callable, Iterable, Iterator
from operator import add, and_, or_
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from rowmesh.hw.array import OPERANDS, Array, mesh_address
from rowmesh.hw.block import Block
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import ENGINE_STRIDE, PORT_STRIDE, Engine
from rowmesh.hw.drain import drain_port
from rowmesh.hw.glb import GlobalBank
from rowmesh.hw.layouts import flit_layout, psum_layout, step_layout
from rowmesh.hw.loader import Loader
from rowmesh.hw.nest import ConfigBus
from rowmesh.hw.pe import PE_EVENTS, PE_WAITS
from rowmesh.hw.psum_bank import BANK_EVENTS, PsumBank, PsumEntry
from rowmesh.hw.reset import with_own_reset
from rowmesh.hw.router import LINKS, Router, Side, is_own
from rowmesh.hw.segments import Beats, request_layout

__all__ = [
    "CLUSTER_ENGINES",
    "CLUSTER_WAITS",
    "Cluster",
    "cluster_counters",
    "cluster_links",
    "cluster_loaders",
    "link_name",
]

CLUSTER_ENGINES = (Engine.LOAD_IACT, Engine.LOAD_WEIGHT, Engine.READ_IACT, Engine.READ_WEIGHT)
"""Engines of a cluster, in the order of its start streams and idle bits."""

CLUSTER_WAITS = (
    "load_iact_room",
    "load_weight_room",
    "read_iact_fill",
    "read_weight_fill",
    *(f"pe_{name}" for name in PE_WAITS),
    "bank_room",
)
"""Which engine of a cluster waits for what."""

_PORT_BITS = -PORT_STRIDE * ENGINE_STRIDE & 0xFFFF  # of an address: which port's engine


def cluster_loaders(config: ArchConfig) -> tuple[Engine, ...]:
    """Load engines of a cluster in the order of its read ports."""
    return (
        *(Engine.LOAD_WEIGHT.at(port) for port in range(config.weight_ports)),
        *(Engine.LOAD_IACT.at(port) for port in range(config.iact_ports)),
    )


def cluster_counters(config: ArchConfig) -> dict[str, int]:
    """What a cluster reports for the performance counters, and the widths of its increments a cycle."""
    iacts, weights = (bits_for(ports * config.flit_words) for ports in (config.iact_ports, config.weight_ports))
    pes, banks = bits_for(config.rows * config.cols), bits_for(config.cols)
    hops = {
        f"noc_{name}_hops": bits_for(ports * len(LINKS[name]) * config.flit_words)
        for name, ports in zip(OPERANDS, (config.iact_ports, config.weight_ports), strict=True)
        if config.clusters > 1
    }
    return {
        "beats_load_iact": bits_for(config.iact_ports * config.burst_beats),
        "beats_load_weight": bits_for(config.weight_ports * config.burst_beats),
        "glb_iact_fill": bits_for(config.iact_ports),
        "glb_weight_fill": bits_for(config.weight_ports),
        "glb_iact_read": iacts,
        "glb_weight_read": weights,
        "noc_iact_injected": iacts,
        "noc_weight_injected": weights,
        **hops,
        **({"noc_psum_hops": banks} if hops else {}),
        **{f"pe_{event}": pes for event in PE_EVENTS},
        **{f"bank_{event}": banks for event in BANK_EVENTS},
    }


def cluster_links(config: ArchConfig) -> Iterator[tuple[str, int, Side]]:
    """Yield operand, port and side of each of a cluster's links to neighbours."""
    if config.clusters > 1:
        for operand, ports in zip(OPERANDS, (config.iact_ports, config.weight_ports), strict=True):
            yield from ((operand, port, side) for port in range(ports) for side in LINKS[operand])


def link_name(operand: str, port: int, side: Side, way: str) -> str:
    """Name of a cluster's member to a neighbour; ``way`` is i or o."""
    return f"{operand}{port or ''}_{side.name.lower()}_{way}"


def _over(operation: Callable[[Any, Any], Any], values: Iterable[Any]) -> Any:
    """Return a value over those of all ports."""
    return functools.reduce(operation, values)


class Cluster(Block):
    """A cluster of the mesh.

    Contract: flits of a bank reach the array at once in a mesh of one cluster, or through routers.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    config : In(ConfigBus())
    commit : In(1)
        Subscriptions and routes that were written take effect (one cycle): a layer begins.
    starts : In(array of stream.Signature(1)), in the order of CLUSTER_ENGINES
    idle : Out(len(CLUSTER_ENGINES))
    own : Out(len(OPERANDS))
        Which operands come from this cluster's banks, as it was written for the next layer.
    requests : Out(array of stream.Signature(request_layout(config))), in the order of cluster_loaders(config)
    data : In(array of Beats(axi_data_width))
    step : In(stream.Signature(step_layout(config)))
    psum_i, psum_o : arrays of streams of psum_layout(config)
        From the cluster to the south, to the one to the north.
    OPERAND_SIDE_i, OPERAND_SIDE_o : streams of flit_layout(config)
        From and to neighbours, of the first port's router; only in a mesh. Those of port k: OPERANDk_SIDE_i.
    banks : In(array of drain_port(config))
    counters : Out
        Increments, fields of cluster_counters(config) one after another.
    waits : Out(len(CLUSTER_WAITS))
    held : Out(1)
        Something is held in banks, array or routers (three cycles later).
    macs : Out(rows * cols)
        As of the array, with ``pe_counters``.
    """

    def __init__(self, config: ArchConfig) -> None:
        self._config = config
        self.shared = config.clusters > 1
        flit = stream.Signature(flit_layout(config))
        psum = stream.Signature(psum_layout(config))
        start = stream.Signature(1)
        loaders = len(cluster_loaders(config))
        links = {
            link_name(*link, way): (In if way == "i" else Out)(flit) for link in cluster_links(config) for way in "io"
        }
        super().__init__(
            {
                "config": In(ConfigBus()),
                "commit": In(1),
                "starts": In(start).array(len(CLUSTER_ENGINES)),
                "idle": Out(len(CLUSTER_ENGINES)),
                "own": Out(len(OPERANDS)),
                "requests": Out(stream.Signature(request_layout(config))).array(loaders),
                "data": In(Beats(config.axi_data_width)).array(loaders),
                "step": In(stream.Signature(step_layout(config))),
                "psum_i": In(psum).array(config.cols),
                "psum_o": Out(psum).array(config.cols),
                **links,
                "banks": In(drain_port(config)).array(config.cols),
                "counters": Out(sum(cluster_counters(config).values())),
                "waits": Out(len(CLUSTER_WAITS)),
                "held": Out(1),
                **({"macs": Out(config.rows * config.cols)} if config.pe_counters else {}),
            }
        )

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        config = self._config
        array = Array(config)
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
            Engine.READ_IACT: read_iact,
            Engine.READ_WEIGHT: read_weight,
        }
        opened = {"iact": array.iact_open, "weight": array.weight_open}
        for number, engine in enumerate(CLUSTER_ENGINES):
            units = engines[engine]
            for port, unit in enumerate(units):
                name = engine.at(port).name.lower()
                m.submodules[name] = with_own_reset(m, name, unit)
                self._configure(m, port, unit)
            operand = "iact" if engine in (Engine.LOAD_IACT, Engine.READ_IACT) else "weight"
            start_together(m, self.starts[number], [unit.start for unit in units], [1, *opened[operand]])
            m.d.sync += self.idle[number].eq(_over(and_, (unit.idle for unit in units)))
        m.submodules.array = array
        wiring.connect(m, wiring.flipped(self.config), array.config)
        m.d.comb += array.commit.eq(self.commit)
        wiring.connect(m, wiring.flipped(self.step), array.step)

        for number, loader in enumerate(cluster_loaders(config)):
            unit = engines[loader.first][loader.port]
            wiring.connect(m, unit.request, wiring.flipped(self.requests[number]))
            wiring.connect(m, wiring.flipped(self.data[number]), unit.data)
        fed = list(zip([*load_iact, *load_weight], [*read_iact, *read_weight], strict=True))
        for load, read in fed:
            wiring.connect(m, load.fill, read.fill)
        m.d.comb += [read.skip.eq(load.skip) for load, read in fed[: config.iact_ports]]
        m.d.comb += [load.freed.eq(read.freed) for load, read in fed]

        hops: dict[str, Any] = {}
        held: list[Any] = []
        for number, (operand, reads, first, more) in enumerate(
            (
                ("iact", read_iact, array.iact, array.iact_more),
                ("weight", read_weight, array.weight, array.weight_more),
            )
        ):
            if config.clusters == 1:
                m.d.comb += self.own[number].eq(1)
                for read, trunk in zip(reads, [first, *more], strict=True):
                    wiring.connect(m, read.o, trunk)
            else:
                written = self._written(m, operand)
                m.d.comb += self.own[number].eq(is_own(written))
                ports = enumerate(zip(reads, [first, *more], strict=True))
                of_ports = [self._route(m, operand, port, read, trunk, written, held) for port, (read, trunk) in ports]
                hops[f"noc_{operand}_hops"] = _over(add, of_ports)

        up, banks = Signal(), []
        held += [array.held, *(unit.held for unit in (*read_iact, *read_weight))]
        if config.clusters > 1:
            written = self._written(m, "psum")
            with m.If(self.commit):
                m.d.sync += up.eq(written[0])
        for col in range(config.cols):
            m.submodules[f"bank{col}"] = bank = with_own_reset(m, f"bank{col}", PsumBank(config))
            m.submodules[f"entry{col}"] = entry = PsumEntry(config)
            banks.append(bank)
            held += [bank.occupied, entry.held]
            top, north, port = array.psum[col], self.psum_o[col], self.banks[col]
            wiring.connect(m, wiring.flipped(self.psum_i[col]), array.psum_i[col])
            wiring.connect(m, entry.o, bank.i)
            m.d.comb += [
                north.payload.eq(top.payload),
                entry.i.payload.eq(top.payload),
                north.valid.eq(top.valid & up),
                entry.i.valid.eq(top.valid & ~up),
                top.ready.eq(Mux(up, north.ready, entry.i.ready)),
                bank.offset.eq(port.offset),
                bank.enable.eq(port.enable),
                bank.free.eq(port.free),
                bank.release.eq(port.release),
                port.finals.eq(bank.finals),
                port.busy_next.eq(entry.busy_next),
                port.response.eq(bank.response),
            ]
        hops["noc_psum_hops"] = sum(north.valid & north.ready & ~north.payload.void for north in self.psum_o)

        waits = {
            "load_iact_room": _over(or_, (unit.waiting for unit in load_iact)),
            "load_weight_room": _over(or_, (unit.waiting for unit in load_weight)),
            "read_iact_fill": _over(or_, (unit.starved for unit in read_iact)),
            "read_weight_fill": _over(or_, (unit.starved for unit in read_weight)),
            **{f"pe_{name}": array.waits[k] for k, name in enumerate(PE_WAITS)},
            "bank_room": Cat(bank.blocked for bank in banks).any(),
        }
        m.d.comb += self.waits.eq(Cat(waits[name] for name in CLUSTER_WAITS))
        m.d.sync += self.held.eq(Cat(held).any())
        if config.pe_counters:
            m.d.comb += self.macs.eq(array.macs)
        width = array.event_width
        increments = {
            "beats_load_iact": _over(add, (unit.requested for unit in load_iact)),
            "beats_load_weight": _over(add, (unit.requested for unit in load_weight)),
            "glb_iact_fill": _over(add, (unit.fill.valid for unit in load_iact)),
            "glb_weight_fill": _over(add, (unit.fill.valid for unit in load_weight)),
            "glb_iact_read": _over(add, (unit.read for unit in read_iact)),
            "glb_weight_read": _over(add, (unit.read for unit in read_weight)),
            "noc_iact_injected": _over(add, (unit.injected for unit in read_iact)),
            "noc_weight_injected": _over(add, (unit.injected for unit in read_weight)),
            **hops,
            **{f"pe_{name}": array.events[k * width : (k + 1) * width] for k, name in enumerate(PE_EVENTS)},
            **{f"bank_{name}": sum(bank.events[k] for bank in banks) for k, name in enumerate(BANK_EVENTS)},
        }
        at = 0
        for name, bits in cluster_counters(config).items():
            m.d.comb += self.counters[at : at + bits].eq(increments[name])
            at += bits
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

    def _written(self, m: Module, data_type: str) -> Signal:
        """Return the route that was written last; it takes effect when a layer begins."""
        written = Signal(32, name=f"{data_type}_written")
        with m.If(self.config.valid & (self.config.address == mesh_address(data_type))):
            m.d.sync += written.eq(self.config.data)
        return written

    def _route(
        self, m: Module, operand: str, port: int, read: Any, trunk: Any, route: Signal, held: list[Any]
    ) -> Signal:
        """Put a router between a bank, the array and the neighbours; return the words that leave it for neighbours.

        Whether it holds a flit is added to ``held``.
        """
        sides, name = LINKS[operand], f"{operand}{port or ''}"
        m.submodules[f"{name}_router"] = router = Router(flit_layout(self._config), sides)
        wiring.connect(m, read.o, router.i[0])
        wiring.connect(m, router.o[0], trunk)
        for k, side in enumerate(sides, 1):
            entrance, exit_ = (wiring.flipped(getattr(self, link_name(operand, port, side, way))) for way in "io")
            wiring.connect(m, entrance, router.i[k])
            wiring.connect(m, router.o[k], exit_)
        held.append(router.held)
        flit: Any = router.o[0].payload
        hops = Signal(bits_for(len(sides) * self._config.flit_words), name=f"{name}_hops")
        m.d.comb += [
            router.write.eq(self.commit),
            router.write_data.eq(route),
            hops.eq(Mux(router.moved, (flit.high - flit.low + 1) * router.links, 0)),
        ]
        return hops


def start_together(m: Module, token: Any, starts: list[Any], opened: list[Any]) -> None:
    """Give a start token to several engines at once: those that are ``opened``, of which the first always is."""
    ready = [starts[0].ready, *(start.ready | ~is_open for start, is_open in zip(starts[1:], opened[1:], strict=True))]
    m.d.comb += token.ready.eq(Cat(ready).all())
    for port, start in enumerate(starts):
        others = Cat(ready[:port] + ready[port + 1 :]).all()
        m.d.comb += [
            start.valid.eq(token.valid & others & opened[port]),
            start.payload.eq(token.payload),
        ]
