"""The processing element against its golden model; the tests are in cosim_pe.py."""

import pytest
from cocotb_block import run_block

from rowmesh.hw.config import ArchConfig
from rowmesh.hw.pe import ProcessingElement

CASES = {
    "int8": ArchConfig(tag_width=4, edge_flags=2, iact_spad=12, weight_spad=60, psum_spad=5, uop_fifo=4),
    "int16": ArchConfig(
        data_width=16, acc_width=24, tag_width=5, edge_flags=3, weight_spad=70, chain_fifo=4, uop_fifo=3
    ),
}


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_pe(config):
    run_block(ProcessingElement(config), config, "cosim_pe")
