"""Every architecture that the configuration accepts can be generated."""

import json

import pytest
from amaranth.hdl import Fragment
from random_inputs import random_arch

from rowmesh.hw.block import Emission
from rowmesh.hw.top import TOP_NAME, Top
from rowmesh.sw import run as flow


def test_random_architectures_elaborate():
    for seed in (1, 5, 17, 40):
        emission = Emission(Top(random_arch(seed, small=True)), TOP_NAME)
        while (entry := emission.take()) is not None:
            Fragment.get(entry[1], emission)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_random_architectures_are_generated(tmp_path, seed):
    config = random_arch(seed, small=True)
    verilog, description, _ = flow.generate(config, tmp_path)
    top = json.loads(description.read_text(encoding="utf-8"))["top"]
    assert top.endswith(TOP_NAME)
    assert f"module {top}(" in verilog.read_text(encoding="utf-8")
