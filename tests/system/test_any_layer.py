"""Layers of any size on whole accelerators: what cannot run as it is is lowered, and every word is compared."""

import random
from pathlib import Path

import pytest

from rowmesh.sw import run as flow
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.mapping.dataflow import ANY, load_dataflows
from rowmesh.sw.search.mapper import search
from rowmesh.sw.workload.layer import Layer, load_workload

CASES = Path(__file__).parents[1] / "cases"
FLOWS = load_dataflows(ANY)
KINDS = ("conv", "depthwise", "avgpool", "maxpool", "add", "fc")
SIZES = {"fc": {"M": 11}, "add": {"H": 5, "W": 6}}


def check(config, layers):
    """Map layers, run them one after another without a reset, and compare words, counts and the parts of the cycles."""
    mappings = [flow.map_layer(config, layer, FLOWS).mapping for layer in layers]
    for mapping, result in zip(mappings, flow.run_mappings(mappings), strict=True):
        assert result.failures() == [], mapping.loop_nest()
        assert result.outputs.checked >= mapping.origin.outputs
        assert result.rtl.parts == result.predicted.parts
        assert result.macs == mapping.origin.macs
    return mappings


@pytest.mark.parametrize(
    "arch",
    [
        "tiny",
        pytest.param(str(CASES / "a2x3w.yaml"), marks=pytest.mark.slow),
        pytest.param("mesh1x4", marks=pytest.mark.slow),
    ],
)
def test_ordinary_layers(arch):
    mappings = check(load_arch(arch), load_workload(CASES / "shapes.yaml").layers)
    assert len(mappings) == 47
    assert {step for m in mappings if m.lowered for step in m.lowered.steps} >= {"beats"}


def channels(kind, output, number):
    """A layer of so many channels."""
    sizes = SIZES.get(kind, {"H": 7, "W": 6, "R": 3, "S": 3, "padding": 1} | ({"M": 10} if kind == "conv" else {}))
    return Layer.model_validate({"name": f"{kind}{number}", "kind": kind, "C": number, "output": output} | sizes)


def every(seed):
    """Channels from 1 to 40 of each kind and output, in random order."""
    layers = [channels(kind, output, c) for kind in KINDS for output in ("raw", "requant") for c in range(1, 41)]
    random.Random(seed).shuffle(layers)
    return layers


def test_any_number_of_channels():
    check(load_arch("tiny"), every(1)[:16])


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "run"), [("tiny", 80), ("square16", 40), ("mesh2x2", 80)])
def test_every_number_of_channels(arch, run):
    """All map, and some that are drawn run: 200 on the three."""
    config, layers = load_arch(arch), every(2)
    for layer in layers[run:]:
        search(config, layer, FLOWS)
    check(config, layers[:run])
