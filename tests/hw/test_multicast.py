"""Multicast taps against their golden model; the tests are in cosim_row_tap.py."""

import pytest
from cocotb_block import run_block

from rowmesh.hw.config import ArchConfig
from rowmesh.hw.multicast import RowTap


@pytest.mark.parametrize("data_width", [8, 16])
def test_row_tap(data_width):
    config = ArchConfig(data_width=data_width, tag_width=4, edge_flags=2)
    run_block(RowTap(config), config, "cosim_row_tap")
