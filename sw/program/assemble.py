"""From a mapping to a layer's programs, and from these to the words that are fetched."""

from collections.abc import Collection, Sequence
from collections.abc import Mapping as Dict
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from rowmesh.hw.array import OPERANDS, mesh_address, word_number
from rowmesh.hw.config import MOST_CLUSTERS
from rowmesh.hw.descriptor import SELECT_ADDRESS, Engine
from rowmesh.hw.nest import FieldError
from rowmesh.hw.pe import PE_FIELDS
from rowmesh.hw.program import Program
from rowmesh.hw.router import Side, route_word
from rowmesh.hw.top import descriptors
from rowmesh.sw.mapping.cluster import ClusterMapping, weight_beats
from rowmesh.sw.mapping.layer import LayerMapping, sub_layer
from rowmesh.sw.program import engines as compiler
from rowmesh.sw.program.deadlock import DeadlockError, check_deadlock_freedom
from rowmesh.sw.program.layer import Programs
from rowmesh.sw.program.memory_map import MemoryMap
from rowmesh.sw.program.nest import Loop, Nest
from rowmesh.sw.program.packing import pack_weights
from rowmesh.sw.program.subscriptions import array_writes, subscriptions
from rowmesh.sw.workload.limits import beyond_reach

__all__ = [
    "FIRST_STARTED",
    "SWITCH_WORDS",
    "assemble",
    "beyond_limits",
    "cannot_run",
    "compile_layers",
    "early",
    "memory_map",
    "packed_weights",
    "programs",
    "would_block",
]

_OF_CLUSTER = (Engine.LOAD_IACT, Engine.LOAD_WEIGHT, Engine.READ_IACT, Engine.READ_WEIGHT)


def _part_bytes(m: ClusterMapping) -> int:
    """Bytes of a part of the weights."""
    return weight_beats(m) * m.g_t * m.config.beat_bytes


def memory_map(m: LayerMapping, program_bytes: int = 1 << 16) -> MemoryMap:
    """Lay out the memory of a layer: program, iacts, weights, parameters, ofmap."""
    weight_bytes = m.splits.weight_parts * _part_bytes(m.cluster)
    return MemoryMap.of(m.cluster, program_bytes, weight_bytes, m.layer.m)


def packed_weights(m: LayerMapping, weights: npt.NDArray[np.int64]) -> bytes:
    """Pack weights [M, C / G, R, S] in the order of use, cluster after cluster."""
    packed: dict[int, bytes] = {}
    for y, x in m.splits.places():
        number, part = m.splits.weight_part(y, x), sub_layer(m.layer, m.splits, y, x)
        if number not in packed:
            channels = part.layer.c // part.layer.groups
            first = part.channel if m.splits.c_y > 1 else 0
            own = weights[part.filter : part.filter + part.layer.m, first : first + channels]
            packed[number] = pack_weights(m.of_part(part.layer), own)
    return b"".join(packed[number] for number in range(m.splits.weight_parts))


def programs(m: LayerMapping, memory: MemoryMap, zero_point: int = 0, clamp: tuple[int, int] | None = None) -> Programs:
    """Return the programs of a layer.

    Parameters
    ----------
    m : LayerMapping
    memory : MemoryMap
    zero_point : int
        Zero point of a requantised ofmap.
    clamp : (int, int) or None
        Smallest and largest output; None: the data width's range.
    """
    config, layout, splits = m.config, m.iact_layout, m.splits
    chained = [subscriptions(m.cluster, psums_come) for psums_come in ((False, True) if splits.c_y > 1 else (False,))]
    idle = dict.fromkeys(chained[0], 0)
    shared: dict[Engine, Nest] = {}
    clusters: list[dict[Engine, Nest]] = []
    arrays = []
    places = [divmod(number, config.mesh_cols) for number in range(config.clusters)]
    for y, x in places:
        if y >= splits.rows or x >= splits.cols:
            clusters.append({})
            arrays.append(idle)
            continue
        part = sub_layer(m.layer, splits, y, x)
        place = replace(
            memory,
            iact=memory.iact
            + part.channel // layout.words_per_beat * layout.stride_block
            + part.input_row * layout.stride_row,
            weight=memory.weight + splits.weight_part(y, x) * _part_bytes(m.cluster),
        )
        nests = compiler.nests(m.of_part(part.layer), place, zero_point, clamp, splits.filter_parts)
        own = {engine: nest for engine, nest in nests.items() if engine.first in _OF_CLUSTER}
        if not shared:
            shared = {engine: nest for engine, nest in nests.items() if engine not in own}
        sources = {name: splits.route(name, y, x).source for name in OPERANDS}
        clusters.append({e: nest for e, nest in own.items() if sources[e.name.split("_")[1].lower()] is Side.LOCAL})
        arrays.append(chained[y % splits.c_y > 0])
    shared |= {Engine.DRAIN: _drain(m, shared[Engine.DRAIN]), Engine.STORE: _store(m, shared[Engine.STORE])}
    return Programs(
        shared,
        clusters,
        arrays,
        {operand: [splits.route(operand, *place) for place in places] for operand in OPERANDS},
        [y < splits.rows and not splits.banks_psums(y) for y, _ in places],
    )


def _over_sets(m: LayerMapping, nest: Nest, along_y: dict[str, int], along_x: dict[str, int]) -> list[Loop]:
    """Loops of a nest with those over the sets of clusters that have psums, behind the one over row steps.

    Strides are given from a cluster with psums to the next.
    """
    sets, loops = m.sets, list(nest.loops)
    at = 1 + next(place for place, loop in enumerate(loops) if loop.name == "pj")
    outer = [
        Loop("cy", sets.rows, {name: sets.heads_y * stride for name, stride in along_y.items()}),
        Loop("cx", sets.cols, {name: sets.heads_x * stride for name, stride in along_x.items()}),
    ]
    return [*loops[:at], *outer, *loops[at:]]


def _param_strides(m: LayerMapping) -> tuple[int, int]:
    """Parameters from a cluster to the next along y and x, in units of a cluster's."""
    s = m.splits
    along_x = int(s.m_x * s.g_x > 1)
    return (s.m_x * s.g_x if s.m_y * s.g_y > 1 else 0), along_x


def _drain(m: LayerMapping, nest: Nest) -> Nest:
    a, sets = m.config, m.sets
    own = m.cluster.m_x * m.cluster.column_filters if nest.values["use_param"] else 0
    per_y, per_x = (stride * own for stride in _param_strides(m))
    loops = [
        replace(loop, strides={**loop.strides, "group": steps * a.bank_groups})
        if (steps := {"cy": sets.step_y, "cx": 1}.get(loop.name))
        else loop
        for loop in _over_sets(m, nest, {"param": per_y}, {"param": per_x})
    ]
    conditions = dict(nest.conditions)
    if (mask := conditions.get("param_mask")) is not None:
        conditions["param_mask"] = ("cy", "cx", *mask)
    values = dict(nest.values)
    for name in ("param_release", "param_thin"):
        values[name] *= m.splits.filter_parts
    if a.drain_clusters > 1:
        places = [divmod(k, a.drain_shape[1]) for k in range(a.drain_clusters)]
        heads = [y in sets.members_y and x < sets.members_x for y, x in places]
        values["members"] = sum(1 << k for k, head in enumerate(heads) if head)
        for k, (y, x) in enumerate(places):
            values[f"member_param{k}"] = (sets.members_y.index(y) * per_y + x * per_x) if heads[k] else 0
    bases = {**nest.bases, "group": sets.first * a.bank_groups}
    return Nest(loops, bases, conditions, values)


def _store(m: LayerMapping, nest: Nest) -> Nest:
    s, sets, layout = m.splits, m.sets, m.ofmap_layout
    share = m.cluster.layer
    of_filters = share.m // (1 if layout.planar else layout.words_per_beat) * layout.stride_block
    per_y, per_x = (stride * of_filters for stride in _param_strides(m))
    if s.p_y > 1:
        per_y = share.p * s.p_x * layout.stride_row
    if s.p_x > 1:
        per_x = share.p * layout.stride_row
    loops = _over_sets(m, nest, {"address": per_y}, {"address": per_x})
    # a set's clusters fill lanes of their own, beside those of a cluster
    at = next(place for place, loop in enumerate(loops) if loop.name == "lane")
    lanes, across, rows = m.config.lanes, m.config.drain_shape[1], sets.members_y
    from_y = rows[1] - rows[0] if len(rows) > 1 else 0
    of_set = [
        Loop("sy", len(rows), {"address": per_y, "lane": from_y * across * lanes}),
        Loop("sx", sets.members_x, {"address": per_x, "lane": lanes}),
    ]
    bases = {**nest.bases, "lane": rows[0] * across * lanes}
    return Nest([*loops[:at], *of_set, *loops[at:]], bases, nest.conditions, nest.values)


def early(parts: Programs) -> list[Engine]:
    """Return the engines that are started while the layer before runs: what they load does not depend on it."""
    return [engine for engine in parts.started if engine in (Engine.LOAD_WEIGHT, Engine.LOAD_PARAM)]


_FIRST = (
    (Engine.LOAD_WEIGHT,),
    (Engine.STEP, Engine.READ_WEIGHT),
    (Engine.LOAD_IACT, Engine.READ_IACT),
    (Engine.LOAD_PARAM,),
    (Engine.DRAIN, Engine.STORE),
)
"""Engines of a first layer in the order in which they are written and started: what takes longest first."""

_FIRST_IN_PARTS = (
    (Engine.LOAD_WEIGHT,),
    (Engine.LOAD_IACT,),
    (Engine.STEP, Engine.READ_WEIGHT),
    (Engine.READ_IACT,),
    (Engine.DRAIN, Engine.STORE),
    (Engine.LOAD_PARAM,),
)
"""Likewise, if it begins with a part of its weights (:attr:`rowmesh.sw.mapping.cluster.ClusterMapping.part`): iacts are
loaded beside the weights, and parameters, which only the drain needs, behind them."""

FIRST_STARTED = tuple(engine for group in _FIRST[:2] for engine in group)
"""Engines that are written before STEP is started, or with it."""

# engines that start when the layer before has been stored: its ofmap may be what the layer loads
_LATE = (Engine.LOAD_IACT, Engine.STORE)

SWITCH_WORDS = 5
"""Words of a program between two layers, behind the next one's descriptors: three STARTs and two WAITs."""


def assemble(*layers: tuple[LayerMapping, Programs]) -> Program:
    """Write the programs of layers, one after another, as the words that the command processor executes.

    The engines of the first layer are started as soon as their descriptors are there, those of a mesh all together; one
    that begins with a part of its weights loads its parameters when all weights are there.
    While a layer runs, the next one's descriptors are written into the other bank, and its weights and parameters are
    loaded as far as there is room. When the layer has been drained, the array begins with the next one's weights, and
    when it has been stored, the next one's iacts are loaded.

    Raises
    ------
    ValueError
        If a nest has more loops than its engine, or a value does not fit its field.
    """
    program = Program()
    before: list[Engine] = []
    for number, (m, parts) in enumerate(layers):
        bank = number & 1
        if before:
            _write(program, bank, m, parts)
            ahead = early(parts)
            program.start(bank, *ahead)
            program.wait(*(engine for engine in before if engine not in (*ahead, Engine.STORE)))
            program.start(bank, *(engine for engine in parts.started if engine not in (*ahead, *_LATE)))
            program.wait(Engine.STORE)
            program.start(bank, *_LATE)
        else:
            _begin(program, bank, m, parts)
        before = parts.started
    program.wait(*before)
    program.end()
    return program


def _first_groups(m: LayerMapping) -> tuple[tuple[Engine, ...], ...]:
    """Return a first layer's engines in groups, in the order in which these are written and started."""
    if m.config.clusters > 1:
        return (tuple(engine for group in _FIRST for engine in group),)
    return _FIRST_IN_PARTS if m.cluster.part else _FIRST


def _begin(program: Program, bank: int, m: LayerMapping, parts: Programs) -> None:
    """Write a first layer and start it."""
    written = False
    for group in _first_groups(m):
        with_array = not written and (m.config.ports > 1 or Engine.STEP in group)  # whose words open ports
        _write(program, bank, m, parts, group, with_array=with_array)
        written |= with_array
        if some := [engine for engine in parts.started if engine in group]:
            if group == (Engine.LOAD_PARAM,) and m.cluster.part:
                program.wait(Engine.LOAD_WEIGHT)
            program.start(bank, *some)


def _write(
    program: Program,
    bank: int,
    m: LayerMapping,
    parts: Programs,
    group: Collection[Engine] = tuple(Engine),
    *,
    with_array: bool = True,
) -> None:
    """Write the descriptors of a group of engines, and the subscriptions: what all clusters have, then what differs."""
    layouts, everywhere = descriptors(m.config), list(range(m.config.clusters))

    def encoded(nests: Dict[Engine, Nest]) -> dict[Engine, dict[int, int]]:
        return {engine: nest.encode(layouts[engine]) for engine, nest in nests.items() if engine.first in group}

    _select(m, program, bank, everywhere)
    for words in array_writes(m.config, parts.arrays[0]) if with_array else []:
        program.write(bank, words)
    first = encoded(parts.clusters[0])
    for words in (*first.values(), *encoded(parts.shared).values()):
        program.write(bank, words)
    if m.config.clusters == 1:
        return
    kinds: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for number in everywhere:
        own: dict[int, int] = {}
        for operand in OPERANDS:
            route = parts.routes[operand][number]
            own[mesh_address(operand)] = route_word(route.source, route.outputs)
        own[mesh_address("psum")] = int(parts.north[number])
        for address, word in parts.arrays[number].items():
            if word != parts.arrays[0][address] and (any(parts.arrays[number].values()) or _activates(address)):
                own[address] = word
        for engine, words in encoded(parts.clusters[number]).items():
            # a word that only the first cluster has is zero: a field, or the bound of a level that runs once
            every = {**dict.fromkeys(first[engine], 0), **words}
            own |= {address: word for address, word in every.items() if first[engine].get(address) != word}
        kinds.setdefault(tuple(sorted(own.items())), []).append(number)
    for words_of_kind, numbers in kinds.items():
        _select(m, program, bank, numbers)
        program.write(bank, dict(words_of_kind))
    _select(m, program, bank, everywhere)


def _too_many(m: LayerMapping, parts: Programs) -> str:
    """Return which engine's nest has fewer levels than a mapping needs loops, or nothing if all have enough."""
    levels = m.config.nest_levels
    for nests in (parts.clusters[0], parts.shared):
        for engine, nest in nests.items():
            loops = len(nest.simplified().loops)
            if loops > levels:
                return f"the {loops} loops of {engine.name} exceed its nest's {levels} levels (control.nest_levels)"
    return ""


def beyond_limits(m: LayerMapping) -> str:
    """Return what the fields of the engines' descriptors cannot hold of a mapping, or nothing if they hold all."""
    place = memory_map(m)
    if reason := beyond_reach(m.config, place.size):
        return reason
    parts, layouts = programs(m, place), descriptors(m.config)
    if reason := _too_many(m, parts):
        return reason
    try:
        for nests in (parts.clusters[0], parts.shared):
            for engine, nest in nests.items():
                nest.encode(layouts[engine])
    except FieldError as error:
        return f"a descriptor cannot hold it: {error}"
    return ""


def cannot_run(m: LayerMapping) -> str:
    """Return why a legal mapping cannot run, or nothing if it can."""
    return beyond_limits(m) or would_block(m)


def would_block(m: LayerMapping) -> str:
    """Return why a mapping's program could block, or nothing if it cannot."""
    try:
        check_deadlock_freedom(m.config, programs(m, memory_map(m)))
    except DeadlockError as error:
        return str(error)
    return ""


def _select(m: LayerMapping, program: Program, bank: int, clusters: list[int]) -> None:
    """Write which clusters of a mesh take what is written next."""
    if m.config.clusters == 1:
        return
    mask, places = sum(1 << number for number in clusters), range(-(-m.config.clusters // MOST_CLUSTERS))
    program.write(bank, {SELECT_ADDRESS + k: mask >> MOST_CLUSTERS * k & (1 << MOST_CLUSTERS) - 1 for k in places})


_ACTIVE_WORD = next(word for name, word, _ in PE_FIELDS if name == "active")


def _activates(address: int) -> bool:
    """Whether a word of the array decides if a PE is active, or a tap."""
    return word_number(address) == _ACTIVE_WORD


def compile_layers(layers: Sequence[tuple[LayerMapping, MemoryMap]]) -> Program:
    """Compile mappings, of one architecture, to a program that runs their layers one after another.

    Parameters
    ----------
    layers : sequence of (LayerMapping, MemoryMap)

    Raises
    ------
    DeadlockError
        If the program could block.
    ValueError
        If a nest has more loops than its engine, or a value does not fit its field.
    """
    all_parts = []
    for m, memory in layers:
        parts = programs(m, memory)
        check_deadlock_freedom(m.config, parts)
        all_parts.append((m, parts))
    return assemble(*all_parts)
