"""The memory's limit of a layer, whatever the mapping: each word once."""

import pytest

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.model.counts import access_counts, beats_once
from rowmesh.sw.search.mapper import find_mapping
from rowmesh.sw.workload.layer import Layer, load_workload


@pytest.mark.parametrize(
    ("arch", "network", "name", "beats"),
    [
        ("eyeriss", "alexnet", "FC8", (4096 + 4096 * 1000) // 4),  # raw: no bias, no scale
        ("eyeriss", "mobilenet", "DW14", (1024 * 49 + 1024 * 9) // 4 + 1024),
        ("squeezelerator", "mobilenet", "PW2", 64 * 112 * 112 // 8),  # writes are more
        ("squeezelerator", "resnet50", "RES2a_1", (64 * 56 * 56 + 64 * 64) // 8 + 64 // 2),
    ],
)
def test_beats_once(arch, network, name, beats):
    layer = next(layer for layer in load_workload(network).layers if layer.name == name)
    assert beats_once(load_arch(arch), layer) == beats


@pytest.mark.parametrize("output", ["raw", "requant"])
def test_no_mapping_moves_fewer(output):
    config = ArchConfig(name="small", rows=3, cols=4, axi_data_width=64, glb_iact_flits=512, glb_weight_flits=256)
    layer = Layer(name="once", kind="conv", M=8, C=8, H=8, W=8, R=3, S=3, padding=1, output=output)
    words = access_counts(find_mapping(config, layer))
    read = sum(words[f"dram.{what}.read"] for what in ("iact", "weight", "param"))
    bits = config.acc_width if output == "raw" else config.data_width
    moved = max(read, words["dram.ofmap.write"] * bits // config.data_width)
    assert beats_once(config, layer) <= -(-moved // config.flit_words)
