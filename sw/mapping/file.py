"""ClusterMapping files: mappings written out, edited and read back.

A file is one mapping ``mapping:`` with a list of layers; each has its name, a label of the dataflow, and its nest, a
directive a level, outermost first::

    mapping:
      layers:
      - layer: CONV3
        dataflow: rs
        nest:
        - {target: DRAM, type: temporal, permutation: NGPQM, factors: {N: 1, G: 1, P: 1, Q: 1, M: 14}}
        - {target: GLB, type: temporal, permutation: CRSNP, factors: {C: 32, R: 1, S: 1, N: 1, P: 13}, keep: [psum]}
        - {target: columns, type: spatial, permutation: MPQ, factors: {M: 14, P: 1, Q: 1}}
        - {target: rows, type: spatial, permutation: GPMCR, factors: {G: 1, P: 1, M: 1, C: 4, R: 3}}
        - {target: pe, type: temporal, permutation: MQC, factors: {M: 1, Q: 1, C: 1}}
        - {target: spad, type: temporal, permutation: QSRCGM, factors: {Q: 13, S: 3, R: 1, C: 2, G: 1, M: 2},
           keep: [weight]}

Of a mesh, ``mesh_y`` and ``mesh_x`` stand below DRAM: how the layer is split over the clusters. The rest is of a share.

docs/mapping.md explains it. Source of the style: Timeloop's mappings (Parashar et al. 2019, sections V.A and V.B).
"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Mapping as Dict
from contextlib import contextmanager
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.inputs import yaml as files
from rowmesh.sw.inputs.errors import one_line
from rowmesh.sw.mapping.cluster import ClusterMapping, IllegalMappingError, ceil_div
from rowmesh.sw.mapping.layer import LayerMapping, Splits, check_places, sub_layer
from rowmesh.sw.mapping.orders import IACT, PSUM, WEIGHT, Order, permutation_of
from rowmesh.sw.workload.layer import LARGEST, Layer
from rowmesh.sw.workload.lowering import STEPS, Lowered, lower

__all__ = ["read_mappings", "write_mappings"]

_TOP = "mapping"
_TITLE = "mapping"
_MADE_BY = "rowmesh map ... --out FILE"
_LAYER_KEYS = ("layer", "dataflow", "lowered", "plane", "nest")
_CLUSTERS = ("mesh_y", "mesh_x")
_TARGETS = ("DRAM", *_CLUSTERS, "GLB", "columns", "rows", "pe", "spad")
_SPATIAL = (*_CLUSTERS, "columns", "rows")
_PORTED = "rows"  # what ports can share
_SLICED = {"R": "r_d", "S": "s_d"}
"""Slices of filter rows and columns, whose iacts the global buffer takes one after another."""
_KEEPS: Dict[str, tuple[str, ...]] = {"GLB": ("iact", "psum"), "spad": ("weight", "psum", "iact")}
_PERMUTATIONS = {
    "DRAM": permutation_of(False),
    "mesh_y": "MPGC",
    "mesh_x": "MPG",
    "GLB": "CRSNP",
    "columns": "MPQ",
    "rows": "GPMCR",
    "pe": "MQC",
}
_INNER = "QSRC"
_SPADS = {"weight": WEIGHT, "psum": PSUM, "iact": IACT}
"""The order of loops where a directive of the spad has none, by what it keeps."""

# Factors that are a mapping's own; all others are what remains of the layer.
_OWN = {
    ("GLB", "S"): "s_t",
    ("GLB", "N"): "n0",
    ("GLB", "P"): "p0",
    ("columns", "M"): "m_x",
    ("columns", "P"): "p_x",
    ("columns", "Q"): "q_x",
    ("rows", "G"): "g_y",
    ("rows", "P"): "p_y",
    ("rows", "M"): "m_y",
    ("rows", "C"): "c_s",
    ("rows", "R"): "r_s",
    ("pe", "M"): "m1",
    ("pe", "C"): "c1",
    ("spad", "R"): "r0",
    ("spad", "C"): "c0",
    ("spad", "G"): "g0",
    ("spad", "M"): "m0",
}

# Shares of a layer among clusters: factors of the mesh's axes.
_SPLITS = {
    (target, dimension): f"{dimension.lower()}_{target[-1]}"
    for target in _CLUSTERS
    for dimension in _PERMUTATIONS[target]
}


def _remaining(m: ClusterMapping) -> dict[tuple[str, str], int]:
    """Return the factors that follow from the others."""
    return {
        ("DRAM", "N"): m.n_t,
        ("DRAM", "G"): m.g_t,
        ("DRAM", "P"): m.pt,
        ("DRAM", "Q"): m.qt,
        ("DRAM", "M"): m.mt,
        ("GLB", "C"): m.ct,
        ("GLB", "R"): m.r_t,
        ("pe", "Q"): m.q_blocks,
        ("spad", "S"): m.s0,
    }


def _permutation(target: str, m: ClusterMapping) -> str:
    if target == "DRAM":
        return permutation_of(m.m_outer)
    return f"{m.order.inner}GM" if target == "spad" else _PERMUTATIONS[target]


def _kept(m: ClusterMapping) -> dict[str, list[str]]:
    glb = [*(["iact"] if m.resident else []), *([] if m.held else ["psum"])]
    return {"GLB": glb, "spad": [_spad_keeps(m.order)]}


def _spad_keeps(order: Order) -> str:
    return "weight" if order.slides else "psum" if order.held else "iact"


def _flow(value: Any) -> Any:
    """Return a value that is written on one line."""
    if isinstance(value, dict):
        entry = CommentedMap({key: _flow(item) for key, item in value.items()})
        entry.fa.set_flow_style()
        return entry
    if isinstance(value, list):
        listed = CommentedSeq(value)
        listed.fa.set_flow_style()
        return listed
    return value


def _nest(of: LayerMapping) -> list[Any]:
    """Return a mapping's directives."""
    m, splits = of.cluster, of.splits
    factors = {place: getattr(m, name) for place, name in _OWN.items()} | _remaining(m)
    factors |= {place: getattr(splits, name) for place, name in _SPLITS.items()}
    factors["spad", "Q"] = m.q1 if m.blocked else m.q0 // m.q_x
    kept, directives = _kept(m), []
    for target in (target for target in _TARGETS if of.config.clusters > 1 or target not in _CLUSTERS):
        order = _permutation(target, m)
        directive = {
            "target": target,
            "type": "spatial" if target in _SPATIAL else "temporal",
            "permutation": order,
            "factors": {dimension: factors[target, dimension] for dimension in order},
        }
        extra: dict[str, object] = {"ports": m.ports} if target == _PORTED and m.ports > 1 else {}
        if target == "GLB" and m.r_d * m.s_d > 1:
            extra = {"slices": {dimension: getattr(m, name) for dimension, name in _SLICED.items()}}
        directives.append(_flow(directive | extra | ({"keep": kept[target]} if target in kept else {})))
    return directives


def write_mappings(mappings: Sequence[tuple[Layer, LayerMapping]], comment: str = "") -> str:
    """Return the text of a mapping file.

    Parameters
    ----------
    mappings : sequence of (Layer, LayerMapping)
        Layers as the workload has them; mappings may be of what they are lowered to.
    comment : str
        Its first line.
    """
    layers = [
        {
            "layer": layer.name,
            "dataflow": mapping.dataflow,
            **({"lowered": _flow(list(mapping.lowered.steps))} if mapping.lowered else {}),
            "nest": _nest(mapping),
        }
        for layer, mapping in mappings
    ]
    writer, out = YAML(), io.StringIO()
    writer.width = 200
    writer.dump({_TOP: {"layers": layers}}, out)
    return (f"# {one_line(comment)}\n" if comment else "") + out.getvalue()


def read_mappings(
    path: str | os.PathLike[str], config: ArchConfig, layers: Sequence[Layer], refuse: Callable[[LayerMapping], str]
) -> list[LayerMapping]:
    """Read the mappings of some layers.

    Parameters
    ----------
    path : str or path
        A mapping file; what it says of other layers is not looked at.
    config : ArchConfig
    layers : sequence of Layer
    refuse : callable
        Returns why a legal mapping cannot run, or nothing (:func:`rowmesh.sw.program.assemble.cannot_run`).

    Returns
    -------
    list of LayerMapping
        One a layer, in their order.

    Raises
    ------
    InputError
        As ``file:line: field: message``; for a mapping that the hardware cannot run, every rule that it breaks.
    """
    document = files.parse(files.own_text(path, _TITLE, _MADE_BY), os.fspath(path))
    top = document.section(_TOP)
    document.known_keys((_TOP,), top, ["layers"])
    entries = top.get("layers")
    if not isinstance(entries, list) or not entries:
        raise document.error((_TOP, "layers"), f"must be a list of layers, not {files.show_value(entries)}")
    numbers: dict[str, int] = {}
    for number, raw in enumerate(entries):
        place: files.Place = (_TOP, "layers", number)
        entry = document.mapping(place, raw)
        document.known_keys(place, entry, _LAYER_KEYS)
        name = entry.get("layer")
        if not isinstance(name, str):
            raise document.error((*place, "layer"), f"must be the name of a layer, not {files.show_value(name)}")
        if name in numbers:
            raise document.error((*place, "layer"), f"must be unique, {name} has a mapping above")
        numbers[name] = number
    found = []
    for layer in layers:
        if layer.name not in numbers:
            near = files.suggest(layer.name, numbers)
            raise document.error(
                (_TOP, "layers"),
                f"must have a mapping of layer {layer.name}"
                + (f", did you mean it by {near}?" if near else "")
                + f" It has {', '.join(numbers)}; choose layers with --layer",
            )
        number = numbers[layer.name]
        found.append(_Reader(document, (_TOP, "layers", number), config, layer, refuse).mapping(entries[number]))
    return found


def _filters_outermost(order: Any, tiles: Dict[str, int]) -> bool:
    """Whether a permutation of DRAM has the loop over filter tiles outside of another over tiles of the output."""
    if not isinstance(order, str | list) or "M" not in order or tiles["mt"] == 1:
        return False
    inside = order[order.index("M") + 1 :]
    return any(name in inside and tiles[loop] > 1 for name, loop in (("N", "n"), ("P", "pt"), ("Q", "qt")))


class _Reader:
    """Reads one layer's mapping."""

    def __init__(
        self,
        document: files.Document,
        place: files.Place,
        config: ArchConfig,
        layer: Layer,
        refuse: Callable[[LayerMapping], str],
    ) -> None:
        self.document, self.place, self.config, self.layer, self.refuse = document, place, config, layer, refuse

    def mapping(self, entry: dict[str, Any]) -> LayerMapping:
        lowered = self._lowered(entry)
        layer = lowered.layer if lowered else self.layer
        dataflow = entry.get("dataflow", "own")
        if not isinstance(dataflow, str) or not dataflow.isprintable() or not 0 < len(dataflow) <= 64:
            self._refuse(("dataflow",), "a label of 1 to 64 printable characters", dataflow, "own")
        given, places, kept, orders = self._directives(entry)
        factors: dict[str, Any] = {name: given.get(place) or 1 for place, name in _OWN.items()}
        taps = layer.s // (factors["s_t"] * given.get(("slices", "S"), 1))
        ones = {name for name in _INNER if (taps if name == "S" else given.get(("spad", name), 0)) == 1}
        blocked = max(factors["c1"], given.get(("pe", "Q"), 0)) > 1
        order = self._order(kept["spad"][0], orders["spad"], ones, blocked, places["spad"])
        blocked = order.blocks
        columns = given.get(("spad", "Q"), 0) or max(1, layer.q // factors["q_x"])
        blocks = given.get(("pe", "Q"), 0) or ceil_div(layer.q, columns)
        factors |= {
            "q0": min(blocks * columns, layer.q) if blocked else columns * factors["q_x"],
            "q1": columns if blocked else 1,
            "m_outer": False,
            "ports": given.get((_PORTED, "ports"), 1),
            **{name: given.get(("slices", dimension), 1) for dimension, name in _SLICED.items()},
            "resident": "iact" in kept["GLB"],
            "order": order,
            "dataflow": dataflow,
        }
        splits = Splits(**{name: given.get(place, 1) for place, name in _SPLITS.items()})
        part = self._part(layer, splits)
        factors["m_outer"] = _filters_outermost(
            orders.get("DRAM"), ClusterMapping.bare(self.config.cluster, part, **factors).tiles
        )
        broken = ClusterMapping.broken_rules(self.config.cluster, part, **factors)
        if broken:
            reasons = "; ".join(f"({number}) {text}" for number, text in enumerate(broken, 1))
            rules = "a rule" if len(broken) == 1 else f"{len(broken)} rules"
            raise self.document.error(self.place, f"mapping of {layer.name} breaks {rules}: {reasons}")
        found = ClusterMapping(config=self.config.cluster, layer=part, **factors)
        with self._legal(layer):
            whole = LayerMapping(self.config, layer, splits, found, lowered)
        if reason := self.refuse(whole):
            raise self.document.error(self.place, f"mapping of {layer.name} cannot run: {reason}")
        for (target, dimension), value in _remaining(found).items():
            if given.get((target, dimension), 0) not in (0, value):
                self._refuse(
                    (*places[target], "factors", dimension),
                    "what the other factors leave of the layer, or 0 for that",
                    given[target, dimension],
                    value,
                )
        for target, place in places.items():
            self._check_order(target, place, orders[target], found, splits)
        return whole

    def _order(self, keeps: str, given: Any, ones: set[str], blocked: bool, place: files.Place) -> Order:
        """Return the order of loops within a PE, of a permutation in which loops of one iteration may be anywhere.

        Parameters
        ----------
        keeps : str
            What stays in the spad longest.
        given : object
            The permutation, if any.
        ones : set of str
            Dimensions of one iteration.
        blocked : bool
            There are several channel groups or blocks of output columns, one after another.
        place : tuple
            Of the directive.
        """
        usual = _SPADS[keeps]
        listed = [name for name in (given if isinstance(given, str | list) else []) if name in list(_INNER)]
        outer = "QC" if blocked and keeps == "weight" else usual.outer
        for left_out in (set(), ones):
            inner = [name for name in listed if name not in left_out]
            for before, name in zip(f" {usual.inner}", usual.inner, strict=False):
                if name not in inner:
                    inner.insert(inner.index(before) + 1 if before in inner else 0, name)
            try:
                order = Order(f"{outer}{''.join(inner)}M")
            except ValueError:
                continue
            if _spad_keeps(order) == keeps:
                return order
        rule = "an order that keeps " + {"weight": "weights: Q first", "psum": "psums: S, R or C before Q"}.get(
            keeps, "iacts: S, R or C before Q"
        )
        self._refuse((*place, "permutation"), rule, given, f"{usual.inner}GM")

    def _part(self, layer: Layer, splits: Splits) -> Layer:
        """Return the first cluster's part of a layer."""
        with self._legal(layer):
            check_places(self.config, splits)
            return sub_layer(layer, splits, 0, 0).layer

    @contextmanager
    def _legal(self, layer: Layer) -> Iterator[None]:
        """Say where in the file a mapping is that breaks a rule of the mesh."""
        try:
            yield
        except IllegalMappingError as error:
            raise self.document.error(self.place, f"mapping of {layer.name} breaks a rule: (1) {error}") from None

    def _lowered(self, entry: dict[str, Any]) -> Lowered | None:
        """Return what the layer is lowered to, or None if the mapping is of it as it is."""
        key = "lowered" if "lowered" in entry else "plane"  # of earlier versions
        steps = entry.get(key, [])
        listed = steps if isinstance(steps, list) else [steps]
        if not listed:
            return None
        for step in listed:
            if not isinstance(step, str) or step not in STEPS:
                near = files.suggest(step, STEPS) or "row"
                self._refuse((key,), f"of {', '.join(STEPS)}, or left out", step, near)
        lowered = lower(self.config, self.layer, listed)
        if lowered is None:
            rule = f"must be left out: the layer cannot be lowered by {' and '.join(listed)} on {self.config.name}"
            raise self.document.error((*self.place, key), rule)
        return lowered

    def _directives(
        self, entry: dict[str, Any]
    ) -> tuple[dict[tuple[str, str], int], dict[str, files.Place], dict[str, list[Any]], dict[str, Any]]:
        """Return factors, each target's place, what is kept where, and each target's permutation or None."""
        nest = entry.get("nest")
        if not isinstance(nest, list):
            raise self.document.error((*self.place, "nest"), f"must be a list, not {files.show_value(nest)}")
        given: dict[tuple[str, str], int] = {}
        places: dict[str, files.Place] = {}
        kept: dict[str, list[Any]] = {"GLB": ["psum"]}
        orders: dict[str, Any] = {}
        for number, raw in enumerate(nest):
            place: files.Place = ("nest", number)
            directive = self.document.mapping((*self.place, *place), raw)
            target = directive.get("target")
            if not isinstance(target, str) or target not in _TARGETS:
                near = files.suggest(target, _TARGETS) or "DRAM"
                self._refuse((*place, "target"), f"one of {', '.join(_TARGETS)}", target, near)
            if target in places:
                raise self.document.error(
                    (*self.place, *place, "target"), f"must be given once, not twice ({target}); merge the two"
                )
            more = ["keep"] if target in _KEEPS else []
            more += {_PORTED: ["ports"], "GLB": ["slices"]}.get(target, [])
            keys = ("target", "type", "permutation", "factors", *more)
            self.document.known_keys((*self.place, *place), directive, keys)
            kind = "spatial" if target in _SPATIAL else "temporal"
            if directive.get("type", kind) != kind:
                self._refuse((*place, "type"), f"{kind} at {target}", directive["type"], kind)
            places[target], orders[target] = place, directive.get("permutation")
            factors = self.document.mapping((*self.place, *place, "factors"), directive.get("factors", {}))
            if "ports" in directive:
                ports, most = directive["ports"], self.config.ports
                if type(ports) is not int or ports not in (1, most):
                    self._refuse((*place, "ports"), f"1 or the architecture's ports ({most})", ports, most)
                given[target, "ports"] = ports
            given |= {(target, key): value for key, value in self._factors(target, place, factors).items()}
            if "slices" in directive:
                of_slices = self.document.mapping((*self.place, *place, "slices"), directive["slices"])
                for key, value in self._factors("slices", place, of_slices, "slices").items():
                    given["slices", key] = value
            if "keep" in directive:
                kept[target] = self._keep(target, (*place, "keep"), directive["keep"])
        if "spad" not in kept:
            raise self.document.error(
                (*self.place, "nest"), "must have target spad with keep: [weight], [psum] or [iact]"
            )
        if ("psum" in kept["GLB"]) == (kept["spad"] == ["psum"]):
            where = (*places.get("GLB", places["spad"]), "keep")
            wanted = [name for name in kept["GLB"] if name != "psum"] + (["psum"] if kept["spad"] != ["psum"] else [])
            self._refuse(where, f"with psum unless the spad keeps psums ({kept['spad'][0]}s)", kept["GLB"], wanted)
        return given, places, kept, orders

    def _factors(
        self, target: str, place: files.Place, factors: dict[str, Any], key: str = "factors"
    ) -> dict[str, int]:
        legal = "".join(_SLICED) if target == "slices" else _PERMUTATIONS.get(target, "QSRCGM")
        for dimension, value in factors.items():
            where = (*place, key, dimension)
            if dimension not in legal:
                raise self.document.error(
                    (*self.place, *where), f"{target} has no factor of that name, it has {', '.join(legal)}"
                )
            low = 1 if target == "slices" or (target, dimension) in _OWN | _SPLITS else 0
            if type(value) is not int or not low <= value <= LARGEST:
                rule = f"an integer from {low} to {LARGEST}" + ("" if low else " (0: what remains)")
                near = min(max(low, value), LARGEST) if type(value) is int else low
                self._refuse(where, rule, value, near)
        return factors

    def _keep(self, target: str, where: files.Place, value: object) -> list[Any]:
        legal = _KEEPS[target]
        names = value if isinstance(value, list) else [value]
        for name in names:
            if name not in legal:
                near = files.suggest(name, legal) or legal[0]
                self._refuse(where, f"of {', '.join(legal)}", value, f"[{near}]")
        if target == "spad" and len(names) != 1:
            self._refuse(where, f"one of {', '.join(legal)}: what stays there longest", value, "[weight]")
        return names

    def _check_order(self, target: str, place: files.Place, order: Any, m: ClusterMapping, splits: Splits) -> None:
        """Check a permutation; loops of a single iteration may stand anywhere, or nowhere."""
        legal = _permutation(target, m)
        order = legal if order is None else order
        factors = {place: getattr(m, name) for place, name in _OWN.items()} | _remaining(m)
        factors |= {place: getattr(splits, name) for place, name in _SPLITS.items()}
        factors["spad", "Q"] = m.q_block
        listed = list(order) if isinstance(order, str | list) else None
        if listed is not None and all(isinstance(name, str) and name in legal for name in listed):
            loops = [name for name in legal if factors[target, name] > 1]
            if [name for name in listed if name in loops] == loops and len(set(listed)) == len(listed):
                return
        rule = "the order of this hardware's nest, outermost first (loops of 1 may be left out)"
        if target == "spad":
            rule += f", where {_spad_keeps(m.order)}s are kept"
        self._refuse((*place, "permutation"), rule, order, legal)

    def _refuse(self, where: files.Place, rule: str, value: object, nearest: object) -> NoReturn:
        near = nearest if isinstance(nearest, str) else files.show_value(nearest)
        raise self.document.error(
            (*self.place, *where), f"must be {rule}, not {files.show_value(value)} (nearest legal value: {near})"
        )
