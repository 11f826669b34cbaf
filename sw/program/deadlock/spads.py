"""Spads: words of the flits that PEs take, and steps that need them."""

from collections.abc import Mapping as Dict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.jit.kernels import digest_of, kernel
from rowmesh.sw.program.deadlock.clusters import Subscriptions
from rowmesh.sw.program.deadlock.tiles import PASSES, ROW_STEPS, TILES, DeadlockError, bound_of, classes, only, within
from rowmesh.sw.program.nest import Nest
from rowmesh.sw.program.occupancy import Ints, Steps, expand

__all__ = ["check_spads"]


def check_spads(config: ArchConfig, operand: str, read: Nest, step: Nest, rows: range, array: Subscriptions) -> None:
    """Check one port's words: of iacts a row of the output at a time, of weights a tile.

    A PE's buffets are empty at the end of each, which is checked too.
    """
    stay: list[str] = []
    over: tuple[str, ...] = (*TILES, *PASSES, *ROW_STEPS)
    if operand == "weight":  # a tile's weights serve all of its rows, or all tiles
        stay = [name for name in TILES if bound_of(read, name) < bound_of(step, name)]
        over = tuple(name for name in (*TILES, *PASSES) if name not in stay)
    active = array.active.copy()
    active[[row for row in range(config.rows) if row not in rows]] = False
    place = np.argwhere(active)
    if not len(place):
        raise DeadlockError(f"no PE takes {operand}s of rows {rows.start} to {rows.stop - 1}")
    pes = {name: values[active] for name, values in array.pes.items()}
    tap = {name: values[:, None] for name, values in array.taps[operand].items()}
    skips = np.unique(pes["skip"])
    edge_masks = [f"edge{flag}_mask" for flag in range(config.edge_flags)]
    frees = {
        "iact": ("slide_mask", "restart_mask", "iact_sync_mask"),
        "weight": ("weight_release_mask", "weight_sync_mask"),
    }[operand]
    looked_at = only(step, *frees, *edge_masks), only(read, "first_mask", "last_mask", "edge_mask", *edge_masks)
    for corner in classes(step, over, looked_at):
        # tiles between the first and the last that share weights use what is there, as the first one does
        steps = expand(step, (operand,), corner, (*stay, *ROW_STEPS) if operand == "weight" else ())
        if not steps.number:
            continue  # the last row of a full tile does not exist in the last, shorter one
        flits = expand(read, ("phase", "index"), within(corner, read))
        if not flits.number:
            raise DeadlockError(f"{operand} at tile {corner}: nothing is sent")
        words = _taken(read, flits, tap)
        released, sync = _released(operand, steps)
        edges, needs = steps.edges(config.edge_flags), steps.output(operand)
        wanted, before, totals = [], [], []
        for skip in skips.tolist():
            used = (edges & skip) == 0
            freed = np.where(used, released, 0)
            total = np.cumsum(freed)
            marks = np.maximum.accumulate(np.where(sync & used, total, 0))
            origin = np.concatenate([[0], marks[:-1]])
            if marks[-1] != total[-1]:
                raise DeadlockError(f"{operand} at tile {corner}: the last step leaves {total[-1] - marks[-1]} words")
            wanted.append(np.maximum.accumulate(np.where(used, origin + needs + 1, 0)))
            before.append(total - freed)
            totals.append(int(total[-1]))
        change = np.flatnonzero(np.any(np.diff(wanted, axis=1, prepend=0) > 0, axis=0))
        capacity = config.iact_spad if operand == "iact" else config.weight_spad
        of = np.searchsorted(skips, pes["skip"])
        sent, held = _occupied(
            np.array(wanted)[:, change],
            np.array(before)[:, change],
            of,
            place[:, 0],
            pes[f"{operand}_low"],
            pes[f"{operand}_high"],
            pes["skip"],
            flits.output("index"),
            flits.edges(config.edge_flags),
            words,
        )
        _check_words(operand, corner, place, sent, np.array(totals)[of], held, capacity)


def _released(operand: str, steps: Steps) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Return the words that each step frees, and whether the origin moves up to the head then."""
    if operand == "weight":
        return steps.holds("weight_release_mask").astype(np.int64), steps.holds("weight_sync_mask")
    values = steps.nest.values
    slides = np.where(steps.holds("slide_mask"), values["slide"], 0)
    return np.where(steps.holds("restart_mask"), values["restart"], slides), steps.holds("iact_sync_mask")


def _taken(read: Nest, flits: Steps, tap: Dict[str, Ints]) -> Ints:
    """Return the words that each row takes of each flit."""
    values = read.values
    low = np.where(flits.holds("first_mask", "first"), values.get("low_first", 0), values["low"])
    last = np.where(flits.holds("edge_mask"), values.get("high_edge", 0), values.get("high_last", 0))
    high = np.where(flits.holds("last_mask"), last, values["high"])
    index, phase = flits.output("index"), flits.output("phase")
    match = (phase >= tap["phase_low"]) & (phase <= tap["phase_high"])
    match &= (index >= tap["index_low"]) & (index <= tap["index_high"]) & (tap["enable"] > 0)
    words = np.minimum(high, tap["lane_high"]) - np.maximum(low, tap["lane_low"]) + 1
    return np.where(match, np.maximum(words, 0), 0)


def _check_words(
    operand: str, corner: Dict[str, int], place: Ints, sent: Ints, freed: Ints, held: Ints, capacity: int
) -> None:
    where = f"{operand} at tile {dict(corner)}"
    wrong = np.flatnonzero(sent != freed)
    if len(wrong):
        pe = int(wrong[0])
        raise DeadlockError(
            f"{where}: PE {tuple(place[pe].tolist())} is sent {sent[pe]} words and releases {freed[pe]}; they must be "
            "equal"
        )
    if held.max() == _NEVER:
        pe = int(held.argmax())
        raise DeadlockError(f"{where}: PE {tuple(place[pe].tolist())} waits for a word that is never sent")
    if held.max() > capacity:
        pe = int(held.argmax())
        raise DeadlockError(
            f"{where}: PE {tuple(place[pe].tolist())} must hold {held[pe]} words before a step can be taken, more than "
            f"its spad's {capacity}: the order of the flits would block"
        )


_NEVER = 1 << 40


def _occupy(
    wanted: Ints,
    before: Ints,
    of: Ints,
    rows: Ints,
    low: Ints,
    high: Ints,
    skip: Ints,
    index: Ints,
    edges: Ints,
    words: Ints,
) -> tuple[Ints, Ints]:
    """Return the words sent to each PE, and the most that it holds when a step is taken by all PEs.

    ``wanted`` are the words that have to be there at some steps, ``before`` those that have been freed, each of the
    kinds ``of`` the PEs. At each of these steps flits have come up to the last one that some PE needs.
    """
    pes, changes = len(rows), wanted.shape[1]
    sent, held = np.zeros(pes, np.int64), np.zeros(pes, np.int64)
    until = np.zeros(changes, np.int64)
    for turn in range(2):
        row, some, many = -1, np.zeros(0, np.int64), 0
        for pe in range(pes):
            if rows[pe] != row:
                row = rows[pe]
                some = np.flatnonzero(words[row])
                many = len(some)
            kind, come, at = of[pe], 0, 0
            for k in range(many + 1):
                flit = some[k] if k < many else len(index)
                if turn:  # steps that are taken before this flit has to come
                    while at < changes and until[at] < flit:
                        held[pe] = max(held[pe], come - before[kind, at])
                        at += 1
                if k == many:
                    break
                if low[pe] <= index[flit] <= high[pe] and not edges[flit] & skip[pe]:
                    come += words[row, flit]
                    if not turn:
                        while at < changes and wanted[kind, at] <= come:
                            until[at] = max(until[at], flit)
                            at += 1
            if not turn:
                sent[pe] = come
                if at < changes and wanted[kind, changes - 1] > come:
                    held[pe] = _NEVER
    return sent, held


_occupied = kernel(digest_of([Path(__file__)]))(_occupy)
