"""The deadlock check: programs of legal mappings pass, and a wrong count of any engine does not."""

import itertools
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from random_mappings import by_turns

from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import Engine
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.mapping.dataflow import load_dataflows
from rowmesh.sw.model.timing.run import StuckError, run
from rowmesh.sw.model.timing.streams import streams
from rowmesh.sw.program.assemble import memory_map, programs
from rowmesh.sw.program.deadlock import DeadlockError, banks, check_deadlock_freedom, params, psums, spads
from rowmesh.sw.program.nest import Nest
from rowmesh.sw.program.occupancy import expand
from rowmesh.sw.search import mapper
from rowmesh.sw.search.mapper import UnmappableError, search
from rowmesh.sw.search.pool import candidates
from rowmesh.sw.workload.layer import Layer

ENGINES = (
    Engine.LOAD_IACT,
    Engine.LOAD_WEIGHT,
    Engine.LOAD_PARAM,
    Engine.READ_IACT,
    Engine.READ_WEIGHT,
    Engine.STEP,
    Engine.DRAIN,
    Engine.STORE,
)

FLAGS = {
    Engine.READ_IACT: ("release_mask", "sync_mask"),
    Engine.READ_WEIGHT: ("release_mask", "sync_mask", "last_mask"),
    Engine.STEP: (
        "weight_release_mask",
        "weight_sync_mask",
        "iact_sync_mask",
        "slide_mask",
        "restart_mask",
        "emit_mask",
        "start_mask",
        "first_mask",
        "last_mask",
    ),
    Engine.DRAIN: ("release_mask", "flush_mask", "param_mask"),
}
"""Conditions without which something is never freed, sent or ended."""

COUNTS = {
    Engine.LOAD_IACT: ("length",),
    Engine.LOAD_WEIGHT: ("length_last",),
    Engine.LOAD_PARAM: ("length_last",),
    Engine.READ_IACT: ("release",),
    Engine.READ_WEIGHT: ("release",),
    Engine.STEP: (),
    Engine.DRAIN: ("columns", "param_release"),
    Engine.STORE: ("length_last", "columns"),
}


def decided(nest):
    """The nest without bounds that never hold: those whose loops further out are of one iteration."""
    unit, loops = set(), []
    for loop in nest.loops:
        when = set(loop.when) - unit
        always = loop.last is not None and loop.when and not when
        kept = replace(loop, bound=loop.last, last=None, when=()) if always else replace(loop, when=when)
        if kept.last in (None, kept.bound):
            kept = replace(kept, last=None, when=())
            if kept.bound == 1:
                unit.add(kept.name)
        loops.append(kept)
    return Nest(loops, nest.bases, nest.conditions, nest.values)


ARCHITECTURES = [
    load_arch("tiny"),
    load_arch("mesh2x2"),
    load_arch("primes"),
    load_arch("mesh1x4"),
    ArchConfig(
        name="ported",
        rows=4,
        cols=5,
        data_width=16,
        iact_spad=12,
        glb_iact_flits=512,
        glb_weight_flits=64,
        psum_bank_words=96,
        iact_ports=2,
        weight_ports=2,
    ),
    load_arch("mesh2x2").replace(rows=4, iact_ports=2, weight_ports=2),
]


def mutants(engine, nest):
    """Every nest with one count wrong: a bound, one of the last iteration, a flag dropped, a number of words."""
    nest = decided(nest)
    for place, loop in enumerate(nest.loops):
        changed = [replace(loop, bound=loop.bound + by) for by in (-1, 1) if loop.bound + by > 0]
        if loop.last is not None:
            changed = [one for one in changed if one.bound != loop.last] + [
                replace(loop, last=loop.last + by) for by in (-1, 1) if loop.last + by > 0
            ]
        for one in changed:
            loops = [*nest.loops[:place], one, *nest.loops[place + 1 :]]
            yield f"{loop.name} {loop.bound}/{loop.last} -> {one.bound}/{one.last}", replace(nest, loops=loops)
    for name in FLAGS.get(engine, ()):
        if nest.conditions[name] is not None:
            yield f"no {name}", replace(nest, conditions={**nest.conditions, name: None})
    for name in COUNTS[engine]:
        for by in (-1, 1):
            if name in nest.values and nest.values[name] > 0:
                yield f"{name} {by:+}", replace(nest, values={**nest.values, name: nest.values[name] + by})


def with_mutant(parts, engine, cluster, nest):
    if cluster is None:
        return replace(parts, shared={**parts.shared, engine: nest})
    clusters = list(parts.clusters)
    clusters[cluster] = {**clusters[cluster], engine: nest}
    return replace(parts, clusters=clusters)


def nests_of(parts):
    yield from ((engine, None, nest) for engine, nest in parts.shared.items())
    for cluster, nests in enumerate(parts.clusters):
        yield from ((engine, cluster, nest) for engine, nest in nests.items())


def does(mapping, parts):
    """What all engines do that another one sees: flits that no PE takes and segments of no beat are left out."""
    s = streams(mapping.config, parts)
    steps, stores = s.steps.copy(), s.stores[s.stores["beats"] > 0]
    steps["iact_release"] = steps["iact_release"].sum()  # when words are freed is no matter if the check lets it pass
    seen = [steps.tobytes(), s.words.tobytes(), stores["beats"].tobytes(), stores["lane"].tobytes()]
    seen += [load[:number].tobytes() for load, number in zip(s.loads, s.load_counts, strict=True)]
    for port, (flits, number, words) in enumerate(zip(s.flits, s.flit_counts, s.words_taken, strict=True)):
        first, flits = int(s.ports[port]["row"]), flits[:number]
        pes = s.hops[int(s.ports[port]["operand"])][:, first : first + int(s.fed_rows[port])]
        index, edge = flits["index"], flits["edge"]
        takes = (
            (pes["low"][..., None] <= index) & (index <= pes["high"][..., None]) & (edge & pes["skip"][..., None] == 0)
        )
        taken = np.where(takes & (pes["active"] > 0)[..., None], words[None, : pes.shape[1], None, :number], 0)
        frees = flits["release"][flits["release"] > 0].tobytes(), flits["sync"].sum()
        seen.append((taken[..., taken.any(axis=(0, 1, 2))].tobytes(), frees))
    return seen


def survivors(mapping, source, each):
    """How many mutants of a mapping's program were tried, ``each`` of every nest, and those that the check lets pass.

    A mutant that changes nothing is none.
    """
    parts, tried, left = programs(mapping, memory_map(mapping)), Counter(), []
    check_deadlock_freedom(mapping.config, parts)
    as_it_was = None
    for engine, cluster, nest in nests_of(parts):
        of_nest = list(mutants(engine.first, nest))
        for what, mutant in source.sample(of_nest, min(each, len(of_nest))):
            changed = with_mutant(parts, engine, cluster, mutant)
            tried[engine.first] += 1
            try:
                check_deadlock_freedom(mapping.config, changed)
            except DeadlockError:
                continue
            as_it_was = as_it_was or does(mapping, parts)
            if does(mapping, changed) != as_it_was:
                left.append((engine.name, cluster, what, mapping))
    return tried, left


def check_mutants(seed, number, each):
    source, tried, left = random.Random(seed), Counter(), []
    for mapping in itertools.islice(by_turns(ARCHITECTURES, seed), number):
        of_mapping, missed = survivors(mapping, source, each)
        tried, left = tried + of_mapping, left + missed
    assert left == []
    assert set(tried) == set(ENGINES)


def test_a_wrong_count_of_any_engine_is_caught():
    check_mutants(seed=1, number=16, each=3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_many_wrong_counts_are_caught(seed):
    check_mutants(seed, number=100, each=12)


def check_programs(seed, number, longest=60_000):
    """No legal mapping's program is refused, and none of them stops in the timing model."""
    for mapping in itertools.islice(by_turns(ARCHITECTURES, seed), number):
        parts = programs(mapping, memory_map(mapping))
        check_deadlock_freedom(mapping.config, parts)
        if parts.shared[Engine.STEP].steps < longest:
            marks = np.zeros(1, np.int64)
            run(mapping.config, streams(mapping.config, parts), marks, read_latency=100, write_latency=20)


def test_no_legal_mapping_blocks():
    check_programs(seed=10, number=40, longest=10_000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(11, 15))
def test_none_of_many_legal_mappings_blocks(seed):
    check_programs(seed, number=500)


def test_what_blocks_in_the_timing_model_is_a_deadlock():
    assert issubclass(StuckError, DeadlockError)


@pytest.mark.parametrize(
    ("arch", "layer", "dataflow"),
    [
        ("eyeriss", Layer(name="S2", kind="avgpool", C=6, H=8, W=8, R=2, S=2), "rs-g"),
        ("primes", Layer(name="S2", kind="maxpool", C=6, H=8, W=8, R=2, S=2), "rs-g"),
        ("primes", Layer(name="ADD", kind="add", C=10, H=5, W=5), "rs-g"),
    ],
)
def test_groups_that_are_no_whole_beats(arch, layer, dataflow):
    """Groups of a PE and of chains beside it fill beats together: the last one is of fewer chains."""
    config, tried = load_arch(arch), 0
    for _, mapping in candidates(config, layer, load_dataflows(dataflow)):
        m = mapping.cluster
        if m.g0 > 1 and m.g_y % max(1, m.out_lanes // m.g0):
            check_deadlock_freedom(config, programs(mapping, memory_map(mapping)))
            tried += 1
    assert tried


@pytest.fixture
def fresh():
    """The search, which remembers nothing."""
    search.cache_clear()
    yield search
    search.cache_clear()


CASES = {
    "cycles": ("tiny", "cycles"),
    "latency": ("tiny", "latency"),
    "dram": ("tiny", "dram"),
    "mesh": ("mesh1x4", "cycles"),
    "mesh, dram": ("mesh1x4", "dram"),
}


@pytest.mark.parametrize(("arch", "goal"), CASES.values(), ids=CASES)
def test_candidates_that_would_block_are_dropped_and_counted(monkeypatch, fresh, arch, goal):
    config, layer = load_arch(arch), Layer(name="small", M=16, C=8, H=6, W=7, R=3, S=3)
    best = fresh(config, layer, None, goal)
    assert best.dropped == ()
    assert "dropped" not in best.describe()
    fresh.cache_clear()

    def block(m):
        return "DRAIN: it waits" if m == best.mapping else ""

    monkeypatch.setattr(mapper, "would_block", block)
    other = fresh(config, layer, None, goal)
    assert other.mapping != best.mapping
    assert other.dropped == ("DRAIN: it waits",)
    assert other.describe().endswith("; 1 dropped that would block (DRAIN: it waits)")


@pytest.mark.parametrize(("arch", "goal"), CASES.values(), ids=CASES)
def test_a_layer_all_of_whose_candidates_would_block_cannot_be_mapped(monkeypatch, fresh, arch, goal):
    config, layer = load_arch(arch), Layer(name="small", M=16, C=8, H=6, W=7, R=3, S=3)
    monkeypatch.setattr(mapper, "would_block", lambda m: "DRAIN: it waits")
    with pytest.raises(
        UnmappableError, match=r"^layer small: no mapping .*dropped that would block \(DRAIN: it waits\)$"
    ):
        fresh(config, layer, None, goal)


@pytest.mark.parametrize("arch", ["tiny", "mesh1x4"])
def test_where_all_that_would_be_predicted_would_block_others_are_looked_at(monkeypatch, fresh, arch):
    config, layer = load_arch(arch), Layer(name="small", M=16, C=8, H=6, W=7, R=3, S=3)
    blocked = []

    def block(m):
        if len(blocked) < 2 * mapper._MOST:
            blocked.append(m)
        return "DRAIN: it waits" if m in blocked else ""

    monkeypatch.setattr(mapper, "would_block", block)
    found = fresh(config, layer)
    assert found.mapping not in blocked
    assert len(found.dropped) == len(blocked) == 2 * mapper._MOST


def test_a_candidate_that_stops_in_the_timing_model_is_dropped(monkeypatch, fresh):
    config, layer = load_arch("tiny"), Layer(name="small", M=16, C=8, H=6, W=7, R=3, S=3)
    best, predict = fresh(config, layer).mapping, mapper.predict_parts
    fresh.cache_clear()

    def stop(m, effort):
        if m == best:
            raise StuckError("nothing moves")
        return predict(m, effort)

    monkeypatch.setattr(mapper, "predict_parts", stop)
    found = fresh(config, layer)
    assert (found.mapping != best, found.dropped) == (True, ("nothing moves",))


def test_the_check_takes_a_small_part_of_a_prediction():
    """It runs for every candidate that is predicted: its steps are those of a class of tiles, not of a layer."""
    config = load_arch("tiny")
    layer = Layer(name="large", M=32, C=32, H=64, W=64, R=3, S=3, padding=1)
    _, mapping = next(candidates(config, layer, load_dataflows("rs")))
    parts = programs(mapping, memory_map(mapping))
    looked_at = []

    def counted(nest, outputs, *others):
        steps = expand(nest, outputs, *others)
        looked_at.append(steps.number)
        return steps

    with pytest.MonkeyPatch.context() as patch:
        for module in (params, psums, banks, spads):
            patch.setattr(module, "expand", counted)
        check_deadlock_freedom(config, parts)
    assert sum(looked_at) < parts.shared[Engine.STEP].steps / 200


def test_a_reader_that_reaches_beyond_its_bank_is_refused():
    """Behind what is loaded there may be room for it, but distances wrap."""
    config = load_arch("tiny")
    mapping = search(config, Layer(name="far", M=8, C=16, H=6, W=6, R=3, S=3)).mapping
    parts = programs(mapping, memory_map(mapping))
    nest = parts.clusters[0][Engine.READ_IACT]
    place = next(at for at, loop in enumerate(nest.loops) if loop.bound > 1 and loop.strides.get("address"))
    far = replace(nest.loops[place], strides={**nest.loops[place].strides, "address": config.glb_iact_flits})
    wrong = replace(nest, loops=[*nest.loops[:place], far, *nest.loops[place + 1 :]])
    with pytest.raises(DeadlockError, match=r"READ_IACT: it reads at a distance of .* its bank has"):
        check_deadlock_freedom(config, with_mutant(parts, Engine.READ_IACT, 0, wrong))
