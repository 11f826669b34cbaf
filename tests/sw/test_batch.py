"""The cost of many mappings at once is exactly that of each of them."""

import random

import numpy as np
import pytest

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.mapping.cluster import ClusterMapping, IllegalMappingError
from rowmesh.sw.mapping.dataflow import ANY, load_dataflows
from rowmesh.sw.mapping.rules import RULES
from rowmesh.sw.model.closed_form import estimate
from rowmesh.sw.model.counts import words
from rowmesh.sw.model.energy import energy
from rowmesh.sw.model.performance import ACCESSES
from rowmesh.sw.model.utilization import steps
from rowmesh.sw.search.evaluate import FACTORS, FLAGS, evaluate, factors_of, row_of
from rowmesh.sw.search.objective import Objective
from rowmesh.sw.search.space import Space
from rowmesh.sw.workload.layer import Layer, load_workload
from rowmesh.sw.workload.lowering import flattened

FLOWS = load_dataflows(ANY)


def random_layer(rng):
    kind = rng.choice(["conv", "conv", "conv", "depthwise", "maxpool"])
    r, s = rng.randint(1, 5), rng.randint(1, 5)
    groups = rng.choice([1, 1, 2])
    fields = {"M": groups * rng.choice([1, 2, 6, 8, 16, 48]), "groups": groups} if kind == "conv" else {}
    return Layer(
        name="random",
        kind=kind,
        N=rng.randint(1, 3),
        C=rng.choice([2, 4, 6, 8, 16, 24]),
        H=rng.randint(r, 30),
        W=rng.randint(s, 30),
        R=r,
        S=s,
        stride=[rng.randint(1, 4), rng.randint(1, 4)],
        padding=[rng.randint(0, r - 1), rng.randint(0, s - 1), rng.randint(0, r - 1), rng.randint(0, s - 1)],
        dilation=[1, rng.choice([1, 1, 2])] if kind == "conv" and s < 3 else 1,
        output=rng.choice(["raw", "requant"]),
        **fields,
    )


def random_config(rng):
    return ArchConfig(
        rows=rng.randint(1, 16),
        cols=rng.randint(1, 16),
        data_width=rng.choice([8, 16]),
        acc_width=rng.choice([24, 32]),
        iact_spad=rng.choice([8, 16, 100]),
        weight_spad=rng.choice([32, 224]),
        psum_spad=rng.choice([8, 24, 96]),
        psum_bank_words=rng.choice([64, 512]),
        axi_data_width=rng.choice([64, 128]),
        max_pooling=rng.random() < 0.9,
    )


def random_rows(rng, config, layer, count):
    """Mappings of all dataflows, half of them legal, and of these some with a factor changed."""
    rows = [space.expand(np.array(list(space.bases())).reshape(-1, len(FACTORS))) for space in spaces(config, layer)]
    rows = np.concatenate(rows)
    legal = rows[evaluate(config, layer, rows).legal]
    rows = np.concatenate([some[rng.choices(range(len(some)), k=count)] for some in (rows, legal) if len(some)])
    numbers = [at for at, name in enumerate(FACTORS) if name not in (*FLAGS, "order")]
    for row in rows[::3]:
        row[rng.choice(numbers)] = rng.choice([1, 2, 3, 4, 5, 8, 16])
    return rows


def spaces(config, layer):
    return [Space(config, layer, flow) for flow in FLOWS]


def check(config, layer, rows):
    """Compare every number; return how many mappings were legal."""
    found = evaluate(config, layer, rows)
    for at, row in enumerate(rows):
        factors = factors_of(row)
        bare = ClusterMapping.bare(config, layer, dataflow="any", **factors)
        broken = next((number for number, rule in enumerate(RULES) if not rule.holds(bare)), len(RULES))
        assert found.broken[at] == broken
        assert found.legal[at] == (broken == len(RULES))
        if found.legal[at]:
            mapping = ClusterMapping(config=config, layer=layer, dataflow="any", **factors)
            assert row_of(mapping) == list(row)
            assert found.cycles[at] == estimate(mapping)
            assert found.steps[at] == steps(mapping)
            assert tuple(found.words[at]) == words(mapping)
        else:
            with pytest.raises(IllegalMappingError):
                ClusterMapping(config=config, layer=layer, dataflow="any", **factors)
            assert (found.cycles[at], found.steps[at], found.words[at].any()) == (0, 0, False)
    return int(found.legal.sum())


def test_many_at_once_are_each_alone():
    legal, rng = 0, random.Random(1)
    for _ in range(60):
        config, layer = random_config(rng), random_layer(rng)
        legal += check(config, layer, random_rows(rng, config, layer, 20))
    assert legal > 300


@pytest.mark.parametrize(("arch", "workload"), [("eyeriss", "alexnet"), ("squeezelerator", "mobilenet")])
def test_layers_of_networks(arch, workload):
    legal, rng, config = 0, random.Random(2), load_arch(arch)
    for layer in load_workload(workload).layers[::3]:
        for shape in (layer, *flattened(config, layer)):
            legal += check(config, shape, random_rows(rng, config, shape, 40))
    assert legal > 50


def test_energy_and_objectives_are_the_same_alone():
    config, layer = load_arch("eyeriss"), load_workload("alexnet").layers[2]
    rows = random_rows(random.Random(3), config, layer, 300)
    found = evaluate(config, layer, rows)
    found = found[found.legal]
    goal = Objective("energy * cycles**2 + 200 * dram / max(glb, noc_iact)")
    together = goal.costs(found.cycles, found.words)
    assert len(together) > 50
    for at in range(len(together)):
        assert goal.costs(found.cycles[at], found.words[at])[0] == together[at]
        counted = dict(zip(ACCESSES, map(int, found.words[at]), strict=True))
        assert goal.energy(found.words)[at] == energy(counted)
