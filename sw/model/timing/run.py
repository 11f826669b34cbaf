"""The timing of a layer: the state that the engines begin with, how they are started, and what is seen."""

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rowmesh.hw import glb, loader
from rowmesh.hw.command_processor import SETTLE_CYCLES
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.core import loaders as load_engines
from rowmesh.hw.datapath import Datapath
from rowmesh.hw.descriptor import Engine
from rowmesh.hw.drain import lane_depth
from rowmesh.hw.link import Fifo
from rowmesh.hw.loader import Loader
from rowmesh.hw.nest import LoopNest
from rowmesh.hw.storer import Storer
from rowmesh.sw.model.timing.array import BANK, ROW, LinkState, Records
from rowmesh.sw.model.timing.drain import drain_state
from rowmesh.sw.model.timing.loop import Sizes, loop
from rowmesh.sw.model.timing.memory import LANE, LOADER, ORDER, READER, Memory, memory_state, store_state
from rowmesh.sw.model.timing.processor import Begin, Processor, processor_state, starts_at
from rowmesh.sw.model.timing.streams import Streams
from rowmesh.sw.program.deadlock import DeadlockError

__all__ = ["Ahead", "Loaded", "Ran", "StuckError", "run"]

_NEVER = 1 << 30
"""Cycle of start tokens that have not come."""

_READER = {Engine.LOAD_IACT: Engine.READ_IACT, Engine.LOAD_WEIGHT: Engine.READ_WEIGHT}


class StuckError(DeadlockError):
    """Nothing moves any more: the program blocks."""


class Ahead(NamedTuple):
    """What is loaded for a layer while the one before runs.

    Parameters
    ----------
    engines : collection of Engine
        Load engines, of the first port, that are started early.
    streams : Streams
        Of the next layer.
    start : int
        Cycle of their start tokens, from that of the last start tokens of the layer before.
    program : array [N, 2]
        Cycles, likewise, and beats of the bursts that are requested for the program meanwhile.
    """

    engines: Collection[Engine]
    streams: Streams
    start: int
    program: npt.NDArray[np.int64]


class Loaded(NamedTuple):
    """What load engines had done for a layer when the one before ended: their state, the banks', the memory's.

    ``parameters`` are those in the drain, ``program`` the bursts of the program that were not yet due, ``lead`` the
    cycles from the end to the layer's start tokens, ``late`` those from there to the start tokens of the engines that
    load its iacts and store its ofmap.
    """

    loaders: Records
    orders: Records
    readers: Records
    memory: Memory
    parameters: int
    program: npt.NDArray[np.int64]
    lead: int
    late: int


class Ran(NamedTuple):
    """Result of :func:`run`.

    Parameters
    ----------
    seen : array [K + 1, len(PARTS) + 1]
        Cycles of each part when the first PE has done each of the given steps, and until store engine and drain are
        idle, or, if a layer follows, the drain; behind them the steps of the drain until then. Cycles of the program
        before the start tokens and behind the last response are not among them.
    storing : int
        Cycles from there until the store engine is idle.
    begun : int
        Cycle of STEP's start token, from that of the program's first word, if the layer was begun by its program.
    late : int
        Cycles from there to the last start tokens of the layer.
    loaded : callable
        Takes ``lead`` and ``late`` of the next layer, and returns what was loaded for it.
    """

    seen: npt.NDArray[np.int64]
    storing: int
    begun: int
    late: int
    loaded: Callable[[int, int], Loaded]


def run(
    config: ArchConfig,
    s: Streams,
    marks: npt.NDArray[np.int64],
    *,
    read_latency: int,
    write_latency: int,
    ahead: Ahead | None = None,
    loaded: Loaded | None = None,
    begin: Begin | None = None,
) -> Ran:
    """Run a layer's streams.

    Parameters
    ----------
    config : ArchConfig
    s : Streams
    marks : array [K]
        Numbers of steps, ascending.
    read_latency, write_latency : int
        Cycles of the memory.
    ahead : Ahead, optional
        What is loaded meanwhile for the next layer of a sequence.
    loaded : Loaded, optional
        What was loaded for this one.
    begin : Begin, optional
        The program that starts its engines one after another; without it they start together.

    Returns
    -------
    Ran

    Raises
    ------
    StuckError
        If the program blocks.
    """
    engines = [engine for _, engine in load_engines(config)]
    # a burst can be taken in the cycle before it could be requested
    starts = np.array(
        [Loader.cycles_to_request(config, clip=engine.first is Engine.LOAD_IACT) - 1 for engine in engines], np.int64
    )
    sizes = Sizes(
        nest=LoopNest.cycles_to_first(config.nest_levels, config.link_segment),
        store_start=Storer.cycles_to_burst(config),
        segment=config.link_segment,
        bank_groups=config.bank_groups,
        mesh_cols=config.mesh_cols,
        uop_fifo=config.uop_fifo,
        chain_fifo=config.chain_fifo,
        stages=Datapath.latency - Fifo.latency - 1,  # behind them the FIFO, in block RAM
        iact_spad=config.iact_spad,
        weight_spad=config.weight_spad,
        bank=config.psum_bank_words,
        queue=glb.OUT_FIFO,
        longest_skip=loader.LONGEST_SKIP,
        debt=loader.DEBT,
        read_latency=read_latency,
        write_latency=write_latency,
        bursts=config.read_bursts,
        patience=10 * (read_latency + write_latency) + 10_000,
        lead=loaded.lead if loaded else 0,
        followed=ahead is not None,
        settle=SETTLE_CYCLES,
        begin_only=False,
    )
    one_by_one = begin is not None and len(begin.heads) > 1
    state = _State.idle(config, s, starts, loaded, begin if one_by_one else None)
    nothing = np.zeros((0, 2), np.int64)
    last = loaded.late if loaded else 0
    early_ports = []
    program = nothing if loaded is None else loaded.program
    if ahead:
        if one_by_one:  # the program goes on behind the last start
            alone = _State.idle(config, s, starts, None, begin)
            _, last, _ = _simulate(config, sizes._replace(begin_only=True), s.copied(), alone, nothing, starts, marks)
        early_ports = [port for port, engine in enumerate(engines) if engine.first in ahead.engines]
        s = s.followed_by(ahead.streams, early_ports)
        state.loaders["later"] = last + ahead.start + starts
        program = np.concatenate([program, ahead.program + np.array([last, 0])])
    seen, end, stored = _simulate(config, sizes, s, state, program, starts, marks)
    if end < 0:
        raise StuckError("the timing model finds that nothing moves any more")
    loaders, readers, memory = state.loaders, state.readers, state.memory
    begun = int(state.begins[-3])  # that of STEP

    def left(lead: int, late: int) -> Loaded:
        moved = end + lead
        after, kept = loaders.copy(), memory.copied()
        after["next"] = np.where(np.isin(range(len(after)), early_ports), after["next"] - after["own"], -1)
        after["start"] = after["later"] - moved
        after["own"] = ahead.streams.load_counts if ahead else 0
        kept.ring["due"] -= moved
        due = program[program[:, 0] >= end] - np.array([moved, 0], np.int64)
        return Loaded(after, state.orders.copy(), readers.copy(), kept, int(state.drained["held"][0]), due, lead, late)

    if one_by_one:
        last = int(state.begins[state.begins < _NEVER].max())
    elif begin is not None:  # all together
        begun = last = starts_at(config, begin.heads[0])
    return Ran(seen, stored - end, begun, last - begun, left)


class _State(NamedTuple):
    """What :func:`loop` changes and what is looked at behind it."""

    loaders: Records
    orders: Records
    readers: Records
    memory: Memory
    drained: Records
    processor: Processor
    heads: npt.NDArray[np.int64]
    groups: npt.NDArray[np.bool_]
    awaited: npt.NDArray[np.bool_]
    begins: npt.NDArray[np.int64]

    @classmethod
    def idle(
        cls,
        config: ArchConfig,
        s: Streams,
        starts: npt.NDArray[np.int64],
        loaded: Loaded | None,
        begin: Begin | None,
    ) -> "_State":
        """Return the state before a layer: nothing moves but what was loaded early."""
        depth_of = {
            Engine.LOAD_IACT: config.glb_iact_flits,
            Engine.LOAD_WEIGHT: config.glb_weight_flits,
            Engine.LOAD_PARAM: config.param_words,
        }
        engines = [engine.first for _, engine in load_engines(config)]
        loaders = np.zeros(len(engines), LOADER)
        orders = np.zeros((len(engines), loader.order_entries(config)), ORDER)
        loaders["depth"] = loaders["credits"] = [depth_of[engine] for engine in engines]
        loaders["start"] = starts
        loaders["own"] = s.load_counts
        readers = np.zeros(len(engines) - 1, READER)
        memory = memory_state(len(engines) + 1, config.read_bursts)  # the program's port is the last one
        drained = drain_state()
        slots = [*engines, *(_READER[engine] for engine in engines[:-1]), Engine.STEP, Engine.DRAIN, Engine.STORE]
        begins = np.zeros(len(slots), np.int64)
        if loaded:
            loaders["start"] += loaded.late
            begins[-1] = loaded.late
            early = np.flatnonzero(loaded.loaders["next"] >= 0)
            loaders[early], orders[early], memory = loaded.loaders[early], loaded.orders[early], loaded.memory
            early = early[early < len(readers)]
            readers["held"][early] = readers["stored"][early] = loaded.readers["held"][early]
            drained["held"] = loaded.parameters
        if begin:
            begins[:] = _NEVER
            loaders["start"] = _NEVER
        return cls(
            loaders,
            orders,
            readers,
            memory,
            drained,
            processor_state(config, begin),
            np.array(begin.heads if begin else [], np.int64),
            np.array([[e in group for e in slots] for group in begin.engines] if begin else [[]], np.bool_),
            np.array([[e in group for e in engines] for group in begin.waits] if begin else [[]], np.bool_),
            begins,
        )


def _simulate(
    config: ArchConfig,
    sizes: Sizes,
    s: Streams,
    state: _State,
    program: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    marks: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], int, int]:
    """Run :func:`loop` from a state."""
    clusters, height, width = s.pes.shape
    rows = np.zeros((clusters, 3, height), ROW)
    rows["words"] = -1
    banks = np.zeros((clusters, config.cols), BANK)
    banks["kind0"] = banks["kind1"] = -1
    lanes = np.zeros(config.all_lanes, LANE)
    lanes["credits"] = lane_depth(config)
    return loop(
        sizes,
        s,
        rows,
        np.zeros(1, LinkState),  # from here: numba frees an array of its own while a record of it is still in use
        np.zeros((clusters, 3, height, 1 + width // config.link_segment), LinkState),
        np.zeros((clusters, 1 + config.rows // config.link_segment, width), LinkState),
        banks,
        state.loaders,
        state.orders,
        state.readers,
        state.memory,
        state.drained,
        store_state(config.read_bursts),
        lanes,
        np.zeros((1 + 2 * config.ports, clusters), LinkState),
        np.zeros((1 + 2 * config.ports, clusters), np.bool_),
        program,
        state.processor,
        state.heads,
        state.groups,
        state.awaited,
        state.begins,
        starts,
        marks,
    )
