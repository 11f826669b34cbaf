"""A layer's programs as streams: what each engine does, step by step, as arrays for the timing model."""

from collections.abc import Mapping as Dict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rowmesh.hw.array import OPERANDS, pe_words, row_words
from rowmesh.hw.axi import PAGE_BYTES
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.core import loaders
from rowmesh.hw.descriptor import Engine
from rowmesh.hw.multicast import ROW_FIELDS
from rowmesh.hw.pe import PE_FIELDS
from rowmesh.hw.router import Side
from rowmesh.sw.model.timing.array import CHAIN, FIRST, HOP, LAST, PE, ROUTE, START, STEP, Records, records
from rowmesh.sw.model.timing.drain import WORD
from rowmesh.sw.model.timing.memory import BURST, FLIT
from rowmesh.sw.program.bursts import split
from rowmesh.sw.program.layer import Programs
from rowmesh.sw.program.nest import Nest

__all__ = ["Streams", "split", "streams"]

Tokens = Dict[str, npt.NDArray[np.int64]]

PORT = records("operand", "cluster", "row", "router")
"""A port of an operand (1: iacts, 2: weights): its cluster, the first row that it feeds, and its row of routers."""

_READERS = {
    Engine.LOAD_IACT: ("iact", Engine.READ_IACT),
    Engine.LOAD_WEIGHT: ("weight", Engine.READ_WEIGHT),
}


class Streams(NamedTuple):
    """What every engine does: arrays of records, in order.

    ``pes`` are the PEs in use with their subscriptions, over clusters, rows and columns, ``hops`` their taps of the
    buses of steps, iacts and weights, and ``chains`` all hops of the psum chains. ``loads`` are those of the read ports
    in their order (hw/core.py), ``flits`` what the banks behind them send, each ``load_counts`` and ``flit_counts`` of
    them. ``words_taken`` are the words that a port's rows, ``fed_rows`` of them, take of each flit. ``columns`` of a
    cluster hold psums of a tile, ``members`` of a set of clusters have outputs. ``routes`` are those of steps, iacts
    and weights (by port) of all clusters, none without a mesh; ``joined`` tells of each cluster whether its psums go to
    the next one (1) and come from the one before (2).
    """

    pes: Records
    hops: tuple[Records, Records, Records]
    chains: Records
    steps: Records
    flits: Records
    flit_counts: npt.NDArray[np.int32]
    fed_rows: npt.NDArray[np.int32]
    words_taken: npt.NDArray[np.int32]
    words: Records
    loads: Records
    load_counts: npt.NDArray[np.int32]
    stores: Records
    columns: int
    members: npt.NDArray[np.bool_]
    ports: Records
    routes: Records
    joined: npt.NDArray[np.int32]

    def copied(self) -> "Streams":
        """Return the streams with state of their own: PEs, their taps and chains change while they are run."""
        hops = (self.hops[0].copy(), self.hops[1].copy(), self.hops[2].copy())
        return self._replace(pes=self.pes.copy(), hops=hops, chains=self.chains.copy())

    def followed_by(self, after: "Streams", ports: Sequence[int]) -> "Streams":
        """Return the streams with the loads of some read ports followed by those of another layer."""
        loads = [
            np.concatenate([own[:count], other[: after.load_counts[port]] if port in ports else other[:0]])
            for port, (own, count, other) in enumerate(zip(self.loads, self.load_counts, after.loads, strict=True))
        ]
        return self._replace(loads=_stacked(loads), load_counts=np.array([len(load) for load in loads], np.int32))


def decode(fields: tuple[tuple[str, int, int], ...], words: Dict[int, int], addresses: list[int]) -> dict[str, int]:
    """Return the fields of a subscription: the opposite of ``pe_words`` and ``row_words``."""
    values = {}
    for number, (name, word, shift) in enumerate(fields):
        above = [s for _, w, s in fields[number + 1 :] if w == word]
        width = (min(above) if above else 32) - shift
        values[name] = words[addresses[word]] >> shift & (1 << width) - 1
    return values


def edge_flags(nest: Nest, tokens: Tokens, count: int) -> npt.NDArray[np.int64]:
    """Return the edge flags of a nest's steps as bits."""
    return sum(  # type: ignore[return-value]
        nest.holds(f"edge{k}_mask", tokens, "last").astype(np.int64) << k for k in range(count)
    )


def flit_lanes(reader: Nest, tokens: Tokens) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the first and the last valid lane of each flit."""
    values = reader.values
    low = np.where(reader.holds("first_mask", tokens, "first"), values.get("low_first", 0), values["low"])
    edge = np.where(reader.holds("edge_mask", tokens, "last"), values.get("high_edge", 0), values.get("high_last", 0))
    return low, np.where(reader.holds("last_mask", tokens, "last"), edge, values["high"])


def _filled(kind: np.dtype[np.void], shape: int | tuple[int, ...], **fields: Any) -> Records:
    """Return records with some fields set; the others are 0."""
    result = np.zeros(shape, kind)
    for name, values in fields.items():
        result[name] = values
    return result


def _simple(nest: Nest) -> Nest:
    """Return a nest of as few loops as possible, at least one."""
    simple = nest.simplified()
    return simple if simple.loops else nest


def _array(
    config: ArchConfig, subscriptions: Sequence[Dict[int, int]]
) -> tuple[Records, tuple[Records, Records, Records], Records]:
    """Return the PEs in use, their taps of the three buses, and all hops of the psum chains, over the clusters."""
    addresses = [[list(pe_words(row, col, {})) for col in range(config.cols)] for row in range(config.rows)]
    decoded = {id(own): own for own in subscriptions}  # clusters share what is equal
    pes_of = {
        key: [[decode(PE_FIELDS, own, pe) for pe in of_row] for of_row in addresses] for key, own in decoded.items()
    }
    fields = np.array([pes_of[id(own)] for own in subscriptions])

    def of(name: str) -> npt.NDArray[np.int32]:
        return np.vectorize(lambda pe: pe[name], otypes=[np.int32])(fields)

    active = of("active")
    height, width = (1 + int(np.nonzero(active)[axis].max()) for axis in (1, 2))
    used = (slice(None), slice(height), slice(width))
    shape = (len(subscriptions), height, width)
    pes = _filled(PE, shape, active=active[used], skip=of("skip")[used])
    skip, everything = of("skip"), np.zeros_like(active)  # a step reaches absent PEs too
    hops = [
        _filled(HOP, shape, item=-1, active=active[used], low=low[used], high=high[used], skip=skips[used])
        for low, high, skips in (
            (everything, everything, everything),
            (of("iact_low"), of("iact_high"), skip),
            (of("weight_low"), of("weight_high"), skip),
        )
    ]
    passes = of("passes")[..., :width]
    chains = _filled(
        CHAIN,
        (len(subscriptions), config.rows, width),
        active=active[..., :width],
        passes=passes,
        ahead=passes,
        turn=passes == 0,
        begins=of("chain_start")[..., :width],
    )
    return pes, tuple(hops), chains  # type: ignore[return-value]


def _steps(config: ArchConfig, nest: Nest) -> Records:
    t = nest.tokens({})
    count = len(next(iter(t.values())))
    emit = nest.holds("emit_mask", t, "last")
    flags = (
        FIRST * nest.holds("first_mask", t, "first")
        + LAST * nest.holds("last_mask", t, "last")
        + START * nest.holds("start_mask", t, "first")
    )
    edge = edge_flags(nest, t, config.edge_flags)
    release = np.where(
        nest.holds("restart_mask", t, "last"),
        nest.values["restart"],
        np.where(nest.holds("slide_mask", t, "last"), nest.values["slide"], 0),
    )
    steps = _filled(
        STEP,
        count,
        iact=t.get("iact", 0),
        weight=t.get("weight", 0),
        iact_release=release,
        weight_release=nest.holds("weight_release_mask", t, "last"),
        iact_sync=nest.holds("iact_sync_mask", t, "last"),
        weight_sync=nest.holds("weight_sync_mask", t, "last"),
        emit=emit,
        edge=edge,
    )
    emitted = np.count_nonzero(emit)
    steps["psum_flags"][:emitted], steps["psum_edge"][:emitted] = flags[emit], edge[emit]
    return steps


def _flits(
    config: ArchConfig, nest: Nest, operand: str, rows: range, subscriptions: Dict[int, int]
) -> tuple[Records, npt.NDArray[np.int32]]:
    """Return the flits of a port, and the words that each of its rows takes of them."""
    t = nest.tokens({})
    count = len(next(iter(t.values())))
    zero = np.zeros(count, np.int64)
    low, high = flit_lanes(nest, t)
    touch = np.asarray(low <= high)
    values = nest.values
    if "width" in values:
        lanes = np.arange(config.flit_words)[:, None]
        x = t.get("x", zero) + (lanes if values["lanes_along_x"] else 0)
        y, block = t.get("y", zero), t.get("block", zero)
        inside = (y >= 0) & (y < values["height"]) & (block >= 0) & (block < values["blocks"])
        sent = inside & (x >= 0) & (x < values["width"]) & (lanes >= low) & (lanes <= high)
        touch = np.asarray(sent.any(axis=0))
    index, phase = t.get("index", zero), t.get("phase", zero)
    taken = np.zeros((len(rows), count), np.int32)
    for place, row in enumerate(rows):
        own = decode(ROW_FIELDS, subscriptions, list(row_words(row, operand, {})))
        match = (phase >= own["phase_low"]) & (phase <= own["phase_high"])
        match &= (index >= own["index_low"]) & (index <= own["index_high"])
        words = np.minimum(high, own["lane_high"]) - np.maximum(low, own["lane_low"]) + 1
        if own["enable"] and own["lane_low"] <= own["lane_high"]:
            taken[place] = np.where(match & (low <= high), np.maximum(words, 0), 0)
    flits = _filled(
        FLIT,
        count,
        offset=t.get("address", 0),
        release=np.where(nest.holds("release_mask", t, "last"), values["release"], 0),
        sync=nest.holds("sync_mask", t, "last"),
        touch=touch,
        index=index,
        edge=edge_flags(nest, t, config.edge_flags),
    )
    return flits, taken


def _columns(nest: Nest, t: Tokens) -> npt.NDArray[np.int64]:
    return np.where(nest.holds("edge_mask", t, "last"), nest.values["columns_edge"], nest.values["columns"])


def _words(config: ArchConfig, nest: Nest) -> Records:
    t, values = nest.tokens({}), nest.values
    count = len(next(iter(t.values())))
    zero = np.zeros(count, np.int64)
    short, thin = nest.holds("short_mask", t, "last"), nest.holds("thin_mask", t, "last")
    sizes = np.array([values[f"release{k}"] for k in range(4)])
    release = np.where(nest.holds("release_mask", t, "last"), sizes[short + 2 * thin], 0)
    columns, group = _columns(nest, t), t.get("group", zero)
    used = np.clip(columns - group % config.bank_groups * config.lanes, 0, config.lanes)
    done = np.where(thin, values["param_thin"], values["param_release"])
    param_release = np.where(nest.holds("param_mask", t, "last"), done, 0)
    of_members = max(values.get(f"member_param{k}", 0) for k in range(config.drain_clusters))
    params = t.get("param", zero) + np.maximum(0, used - 1) * values["lane_param"] + of_members + 1
    params = np.maximum(np.where(used > 0, params, 0), param_release)
    return _filled(
        WORD,
        count,
        group=group,
        columns=columns,
        need=np.maximum(t.get("offset", zero) + 1, release),
        release=release,
        params=params * values["use_param"],
        param_release=param_release,
        flush=nest.holds("flush_mask", t, "last"),
    )


def _bursts(config: ArchConfig, nest: Nest) -> Records:
    t, values = nest.tokens({}), nest.values
    count = len(next(iter(t.values())))
    zero = np.zeros(count, np.int64)
    length = np.where(nest.holds("length_mask", t, "last"), values.get("length_last", 0), values["length"])
    left = right = lane = zero
    beats, address = length, (t.get("address", zero) & 0xFFFFFFFF) // config.beat_bytes
    if "height" in values:
        x, y, block = t.get("x", zero), t.get("y", zero), t.get("block", zero)
        over = x + length - values["width"]
        inside = (y >= 0) & (y < values["height"]) & (block >= 0) & (block < values["blocks"])
        inside &= (x + length > 0) & (over < length)
        left = np.where(inside, np.maximum(-x, 0), length)
        right = np.where(inside, np.maximum(over, 0), 0)
        address, beats = address + left, length - left - right
    if "columns" in values:
        beats = np.where(t.get("column", zero) < _columns(nest, t), length, 0)
        lane = t.get("lane", zero)
    page = PAGE_BYTES // config.beat_bytes
    parts = split(address, beats, left, right, lane, min(config.burst_beats, page), page)
    return _filled(BURST, parts.shape[1], **dict(zip(("beats", "before", "behind", "lane"), parts, strict=True)))


def streams(config: ArchConfig, programs: Programs) -> Streams:
    """Return what every engine does for a layer.

    Parameters
    ----------
    config : ArchConfig
    programs : Programs
    """
    pes, hops, chains = _array(config, programs.arrays)
    shared = {engine: _simple(nest) for engine, nest in programs.shared.items()}
    own = [{engine: _simple(nest) for engine, nest in nests.items()} for nests in programs.clusters]
    engines = loaders(config)
    sent, ports = [], np.zeros(len(engines) - 1, PORT)
    for place, (cluster, engine) in enumerate(engines[:-1]):
        operand, reader = _READERS[engine.first]
        reader, nests = reader.at(engine.port), own[cluster]
        several = reader.first.at(1) in nests  # or else the first port feeds all rows
        first = engine.port * config.port_rows
        number = OPERANDS.index(operand)
        ports[place] = (1 + number, cluster, first, 1 + number * config.ports + engine.port)
        if reader not in nests:
            sent.append((np.zeros(0, FLIT), np.zeros((0, 0), np.int32)))
            continue
        rows = range(first, min(pes.shape[1], first + (config.port_rows if several else config.rows)))
        sent.append(_flits(config, nests[reader], operand, rows, programs.arrays[cluster]))
    nothing = np.zeros(0, BURST)
    loads = [
        _bursts(config, nests[engine]) if engine in nests else nothing
        for nests, engine in (
            (shared if engine is Engine.LOAD_PARAM else own[cluster], engine) for cluster, engine in engines
        )
    ]
    return Streams(
        pes=pes,
        hops=hops,
        chains=chains,
        steps=_steps(config, shared[Engine.STEP]),
        flits=_stacked([flits for flits, _ in sent]),
        flit_counts=np.array([len(flits) for flits, _ in sent], np.int32),
        fed_rows=np.array([len(taken) for _, taken in sent], np.int32),
        words_taken=_stacked([taken for _, taken in sent]),
        words=_words(config, shared[Engine.DRAIN]),
        loads=_stacked(loads),
        load_counts=np.array([len(load) for load in loads], np.int32),
        stores=_bursts(config, shared[Engine.STORE]),
        columns=shared[Engine.DRAIN].values["columns"],
        members=_members(config, shared[Engine.DRAIN]),
        ports=ports,
        routes=_routes(config, programs, engines),
        joined=np.array(_joined(config, programs), np.int32),
    )


def _members(config: ArchConfig, drain: Nest) -> npt.NDArray[np.bool_]:
    """Return the clusters of a set that are drained."""
    mask = drain.values.get("members", 1)
    return np.array([mask >> k & 1 for k in range(config.drain_clusters)], np.bool_)


def _joined(config: ArchConfig, programs: Programs) -> list[int]:
    north = list(programs.north) or [False] * config.clusters
    return [north[c] + 2 * (c >= config.mesh_cols and north[c - config.mesh_cols]) for c in range(config.clusters)]


def _routes(config: ArchConfig, programs: Programs, engines: Sequence[tuple[int, Engine]]) -> Records:
    """Return the routes of all clusters: of steps, and of iacts and weights by port, with their sources as read ports.

    Shape [1 + 2 x ports, clusters]: steps, iacts of each port, weights of each port. A port that a layer does not use
    has no source.
    """
    if config.clusters == 1:
        return np.zeros((0, 0), ROUTE)
    routes = np.zeros((1 + 2 * config.ports, config.clusters), ROUTE)
    routes["source"][1:] = -1
    for c in range(config.clusters):
        y, x = divmod(c, config.mesh_cols)
        routes[0, c] = (0, y + 1 < config.mesh_rows, y == 0 and x + 1 < config.mesh_cols)
        for k, (operand, load) in enumerate((("iact", Engine.LOAD_IACT), ("weight", Engine.LOAD_WEIGHT))):
            route, at = programs.routes[operand][c], c
            if route.source is None:
                continue
            while (side := programs.routes[operand][at].source or Side.LOCAL) is not Side.LOCAL:
                at += side.step[0] * config.mesh_cols + side.step[1]
            ways = (Side.NORTH in route.outputs, Side.EAST in route.outputs)
            for port in range(config.ports):
                if load.at(port) in programs.clusters[at]:
                    source = engines.index((at, load.at(port)))
                    routes[1 + k * config.ports + port, c] = (source, *ways)
    return routes


def _stacked(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return arrays as one, each filled up at its ends."""
    shape = np.max([array.shape for array in arrays], axis=0)
    result = np.zeros((len(arrays), *shape), arrays[0].dtype)
    for place, array in enumerate(arrays):
        result[place][tuple(slice(size) for size in array.shape)] = array
    return result
