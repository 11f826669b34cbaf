"""The timing of a layer: all engines together, a cycle at a time, from its first start to the last write response."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from rowmesh.hw import glb, loader
from rowmesh.hw.command_processor import SETTLE_CYCLES
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.core import loaders as load_engines
from rowmesh.hw.datapath import Datapath
from rowmesh.hw.descriptor import Engine
from rowmesh.hw.drain import PIPELINE_STAGES, lane_depth
from rowmesh.hw.link import Fifo
from rowmesh.hw.loader import Loader
from rowmesh.hw.nest import LoopNest
from rowmesh.hw.observer import PARTS
from rowmesh.hw.storer import Storer
from rowmesh.sw.timing.array import BANK, LINK, ROW, LinkState, Records, move_psums, move_steps, move_words, work
from rowmesh.sw.timing.drain import drain, drain_state
from rowmesh.sw.timing.memory import (
    LANE,
    LOADER,
    ORDER,
    READER,
    Memory,
    StoreEngine,
    fetch,
    load,
    memory_state,
    read,
    store,
    store_state,
)
from rowmesh.sw.timing.processor import Begin, Processor, execute, processor_state, request, starts_at
from rowmesh.sw.timing.streams import Streams

__all__ = ["Ahead", "Loaded", "Ran", "StuckError", "run"]

_FILL, _COMPUTE, _NOC, _DMA, _PSUM, _DRAIN = (
    PARTS.index(part) for part in ("fill", "compute", "noc", "dma", "psum", "drain")
)


_NEVER = 1 << 30
"""Cycle of start tokens that have not come."""

_READER = {Engine.LOAD_IACT: Engine.READ_IACT, Engine.LOAD_WEIGHT: Engine.READ_WEIGHT}


class StuckError(RuntimeError):
    """Nothing moves any more: the program blocks."""


class Sizes(NamedTuple):
    """Constants of the hardware that the loop needs."""

    nest: int
    store_start: int
    segment: int
    bank_groups: int
    mesh_cols: int
    uop_fifo: int
    chain_fifo: int
    stages: int
    iact_spad: int
    weight_spad: int
    bank: int
    queue: int
    longest_skip: int
    debt: int
    read_latency: int
    write_latency: int
    bursts: int
    patience: int
    lead: int
    followed: bool
    settle: int
    begin_only: bool


@numba.njit(cache=True, nogil=True)
def _loop(
    sizes: Sizes,
    s: Streams,
    rows: Records,
    step_link: Records,
    links: Records,
    chain_links: Records,
    banks: Records,
    loaders: Records,
    orders: Records,
    readers: Records,
    memory: Memory,
    drain_state: Records,
    storer: StoreEngine,
    lanes: Records,
    routers: Records,
    had_room: npt.NDArray[np.bool_],
    program: npt.NDArray[np.int64],
    processor: Processor,
    heads: npt.NDArray[np.int64],
    groups: npt.NDArray[np.bool_],
    begins: npt.NDArray[np.int64],
    to_request: npt.NDArray[np.int64],
    marks: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], int, int]:
    """Return what :func:`run` does, the cycle of the end (-1: stuck), and that in which the layer has been stored.

    The end is that of the drain if another layer follows, or else that of the store engine. Cycle 0 is that of the
    start tokens; for ``lead`` cycles before it, only load engines work that were started while the layer before ran.
    If the program is executed here (``heads``), cycle 0 is that of its first word, and ``begins``, the cycles of the
    engines' start tokens, come from it: those of the read ports' loads, of the banks' readers, and of the last three.
    The observer (hw/observer.py) sees a multiply-accumulate two cycles later, waits two, and a reader's one; the
    registers of its state add one.
    """
    parts = np.zeros(len(PARTS) + 1, np.int64)
    seen, marked = np.zeros((len(marks) + 1, len(parts)), np.int64), 0
    d = drain_state[0]
    first = s.pes[0, 0, 0]
    issued, link = 0, step_link[0]
    fetched = 0
    fed, clusters = len(readers), len(s.pes)
    rooms = np.zeros(fed, np.bool_)
    # what the observer sees, by age
    waits1, waits2, mac1, mac2, starved1 = 0, 0, False, False, 0
    computing, active, ended, started = False, False, False, False
    still, now = 0, -sizes.lead
    given = 0
    at_step, at_drain, at_store = len(begins) - 3, len(begins) - 2, len(begins) - 1
    while now < 0:
        for port in range(len(memory.ports)):
            memory.ports[port].waiting = memory.ports[port].asked
        for port in range(len(loaders)):
            bursts = s.loads[port, : s.load_counts[port]]
            load(loaders[port], orders[port], memory, port, bursts, now, sizes.longest_skip, sizes.debt)
            _settle(loaders[port], readers, port, d)
        fetched = _fetch_program(memory, program, fetched, now)
        fetch(memory, now, sizes.read_latency, sizes.bursts)
        now += 1
    while True:
        if given < len(heads) and execute(processor, heads[given], now, sizes.settle):
            for engine in range(len(begins)):
                if groups[given, engine]:
                    begins[engine] = now
                    if engine < len(loaders):
                        loaders[engine].start = now + to_request[engine]
            given += 1
            if sizes.begin_only and given == len(heads):
                return seen, now, now
        store_start = begins[at_store] + sizes.store_start
        stored = store(storer, lanes, s.stores, now, store_start, sizes.write_latency, sizes.bursts)
        # the drain may still go past words of columns that have none at an edge
        if d.done == len(s.words) and (stored or (sizes.followed and d.inside == 0 and not d.packed)):
            seen[marked] = parts
            end = now
            for port in range(len(loaders)):
                _settle(loaders[port], readers, port, d)
            while not stored:
                now += 1
                stored = store(storer, lanes, s.stores, now, store_start, sizes.write_latency, sizes.bursts)
            return seen, end, now
        running, drained = now >= begins[at_drain] + sizes.nest, d.done
        drain(d, s.words, banks, lanes, loaders[fed], running, s.columns, sizes.bank_groups, s.members)
        waits, mac = 0, False
        for c in range(clusters - 1, -1, -1):
            under = banks[c - sizes.mesh_cols if s.joined[c] & 2 else c]
            move_psums(
                s.chains[c], chain_links[c], banks[c], under if s.joined[c] & 2 else under[:0], s.joined[c] & 1 > 0,
                s.pes[c], s.steps, sizes.bank, sizes.segment,
            )  # fmt: skip
        for c in range(clusters - 1, -1, -1):
            had_room[0, c] = routers[0, c].count < LINK
            taken = move_steps(rows[c, 0], s.hops[0][c], links[c, 0], s.steps, sizes.uop_fifo, sizes.segment)
            if len(s.routes) == 0:
                room0 = taken
                break
            route = s.routes[0, c]
            if _forwards(routers[0, c], route, had_room[0], c, sizes.mesh_cols, taken):
                _pass_on(routers[0], route, c, sizes.mesh_cols, rows[c, 0, 0])
        for port in range(fed):
            if s.flit_counts[port] and len(s.routes) == 0:
                k, c, low = s.ports[port].operand, s.ports[port].cluster, s.ports[port].row
                high = low + s.fed_rows[port]
                depth = sizes.weight_spad if k == 2 else sizes.iact_spad
                rooms[port] = move_words(
                    rows[c, k, low:high], s.hops[k][c, low:high], links[c, k, low:high],
                    s.flits[port], s.words_taken[port], depth, sizes.segment,
                )  # fmt: skip
        if len(s.routes):
            room0 = had_room[0, 0]
            for n in range(1, len(s.routes)):
                for c in range(clusters - 1, -1, -1):
                    had_room[n, c] = routers[n, c].count < LINK
                    route = s.routes[n, c]
                    if route.source < 0:
                        continue
                    flits, words = s.flits[route.source], s.words_taken[route.source]
                    k, low = s.ports[route.source].operand, s.ports[route.source].row
                    high = low + s.fed_rows[route.source]
                    depth = sizes.weight_spad if k == 2 else sizes.iact_spad
                    taken = move_words(
                        rows[c, k, low:high], s.hops[k][c, low:high], links[c, k, low:high],
                        flits, words, depth, sizes.segment,
                    )  # fmt: skip
                    if _forwards(routers[n, c], route, had_room[n], c, sizes.mesh_cols, taken):
                        _pass_on(routers[n], route, c, sizes.mesh_cols, rows[c, k, low])
            for port in range(fed):
                rooms[port] = had_room[s.ports[port].router, s.ports[port].cluster]
        for c in range(clusters):
            waiting, works = work(
                s.pes[c], s.hops[0][c], s.hops[1][c], s.hops[2][c], s.steps, sizes.chain_fifo, sizes.stages
            )
            waits, mac = waits | waiting, mac or works
        # the banks' readers and the step nest
        starved_now, sends = 0, False
        for port in range(fed):
            if s.flit_counts[port]:
                flits = s.flits[port, : s.flit_counts[port]]
                running = now >= begins[len(loaders) + port] + sizes.nest
                flit, starved = read(readers[port], flits, loaders[port], running, rooms[port], sizes.queue)
                k, c = s.ports[port].operand, s.ports[port].cluster
                if starved:
                    starved_now |= k
                if flit >= 0:
                    if len(s.routes):
                        _push(routers[s.ports[port].router, c], flit)
                    else:
                        _send(rows[c, k, s.ports[port].row], flit)
                    sends = True
        room = link.count < LINK
        if link.count and room0:
            if len(s.routes):
                _push(routers[0, 0], link.items[0])
            else:
                _send(rows[0, 0, 0], link.items[0])
            link.items[0] = link.items[1]
            link.count -= 1
        issues = now >= begins[at_step] + sizes.nest and issued < len(s.steps) and room
        if issues:
            link.items[link.count] = issued
            link.count += 1
            issued += 1
        # memory
        for port in range(len(memory.ports)):
            memory.ports[port].waiting = memory.ports[port].asked
        for port in range(len(loaders)):
            bursts = s.loads[port, : s.load_counts[port]]
            load(loaders[port], orders[port], memory, port, bursts, now, sizes.longest_skip, sizes.debt)
            if port < fed and not s.flit_counts[port]:  # for the next layer
                _settle(loaders[port], readers, port, d)
        fetched = _fetch_program(memory, program, fetched, now)
        if len(heads):
            request(processor, memory, now)
        fetch(memory, now, sizes.read_latency, sizes.bursts)
        # the observer: the step nest is active from the cycle after its token to its last step
        if started:
            part = _NOC
            if not computing:
                part = _FILL
            elif ended:
                part = _DRAIN
            elif issues:
                part = _COMPUTE
            elif waits2 & 2:
                part = _DMA if starved1 & 2 else _NOC
            elif waits2 & 1:
                part = _DMA if starved1 & 1 else _NOC
            elif waits2 & 4:
                part = _PSUM
            parts[part] += 1
        computing = computing or mac2
        ended = started and not active
        started = started or active
        active = now >= begins[at_step] and issued < len(s.steps)
        mac2, mac1, waits2, waits1, starved1 = mac1, mac, waits1, waits, starved_now
        parts[len(PARTS)] = d.done
        if marked < len(marks) and first.done > marks[marked]:
            seen[marked] = parts
            marked += 1
        busy = memory.state[0].beat >= 0 or storer.state[0].flying or given < len(heads)
        moves = issues or mac or sends or d.done != drained or busy
        still = 0 if moves else still + 1
        if still > sizes.patience:
            return seen, -1, -1
        now += 1


@numba.njit(cache=True, nogil=True)
def _settle(loader: Any, readers: Records, port: int, drain: Any) -> None:
    """Put a beat that has come to where nothing is at work that would take it: a bank, or the drain's parameters."""
    if port < len(readers):
        readers[port].held += loader.fill
        readers[port].stored += loader.fill
    else:
        drain.held += loader.fill
    loader.fill = 0


@numba.njit(cache=True, nogil=True)
def _fetch_program(memory: Memory, program: npt.NDArray[np.int64], fetched: int, now: int) -> int:
    """Request the next burst of a program when it is due; return how many have been requested."""
    requests = memory.ports[len(memory.ports) - 1]
    if fetched == len(program) or now < program[fetched, 0] or requests.asked == LINK:
        return fetched
    requests.want[requests.asked] = program[fetched, 1]
    requests.asked += 1
    return fetched + 1


@numba.njit(cache=True, nogil=True)
def _send(row: Any, item: int) -> None:
    """Put an item into the first row's tap."""
    row.tap[row.tapped] = item
    row.tapped += 1


@numba.njit(cache=True, nogil=True)
def _push(link: Any, item: int) -> None:
    """Put an item into a link."""
    link.items[link.count] = item
    link.count += 1


@numba.njit(cache=True, nogil=True)
def _forwards(fork: Any, route: Any, room: npt.NDArray[np.bool_], c: int, mesh_cols: int, taken: bool) -> bool:
    """Whether a fork's oldest item leaves: all that it goes to had room."""
    goes = fork.count > 0 and taken
    if route.east:
        goes = goes and room[c + 1]
    if route.north:
        goes = goes and room[c + mesh_cols]
    return goes


@numba.njit(cache=True, nogil=True)
def _pass_on(forks: Records, route: Any, c: int, mesh_cols: int, row: Any) -> None:
    """Hand a fork's oldest item to the first row of its cluster and to its neighbours."""
    fork = forks[c]
    item = fork.items[0]
    fork.items[0] = fork.items[1]
    fork.count -= 1
    _send(row, item)
    if route.east:
        _push(forks[c + 1], item)
    if route.north:
        _push(forks[c + mesh_cols], item)


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
    """What :func:`_loop` changes and what is looked at behind it."""

    loaders: Records
    orders: Records
    readers: Records
    memory: Memory
    drained: Records
    processor: Processor
    heads: npt.NDArray[np.int64]
    groups: npt.NDArray[np.bool_]
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
        drained = drain_state(PIPELINE_STAGES)
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
    """Run :func:`_loop` from a state."""
    clusters, height, width = s.pes.shape
    rows = np.zeros((clusters, 3, height), ROW)
    rows["words"] = -1
    banks = np.zeros((clusters, config.cols), BANK)
    banks["kind0"] = banks["kind1"] = -1
    lanes = np.zeros(config.all_lanes, LANE)
    lanes["credits"] = lane_depth(config)
    return _loop(
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
        state.begins,
        starts,
        marks,
    )
