"""Banks of the global buffer against their golden model; the tests are in cosim_glb.py."""

import pytest
from cocotb_block import run_block

from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import Engine
from rowmesh.hw.glb import GlobalBank

CASES = {
    "iact8": (ArchConfig(nest_levels=6, edge_flags=2, tag_width=5, glb_iact_flits=37), Engine.READ_IACT),
    "weight16": (
        ArchConfig(nest_levels=6, edge_flags=2, data_width=16, glb_weight_flits=32, link_segment=2),
        Engine.READ_WEIGHT,
    ),
}


@pytest.mark.parametrize(("config", "engine"), CASES.values(), ids=CASES)
def test_global_bank(config, engine):
    run_block(GlobalBank(config, engine), config, "cosim_glb", engine=engine.name)
