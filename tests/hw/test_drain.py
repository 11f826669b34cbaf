"""The drain against its golden model; the tests are in cosim_drain.py."""

import pytest
from cocotb_block import run_block
from drain_unit import DrainUnit

from rowmesh.hw.config import ArchConfig

CASES = {
    "int8": ArchConfig(cols=3, nest_levels=7, psum_bank_words=29, param_words=40),
    # two clusters, each with groups of its own
    "int16": ArchConfig(
        data_width=16, acc_width=24, cols=6, mesh_cols=2, nest_levels=7, psum_bank_words=32, param_words=30
    ),
    # three sets of two clusters that are drained together
    "sets": ArchConfig(
        cols=2, mesh_rows=3, mesh_cols=2, drain_lanes=4, nest_levels=7, psum_bank_words=29, param_words=40
    ),
}


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_drain(config):
    run_block(DrainUnit(config), config, "cosim_drain")
