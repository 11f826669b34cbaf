"""From a mapping, of one array or of a mesh, to a layer's programs, and from these to the words that are fetched."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from rowmesh.hw.array import OPERANDS, mesh_address, word_number
from rowmesh.hw.config import MOST_CLUSTERS
from rowmesh.hw.descriptor import SELECT_ADDRESS, Engine
from rowmesh.hw.nest import FieldError
from rowmesh.hw.pe import PE_FIELDS
from rowmesh.hw.program import Program
from rowmesh.hw.router import route_word
from rowmesh.hw.top import descriptors
from rowmesh.sw import compiler
from rowmesh.sw.compiler import MemoryMap
from rowmesh.sw.counts import weight_beats
from rowmesh.sw.deadlock import DeadlockError, check_deadlock_freedom
from rowmesh.sw.limits import beyond_reach
from rowmesh.sw.mapping import Mapping
from rowmesh.sw.mesh import MeshMapping
from rowmesh.sw.nestprogram import Loop, Nest
from rowmesh.sw.packing import pack_weights
from rowmesh.sw.programs import Programs
from rowmesh.sw.subscriptions import array_writes, subscriptions

__all__ = [
    "FIRST_STARTED",
    "SWITCH_WORDS",
    "assemble",
    "beyond_limits",
    "compile_layers",
    "early",
    "memory_map",
    "packed_weights",
    "programs",
    "would_block",
]

_OF_CLUSTER = (Engine.LOAD_IACT, Engine.LOAD_WEIGHT, Engine.READ_IACT, Engine.READ_WEIGHT)


def _share_bytes(m: MeshMapping) -> int:
    return weight_beats(m.share) * m.share.g_t * m.config.beat_bytes


def memory_map(m: Mapping | MeshMapping, program_bytes: int = 1 << 16) -> MemoryMap:
    """Lay out the memory of a layer: program, iacts, weights, parameters, ofmap."""
    if isinstance(m, Mapping):
        return MemoryMap.of(m, program_bytes)
    return MemoryMap.of(m.share, program_bytes, weight_bytes=m.weight_shares * _share_bytes(m), filters=m.layer.m)


def packed_weights(m: Mapping | MeshMapping, weights: npt.NDArray[np.int64]) -> bytes:
    """Pack weights [M, C / G, R, S] in the order of use, cluster after cluster."""
    if isinstance(m, Mapping):
        return pack_weights(m, weights)
    packed: dict[int, tuple[Mapping, npt.NDArray[np.int64]]] = {}
    for (y, x), (share, mapping) in m.shares.items():
        channels = share.layer.c // share.layer.groups
        first = share.channel if m.splits.c_y > 1 else 0
        own = weights[share.filter : share.filter + share.layer.m, first : first + channels]
        packed.setdefault(m.weight_share(y, x), (mapping, own))
    return b"".join(pack_weights(*packed[number]) for number in range(m.weight_shares))


def programs(
    m: Mapping | MeshMapping, memory: MemoryMap, zero_point: int = 0, clamp: tuple[int, int] | None = None
) -> Programs:
    """Return the programs of a layer.

    Parameters
    ----------
    m : Mapping or MeshMapping
    memory : MemoryMap
    zero_point : int
        Zero point of a requantised ofmap.
    clamp : (int, int) or None
        Smallest and largest output; None: the data width's range.
    """
    if isinstance(m, Mapping):
        nests = compiler.nests(m, memory, zero_point, clamp)
        own = {engine: nest for engine, nest in nests.items() if engine.first in _OF_CLUSTER}
        return Programs({k: nest for k, nest in nests.items() if k not in own}, [own], [subscriptions(m)])

    config, layout = m.config, m.iact_layout
    clusters: list[dict[Engine, Nest]] = []
    arrays = [subscriptions(m.share, chained) for chained in (False, True)]
    idle = dict.fromkeys(arrays[0], 0)
    shared: dict[Engine, Nest] = {}
    of_clusters = []
    for number in range(config.clusters):
        y, x = divmod(number, config.mesh_cols)
        if (y, x) not in m.shares:
            clusters.append({})
            of_clusters.append(idle)
            continue
        share, mapping = m.shares[y, x]
        place = replace(
            memory,
            iact=memory.iact
            + share.channel // layout.words_per_beat * layout.stride_block
            + share.input_row * layout.stride_row,
            weight=memory.weight + m.weight_share(y, x) * _share_bytes(m),
        )
        nests = compiler.nests(mapping, place, zero_point, clamp, m.param_shares)
        if number == 0:
            shared = {engine: nest for engine, nest in nests.items() if engine.first not in _OF_CLUSTER}
        loads = {engine: nest for engine, nest in nests.items() if engine.first in _OF_CLUSTER}
        clusters.append({k: nest for k, nest in loads.items() if m.own(k.name.split("_")[1].lower(), y, x)})
        of_clusters.append(arrays[y % m.splits.c_y > 0])
    shared |= {Engine.DRAIN: _drain(m, shared[Engine.DRAIN]), Engine.STORE: _store(m, shared[Engine.STORE])}
    places = [divmod(number, config.mesh_cols) for number in range(config.clusters)]
    return Programs(
        shared,
        clusters,
        of_clusters,
        {operand: [m.route(operand, *place) for place in places] for operand in OPERANDS},
        [y < m.splits.rows and not m.heads(y) for y, _ in places],
    )


def _over_sets(m: MeshMapping, nest: Nest, along_y: dict[str, int], along_x: dict[str, int]) -> list[Loop]:
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


def _param_strides(m: MeshMapping) -> tuple[int, int]:
    """Parameters from a cluster to the next along y and x, in units of a cluster's."""
    s = m.splits
    along_x = int(s.m_x * s.g_x > 1)
    return (s.m_x * s.g_x if s.m_y * s.g_y > 1 else 0), along_x


def _drain(m: MeshMapping, nest: Nest) -> Nest:
    a, sets = m.config, m.sets
    own = m.share.m_x * m.share.column_filters if nest.values["use_param"] else 0
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
        values[name] *= m.param_shares
    if a.drain_clusters > 1:
        places = [divmod(k, a.drain_shape[1]) for k in range(a.drain_clusters)]
        heads = [y in sets.members_y and x < sets.members_x for y, x in places]
        values["members"] = sum(1 << k for k, head in enumerate(heads) if head)
        for k, (y, x) in enumerate(places):
            values[f"member_param{k}"] = (sets.members_y.index(y) * per_y + x * per_x) if heads[k] else 0
    bases = {**nest.bases, "group": sets.first * a.bank_groups}
    return Nest(loops, bases, conditions, values)


def _store(m: MeshMapping, nest: Nest) -> Nest:
    s, sets, layout = m.splits, m.sets, m.ofmap_layout
    share = m.share.layer
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
"""Likewise, if it begins with a part of its weights (:attr:`rowmesh.sw.mapping.Mapping.part`): iacts are loaded beside
the weights, and parameters, which only the drain needs, behind them."""

FIRST_STARTED = tuple(engine for group in _FIRST[:2] for engine in group)
"""Engines that are written before STEP is started, or with it."""

# engines that start when the layer before has been stored: its ofmap may be what the layer loads
_LATE = (Engine.LOAD_IACT, Engine.STORE)

SWITCH_WORDS = 5
"""Words of a program between two layers, behind the next one's descriptors: three STARTs and two WAITs."""


def assemble(*layers: tuple[Mapping | MeshMapping, Programs]) -> Program:
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


def _write(program: Program, bank: int, m: Mapping | MeshMapping, parts: Programs) -> None:
    """Write the subscriptions and descriptors of a layer."""
    layouts = descriptors(m.config)
    if m.config.clusters > 1:
        _write_mesh(m.config.clusters, m, parts, program, bank)
        return
    for words in array_writes(m.config, parts.arrays[0]):
        program.write(bank, words)
    for nests in (*parts.clusters, parts.shared):
        for engine, nest in nests.items():
            program.write(bank, nest.encode(layouts[engine]))


def _begin(program: Program, bank: int, m: Mapping | MeshMapping, parts: Programs) -> None:
    """Write a first layer and start it."""
    if m.config.clusters > 1:
        _write(program, bank, m, parts)
        program.start(bank, *parts.started)
        return
    layouts = descriptors(m.config)
    nests = {**parts.clusters[0], **parts.shared}
    array = array_writes(m.config, parts.arrays[0])
    in_parts = isinstance(m, Mapping) and m.part > 0
    for group in _FIRST_IN_PARTS if in_parts else _FIRST:
        # ports are opened by words of the array
        if array and (m.config.ports > 1 or Engine.STEP in group):
            for words in array:
                program.write(bank, words)
            array = []
        for engine, nest in nests.items():
            if engine.first in group:
                program.write(bank, nest.encode(layouts[engine]))
        if some := [engine for engine in parts.started if engine in group]:
            if in_parts and Engine.LOAD_PARAM in group:
                program.wait(Engine.LOAD_WEIGHT)
            program.start(bank, *some)


def _too_many(m: Mapping | MeshMapping, parts: Programs) -> str:
    """Return which engine's nest has fewer levels than a mapping needs loops, or nothing if all have enough."""
    levels = m.config.nest_levels
    for nests in (parts.clusters[0], parts.shared):
        for engine, nest in nests.items():
            loops = len(nest.simplified().loops)
            if loops > levels:
                return f"the {loops} loops of {engine.name} exceed its nest's {levels} levels (control.nest_levels)"
    return ""


def beyond_limits(m: Mapping | MeshMapping) -> str:
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


def would_block(m: Mapping | MeshMapping) -> str:
    """Return why a mapping's program could block, or nothing if it cannot."""
    try:
        check_deadlock_freedom(m.config, programs(m, memory_map(m)))
    except DeadlockError as error:
        return str(error)
    return ""


def _select(m: Mapping | MeshMapping, program: Program, bank: int, clusters: list[int]) -> None:
    mask, places = sum(1 << number for number in clusters), range(-(-m.config.clusters // MOST_CLUSTERS))
    program.write(bank, {SELECT_ADDRESS + k: mask >> MOST_CLUSTERS * k & (1 << MOST_CLUSTERS) - 1 for k in places})


def _write_mesh(count: int, m: Mapping | MeshMapping, parts: Programs, program: Program, bank: int) -> None:
    """Write what all clusters have first, and then what differs."""
    layouts, everywhere = descriptors(m.config), list(range(count))
    _select(m, program, bank, everywhere)
    for words in array_writes(m.config, parts.arrays[0]):
        program.write(bank, words)
    for engine, nest in parts.shared.items():
        program.write(bank, nest.encode(layouts[engine]))
    first = {engine: nest.encode(layouts[engine]) for engine, nest in parts.clusters[0].items()}
    for words in first.values():
        program.write(bank, words)
    kinds: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for number in everywhere:
        own = {
            mesh_address(operand): route_word(
                parts.routes[operand][number].source, parts.routes[operand][number].outputs
            )
            for operand in OPERANDS
        }
        own[mesh_address("psum")] = int(parts.north[number])
        for address, word in parts.arrays[number].items():
            if word != parts.arrays[0][address] and (any(parts.arrays[number].values()) or _activates(address)):
                own[address] = word
        for engine, nest in parts.clusters[number].items():
            # a word that only the first cluster has is zero: a field, or the bound of a level that runs once
            own |= {
                address: word
                for address, word in {**dict.fromkeys(first[engine], 0), **nest.encode(layouts[engine])}.items()
                if first[engine].get(address) != word
            }
        kinds.setdefault(tuple(sorted(own.items())), []).append(number)
    for words_of_kind, numbers in kinds.items():
        _select(m, program, bank, numbers)
        program.write(bank, dict(words_of_kind))
    _select(m, program, bank, everywhere)


_ACTIVE_WORD = next(word for name, word, _ in PE_FIELDS if name == "active")


def _activates(address: int) -> bool:
    """Whether a word of the array decides if a PE is active, or a tap."""
    return word_number(address) == _ACTIVE_WORD


def compile_layers(layers: Sequence[tuple[Mapping | MeshMapping, MemoryMap]]) -> Program:
    """Compile mappings, of one architecture, to a program that runs their layers one after another.

    Parameters
    ----------
    layers : sequence of (Mapping or MeshMapping, MemoryMap)

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
