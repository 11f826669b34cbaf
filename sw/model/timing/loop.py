"""All engines together, a cycle at a time, from a layer's first start to the last write response."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rowmesh.hw.parts import PARTS
from rowmesh.sw.model.timing import compiled
from rowmesh.sw.model.timing.array import LINK, Records, move_psums, move_steps, move_words, work
from rowmesh.sw.model.timing.drain import drain
from rowmesh.sw.model.timing.memory import Memory, StoreEngine, fetch, load, read, store
from rowmesh.sw.model.timing.processor import Processor, execute, fetch_first, request
from rowmesh.sw.model.timing.streams import Streams

__all__ = ["Sizes", "loop"]

_FILL, _COMPUTE, _NOC, _DMA, _PSUM, _DRAIN = (
    PARTS.index(part) for part in ("fill", "compute", "noc", "dma", "psum", "drain")
)


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


@compiled
def loop(
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
    awaited: npt.NDArray[np.bool_],
    begins: npt.NDArray[np.int64],
    to_request: npt.NDArray[np.int64],
    marks: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], int, int]:
    """Return what ``Ran.seen`` holds, the cycle of the end (-1: stuck), and that in which the layer has been stored.

    The end is that of the drain if another layer follows, or else that of the store engine. Cycle 0 is that of the
    start tokens; for ``lead`` cycles before it, only load engines work that were started while the layer before ran.
    If the program is executed here (``heads``), cycle 0 is that of its first word, and ``begins``, the cycles of the
    engines' start tokens, come from it: those of the read ports' loads, of the banks' readers, and of the last three.
    ``groups`` are the engines of each START, ``awaited`` the read ports' loads that a WAIT before it waits for.
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
    idle = True
    at_step, at_drain, at_store = len(begins) - 3, len(begins) - 2, len(begins) - 1
    if len(heads):
        fetch_first(processor, memory, sizes.read_latency, sizes.bursts)
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
        if given < len(heads):
            was_idle, idle = idle, _idle(loaders, awaited[given])
            if execute(processor, heads[given], awaited[given].any(), was_idle, now, sizes.settle):
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


@compiled
def _idle(loaders: Records, wanted: npt.NDArray[np.bool_]) -> bool:
    """Whether all load engines that are wanted have delivered all of their layer."""
    for port in range(len(loaders)):
        x = loaders[port]
        if wanted[port] and (x.next < x.own or x.valid or x.ordered or x.remaining or x.fill):
            return False
    return True


@compiled
def _settle(loader: Any, readers: Records, port: int, drain: Any) -> None:
    """Put a beat that has come to where nothing is at work that would take it: a bank, or the drain's parameters."""
    if port < len(readers):
        readers[port].held += loader.fill
        readers[port].stored += loader.fill
    else:
        drain.held += loader.fill
    loader.fill = 0


@compiled
def _fetch_program(memory: Memory, program: npt.NDArray[np.int64], fetched: int, now: int) -> int:
    """Request the next burst of a program when it is due; return how many have been requested."""
    requests = memory.ports[len(memory.ports) - 1]
    if fetched == len(program) or now < program[fetched, 0] or requests.asked == LINK:
        return fetched
    requests.want[requests.asked] = program[fetched, 1]
    requests.asked += 1
    return fetched + 1


@compiled
def _send(row: Any, item: int) -> None:
    """Put an item into the first row's tap."""
    row.tap[row.tapped] = item
    row.tapped += 1


@compiled
def _push(link: Any, item: int) -> None:
    """Put an item into a link."""
    link.items[link.count] = item
    link.count += 1


@compiled
def _forwards(fork: Any, route: Any, room: npt.NDArray[np.bool_], c: int, mesh_cols: int, taken: bool) -> bool:
    """Whether a fork's oldest item leaves: all that it goes to had room."""
    goes = fork.count > 0 and taken
    if route.east:
        goes = goes and room[c + 1]
    if route.north:
        goes = goes and room[c + mesh_cols]
    return goes


@compiled
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
