"""Lowering: tensors of what a layer is lowered to, against the golden model, and layers in the place of others."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest

from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.workload import golden
from rowmesh.sw.workload.data import make_data
from rowmesh.sw.workload.layer import Layer
from rowmesh.sw.workload.lowering import STEPS, lower, lowerings

sys.path.insert(0, str(Path(__file__).parents[1]))
from random_mappings import random_layer

CONFIGS = [load_arch(name) for name in ("tiny", "eyeriss", "square16")]


def output_of(config, layer, data):
    """The golden model's ofmap of tensors."""
    if layer.kind == "maxpool":
        sums = golden.max_pool(data.iacts, (layer.r, layer.s), layer.stride, layer.padding, layer.dilation)
    else:
        sums = golden.conv2d(
            data.iacts,
            data.weights,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            acc_width=config.acc_width,
            bias=data.bias if layer.output == "requant" else None,
        )
    if layer.output == "raw":
        return sums
    half = 1 << (config.data_width - 1)
    return golden.requantize(sums, data.scale, 0, -half, half - 1)


def test_lowered_tensors_make_the_lowered_ofmap():
    """The golden model of what the array runs makes the words of the workload's layer."""
    rng, seen = random.Random(1), set()
    for number in range(150):
        config, layer = rng.choice(CONFIGS), random_layer(rng, f"layer{number}")
        if rng.random() < 0.1:
            sizes = {"C": 3, "M": 5, "H": 20, "W": 1, "R": 3, "S": 1, "stride": [2, 1]}
            layer = Layer.model_validate({"name": "tall", **sizes})
        for lowered in [one for tier in lowerings(config, layer) for one in tier]:
            made = make_data(config, layer, 0)
            data, shape = lowered.data(made), lowered.layer
            Layer.model_validate(shape.model_dump(by_alias=True))  # as any layer
            assert data.iacts.shape == (shape.n, shape.c, shape.h, shape.w)
            assert data.weights.shape == (shape.m, shape.c // shape.groups, shape.r, shape.s)
            assert data.expected.shape == (shape.n, shape.m, shape.p, shape.q)
            assert np.array_equal(output_of(config, shape, data), data.expected)
            assert np.count_nonzero(data.expected) == np.count_nonzero(made.expected)
            seen.update(lowered.steps)
    assert seen == set(STEPS)


@pytest.mark.parametrize(
    ("layer", "steps", "expected"),
    [
        (Layer(name="fc", kind="fc", C=37, M=11), ["beats"], (40, 12, 1)),
        (Layer(name="dw", kind="depthwise", C=10, H=8, W=8, R=3, S=3), ["beats"], (16, 16, 16)),
        (Layer(name="grouped", C=9, M=15, H=6, W=6, R=3, S=3, groups=3), ["beats"], (24, 18, 3)),
        (Layer(name="grouped", C=9, M=15, H=6, W=6, R=3, S=3, groups=3), ["dense", "beats"], (16, 16, 1)),
    ],
)
def test_channels_are_whole_beats(layer, steps, expected):
    """On tiny a beat has 8 words, or 2 accumulators."""
    shape = lower(CONFIGS[0], layer, steps).layer
    assert (shape.c, shape.m, shape.groups) == expected
    assert lower(CONFIGS[0], shape, ["beats"]) is None
