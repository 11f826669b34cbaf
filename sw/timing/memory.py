"""Timing of the memory's side: load engines, read arbiter, memory, banks with their readers, store engine."""

from typing import Any

import numba
import numpy as np

from rowmesh.hw.storer import TRANSFERS
from rowmesh.sw.timing.array import LINK, Records, records

__all__ = [
    "BURST",
    "FLIT",
    "LANE",
    "READER",
    "fetch",
    "load",
    "loader_record",
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

LANE = records("held", "offered", "head", "free", "returned")
"""A lane of the store engine: its FIFO with the read register, the register behind it, the beats in these that no burst
has reserved, and whether one left the FIFO."""


def loader_record(entries: int) -> np.dtype[np.void]:
    """Return the record of a load engine that has so many bursts and skips under way."""
    return records(
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
        order_beats=entries,
        order_skip=entries,
    )


def memory_state(ports: int, bursts: int) -> Records:
    """Return an idle arbiter and memory for a number of bursts in flight."""
    kind = records(
        "turn", "flying", "address", "address_beats", "head", "tail", "beat", "beat_last", "data",
        asked=ports, waiting=ports, want=ports * LINK, due=bursts + 1, owner=bursts + 1, left=bursts + 1,
    )  # fmt: skip
    state = np.zeros(1, kind)
    for name in ("turn", "address", "beat", "data"):
        state[name] = -1
    return state


def store_state(bursts: int) -> Records:
    """Return an idle store engine with a number of bursts in flight at most."""
    kind = records(
        "next", "transfers", "current", "remaining", "address", "beats", "granted", "head", "tail", "reply", "flying",
        transfer_lane=TRANSFERS, transfer_beats=TRANSFERS, beat_last=LINK, due=bursts + 1,
    )  # fmt: skip
    return np.zeros(1, kind)


@numba.njit(cache=True, nogil=True)
def load(x: Any, memory: Any, port: int, bursts: Records, now: int, longest: int, debt: int) -> None:
    """Advance the load engine of a port: request bursts, deliver beats and skips (hw/loader.py)."""
    chunk = min(longest, x.depth)
    skip, need, credits = x.skip, x.need, x.credits
    valid, flushing = x.valid == 1, x.flushing == 1
    entries = len(x.order_beats)
    can_order = x.ordered < entries
    ordered = x.ordered > 0
    enough, small = need <= credits, skip <= chunk
    issue = valid and enough and small and not flushing and can_order and memory.asked[port] < LINK
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
        memory.want[LINK * port + memory.asked[port]] = x.beats
        memory.asked[port] += 1
        x.order_beats[at], x.order_skip[at] = x.beats, skip
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
        x.order_beats[at], x.order_skip[at] = 0, size
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
            load_alone = x.order_beats[head] == 0
            x.remaining, x.skipped = x.order_beats[head], x.order_skip[head]
            x.order_head = (head + 1) % entries
            x.ordered -= 1
    else:
        x.remaining = remaining - pop
    x.pending += flushing - load_alone
    x.queued += (memory.data == port) - pop


@numba.njit(cache=True, nogil=True)
def fetch(memory: Any, now: int, latency: int, bursts: int) -> None:
    """Advance arbiter and memory; ``waiting`` are the requests that were there when the cycle began.

    The last port is the program's, which goes before the others; these take turns.
    """
    ports, ring = len(memory.asked) - 1, len(memory.due)
    memory.data = memory.beat  # the arbiter's register
    done = memory.beat >= 0 and memory.beat_last == 1
    # the memory's next beat
    memory.beat = -1
    head = memory.head
    if head != memory.tail and now >= memory.due[head]:
        memory.beat = memory.owner[head]
        memory.left[head] -= 1
        memory.beat_last = memory.left[head] == 0
        if memory.left[head] == 0:
            memory.head = (head + 1) % ring
    # the request on the address channel
    if memory.address >= 0:
        tail = memory.tail
        memory.due[tail] = now + latency - 1
        memory.owner[tail], memory.left[tail] = memory.address, memory.address_beats
        memory.tail = (tail + 1) % ring
    memory.address = -1
    go = False
    if memory.flying != bursts:
        for k in range(-1, ports):
            port = ports if k < 0 else (memory.turn + 1 + k) % ports
            if memory.waiting[port]:
                memory.address, memory.address_beats = port, memory.want[LINK * port]
                memory.want[LINK * port] = memory.want[LINK * port + 1]
                memory.asked[port] -= 1
                if port != ports:
                    memory.turn = port
                go = True
                break
    memory.flying += go - done


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
def store(stores: Any, lanes: Records, bursts: Records, now: int, start: int, latency: int, flying: int) -> bool:
    """Advance the store engine and the memory's write side; return whether it is idle."""
    ring = len(stores.due)
    idle = stores.next == len(bursts) and stores.flying == 0
    # replies
    replied = stores.reply
    stores.reply = 0
    if stores.head != stores.tail and now >= stores.due[stores.head]:
        stores.reply = 1
        stores.head = (stores.head + 1) % ring
    # the write channel
    beats, granted, addressed = stores.beats, stores.granted, stores.address
    if beats and granted:
        if stores.beat_last[0]:
            stores.due[stores.tail] = now + latency - 1
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
