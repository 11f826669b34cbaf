"""The core: a mesh of clusters and what they share; all that a program drives, without control and AXI reads."""

import functools
import itertools
from collections.abc import Iterator
from operator import and_, or_
from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from rowmesh.hw.array import OPERANDS
from rowmesh.hw.axi import Axi4Write
from rowmesh.hw.block import Block
from rowmesh.hw.cluster import (
    CLUSTER_ENGINES,
    CLUSTER_WAITS,
    Cluster,
    cluster_counters,
    cluster_links,
    cluster_loaders,
    link_name,
    start_together,
)
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import SELECT_ADDRESS, Engine
from rowmesh.hw.drain import Drain
from rowmesh.hw.issuer import Issuer
from rowmesh.hw.layouts import step_layout
from rowmesh.hw.loader import Loader
from rowmesh.hw.nest import ConfigBus
from rowmesh.hw.observer import Observer
from rowmesh.hw.parts import PARTS
from rowmesh.hw.pe import PE_WAITS
from rowmesh.hw.program import STARTABLE
from rowmesh.hw.reset import with_own_reset
from rowmesh.hw.router import Fork
from rowmesh.hw.segments import Beats, request_layout, window_port
from rowmesh.hw.storer import Storer

__all__ = ["ENGINES", "WAITS", "Core", "counter_widths", "loaders", "pe_counter"]


def loaders(config: ArchConfig) -> tuple[tuple[int, Engine], ...]:
    """Cluster and load engine of each read port; that of the parameters, which all clusters share, comes last."""
    each = [(cluster, engine) for cluster in range(config.clusters) for engine in cluster_loaders(config)]
    return (*each, (0, Engine.LOAD_PARAM))


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
    return {
        **{f"part_{part}": 1 for part in PARTS},
        "beats_load_param": bits_for(config.burst_beats),
        "beats_store": 1,
        "words_store": bits_for(config.flit_words),
        **{name: bits_for(config.clusters * ((1 << width) - 1)) for name, width in cluster_counters(config).items()},
        **{pe_counter(row, col): 1 for row, col in _counted_pes(config)},
    }


def pe_counter(row: int, col: int) -> str:
    """Name of the counter of a PE's multiply-accumulates, by its place in the whole mesh."""
    return f"pe_mac_{row}_{col}"


def _counted_pes(config: ArchConfig) -> Iterator[tuple[int, int]]:
    """Places of the PEs that have a counter, in the order of the clusters and of their ``macs``."""
    if config.pe_counters:
        for y, x in itertools.product(range(config.mesh_rows), range(config.mesh_cols)):
            for row, col in itertools.product(range(config.rows), range(config.cols)):
                yield y * config.rows + row, x * config.cols + col


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
    held : Out(1)
        A word, a step, a psum or a beat was held somewhere, at most ``held_latency`` cycles ago.
    requests : Out(array of stream.Signature(request_layout(config))), in the order of loaders(config)
    data : In(array of Beats(axi_data_width))
    axi : Out(Axi4Write)
    halt : In(1)
        Start no further write burst.
    window : window_port(config)
        Pages that may be written.
    outside : Out(1)
        A write burst outside of them is held.
    writes_outstanding : Out
        Write bursts whose response has not come.
    write_error : Out(1)
    unexpected : Out(1)
        A write response came that nothing waits for.
    busy : In(1)
        A program runs (for the observer).
    counters : Out
        Increments of this cycle, fields of counter_widths(config) one after another.
    waits : Out(len(WAITS))
    progress : Out(1)
        Something moved.
    """

    idle_latency = 1
    held_latency = 3

    def __init__(self, config: ArchConfig) -> None:
        self._config = config
        self._counters = counter_widths(config)
        super().__init__(
            {
                "config": In(ConfigBus()),
                "starts": In(stream.Signature(1)).array(len(ENGINES)),
                "idle": Out(len(ENGINES)),
                "held": Out(1),
                "requests": Out(stream.Signature(request_layout(config))).array(len(loaders(config))),
                "data": In(Beats(config.axi_data_width)).array(len(loaders(config))),
                "axi": Out(Axi4Write(config.axi_addr_width, config.axi_data_width)),
                "halt": In(1),
                "window": window_port(config),
                "outside": Out(1),
                "writes_outstanding": Out(range(config.read_bursts + 1)),
                "write_error": Out(1),
                "unexpected": Out(1),
                "busy": In(1),
                "counters": Out(sum(self._counters.values())),
                "waits": Out(len(WAITS)),
                "progress": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        config = self._config

        issuer, drain, store = Issuer(config), Drain(config), Storer(config)
        load_param = Loader(config, Engine.LOAD_PARAM, clip=False, depth=config.param_words)
        clusters = [Cluster(config) for _ in range(config.clusters)]
        for number, cluster in enumerate(clusters):
            m.submodules[f"cluster{number}" if config.clusters > 1 else "cluster"] = cluster
        self._configure(m, clusters)
        # a layer begins with its steps: subscriptions and routes written since the last one take effect
        commit, step_start = Signal(), self.starts[ENGINES.index(Engine.STEP)]
        m.d.sync += commit.eq(step_start.valid & step_start.ready)
        for cluster in clusters:
            if config.clusters == 1:
                m.d.comb += cluster.commit.eq(commit)
            else:  # as far as the configuration bus
                m.d.sync += cluster.commit.eq(commit)
        shared: dict[Engine, Any] = {
            Engine.LOAD_PARAM: load_param,
            Engine.STEP: issuer,
            Engine.DRAIN: drain,
            Engine.STORE: store,
        }
        for number, started in enumerate(ENGINES):
            if started in shared:
                unit, name = shared[started], started.name.lower()
                m.submodules[name] = with_own_reset(m, name, unit)
                wiring.connect(m, wiring.flipped(self.config), unit.config)
                wiring.connect(m, wiring.flipped(self.starts[number]), unit.start)
                m.d.sync += self.idle[number].eq(unit.idle)
            else:
                place = CLUSTER_ENGINES.index(started)
                operand = OPERANDS.index(started.name.split("_")[1].lower())
                starts = [cluster.starts[place] for cluster in clusters]
                start_together(m, self.starts[number], starts, [cluster.own[operand] for cluster in clusters])
                # in a cluster this is a register already
                m.d.comb += self.idle[number].eq(functools.reduce(and_, (each.idle[place] for each in clusters)))

        for number, (place, engine) in enumerate(loaders(config)):
            if engine in shared:
                request, beats = load_param.request, load_param.data
            else:
                port = cluster_loaders(config).index(engine)
                request, beats = clusters[place].requests[port], clusters[place].data[port]
            wiring.connect(m, request, wiring.flipped(self.requests[number]))
            wiring.connect(m, wiring.flipped(self.data[number]), beats)
        m.d.comb += [
            load_param.freed.eq(drain.freed),
            drain.fill.valid.eq(load_param.fill.valid),
            drain.fill.payload.eq(load_param.fill.payload),
            load_param.fill.ready.eq(drain.fill.ready),
        ]
        self._join(m, clusters)
        forks = self._issue(m, issuer, clusters)
        for number, cluster in enumerate(clusters):
            for col in range(config.cols):
                wiring.connect(m, drain.banks[number * config.cols + col], cluster.banks[col])
        for lane in range(config.all_lanes):
            wiring.connect(m, drain.lanes[lane], store.lanes[lane])
        m.d.comb += drain.returned.eq(store.returned)
        wiring.connect(m, store.axi, wiring.flipped(self.axi))
        m.d.comb += [
            store.halt.eq(self.halt),
            store.window.eq(self.window),
            self.outside.eq(store.outside),
            self.unexpected.eq(store.unexpected),
            self.writes_outstanding.eq(store.outstanding),
            self.write_error.eq(store.error),
        ]

        # a step is seen in the rows three cycles later than on its way to them, where it is seen for one more
        steps, gone = Signal(), Signal()
        m.d.comb += steps.eq(Cat(issuer.held, *(fork.held for fork in forks)).any())
        m.d.sync += gone.eq(steps)
        held = [steps, gone, drain.held, store.held, *(cluster.held for cluster in clusters)]
        m.d.comb += self.held.eq(Cat(held).any())

        of_clusters = functools.reduce(or_, (cluster.waits for cluster in clusters))
        waits = {
            **{name: of_clusters[k] for k, name in enumerate(CLUSTER_WAITS)},
            "load_param_room": load_param.waiting,
            "drain_psum": drain.waits[0],
            "drain_param": drain.waits[1],
            "drain_beat": drain.waits[2],
            "store_beats": store.waiting,
        }
        m.d.sync += self.waits.eq(Cat(waits[name] for name in WAITS))
        increments: dict[str, Value] = {"beats_load_param": load_param.requested}
        increments |= {"beats_store": store.written_beats, "words_store": store.written_words}
        at = 0
        for name, width in cluster_counters(config).items():
            increments[name] = sum(cluster.counters[at : at + width] for cluster in clusters)
            at += width
        if config.pe_counters:
            macs = Cat(cluster.macs for cluster in clusters)
            increments |= {pe_counter(*pe): macs[k] for k, pe in enumerate(_counted_pes(config))}
        m.submodules.observer = observer = Observer()
        m.d.comb += [
            observer.busy.eq(self.busy),
            observer.active.eq(~issuer.idle),
            observer.mac.eq(increments["pe_mac"] != 0),
            observer.issued.eq(issuer.issued),
            observer.waits.eq(Cat(waits[f"pe_{name}"] for name in PE_WAITS)),
        ]
        # the array's waits are older than that
        m.d.sync += [
            observer.iact_starved.eq(waits["read_iact_fill"]),
            observer.weight_starved.eq(waits["read_weight_fill"]),
        ]
        increments |= {f"part_{part}": observer.part[k] for k, part in enumerate(PARTS)}
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

    def _configure(self, m: Module, clusters: list[Cluster]) -> None:
        """Connect the clusters' configuration buses; in a mesh, of those that are selected, with a register each."""
        if len(clusters) == 1:
            wiring.connect(m, wiring.flipped(self.config), clusters[0].config)
            return
        selected = Signal(len(clusters), init=-1)
        with m.If(self.config.valid & (self.config.address == SELECT_ADDRESS)):
            m.d.sync += selected.eq(self.config.data)
        for number, cluster in enumerate(clusters):
            m.d.sync += [
                cluster.config.valid.eq(self.config.valid & selected[number]),
                *[getattr(cluster.config, name).eq(getattr(self.config, name)) for name in ("bank", "address", "data")],
            ]

    def _join(self, m: Module, clusters: list[Cluster]) -> None:
        """Connect clusters with their neighbours; a link over the edge of the mesh carries nothing."""
        config = self._config
        places = [divmod(number, config.mesh_cols) for number in range(len(clusters))]
        at = dict(zip(places, clusters, strict=True))
        for (y, x), cluster in at.items():
            north = at.get((y + 1, x))
            for col in range(config.cols):
                if north is not None:
                    wiring.connect(m, cluster.psum_o[col], north.psum_i[col])
            for operand, port, side in cluster_links(config):
                other = at.get((y + side.step[0], x + side.step[1]))
                if other is not None:
                    entrance = getattr(other, link_name(operand, port, side.opposite, "i"))
                    wiring.connect(m, getattr(cluster, link_name(operand, port, side, "o")), entrance)

    def _issue(self, m: Module, issuer: Issuer, clusters: list[Cluster]) -> list[Fork]:
        """Send the steps to all clusters: along the first row of the mesh, and from there up its columns.

        Return the forks on their way.
        """
        config = self._config
        forks: list[Fork] = []
        if len(clusters) == 1:
            wiring.connect(m, issuer.o, clusters[0].step)
            return forks
        for number in range(len(clusters)):
            m.submodules[f"step_fork{number}"] = fork = Fork(step_layout(config), 3)  # own PEs, east, north
            forks.append(fork)
        wiring.connect(m, issuer.o, forks[0].i)
        for number, (fork, cluster) in enumerate(zip(forks, clusters, strict=True)):
            y, x = divmod(number, config.mesh_cols)
            wiring.connect(m, fork.o[0], cluster.step)
            east, north = y == 0 and x + 1 < config.mesh_cols, y + 1 < config.mesh_rows
            m.d.comb += fork.mask.eq(1 | east << 1 | north << 2)
            if east:
                wiring.connect(m, fork.o[1], forks[number + 1].i)
            if north:
                wiring.connect(m, fork.o[2], forks[number + config.mesh_cols].i)
        return forks
