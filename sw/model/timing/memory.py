"""Timing of the memory's side: load engines, read arbiter, memory, banks with their readers, store engine."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rowmesh.hw.storer import TRANSFERS
from rowmesh.sw.model.timing import compiled
from rowmesh.sw.model.timing.array import LINK, Records, records

__all__ = [
    "BURST",
    "FLIT",
    "LANE",
    "LOADER",
    "ORDER",
    "READER",
    "Memory",
    "StoreEngine",
    "fetch",
    "load",
    "memory_state",
    "read",
    "store",
    "store_state",
]

BURST = records("beats", "before", "behind", "lane")
"""A burst (or an empty segment) of a load or store engine: slots that a load skips before and behind it, lane of a
store."""

FLIT = records("offset", "release", "sync", "touch", "index", "edge")
"""A flit of a bank's reader."""

READER = records("stored", "held", "made", "stage", "plan", "read", "pending", "queue", "reserved", "out", "sent")
"""A bank and its reader."""

LANE = records("held", "offered", "head", "free", "returned", "packed", "credits", "gone")
"""A lane of the store engine: its FIFO with the read register, the register behind it, the beats in these that no burst
has reserved, and whether one left the FIFO. Of the drain before it: whether a beat has been packed, the room that it
counts on, whether one left the FIFO the cycle before."""

LOADER = records(
    # the next burst to be taken up, and the one to be requested, behind `skip` slots; `need` is all of it
    "next",
    "valid",
    "beats",
    "skip",
    "behind",
    "need",
    # room of the destination
    "credits",
    "freed",
    "released",
    # a skip that cannot go with a burst
    "flushing",
    "size",
    "room",
    "pending",
    # delivery: bursts and skips under way, beats held, of the burst the beats left
    "order_head",
    "ordered",
    "queued",
    "remaining",
    "fill",
    "skipped",
    # words of the destination; bursts of this layer, behind which those of the next one may follow; the cycle in
    # which the first burst of either can be taken up
    "depth",
    "own",
    "start",
    "later",
)
"""A load engine."""

ORDER = records("beats", "skip")
"""A burst or a skip that a load engine has under way."""

REQUESTS = records("asked", "waiting", want=LINK)
"""A read port: its requests, those that were there when the cycle began, their beats."""

_FLYING = records("due", "owner", "left")


class Memory(NamedTuple):
    """Arbiter and memory (one record), the read ports, and the ring of bursts in flight."""

    state: Records
    ports: Records
    ring: Records

    def copied(self) -> "Memory":
        """Return a copy."""
        return Memory(*(array.copy() for array in self))


class StoreEngine(NamedTuple):
    """Store engine and the memory's write side (one record), and the ring of replies under way, by their cycle."""

    state: Records
    due: npt.NDArray[np.int32]


def memory_state(ports: int, bursts: int) -> Memory:
    """Return an idle arbiter and memory for a number of bursts in flight."""
    kind = records("turn", "flying", "address", "address_beats", "head", "tail", "beat", "beat_last", "data")
    state = np.zeros(1, kind)
    for name in ("turn", "address", "beat", "data"):
        state[name] = -1
    return Memory(state, np.zeros(ports, REQUESTS), np.zeros(bursts + 1, _FLYING))


def store_state(bursts: int) -> StoreEngine:
    """Return an idle store engine with a number of bursts in flight at most."""
    kind = records(
        "next", "transfers", "current", "remaining", "address", "beats", "granted", "head", "tail", "reply", "flying",
        transfer_lane=TRANSFERS, transfer_beats=TRANSFERS, beat_last=LINK,
    )  # fmt: skip
    return StoreEngine(np.zeros(1, kind), np.zeros(bursts + 1, np.int32))


@compiled
def load(x: Any, order: Records, memory: Memory, port: int, bursts: Records, now: int, longest: int, debt: int) -> None:
    """Advance the load engine of a port: request bursts, deliver beats and skips (hw/loader.py)."""
    requests = memory.ports[port]
    chunk = min(longest, x.depth)
    skip, need, credits = x.skip, x.need, x.credits
    valid, flushing = x.valid == 1, x.flushing == 1
    entries = len(order)
    can_order = x.ordered < entries
    ordered = x.ordered > 0
    enough, small = need <= credits, skip <= chunk
    issue = valid and enough and small and not flushing and can_order and requests.asked < LINK
    take = issue or (not valid and small and not flushing)
    i = x.next
    there = i < len(bursts) and now >= (x.start + i if i < x.own else x.later + i - x.own)
    alone = (
        skip != 0
        and (not small or (not enough if valid else not there))
        and credits != 0
        and x.room == 1
        and can_order
        and not flushing
    )
    at = (x.order_head + x.ordered) % entries
    spent = 0
    if issue:
        requests.want[requests.asked] = x.beats
        requests.asked += 1
        order[at].beats, order[at].skip = x.beats, skip
        x.ordered += 1
        spent = need
    if take:
        before = x.behind if valid else skip
        beats = 0
        x.behind = 0
        if there:
            before += bursts[i].before
            beats = bursts[i].beats
            x.behind = bursts[i].behind
            x.next += 1
        x.skip, x.need = before, before + beats
        x.beats, x.valid = beats, beats != 0
    if flushing:
        size = x.size
        order[at].beats, order[at].skip = 0, size
        x.ordered += 1
        spent = size
        x.skip = skip - size
        x.need = need - size
        x.flushing = 0
    x.room = x.pending + x.queued < debt
    if alone:
        x.flushing = 1
        x.size = min(skip if small else chunk, credits)
    x.credits = credits + x.freed - spent
    x.freed = x.released
    x.released = 0
    # delivery
    head, remaining = x.order_head, x.remaining
    pop = x.queued > 0 and remaining != 0
    x.fill, x.skipped = pop, 0
    load_alone = False
    if remaining == 0 or (pop and remaining == 1):
        x.remaining = 0
        if ordered:
            load_alone = order[head].beats == 0
            x.remaining, x.skipped = order[head].beats, order[head].skip
            x.order_head = (head + 1) % entries
            x.ordered -= 1
    else:
        x.remaining = remaining - pop
    x.pending += flushing - load_alone
    x.queued += (memory.state[0].data == port) - pop


@compiled
def fetch(memory: Memory, now: int, latency: int, bursts: int) -> None:
    """Advance arbiter and memory; ``waiting`` are the requests that were there when the cycle began.

    The last port is the program's, which goes before the others; these take turns.
    """
    x, ring = memory.state[0], memory.ring
    ports, entries = len(memory.ports) - 1, len(ring)
    x.data = x.beat  # the arbiter's register
    done = x.beat >= 0 and x.beat_last == 1
    # the memory's next beat
    x.beat = -1
    head = x.head
    if head != x.tail and now >= ring[head].due:
        x.beat = ring[head].owner
        ring[head].left -= 1
        x.beat_last = ring[head].left == 0
        if ring[head].left == 0:
            x.head = (head + 1) % entries
    # the request on the address channel
    if x.address >= 0:
        tail = x.tail
        ring[tail].due = now + latency - 1
        ring[tail].owner, ring[tail].left = x.address, x.address_beats
        x.tail = (tail + 1) % entries
    x.address = -1
    go = False
    if x.flying != bursts:
        for k in range(-1, ports):
            port = ports if k < 0 else (x.turn + 1 + k) % ports
            if memory.ports[port].waiting:
                requests = memory.ports[port]
                x.address, x.address_beats = port, requests.want[0]
                requests.want[0] = requests.want[1]
                requests.asked -= 1
                if port != ports:
                    x.turn = port
                go = True
                break
    x.flying += go - done


@compiled
def read(reader: Any, flits: Records, x: Any, started: bool, room: bool, queue: int) -> tuple[int, bool]:
    """Advance a bank and its reader; return the flit that leaves for the trunk (-1: none), and whether it starves."""
    sends = reader.out == 1 and room
    sent = reader.sent if sends else -1
    reader.sent += sends
    leaves = reader.queue > 0 and (sends or reader.out == 0)
    if sends or leaves:
        reader.out = leaves
    reader.queue += reader.pending - leaves
    go, starved = False, False
    flit = flits[min(reader.read, len(flits) - 1)]
    planned = reader.plan
    held, stored = reader.held, reader.stored
    if planned:
        ready = (not flit.touch or flit.offset < stored) and flit.release <= held
        starved = not ready
        go = ready and reader.reserved != queue
    filled = x.fill + x.skipped
    held += filled
    stored += filled
    if go:
        held -= flit.release
        x.released = flit.release
        if flit.sync:
            stored = held
        reader.read += 1
        reader.plan -= 1
    reader.held, reader.stored = held, stored
    reader.pending = go
    reader.reserved += go - leaves
    moves = reader.stage == 1 and planned < LINK
    reader.plan += moves
    if (moves or reader.stage == 0) and started and reader.made < len(flits):
        reader.stage = 1
        reader.made += 1
    elif moves:
        reader.stage = 0
    return sent, starved


@compiled
def store(
    storer: StoreEngine, lanes: Records, bursts: Records, now: int, start: int, latency: int, flying: int
) -> bool:
    """Advance the store engine and the memory's write side; return whether it is idle."""
    stores, due = storer.state[0], storer.due
    ring = len(due)
    idle = stores.next == len(bursts) and stores.flying == 0
    # replies
    replied = stores.reply
    stores.reply = 0
    if stores.head != stores.tail and now >= due[stores.head]:
        stores.reply = 1
        stores.head = (stores.head + 1) % ring
    # the write channel
    beats, granted, addressed = stores.beats, stores.granted, stores.address
    if beats and granted:
        if stores.beat_last[0]:
            due[stores.tail] = now + latency - 1
            stores.tail = (stores.tail + 1) % ring
            stores.granted -= 1
        stores.beat_last[0] = stores.beat_last[1]
        stores.beats -= 1
    # the next beat of the transfer
    current, transfers = stores.current, stores.transfers
    pop = stores.remaining != 0 and lanes[current].head == 1 and beats < LINK
    if pop:
        stores.beat_last[stores.beats] = stores.remaining == 1
        stores.beats += 1
    for number in range(len(lanes)):
        lane = lanes[number]
        taken = pop and number == current
        lane.returned = lane.offered and (taken or not lane.head)
        if taken or not lane.head:
            lane.head = lane.offered
        fetched = lane.held > 0 and (lane.returned or not lane.offered)
        if lane.returned or not lane.offered:
            lane.offered = fetched
        lane.held -= fetched
    # a burst whose beats are there
    i = stores.next
    issue = False
    if i < len(bursts) and now >= start + i:
        if bursts[i].beats == 0:
            stores.next += 1
        else:
            issue = (
                lanes[bursts[i].lane].free >= bursts[i].beats
                and transfers < TRANSFERS
                and addressed < LINK
                and stores.flying != flying
            )
    if stores.remaining == 0 or (pop and stores.remaining == 1):
        stores.remaining = 0
        if transfers:
            stores.remaining, stores.current = stores.transfer_beats[0], stores.transfer_lane[0]
            for k in range(transfers - 1):
                stores.transfer_beats[k] = stores.transfer_beats[k + 1]
                stores.transfer_lane[k] = stores.transfer_lane[k + 1]
            stores.transfers -= 1
    else:
        stores.remaining -= pop
    if addressed:
        stores.address -= 1
        stores.granted += 1
    if issue:
        stores.address += 1
        stores.transfer_lane[stores.transfers] = bursts[i].lane
        stores.transfer_beats[stores.transfers] = bursts[i].beats
        stores.transfers += 1
        lanes[bursts[i].lane].free -= bursts[i].beats
        stores.next += 1
    stores.flying += issue - replied
    return idle
