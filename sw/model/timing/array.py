"""Timing of the PE array: trunks, row buses, PEs, psum chains, and the psum banks above them.

Every function advances its part by one cycle, the end of each path first, so that nothing moves two hops at once. A
link with a registered ready takes an item only if it had room at the beginning of the cycle.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from rowmesh.hw.link import Buffer
from rowmesh.sw.model.timing import compiled

__all__ = [
    "BANK",
    "CHAIN",
    "FIRST",
    "HOP",
    "LAST",
    "LINK",
    "PE",
    "ROUTE",
    "ROW",
    "START",
    "STEP",
    "VOID",
    "LinkState",
    "move_psums",
    "move_steps",
    "move_words",
    "records",
    "updates",
    "work",
]

Records = npt.NDArray[np.void]

FIRST, LAST, START, VOID = 1, 2, 4, 8
"""Flags of a psum."""

LINK = Buffer.capacity
"""Items of a link with a registered ready."""


def records(*names: str, **arrays: int) -> np.dtype[np.void]:
    """Return a record of 32-bit fields, some of them arrays.

    Their lengths are the same for all architectures and programs: numba compiles again for each type of record.
    """
    fields: list[Any] = [(name, np.int32) for name in names]
    return np.dtype([*fields, *((name, np.int32, (length,)) for name, length in arrays.items())])


STEP = records(
    "index",
    "iact",
    "weight",
    "iact_release",
    "weight_release",
    "iact_sync",
    "weight_sync",
    "emit",
    "edge",
    "psum_flags",
    "psum_edge",
)
"""A step of the array. Its index is 0, which all PEs take; the last two fields are entries of the psums, in their own
order."""

LinkState = records("count", items=LINK)
"""A link with a registered ready."""

ROW = records("tapped", "words", "left", "inside", tap=LINK)
"""A row's part of a trunk: its tap, the item whose words are sent along the row (-1: none) and how many are left, the
items at the row's PEs and links."""

HOP = records("item", "match", "fill", "held", "stored", "low", "high", "skip", "active")
"""A PE's tap of a bus, and the buffet (or the FIFO of steps) behind it: the item at the tap (-1: none), whether the PE
takes it, whether one comes in; words from the buffet's head and from its origin. The rest is the subscription."""

PE = records(
    # the FIFO's read register, the next step, and how many are done
    "fetched",
    "ready",
    "done",
    # places of the FIFO of psums that are taken, psums on their way there, the FIFO, its read register, psums sent
    "reserved",
    "pipe",
    "waiting",
    "offered",
    "taken",
    "sent",
    # subscription
    "skip",
    "active",
)
"""A PE behind its taps."""

CHAIN = records("slot", "passing", "slot_flags", "ahead", "turn", "out", "out_flags", "passes", "begins", "active")
"""A PE's hop of its column's chain: what it sends next, what goes past before its own psum, what it offers."""

BANK = records(
    "held",
    "finals",
    "kind0",
    "kind1",
    "freed",
    "topped",
    "quiet",
    "entry",
    "entry_flags",
    "room",
    top=LINK,
)
"""A psum bank, the register in front of it, and the link below that. ``kind`` of an update under way is 1 if it makes
the word final, -1 if none; ``quiet`` tells that nothing moves in the column; ``room`` is that of the link at the
beginning of a cycle in which the next cluster takes of it."""

ROUTE = records("source", "north", "east")
"""A cluster's route of an operand: the cluster whose bank it comes from (-1: not used), and the neighbours that it goes
on to."""


@compiled
def move_steps(rows: Records, hops: Records, links: Records, steps: Records, depth: int, segment: int) -> bool:
    """Move steps along trunk and rows to the PEs' FIFOs; return whether the first tap had room."""
    height = len(hops)
    next_room = True
    for r in range(height - 1, -1, -1):
        row = rows[r]
        room = row.tapped < LINK
        free = _along(row, hops[r], links[r], steps, depth, segment, 1)
        if row.tapped and free and next_room:
            _enter(hops[r, 0], steps, _leave(rows, r))
            row.inside += 1
        next_room = room
    return next_room


@compiled
def move_words(
    rows: Records,
    hops: Records,
    links: Records,
    flits: Records,
    taken: npt.NDArray[np.int32],
    depth: int,
    segment: int,
) -> bool:
    """Move flits along the trunk and words along the rows to the PEs' spads; return whether the first tap had room.

    ``taken`` are the words that each row takes of each flit.
    """
    height = len(hops)
    next_room = True
    for r in range(height - 1, -1, -1):
        row = rows[r]
        room = row.tapped < LINK
        free = _along(row, hops[r], links[r], flits, depth, segment, 0)
        serves = True
        if row.words >= 0:
            serves = free and row.left == 1
            if free:
                first = links[r, 0]
                first.items[first.count] = row.words
                first.count += 1
                row.inside += 1
                row.left -= 1
                if serves:
                    row.words = -1
        if row.tapped and next_room and (serves or not taken[r, row.tap[0]]):
            item = _leave(rows, r)
            if taken[r, item]:
                row.words, row.left = item, taken[r, item]
        next_room = room
    return next_room


@compiled
def _leave(rows: Records, r: int) -> int:
    """Take the oldest item of a row's tap, and hand it to the next row's; return it."""
    row = rows[r]
    item = row.tap[0]
    row.tap[0] = row.tap[1]
    row.tapped -= 1
    if r + 1 < len(rows):
        above = rows[r + 1]
        above.tap[above.tapped] = item
        above.tapped += 1
    return item


@compiled
def _along(row: Any, hops: Records, links: Records, items: Records, depth: int, segment: int, linked: int) -> bool:
    """Move what is on a row's bus, into buffets of ``depth``; return whether its first place is free.

    Links lie in front of every ``segment``-th PE from the PE ``linked`` on.
    """
    if not row.inside:
        return True
    width, free = len(hops), True
    for c in range(width - 1, -1, -1):
        hop = hops[c]
        if hop.item >= 0 and free and (not hop.match or hop.held < depth):
            hop.fill = hop.match
            if c + 1 == width:
                row.inside -= 1
            elif (c + 1) % segment == 0:
                link = links[(c + 1) // segment]
                link.items[link.count] = hop.item
                link.count += 1
            else:
                _enter(hops[c + 1], items, hop.item)
            hop.item = -1
        free = hop.item < 0
        if c >= linked and c % segment == 0:
            link = links[c // segment]
            count = link.count
            if count and free:
                _enter(hop, items, link.items[0])
                link.items[0] = link.items[1]
                link.count -= 1
            free = count < LINK
    return free


@compiled
def _enter(hop: Any, items: Records, item: int) -> None:
    """Put an item at a PE."""
    hop.item = item
    hop.match = hop.active and hop.low <= items[item].index <= hop.high and not items[item].edge & hop.skip


@compiled
def work(
    pes: Records, queues: Records, iacts: Records, weights: Records, steps: Records, chain_fifo: int, stages: int
) -> tuple[int, bool]:
    """Let every PE work; return what some PE waits for (bits: iact, weight, psum room) and whether one multiplies.

    ``queues``, ``iacts`` and ``weights`` are the PEs' taps of the three buses with what is behind them. A sum takes as
    many ``stages`` to the FIFO of psums.
    """
    waits, multiplies = 0, False
    height, width = pes.shape
    for r in range(height):
        for c in range(width):
            pe = pes[r, c]
            if not pe.active:
                continue
            queue, iact, weight = queues[r, c], iacts[r, c], weights[r, c]
            go, emits, uses = False, False, False
            step = steps[min(pe.done, len(steps) - 1)]
            if pe.ready:
                uses = not step.edge & pe.skip
                go = True
                if uses and step.iact >= iact.stored:
                    go, waits = False, waits | 1
                if uses and step.weight >= weight.stored:
                    go, waits = False, waits | 2
                emits = step.emit > 0
                if emits and pe.reserved == chain_fifo:
                    go, waits = False, waits | 4
            # operands
            _fill(iact)
            _fill(weight)
            if uses and go:
                multiplies = True
                _release(iact, step.iact_release, step.iact_sync)
                _release(weight, step.weight_release, step.weight_sync)
            # psums: a pipeline, and a FIFO whose oldest entry is in its read register
            sends = go and emits
            if sends or pe.reserved:
                popped = pe.waiting > 0 and (not pe.offered or pe.taken)
                if not pe.offered or pe.taken:
                    pe.offered = popped
                pe.waiting += (pe.pipe >> (stages - 1) & 1) - popped
                pe.pipe = (pe.pipe << 1 | sends) & ((1 << stages) - 1)
                pe.reserved += sends - pe.taken
                pe.sent += pe.taken
                pe.taken = 0
            # steps
            pe.done += go
            accepts = go or not pe.ready
            if accepts:
                pe.ready = pe.fetched
            popped = queue.held > 0 and (not pe.fetched or accepts)
            if not pe.fetched or accepts:
                pe.fetched = popped
            _fill(queue)
            queue.held -= popped
    return waits, multiplies


@compiled
def _fill(buffet: Any) -> None:
    """Take in the word that comes."""
    buffet.held += buffet.fill
    buffet.stored += buffet.fill
    buffet.fill = 0


@compiled
def _release(buffet: Any, count: int, sync: int) -> None:
    """Free words; with ``sync`` the origin moves up to the head."""
    buffet.held -= count
    if sync:
        buffet.stored = buffet.held


@compiled
def move_psums(
    chains: Records,
    links: Records,
    banks: Records,
    below_banks: Records,
    joined: bool,
    pes: Records,
    steps: Records,
    depth: int,
    segment: int,
) -> None:
    """Move psums of a cluster up the columns and into the banks, or to the next cluster if they are ``joined`` to it.

    ``below_banks`` are those of the cluster below that is joined to this one, or none.
    """
    height, width = chains.shape
    used = len(pes)
    for c in range(width):
        bank = banks[c]
        if len(below_banks):
            below_banks[c].room = below_banks[c].topped < LINK
        if bank.quiet and not bank.freed:
            if len(below_banks) and below_banks[c].topped:
                bank.quiet = 0
            for r in range(used):
                if pes[r, c].offered:
                    bank.quiet = 0
            if bank.quiet:
                continue
        above = bank.room > 0 if joined else bank.topped < LINK  # what is above takes a psum
        bank.quiet = bank.topped == 0 and bank.entry == 0 and bank.kind0 < 0 and bank.kind1 < 0
        if not joined:
            _accumulate(bank, depth)
        for r in range(height - 1, -1, -1):
            hop = chains[r, c]
            if hop.out and above:
                if r == height - 1:
                    bank.top[bank.topped] = hop.out_flags
                    bank.topped += 1
                elif (r + 1) % segment == 0:
                    link = links[(r + 1) // segment - 1, c]
                    link.items[link.count] = hop.out_flags
                    link.count += 1
            free = not hop.out or above
            adds = hop.passing or not hop.begins
            below, below_flags, linked = False, 0, r > 0 and r % segment == 0
            if linked:
                under = links[r // segment - 1, c]
                below, below_flags = under.count > 0, under.items[0]
            elif r:
                below, below_flags = chains[r - 1, c].out > 0, chains[r - 1, c].out_flags
            elif len(below_banks):
                below, below_flags = below_banks[c].topped > 0, below_banks[c].top[0]
                bank.quiet = bank.quiet and not below
            slot = hop.slot > 0
            fire = free and slot and (below or not adds)
            if fire or hop.out:
                bank.quiet = 0
            if free:
                hop.out = fire
                if fire:
                    flags = hop.slot_flags
                    if adds:
                        void = below_flags & flags & VOID
                        flags = ((below_flags if hop.passing else flags) & ~VOID) | void
                    hop.out_flags = flags
            above = free and slot and adds
            if linked:
                under = links[r // segment - 1, c]
                had = under.count < LINK
                if above and below:
                    under.items[0] = under.items[1]
                    under.count -= 1
                above = had
            if r == 0 and len(below_banks) and above and below:
                below_banks[c].top[0] = below_banks[c].top[1]
                below_banks[c].topped -= 1
            if fire or not slot:
                # what goes next: a psum that goes past, or the PE's own
                was = hop.slot
                hop.slot, hop.passing = 0, not hop.active or not hop.turn
                if hop.passing:
                    hop.slot, hop.slot_flags = 1, VOID
                    if hop.active:
                        hop.turn = hop.ahead == 1
                        hop.ahead -= 1
                elif r < used and pes[r, c].offered:
                    pe = pes[r, c]
                    psum = steps[pe.sent]
                    flags = psum.psum_flags
                    if hop.passes:
                        flags &= ~START
                    if psum.psum_edge & pe.skip:
                        flags |= VOID
                    hop.slot, hop.slot_flags = 1, flags
                    hop.ahead, hop.turn = hop.passes, hop.passes == 0
                    pe.taken = 1
                if hop.slot and not was:
                    bank.quiet = 0


@compiled
def updates(bank: Any) -> bool:
    """Whether a bank has its read port busy with an update."""
    return bank.entry > 0 and not bank.entry_flags & (FIRST | VOID)


@compiled
def _accumulate(bank: Any, depth: int) -> None:
    """Advance a bank: it takes the psum in the register in front of it, this one that at the top of the column."""
    flags = bank.entry_flags
    first = flags & FIRST > 0
    accept = bank.entry > 0 and not (first and bank.held == depth)
    bank.finals += (bank.kind1 == 1) - bank.freed
    bank.held -= bank.freed
    bank.freed = 0
    bank.kind1, bank.kind0 = bank.kind0, -1
    if accept:
        bank.kind0 = flags & LAST > 0
        bank.held += first
    if accept or not bank.entry:
        bank.entry = bank.topped > 0
        if bank.topped:
            bank.entry_flags = bank.top[0]
            bank.top[0] = bank.top[1]
            bank.topped -= 1
