"""The compiler's check that a program cannot block: exact counts of what every engine makes and takes, without time.

All engines are deterministic and every merge has a static order, so they are a Kahn network: if one order of all steps
exists in which every stream is delivered in its own order and every buffer stays within its capacity, no faster
execution can block (docs/architecture.md, deadlock freedom). The reference order here is tile after tile, and the
laziest one: a word is moved only when the next step, taken by all PEs together, needs it or one behind it.

All nests have the same loops over tiles, and what an engine does in a tile depends on nothing but which of these loops
are in their last iteration. So a check of each such class of tiles is one of all, and what is left behind by none adds
up nowhere. Counts come from the nests that are encoded, in closed form where they are of many steps
(:mod:`rowmesh.sw.program.occupancy`).
"""

import functools
import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from collections.abc import Mapping as Dict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rowmesh.hw.array import OPERANDS, pe_words, row_words
from rowmesh.hw.axi import PAGE_BYTES
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import Engine
from rowmesh.hw.drain import UNSEEN, lane_depth
from rowmesh.hw.multicast import ROW_FIELDS
from rowmesh.hw.pe import PE_FIELDS
from rowmesh.hw.router import Side
from rowmesh.sw.jit.kernels import digest_of, kernel
from rowmesh.sw.mapping.cluster import ceil_div
from rowmesh.sw.program.bursts import split
from rowmesh.sw.program.layer import Programs
from rowmesh.sw.program.nest import Loop, Nest
from rowmesh.sw.program.occupancy import Ints, Steps, count, expand, peak, times

__all__ = ["DeadlockError", "check_deadlock_freedom"]

_TILES = ("n", "g", "pt", "qt", "mt")
_PASSES = ("ct", "rt")
_ROW_STEPS = ("nj", "pj")  # which a tile's weights serve
_SHARED = (*_TILES, *_PASSES, *_ROW_STEPS)

_ENGINES = {"iact": (Engine.LOAD_IACT, Engine.READ_IACT), "weight": (Engine.LOAD_WEIGHT, Engine.READ_WEIGHT)}


class DeadlockError(ValueError):
    """A program that could block; the message names the engine or the buffer, and the counts."""


def check_deadlock_freedom(config: ArchConfig, programs: Programs) -> None:
    """Check a layer's programs by exact counts: loads, banks, reads, steps, psums, drain, store and parameters.

    Parameters
    ----------
    config : ArchConfig
    programs : Programs
        Of all clusters, see :func:`rowmesh.sw.program.assemble.programs`.

    Raises
    ------
    DeadlockError
        If a buffer overflows in the reference order, or if what is made for it and what is taken of it differ.
    """
    shared = programs.shared
    step, drain, store = (shared[engine] for engine in (Engine.STEP, Engine.DRAIN, Engine.STORE))
    clusters = _Clusters(config, programs)
    params = shared.get(Engine.LOAD_PARAM)
    nests: list[tuple[Engine, Nest]] = [(engine, nest) for engine, nest in shared.items() if engine is not Engine.STEP]
    nests += [(engine, nest) for engine, nest, *_ in clusters.banks]
    nests += [(engine, nest) for *_, engine, nest in clusters.banks]
    for engine, nest in nests:
        _check_loops(engine, nest, step)
    chains = clusters.check_chains(drain)
    edges = [f"edge{flag}_mask" for flag in range(config.edge_flags)]
    psums = _only(step, "emit_mask", "first_mask", "last_mask", "start_mask", *edges)
    for tile in _classes(step, _TILES, (psums, _drain_classes(drain), _store_classes(store))):
        words = _check_psums(config, tile, step, chains)
        beats = _check_drain(config, tile, drain, words, clusters.drained)
        _check_store(config, tile, store, beats)
    _check_params(config, params, drain)
    for load_engine, load, read_engine, read in clusters.banks:
        depth = config.glb_iact_flits if load_engine.first is Engine.LOAD_IACT else config.glb_weight_flits
        _check_bank(config, load_engine, load, read_engine, read, depth)
    for operand, read, rows, array in clusters.streams:
        _check_spads(config, operand, read, step, rows, array)


# loops over tiles


def _loop(nest: Nest, name: str) -> Loop | None:
    return next((loop for loop in nest.loops if loop.name == name), None)


def _bound(nest: Nest, name: str) -> int:
    loop = _loop(nest, name)
    return 1 if loop is None else loop.bound


def _check_loops(engine: Engine, nest: Nest, step: Nest) -> None:
    """Check that a nest goes through tiles, passes and row steps as the steps do.

    What is loaded, or read to the PEs, may stay over some loops: these are not there, or of one iteration, and the
    innermost ones.
    """
    own, all_of = [], []
    for loop in nest.loops:
        if loop.name not in _SHARED or (loop.bound == 1 and loop.last in (None, 1)):
            continue
        own.append(loop.name)
        of_steps = _loop(step, loop.name)
        if of_steps is None or _form(loop) != _form(of_steps):
            bound = 1 if of_steps is None else of_steps.bound
            raise DeadlockError(
                f"{engine.name}: loop {loop.name} has {loop.bound} iterations (the last time {loop.last}), and in STEP "
                f"{bound}: they must be equal"
            )
    all_of = [loop.name for loop in step.loops if loop.name in _SHARED and loop.bound > 1]
    if own != [name for name in all_of if name in own]:
        raise DeadlockError(f"{engine.name}: its loops {own} are in another order than those of STEP, {all_of}")
    left_out = [name for name in all_of if name not in own]
    if engine.first in (Engine.READ_IACT, Engine.DRAIN, Engine.STORE):
        needed = [name for name in left_out if engine.first is Engine.READ_IACT or name not in _PASSES]
        if needed:
            raise DeadlockError(f"{engine.name}: it lacks the loops {needed} of STEP")
    if engine.first is Engine.READ_WEIGHT:
        over = [name for name in all_of if name not in _ROW_STEPS]
        stays = [name for name in over if name in left_out]
        if over[len(over) - len(stays) :] != stays:
            raise DeadlockError(f"{engine.name}: what stays over the loops {stays} is not there for those inside")


def _form(loop: Loop) -> tuple[int, int, frozenset[str]]:
    last = loop.bound if loop.last is None or not loop.when else loop.last
    return loop.bound, last, frozenset(loop.when) if last != loop.bound else frozenset()


def _named(nests: Iterable[Nest]) -> set[str]:
    """Return the loops whose last or first iterations some nests look at."""
    names: set[str] = set()
    for nest in nests:
        for loop in nest.loops:
            if loop.last not in (None, loop.bound):
                names |= set(loop.when)
        for chosen in nest.conditions.values():
            names |= set(chosen or ())
    return names


def _only(nest: Nest, *conditions: str) -> Nest:
    """Return a nest with some of its conditions."""
    return Nest(nest.loops, nest.bases, {name: nest.conditions.get(name) for name in conditions}, nest.values)


def _classes(step: Nest, over: Collection[str], nests: Sequence[Nest]) -> Iterator[dict[str, int]]:
    """Yield an iteration of each loop ``over``, for every combination that some nests tell apart."""
    named = _named(nests)
    loops = [loop for loop in step.loops if loop.name in over]
    ends = []
    for loop in loops:
        places = {0}
        if loop.name in named:
            places |= {loop.bound - 1} | ({loop.last - 1} if loop.last is not None and loop.when else set())
        ends.append(sorted(places))
    for corner in itertools.product(*ends):
        yield dict(zip((loop.name for loop in loops), corner, strict=True))


def _within(corner: Dict[str, int], nest: Nest) -> dict[str, int]:
    """Return the iterations of the loops that a nest has; what stays over a loop has one of it."""
    return {name: min(at, _bound(nest, name) - 1) for name, at in corner.items() if _loop(nest, name)}


# clusters: which array is fed from where


@functools.lru_cache(maxsize=64)
def _addresses(rows: int, cols: int) -> tuple[Ints, dict[str, Ints]]:
    """Return the addresses of the words of all PEs [rows, cols, 2], and of all taps [rows, 2]."""
    of_pes = np.array([[list(pe_words(row, col, {})) for col in range(cols)] for row in range(rows)], np.int64)
    taps = {name: np.array([list(row_words(row, name, {})) for row in range(rows)], np.int64) for name in OPERANDS}
    return of_pes, taps


def _fields(fields: tuple[tuple[str, int, int], ...], words: Ints) -> dict[str, Ints]:
    """Return the fields of subscriptions from their words, the last axis."""
    values = {}
    for number, (name, word, shift) in enumerate(fields):
        above = [at for _, of_word, at in fields[number + 1 :] if of_word == word]
        width = (min(above) if above else 32) - shift
        values[name] = words[..., word] >> shift & (1 << width) - 1
    return values


class _Array:
    """The subscriptions of a cluster's array: fields of PEs over rows and columns, of taps by operand over rows."""

    def __init__(self, config: ArchConfig, words: Dict[int, int]) -> None:
        of_pes, of_taps = _addresses(config.rows, config.cols)
        at = np.array([words[address] for address in of_pes.ravel().tolist()], np.int64).reshape(of_pes.shape)
        self.pes = _fields(PE_FIELDS, at)
        self.taps = {
            name: _fields(ROW_FIELDS, np.array([words[k] for k in taps.ravel().tolist()]).reshape(taps.shape))
            for name, taps in of_taps.items()
        }
        self.active = self.pes["active"] > 0


def _kind(nest: Nest) -> object:
    """Return what makes nests alike but for addresses and padding."""
    loops = tuple((k.name, *_form(k), tuple(sorted(k.strides.items()))) for k in nest.loops)
    conditions = tuple((name, chosen and tuple(chosen)) for name, chosen in nest.conditions.items())
    values = tuple(item for item in nest.values.items() if item[0] not in ("width", "height", "blocks"))
    return loops, conditions, values


class _Clusters:
    """The arrays in use, the banks and what they send to which array, each kind once.

    Attributes
    ----------
    banks : list of (Engine, Nest, Engine, Nest)
        Load engine and reader of each bank in use.
    streams : list of (str, Nest, range, _Array)
        Operand, reader, and the rows of an array that it feeds.
    drained : list of int
        Clusters whose psums go to their banks.
    """

    def __init__(self, config: ArchConfig, programs: Programs) -> None:
        self._config = config
        self._north = list(programs.north) or [False] * config.clusters
        arrays: dict[int, _Array] = {}
        self._arrays = []
        for words in programs.arrays:
            if id(words) not in arrays:
                arrays[id(words)] = _Array(config, words)
            self._arrays.append(arrays[id(words)])
        self.used = [number for number, array in enumerate(self._arrays) if array.active.any()]
        self.drained = [number for number in self.used if not self._north[number]]
        banks: dict[object, tuple[Engine, Nest, Engine, Nest]] = {}
        streams: dict[object, tuple[str, Nest, range, _Array]] = {}
        for operand, (load, read) in _ENGINES.items():
            kinds = [
                {engine: _kind(nest) for engine, nest in nests.items() if engine.first in (load, read)}
                for nests in programs.clusters
            ]
            for number in self.used:
                source = self._source(programs, operand, number)
                own = programs.clusters[source]
                ports = [engine.port for engine in own if engine.first is read]
                if not ports or any(load.at(port) not in own for port in ports):
                    raise DeadlockError(f"cluster {number}: nothing loads or reads its {operand}s")
                height = config.rows if len(ports) == 1 else config.port_rows
                for port in ports:
                    engines = load.at(port), read.at(port)
                    kind = tuple(kinds[source][engine] for engine in engines)
                    banks.setdefault(kind, (engines[0], own[engines[0]], engines[1], own[engines[1]]))
                    rows, array = range(port * height, (port + 1) * height), self._arrays[number]
                    key = kind[1], rows, id(array)
                    streams.setdefault(key, (operand, own[engines[1]], rows, array))
        self.banks, self.streams = list(banks.values()), list(streams.values())

    def _source(self, programs: Programs, operand: str, number: int) -> int:
        """Return the cluster whose bank an operand of a cluster comes from."""
        for _ in range(self._config.clusters if programs.routes else 0):
            side = programs.routes[operand][number].source
            if side is None:
                raise DeadlockError(f"cluster {number}: no route brings its {operand}s")
            if side is Side.LOCAL:
                break
            number += side.step[0] * self._config.mesh_cols + side.step[1]
        return number

    def check_chains(self, drain: Nest) -> Ints:
        """Check that every PE gets as many psums from below as it expects, and that columns with psums are drained.

        A chain's PEs let pass what comes from the chains below, and add their own psum to one that comes behind it,
        unless the chain begins with them. What is returned are the chains of each column: the edge flags at which all
        PEs of a chain are absent.
        """
        config, tops, heights = self._config, dict[int, Ints](), None
        absent = np.full((config.cols, config.rows + 1), -1, np.int64)
        for number in self.used:
            array, south = self._arrays[number], number - config.mesh_cols
            below = tops[south] if south in tops and self._north[south] else np.zeros(config.cols, np.int64)
            for row in range(config.rows):
                active = array.active[row]
                passes, begins = array.pes["passes"][row], array.pes["chain_start"][row]
                wrong = np.flatnonzero(active & (passes + 1 - begins != below))
                if len(wrong):
                    col = int(wrong[0])
                    raise DeadlockError(
                        f"psum chain: PE {(row, col)} of cluster {number} takes {passes[col] + 1 - begins[col]} psums "
                        f"from below for each of its own, and {below[col]} come"
                    )
                below = np.where(active, passes + 1, below)
                absent[active, passes[active]] &= array.pes["skip"][row][active]
            tops[number] = below
            if not self._north[number]:
                if heights is not None and not np.array_equal(heights, below):
                    raise DeadlockError(f"psum chain: cluster {number} has other columns than those before it")
                heights = below
        if heights is None:
            raise DeadlockError("psum chain: no cluster has psums")
        columns = drain.values["columns"]
        if np.count_nonzero(heights) != columns or not heights[:columns].all() or len(set(heights[:columns])) != 1:
            raise DeadlockError(
                f"DRAIN: it takes psums of {columns} columns, and {np.count_nonzero(heights)} have some"
            )
        return absent[:columns, : heights[0]]


# psums: from the steps to memory


def _check_psums(config: ArchConfig, tile: Dict[str, int], step: Nest, chains: Ints) -> tuple[int, Ints]:
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


def _used(config: ArchConfig, steps: Steps) -> Ints:
    """Return the lanes of a cluster that give a word in each step of the drain."""
    groups = steps.output("group") % config.bank_groups
    return np.clip(_columns(config, steps) - groups * config.lanes, 0, config.lanes)


def _drain_classes(drain: Nest) -> Nest:
    """Return a drain with the conditions by which it takes other words in one tile than in another."""
    release = [drain.values[f"release{k}"] for k in range(4)]
    told = {
        "release_mask": True,
        "flush_mask": True,
        "edge_mask": drain.values["columns"] != drain.values["columns_edge"],
        "short_mask": (release[0], release[2]) != (release[1], release[3]),
        "thin_mask": release[:2] != release[2:],
    }
    return _only(drain, *(name for name, tells in told.items() if tells))


def _store_classes(store: Nest) -> Nest:
    """Return a store engine's nest with the conditions by which it takes other beats in one tile than in another."""
    values = store.values
    told = {
        "edge_mask": values["columns"] != values["columns_edge"],
        "length_mask": values["length"] != values["length_last"],
    }
    return _only(store, *(name for name, tells in told.items() if tells))


def _check_drain(
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
    used = _used(config, steps)
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


def _check_store(config: ArchConfig, tile: Dict[str, int], store: Nest, gives: npt.NDArray[np.bool_]) -> None:
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


# parameters


def _beats(load: Nest, fixed: Dict[str, int]) -> int:
    """Count the beats, or slots, that a load engine fills."""
    length, last = load.values["length"], load.values.get("length_last", 0)
    return length * count(load, (), (), fixed) + (last - length) * times(load, "length_mask", fixed)


def _check_params(config: ArchConfig, load: Nest | None, drain: Nest) -> None:
    """Check that the parameters which are loaded are those that the drain uses, and in time."""
    if (load is None) == bool(drain.values["use_param"]):
        raise DeadlockError("LOAD_PARAM: parameters are loaded, or used by the drain, but not both")
    if load is None:
        return
    outer = [name for name in ("n", "pt", "qt") if _bound(load, name) > 1]
    over = [*outer, "g", "mt"]
    tiles, thin = drain.values["param_release"], drain.values["param_thin"]
    named = _named((_only(drain, "param_mask", "thin_mask", "edge_mask"), load))
    for corner in itertools.product(*({0, _bound(drain, name) - 1} if name in named else {0} for name in outer)):
        inside = dict(zip(outer, corner, strict=True))
        needs, frees = {}, {}
        for g, mt in itertools.product(*({0, _bound(drain, name) - 1} for name in over[-2:])):
            tile = {**inside, "g": g, "mt": mt}
            all_of, thinner = times(drain, "param_mask", tile), times(drain, "param_mask", tile, "thin_mask")
            frees[g > 0, mt > 0] = tiles * (all_of - thinner) + thin * thinner
            needs[g > 0, mt > 0] = _needed_params(config, drain, tile)
        g_t, mt_t = _bound(drain, "g"), _bound(drain, "mt")
        kinds = [(g == g_t - 1 and g > 0, mt == mt_t - 1 and mt > 0) for g in range(g_t) for mt in range(mt_t)]
        need, free = (np.array([of[kind] for kind in kinds]) for of in (needs, frees))
        loaded, used = _beats(load, inside), int(free.sum())
        if loaded != used or np.any(need > free):
            raise DeadlockError(
                f"LOAD_PARAM: {loaded} parameters are loaded for the tiles {inside}; the drain needs "
                f"{int((need + np.cumsum(free) - free).max())} and frees {used}"
            )
        before = np.cumsum(free) - free
        ends = np.cumsum(_bursts(config, load, inside))
        filled = ends[np.searchsorted(ends, before + need)]
        if np.any(filled - before > config.param_words):
            raise DeadlockError(
                f"LOAD_PARAM: {int((filled - before).max())} parameters, whole bursts of them, exceed the drain's "
                f"{config.param_words}"
            )


def _needed_params(config: ArchConfig, drain: Nest, tile: Dict[str, int]) -> int:
    """Return how many parameters a tile's words need."""
    members = max(drain.values.get(f"member_param{k}", 0) for k in range(config.drain_clusters))
    others = [name for name in _TILES if name not in tile]
    most = 0
    for corner in _classes(drain, others, (_only(drain, "edge_mask"),)):
        steps = expand(drain, ("param", "group"), {**tile, **corner})
        used = _used(config, steps)
        last = steps.output("param") + np.maximum(0, used - 1) * drain.values["lane_param"] + members + 1
        most = max(most, int(np.where(used > 0, last, 0).max(initial=0)))
    return most


def _bursts(config: ArchConfig, load: Nest, fixed: Dict[str, int]) -> Ints:
    """Return the beats of the bursts of a load engine that clips nothing."""
    steps = expand(load, ("address",), fixed)
    length = np.where(steps.holds("length_mask"), load.values["length_last"], load.values["length"])
    none, page = np.zeros_like(length), PAGE_BYTES // config.beat_bytes
    at = (steps.output("address") & 0xFFFFFFFF) // config.beat_bytes
    return split(at, length, none, none, none, min(config.burst_beats, page), page)[0].astype(np.int64)


# banks of the global buffer


def _check_bank(
    config: ArchConfig, load_engine: Engine, load: Nest, read_engine: Engine, read: Nest, depth: int
) -> None:
    """Check that what is loaded for the tiles that share it is what their reader frees, and that it fits."""
    rounds = [name for name in _TILES if _bound(load, name) > 1]
    if again := [name for name in rounds if _bound(read, name) == 1]:
        raise DeadlockError(
            f"{load_engine.name}: it loads again over the loops {again}, and {read_engine.name} does not"
        )
    for corner in _classes(read, rounds, (load, read)):
        filled = _beats(load, _within(corner, load))
        freed = read.values["release"] * times(read, "release_mask", corner)
        if filled != freed:
            raise DeadlockError(
                f"{load_engine.name}: {filled} beats are loaded for tile {dict(corner)}, and {read_engine.name} frees "
                f"{freed}: they must be equal"
            )
        stays = [name for name in _TILES if name not in corner]
        most, read_up_to = _most_held(config, load, read, corner, stays)
        if read_up_to > filled:
            raise DeadlockError(
                f"{read_engine.name}: it reads up to beat {read_up_to} of tile {dict(corner)}, and {filled} are loaded"
            )
        if most > depth:
            raise DeadlockError(
                f"{read_engine.name}: its bank must hold {most} beats in tile {dict(corner)}, more than {depth}"
            )


def _most_held(
    config: ArchConfig, load: Nest, read: Nest, corner: Dict[str, int], stays: Collection[str]
) -> tuple[int, int]:
    """Return how many beats a bank has to hold, with the rest of the burst that the last of them comes in.

    Likewise how many of a tile's are needed up to the last one that is read.
    """
    release, sync = read.conditions["release_mask"], read.conditions["sync_mask"]
    if release is None or sync is None:
        raise DeadlockError("a reader of a bank frees nothing, or never moves on")
    burst = min(config.burst_beats, load.values["length"])
    if not release and not sync:  # each flit frees itself
        need = max(peak(read, "address", corner) + 1, read.values["release"])
        return need - 1 + burst, count(read, (), (), corner) * read.values["release"] + need - read.values["release"]
    # a suffix of loops in which nothing is freed but at its end
    inner = len(read.loops)
    while inner and {read.loops[inner - 1].name} <= set(release) & set(sync):
        inner -= 1
    outer = Nest(read.loops[:inner], read.bases, {}, {})
    steps = expand(outer, ("address",), corner, stays)
    names = {name: 1 << place for place, loop in enumerate(outer.loops) for name in (loop.name,)}

    def ended(condition: Collection[str]) -> npt.NDArray[np.bool_]:
        mask = sum(names.get(name, 0) for name in condition)
        return np.asarray(steps.last & mask == mask)

    frees = np.where(ended(release), read.values["release"], 0)
    total = np.cumsum(frees)
    before = total - frees
    marks = np.maximum.accumulate(np.where(ended(sync), total, 0))
    origin = np.concatenate([[0], marks[:-1]])
    if marks[-1] != total[-1]:
        raise DeadlockError("a reader of a bank does not move on at the end of a tile")
    asked = [name for loop in read.loops[inner:] if loop.last is not None for name in loop.when if name in names]
    mask = sum(names[name] for name in set(asked))
    inside = Nest(read.loops[inner:])
    reach = np.zeros(steps.number, np.int64)
    for kind in np.unique(steps.last & mask):
        known = {name for name in asked if kind & names[name]}
        loops = [_decided(loop, known, names) for loop in inside.loops]
        reach[(steps.last & mask) == kind] = peak(Nest(loops), "address")
    wanted = np.maximum(origin + steps.output("address") + reach + 1, before + frees)
    ends = wanted - 1 + burst
    if load.conditions["length_mask"] is None:  # segments are alike: a burst goes on to the end of one at most
        ends = np.minimum(ends, -(-wanted // load.values["length"]) * load.values["length"])
    return int((ends - before).max()), int(wanted.max())


def _decided(loop: Loop, ended: Collection[str], outside: Collection[str]) -> Loop:
    """Return a loop without conditions on loops that are known."""
    if loop.last is None or not loop.when:
        return loop
    if any(name in outside and name not in ended for name in loop.when):
        return Loop(loop.name, loop.bound, loop.strides)
    left = [name for name in loop.when if name not in outside]
    return Loop(loop.name, loop.bound if left else loop.last, loop.strides, loop.last if left else None, left)


# spads: words of the flits that PEs take, and steps that need them


def _check_spads(config: ArchConfig, operand: str, read: Nest, step: Nest, rows: range, array: _Array) -> None:
    """Check one port's words: of iacts a row of the output at a time, of weights a tile.

    A PE's buffets are empty at the end of each, which is checked too.
    """
    stay: list[str] = []
    over: tuple[str, ...] = (*_TILES, *_PASSES, *_ROW_STEPS)
    if operand == "weight":  # a tile's weights serve all of its rows, or all tiles
        stay = [name for name in _TILES if _bound(read, name) < _bound(step, name)]
        over = tuple(name for name in (*_TILES, *_PASSES) if name not in stay)
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
    looked_at = _only(step, *frees, *edge_masks), _only(read, "first_mask", "last_mask", "edge_mask", *edge_masks)
    for corner in _classes(step, over, looked_at):
        # tiles between the first and the last that share weights use what is there, as the first one does
        steps = expand(step, (operand,), corner, (*stay, *_ROW_STEPS) if operand == "weight" else ())
        if not steps.number:
            continue  # the last row of a full tile does not exist in the last, shorter one
        flits = expand(read, ("phase", "index"), _within(corner, read))
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
