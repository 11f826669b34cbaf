"""The compiler's check that a program cannot block: exact occupancy counts, without time.

All engines are deterministic and every merge has a static order, so the array is a Kahn network: if one order of all
steps exists in which every shared stream is delivered in its own order and every buffet stays within its capacity, no
faster execution can block (docs/architecture.md, deadlock freedom). The reference order here is the laziest one: a
flit is delivered only when the next step, taken by all PEs together, needs it or one behind it.
"""

import itertools
from collections.abc import Iterator
from collections.abc import Mapping as Dict

import numpy as np
import numpy.typing as npt

from rowmesh.hw.array import OPERANDS, pe_words, row_words
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import Engine
from rowmesh.hw.multicast import ROW_FIELDS
from rowmesh.hw.pe import PE_FIELDS
from rowmesh.sw.nestprogram import Nest
from rowmesh.sw.timing.streams import decode, edge_flags, flit_lanes

__all__ = ["DeadlockError", "check_deadlock_freedom"]

_TILE_LOOPS = ("n", "g", "pt", "qt", "mt", "ct", "rt", "nj", "pj")
_ROW_STEPS = ("nj", "pj")  # which a tile's weights serve


class DeadlockError(ValueError):
    """A program that could block; the message names the buffet and the count."""


def _classes(nest: Nest) -> Iterator[dict[str, int]]:
    """First and last iteration of each tile loop, in every combination that exists."""
    loops = [loop for loop in nest.loops if loop.name in _TILE_LOOPS]
    ends = [sorted({0, loop.bound - 1, (loop.last or loop.bound) - 1}) for loop in loops]
    for corner in itertools.product(*ends):
        yield dict(zip((loop.name for loop in loops), corner, strict=True))


def _ports(config: ArchConfig, nests: Dict[Engine, Nest]) -> Iterator[tuple[str, Nest, range]]:
    """Operand, reader and rows of every port that a layer uses."""
    for operand, first in zip(OPERANDS, (Engine.READ_IACT, Engine.READ_WEIGHT), strict=True):
        used = [engine for engine in nests if engine.first is first]
        height = config.rows if len(used) == 1 else config.port_rows
        for engine in used:
            yield operand, nests[engine], range(engine.port * height, (engine.port + 1) * height)


def check_deadlock_freedom(config: ArchConfig, nests: Dict[Engine, Nest], subscriptions: Dict[int, int]) -> None:
    """Check a layer's program by exact occupancy counts of every PE's operand buffets.

    Every combination of first and last tiles is checked, one row of the output at a time: a PE's operand buffets are
    empty at the end of each row (iacts) or tile (weights), which is checked too.

    Parameters
    ----------
    config : ArchConfig
    nests : Mapping[Engine, Nest]
        Of the layer, see :func:`rowmesh.sw.compiler.nests`.
    subscriptions : Mapping[int, int]
        Configuration words of the array.

    Raises
    ------
    DeadlockError
        If a buffet overflows in the reference order, or words are delivered that are never released.
    """
    rows = {
        (row, operand): decode(ROW_FIELDS, subscriptions, list(row_words(row, operand, {})))
        for row in range(config.rows)
        for operand in OPERANDS
    }
    pes = {
        (row, col): decode(PE_FIELDS, subscriptions, list(pe_words(row, col, {})))
        for row in range(config.rows)
        for col in range(config.cols)
    }
    pes = {place: pe for place, pe in pes.items() if pe["active"]}
    step = nests[Engine.STEP]
    for corner in _classes(step):
        try:
            steps = step.tokens(corner)
        except IndexError:
            continue  # the last row of a full tile does not exist in the last, shorter one
        edges = edge_flags(step, steps, config.edge_flags)
        for operand, reader, fed in _ports(config, nests):
            held = {loop.name for loop in reader.loops}
            stay = [name for name in ("n", "pt", "qt") if _iterations(reader, name) < _iterations(step, name)]
            if operand == "weight" and any(corner[name] != 0 for name in (*_ROW_STEPS, *stay)):
                continue  # a tile's weights serve all of its rows, or all tiles
            if operand == "iact":
                released = np.where(
                    step.holds("restart_mask", steps, "last"),
                    step.values["restart"],
                    np.where(step.holds("slide_mask", steps, "last"), step.values["slide"], 0),
                )
                sync = step.holds("iact_sync_mask", steps, "last")
                timeline, needs = steps, steps["iact"]
            else:
                timeline = _tile_by_tile(step, corner, stay)
                released = step.holds("weight_release_mask", timeline, "last").astype(np.int64)
                sync = step.holds("weight_sync_mask", timeline, "last")
                needs = timeline["weight"]
            flits = reader.tokens({name: at for name, at in corner.items() if name in held})
            flit_edges = edge_flags(reader, flits, config.edge_flags)
            low, high = flit_lanes(reader, flits)
            used = {place: pe for place, pe in pes.items() if place[0] in fed and not (pe["skip"] & int(edges[0]))}
            words = _delivered(operand, flits, flit_edges, low, high, rows, used)
            capacity = config.iact_spad if operand == "iact" else config.weight_spad
            _check_stream(operand, corner, words, needs, released, sync, capacity)


def _iterations(nest: Nest, name: str) -> int:
    return next((loop.bound for loop in nest.loops if loop.name == name), 1)


def _tile_by_tile(step: Nest, corner: Dict[str, int], stay: list[str]) -> dict[str, npt.NDArray[np.int64]]:
    """Return the steps of a tile, or, if weights stay over the loops ``stay``, those of the first and the last tile.

    Tiles between them use what is there and release nothing, as the first one does.
    """
    held = {name: at for name, at in corner.items() if name not in _ROW_STEPS}
    first = step.tokens(held)
    if not stay:
        return first
    last = step.tokens({**held, **{name: _iterations(step, name) - 1 for name in stay}})
    return {name: np.concatenate([first[name], last[name]]) for name in first}


def _delivered(
    operand: str,
    flits: Dict[str, npt.NDArray[np.int64]],
    edges: npt.NDArray[np.int64],
    low: npt.NDArray[np.int64],
    high: npt.NDArray[np.int64],
    rows: Dict[tuple[int, str], dict[str, int]],
    pes: Dict[tuple[int, int], dict[str, int]],
) -> dict[tuple[int, int], npt.NDArray[np.int64]]:
    """Words delivered to each PE by each flit."""
    count = len(edges)
    zero = np.zeros(count, np.int64)
    phase, index = flits.get("phase", zero), flits.get("index", zero)
    lanes = {}
    for (row, name), tap in rows.items():
        if name == operand:
            match = (
                (phase >= tap["phase_low"])
                & (phase <= tap["phase_high"])
                & (index >= tap["index_low"])
                & (index <= tap["index_high"])
            )
            words = np.minimum(high, tap["lane_high"]) - np.maximum(low, tap["lane_low"]) + 1
            lanes[row] = np.where(match & bool(tap["enable"]), np.clip(words, 0, None), 0)
    return {
        (row, col): np.where(
            (index >= pe[f"{operand}_low"]) & (index <= pe[f"{operand}_high"]) & ((edges & pe["skip"]) == 0),
            lanes[row],
            0,
        )
        for (row, col), pe in pes.items()
    }


def _check_stream(
    operand: str,
    corner: Dict[str, int],
    words: Dict[tuple[int, int], npt.NDArray[np.int64]],
    needs: npt.NDArray[np.int64],
    released: npt.NDArray[np.int64],
    sync: npt.NDArray[np.bool_],
    capacity: int,
) -> None:
    total = np.cumsum(released)
    before = total - released  # words released before each step
    marks = np.where(sync, total, 0)
    origin = np.concatenate([[0], np.maximum.accumulate(marks)[:-1]])
    wanted = np.maximum.accumulate(origin + needs)  # words that have to be there, less one
    change = np.flatnonzero(np.diff(wanted, prepend=-1))
    arrived = {place: np.cumsum(given) for place, given in words.items()}
    where = f"{operand} at tile {dict(corner)}"
    frontier = np.zeros(len(change), np.int64)
    for place, given in arrived.items():
        if given[-1] != total[-1]:
            raise DeadlockError(
                f"{where}: PE {place} is sent {given[-1]} words and releases {total[-1]}; they must be equal"
            )
        frontier = np.maximum(frontier, np.searchsorted(given, wanted[change] + 1))
    for place, given in arrived.items():
        occupied = given[frontier] - before[change]
        if occupied.max() > capacity:
            at = int(occupied.argmax())
            raise DeadlockError(
                f"{where}: PE {place} must hold {occupied[at]} words before step {change[at]} can be taken, "
                f"more than its spad's {capacity}: the order of the flits would block"
            )
