"""Small arrays against numpy; the tests are in cosim_array.py."""

import pytest
from cocotb_block import run_block

from rowmesh.hw.array import Array
from rowmesh.hw.config import ArchConfig

CASES = {
    "2x2": ArchConfig(rows=2, cols=2, iact_spad=12, weight_spad=20, psum_spad=4),
    "3x2": ArchConfig(rows=3, cols=2, data_width=16, acc_width=24, weight_spad=33, link_segment=1),
}


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_array(config):
    run_block(Array(config), config, "cosim_array")
