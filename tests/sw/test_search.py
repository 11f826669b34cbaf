"""The search finds what brute force finds; it says what it did, and does the same again."""

import itertools
import random

import pytest

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.mapping.cluster import ClusterMapping, IllegalMappingError, ceil_div
from rowmesh.sw.mapping.dataflow import ANY, load_dataflow, load_dataflows
from rowmesh.sw.model.closed_form import estimate
from rowmesh.sw.model.counts import words
from rowmesh.sw.model.predict import COARSE, config_cycles, predict_parts
from rowmesh.sw.program.assemble import assemble, beyond_limits, memory_map, programs
from rowmesh.sw.search.mapper import UnmappableError, search
from rowmesh.sw.search.objective import Budget, Objective
from rowmesh.sw.search.pool import candidates
from rowmesh.sw.workload.layer import Layer, load_workload
from rowmesh.sw.workload.lowering import lowerings

FLOWS = load_dataflows(ANY)
GOALS = ("cycles", "energy", "edp", "energy + 1e6 * (dram > 400)")


def case(number):
    """A small layer on a small array, with a dataflow and an objective."""
    rng = random.Random(number)
    config = ArchConfig(
        rows=rng.randint(2, 6),
        cols=rng.randint(2, 6),
        data_width=16,
        iact_spad=rng.choice([8, 16]),
        weight_spad=rng.choice([32, 128]),
        psum_spad=rng.choice([8, 16]),
        glb_iact_flits=rng.choice([64, 256]),
        glb_weight_flits=32,
        psum_bank_words=rng.choice([32, 128]),
    )
    kind = rng.choice(["conv", "conv", "conv", "depthwise"])
    layer = Layer(
        name=f"case{number}",
        kind=kind,
        C=rng.choice([1, 4, 8, 12]) if kind == "conv" else 8,
        H=rng.randint(2, 7),
        W=rng.randint(2, 7),
        R=rng.randint(1, 2),
        S=rng.randint(1, 2),
        stride=rng.choice([1, 1, 2]),
        output=rng.choice(["raw", "requant"]),
        **({"M": rng.choice([4, 8, 12])} if kind == "conv" else {}),
        N=rng.choice([1, 1, 2, 4]),
    )
    return config, layer, (rng.choice(FLOWS),), Objective(rng.choice(GOALS))


def upto(*limits):
    """All numbers from 1 to each limit."""
    return itertools.product(*(range(1, limit + 1) for limit in limits))


def all_mappings(config, layer, flow):
    """Every mapping that a dataflow allows, one at a time; no factor is larger than what it splits."""
    groups, filters, channels = layer.groups, layer.m // layer.groups, layer.c // layer.groups
    size = {"C": channels, "R": layer.r, "G": groups, "M": filters, "P": layer.p, "Q": layer.q, "N": layer.n}

    def allowed(target, dimensions, **factors):
        return all(
            (factor == 1 or dimensions is None or name in dimensions)
            and flow.allows(target, name, factor, size[name])
            and factor <= size[name]
            for name, factor in factors.items()
        )

    for (c_s, g_y, m_y, p_y), r_s in itertools.product(upto(*[config.rows] * 4), {1, layer.r}):
        if c_s * r_s * g_y * m_y * p_y > config.rows:
            continue
        if not allowed("rows", flow.rows, C=c_s, R=r_s, G=g_y, M=m_y, P=p_y):
            continue
        for (m_x, p_x, q_x), r0 in itertools.product(upto(*[config.cols] * 3), {1, layer.r}):
            if m_x * p_x * q_x > config.cols or not allowed("columns", flow.columns, M=m_x, P=p_x, Q=q_x):
                continue
            row_steps = ceil_div(layer.p, p_x * p_y)
            for c0, g0, m0, m1 in upto(channels, groups, filters, filters):
                if c_s * c0 > channels or m_x * m_y * m0 * m1 > filters or g0 * g_y > groups:
                    continue
                again = m_x * m_y * m0 * m1 < filters  # iacts are used for another tile of filters
                tiles = [
                    (resident, outer) for resident in (False, again) for outer in flow.m_outer if again or not outer
                ]
                for (p0, q0, n0), order, (resident, m_outer) in itertools.product(
                    upto(row_steps, layer.q, layer.n), flow.orders, sorted({*tiles})
                ):
                    if not q0 % q_x and allowed("pe", None, C=c0, R=r0, M=m0, Q=q0 // q_x, P=p0, N=n0):
                        factors = dict(r_s=r_s, r0=r0, c_s=c_s, c0=c0, p_x=p_x, q_x=q_x, m_x=m_x, p_y=p_y, m_y=m_y)
                        factors |= dict(g_y=g_y, p0=p0, q0=q0, m0=m0, g0=g0, m1=m1, n0=n0)
                        factors |= dict(order=order, resident=resident, m_outer=m_outer)
                        blocks = itertools.product(range(2, channels + 1), range(1, q0 + 1))
                        for c1, q1 in blocks if order.blocks else [(1, 1)]:
                            try:
                                yield ClusterMapping(
                                    config=config, layer=layer, dataflow=flow.name, c1=c1, q1=q1, **factors
                                )
                            except IllegalMappingError:
                                continue


def check(number):
    config, layer, flows, goal = case(number)
    best, valid = None, 0
    for shape in next(lowerings(config, layer)):
        for mapping in all_mappings(config, shape.layer, flows[0]):
            cycles = estimate(mapping) + config_cycles(config)
            cost = float(goal.costs(cycles, words(mapping))[0])
            best, valid = cost if best is None else min(best, cost), valid + 1
    if best is None:  # another lowering may have one
        return 0
    found = search(config, layer, flows, goal)
    assert found.exhaustive
    assert (found.estimate, found.valid) == (best, valid)
    if not goal.depends_on_cycles:
        assert goal.costs(0, words(found.mapping.cluster))[0] == best
    return valid


def test_the_search_finds_the_optimum():
    assert sum(check(number) for number in range(16)) > 1000


@pytest.mark.slow
@pytest.mark.parametrize("number", range(16, 120))
def test_the_search_finds_the_optimum_of_many(number):
    assert check(number) >= 0


def test_what_a_search_says():
    config, layer = load_arch("eyeriss"), load_workload("alexnet").layers[2]
    rs = (load_dataflow("rs"),)
    found = search(config, layer, rs, "energy")
    assert not found.exhaustive
    assert found.visited > found.valid == found.evaluated > found.predicted == 0
    assert found.describe().startswith(f"pruned, {found.visited:,} mappings visited, {found.valid:,} valid, ")
    config, layer, flows, _ = case(5)
    assert search(config, layer, flows).describe().startswith("exhaustive, ")


def test_a_budget_is_kept_and_a_seed_repeats():
    config, layer = load_arch("eyeriss"), load_workload("alexnet").layers[2]
    flows, goal = (load_dataflow("rs"),), "dram + glb"
    short = search(config, layer, flows, goal, Budget(mappings=1000))
    assert (short.visited, short.exhaustive) == (1000, False)
    some = search(config, layer, flows, goal)
    budget = Budget(mappings=some.visited + 30_000)
    runs = [search.__wrapped__(config, layer, flows, goal, budget, seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0].valid != runs[2].valid
    assert {run.visited for run in runs} == {budget.mappings}
    assert short.estimate >= some.estimate >= max(run.estimate for run in runs)


def test_a_budget_of_seconds_ends():
    config, layer = load_arch("eyeriss"), load_workload("vgg16").layers[0]
    found = search(config, layer, FLOWS, "energy", Budget(seconds=0.01))
    assert not found.exhaustive
    assert found.visited < search(config, layer, FLOWS, "energy").visited


def test_latency_is_the_fewest_cycles_and_may_cost_energy():
    """Weights come in blocks here, so that the array begins before the last ones are there."""
    config, flows = load_arch("squeezelerator"), (load_dataflow("ws"),)
    layer = next(layer for layer in load_workload("resnet50").layers if layer.name == "RES2a_1")
    fastest, cheapest = (search(config, layer, flows, goal).mapping for goal in ("latency", "cycles"))
    cycles = [sum(predict_parts(mapping, COARSE).values()) for mapping in (fastest, cheapest)]
    assert cycles[0] < cycles[1] <= 1.002 * cycles[0]
    assert fastest.cluster.q1 > 1


@pytest.mark.slow
@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("goal", ["cycles", "energy", "edp"])
def test_what_is_worth_a_look_holds_the_best(number, goal):
    """Of the layers of AlexNet: within 0.1 % of the best of three million other mappings."""
    config, layer = load_arch("eyeriss"), load_workload("alexnet").layers[number]
    flows = (load_dataflow("rs"),)
    some = search(config, layer, flows, goal)
    more = search(config, layer, flows, goal, Budget(mappings=3_000_000), 1)
    assert more.valid > 5 * some.valid
    assert more.estimate <= some.estimate <= 1.001 * more.estimate


def test_a_mapping_of_more_loops_than_levels_is_passed_over_or_refused():
    layer = load_workload("alexnet").layers[1]
    config = load_arch("fpga4x4").replace(nest_levels=6)
    with pytest.raises(UnmappableError, match=r"^layer CONV2: no mapping .* the \d+ loops of \w+ exceed .*nest_levels"):
        search(config, layer, (load_dataflow("rs"),), "dram")
    found = search(config.replace(nest_levels=9), layer, (load_dataflow("rs"),), "dram").mapping
    assert beyond_limits(found) == ""


def test_one_column_may_have_as_many_filters_as_there_are_parameters():
    """The distance of the next lane's parameters does not fit its field then, and is of no use."""
    layer = next(layer for layer in load_workload("mobilenet").layers if layer.name == "POOL")
    found = search(load_arch("squeezelerator"), layer, (load_dataflow("os-a"),))
    assert beyond_limits(found.mapping) == ""


def test_every_legal_mapping_has_a_program():
    """Mappings of layers whose filters of a column are as many as parameters have room, or close to it."""
    tried = 0
    for filters, kind, name in itertools.product((8, 15, 16), ("avgpool", "depthwise", "conv"), ("os-a", "os-c", "ws")):
        config = ArchConfig(
            rows=4, cols=4, data_width=16, param_words=filters, burst_beats=8, psum_spad=32, weight_spad=64
        )
        layer = Layer.model_validate(
            {"name": "x", "kind": kind, "C": 64, "H": 3, "W": 3, "R": 3, "S": 3} | ({"M": 64} if kind == "conv" else {})
        )
        for _, mapping in itertools.islice(candidates(config, layer, (load_dataflow(name),)), 60):
            if not beyond_limits(mapping):
                assemble((mapping, programs(mapping, memory_map(mapping))))
                tried += 1
    assert tried > 50
