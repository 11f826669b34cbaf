"""Psums from the steps to memory: what is made, drained and stored."""

import itertools
from collections.abc import Mapping as Dict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rowmesh.hw.config import ArchConfig
from rowmesh.hw.drain import UNSEEN, lane_depth
from rowmesh.sw.mapping.cluster import ceil_div
from rowmesh.sw.program.deadlock.tiles import DeadlockError, only
from rowmesh.sw.program.nest import Nest
from rowmesh.sw.program.occupancy import Ints, Steps, count, expand, times

__all__ = ["check_drain", "check_psums", "check_store", "drain_classes", "store_classes", "used_lanes"]


def check_psums(config: ArchConfig, tile: Dict[str, int], step: Nest, chains: Ints) -> tuple[int, Ints]:
    """Check that all passes over a tile make the same psums, and that a bank holds them.

    What is returned are the words of each bank, and of each column those that are psums: not of absent chains.
    """
    emit, first, start = (step.conditions[f"{name}_mask"] for name in ("emit", "first", "start"))
    if emit is None or first is None or start is None:
        raise DeadlockError("STEP: no psum is emitted, is the first of its kind, or starts a pass")
    emitted = count(step, emit, (), tile)
    firsts, starts = count(step, emit, first, tile), count(step, emit, start, tile)
    lasts = times(step, "emit_mask", tile, "last_mask")
    if firsts != lasts or emitted != starts * firsts:
        raise DeadlockError(
            f"STEP: a PE sends {emitted} psums in {starts} passes over tile {dict(tile)}; {firsts} begin a sum and "
            f"{lasts} end one: they must be as many in each pass"
        )
    words = firsts * chains.shape[1]
    if words > config.psum_bank_words:
        raise DeadlockError(f"psum bank: {words} psums of a column at tile {tile} exceed {config.psum_bank_words}")
    void = {flags: _absent(step, tile, flags) for flags in set(chains.ravel().tolist())}
    return words, words - np.array([sum(void[flags] for flags in column) for column in chains.tolist()], np.int64)


def _absent(step: Nest, tile: Dict[str, int], flags: int) -> int:
    """Count the psums of a tile that a chain does not make, being absent if one of some edge flags holds."""
    emit, first = step.conditions["emit_mask"] or (), step.conditions["first_mask"] or ()
    conditions = [step.conditions.get(f"edge{flag}_mask") for flag in range(flags.bit_length()) if flags >> flag & 1]
    masks = [set(condition) for condition in conditions if condition is not None]
    total = 0
    for number in range(1, len(masks) + 1):  # where several hold, each is counted, and what is counted twice taken off
        for some in itertools.combinations(masks, number):
            total -= (-1) ** number * count(step, set(emit).union(*some), first, tile)
    return total


def _columns(config: ArchConfig, steps: Steps) -> Ints:
    values = steps.nest.values
    return np.where(steps.holds("edge_mask"), values["columns_edge"], values["columns"])


def used_lanes(config: ArchConfig, steps: Steps) -> Ints:
    """Return the lanes of a cluster that give a word in each step of the drain."""
    groups = steps.output("group") % config.bank_groups
    return np.clip(_columns(config, steps) - groups * config.lanes, 0, config.lanes)


def drain_classes(drain: Nest) -> Nest:
    """Return a drain with the conditions by which it takes other words in one tile than in another."""
    release = [drain.values[f"release{k}"] for k in range(4)]
    told = {
        "release_mask": True,
        "flush_mask": True,
        "edge_mask": drain.values["columns"] != drain.values["columns_edge"],
        "short_mask": (release[0], release[2]) != (release[1], release[3]),
        "thin_mask": release[:2] != release[2:],
    }
    return only(drain, *(name for name, tells in told.items() if tells))


def store_classes(store: Nest) -> Nest:
    """Return a store engine's nest with the conditions by which it takes other beats in one tile than in another."""
    values = store.values
    told = {
        "edge_mask": values["columns"] != values["columns_edge"],
        "length_mask": values["length"] != values["length_last"],
    }
    return only(store, *(name for name, tells in told.items() if tells))


def check_drain(
    config: ArchConfig, tile: Dict[str, int], drain: Nest, made: tuple[int, Ints], clusters: Sequence[int]
) -> npt.NDArray[np.bool_]:
    """Check that the drain takes all psums of a tile, ``made`` as words of a bank and as psums of each column.

    What is returned is which lanes of the store engine each step gives a beat.
    """
    words, psums = made
    steps, values, members = expand(drain, ("offset", "group"), tile), drain.values, config.drain_clusters
    group, mask = steps.output("group"), values.get("members", 1)
    short, thin = steps.holds("short_mask"), steps.holds("thin_mask")
    sizes = np.array([values[f"release{k}"] for k in range(4)])
    release = np.where(steps.holds("release_mask"), sizes[short + 2 * thin], 0)
    used = used_lanes(config, steps)
    need = np.maximum(np.where(used > 0, steps.output("offset") + 1, 0), release)
    across = ceil_div(values["columns"], config.lanes)
    wanted = {number // members * config.bank_groups + k for number in clusters for k in range(across)}
    of_sets = {divmod(number, members) for number in clusters}
    drained = {(one // config.bank_groups, k) for one in wanted for k in range(members) if mask >> k & 1}
    if wanted != set(np.unique(group).tolist()) or drained != of_sets:
        raise DeadlockError(f"DRAIN: it goes to other psum banks in tile {dict(tile)} than have psums")
    for one in wanted:
        freed = release[group == one]
        total = np.cumsum(freed)
        most = int((total - freed + need[group == one]).max())
        if total[-1] != words or most > words:
            raise DeadlockError(
                f"DRAIN: of {words} psums in each bank of group {one}, it needs {most} and frees {total[-1]} in tile "
                f"{dict(tile)}"
            )
    for one in wanted:
        number = one % config.bank_groups
        of_lanes = np.count_nonzero(used[group == one][:, None] > np.arange(config.lanes), axis=0)
        mine = psums[number * config.lanes : (number + 1) * config.lanes]
        if not np.array_equal(of_lanes[: len(mine)], mine):
            raise DeadlockError(
                f"DRAIN: columns of group {one} have {mine.tolist()} psums in tile {dict(tile)}, and "
                f"{of_lanes.tolist()} are taken"
            )
    gives = used > np.arange(config.lanes)[:, None]
    gives &= steps.holds("flush_mask")
    return np.concatenate([gives if mask >> k & 1 else np.zeros_like(gives) for k in range(members)])


def check_store(config: ArchConfig, tile: Dict[str, int], store: Nest, gives: npt.NDArray[np.bool_]) -> None:
    """Check that the store engine takes a tile's beats, and that no lane is full before one that it waits for."""
    segments = expand(store, ("lane", "column"), tile)
    beats = np.where(segments.holds("length_mask"), store.values["length_last"], store.values["length"])
    beats = np.where(segments.output("column") < _columns(config, segments), beats, 0)
    lane = segments.output("lane")
    lane, beats = lane[beats > 0], beats[beats > 0]
    if len(lane) and (lane.min() < 0 or lane.max() >= len(gives)):
        raise DeadlockError(f"STORE: lane {lane.max()} in tile {dict(tile)} is beyond the {len(gives)} there are")
    pieces = -(-beats // config.burst_beats)  # bursts of a segment
    lane, place = np.repeat(lane, pieces), np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    beats = np.minimum(config.burst_beats, np.repeat(beats, pieces) - place * config.burst_beats)
    made = np.cumsum(gives, axis=1)
    stored = np.cumsum((lane == np.arange(len(gives))[:, None]) * beats, axis=1)
    for number, (of_drain, of_store) in enumerate(zip(made, stored, strict=True)):
        total = of_drain[-1], of_store[-1] if len(lane) else 0
        if total[0] != total[1]:
            raise DeadlockError(
                f"STORE: lane {number} is given {total[0]} beats in tile {dict(tile)}, and {total[1]} are stored"
            )
    # a burst is begun when all of its beats are there: the drain goes on up to the last of them
    until = np.zeros(len(lane), np.int64)
    for number in np.unique(lane):
        mine = lane == number
        until[mine] = np.searchsorted(made[number], stored[number][mine])
    until = np.maximum.accumulate(until)
    before = np.where(until > 0, made[:, until - 1], 0)
    left = (before - np.pad(stored, ((0, 0), (1, 0)))[:, :-1]).max(axis=0)
    most = lane_depth(config) - UNSEEN - 1
    waits = np.diff(until, prepend=-1) > 0
    if np.any(waits & (left > most)):
        raise DeadlockError(
            f"STORE: it waits for a burst of lane {lane[waits & (left > most)][0]} while another lane holds "
            f"{left.max()} beats, more than {most}"
        )
