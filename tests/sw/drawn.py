"""Random legal mappings of random layers on small arrays and meshes, by seed."""

import random
from dataclasses import replace

import numpy as np

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.assembler import beyond_limits
from rowmesh.sw.batch import evaluate, factors_of
from rowmesh.sw.dataflow import load_dataflows
from rowmesh.sw.mapper import chunks, spaces_of
from rowmesh.sw.mapping import IllegalMappingError, Mapping
from rowmesh.sw.mapspace import flattened
from rowmesh.sw.mesh import MeshMapping, share_of
from rowmesh.sw.meshmapper import splits_of
from rowmesh.sw.spec import load_arch
from rowmesh.sw.workload import Layer

SINGLE = (
    load_arch("tiny"),
    load_arch("primes"),
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
)
MESHES = (
    load_arch("mesh1x4"),
    load_arch("mesh2x2"),
    load_arch("mesh2x2").replace(rows=4, iact_ports=2, weight_ports=2),
)
FLOWS = load_dataflows("any")


def draw_layer(random):
    """A small layer of any kind: grouped, requantised, strided, padded, thin and ragged ones among them."""
    kind = random.choice(["conv", "conv", "conv", "grouped", "depthwise", "maxpool", "avgpool", "add", "fc"])
    r, s = random.choice([(1, 1), (3, 3), (2, 3), (3, 1), (2, 2)])
    size = {"H": random.randint(r, 11), "W": random.randint(s, 13), "N": random.choice([1, 1, 2])}
    window = {"R": r, "S": s, "stride": [random.randint(1, 2), random.randint(1, 2)]}
    output = {"output": random.choice(["raw", "requant"])}
    padding = {"padding": [random.randint(0, r // 2), random.randint(0, s // 2)]}
    c = random.choice([1, 2, 3, 4, 6, 8, 10, 12, 16, 24, 40])
    if kind == "conv":
        return Layer(
            name=kind, M=random.choice([1, 2, 3, 4, 6, 8, 10, 16, 24, 40]), C=c, **size, **window, **padding, **output
        )
    if kind == "grouped":
        groups = random.choice([2, 3, 4])
        m, c = random.choice([1, 2, 4, 8, 12, 16, 24]), random.choice([2, 4, 8, 16])
        return Layer(
            name=kind, kind="conv", M=groups * m, C=groups * c, groups=groups, **size, **window, **padding, **output
        )
    if kind == "depthwise":
        return Layer(name=kind, kind=kind, C=c, **size, **window, **padding, **output)
    if kind in ("maxpool", "avgpool"):
        return Layer(name=kind, kind=kind, C=c, **size, **window)
    if kind == "add":
        return Layer(name=kind, kind=kind, C=c, H=size["H"], W=size["W"])
    return Layer(
        name=kind, kind=kind, M=random.choice([1, 4, 10, 24, 64]), C=random.choice([3, 8, 24, 60, 128]), **output
    )


def draw_mapping(config, layer, random, tries=12):
    """A legal mapping of a single array, of all that some dataflow allows, or None."""
    flow = random.choice(FLOWS)
    shape = random.choice([layer, *flattened(config, layer)])
    spaces = spaces_of(config, shape, (flow,), whole=True, shapes=(shape,))
    for (space, rows), _ in zip(chunks(spaces, random.randrange(1 << 30)), range(tries), strict=False):
        legal = np.flatnonzero(evaluate(config, shape, rows).legal) if len(rows) else rows
        if len(legal):
            factors = factors_of(rows[random.choice(legal.tolist())])
            return Mapping(config=config, layer=space.layer, dataflow=flow.name, **factors)
    return None


def draw(seed):
    """Yield mappings that programs can be made of, of single arrays and meshes by turns."""
    source = random.Random(seed)
    while True:
        try:
            layer = draw_layer(source)
        except ValueError:
            continue
        mapping = draw_mapping(source.choice(SINGLE), layer, source)
        if mapping is not None and not beyond_limits(mapping):
            yield mapping
        config = source.choice(MESHES)
        splits = [s for s in splits_of(config.mesh_rows, config.mesh_cols, layer) if s.rows * s.cols > 1]
        for _ in range(4 if splits else 0):
            some = source.choice(splits)
            try:
                share = share_of(layer, some, 0, 0).layer
                mapping = draw_mapping(config.cluster, share, source, 4)
                if mapping is None or mapping.layer != share:
                    continue
                whole = MeshMapping(config, layer, some, replace(mapping, within=layer))
            except (IllegalMappingError, ValueError):
                continue
            if not beyond_limits(whole):
                yield whole
                break
