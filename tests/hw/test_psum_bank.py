"""The psum bank against its golden model; the tests are in cosim_psum_bank.py."""

import pytest
from cocotb_block import run_block

from rowmesh.hw.config import ArchConfig
from rowmesh.hw.psum_bank import PsumBank

CASES = {
    "depth19": ArchConfig(psum_bank_words=19, acc_width=32),
    "depth32": ArchConfig(psum_bank_words=32, acc_width=24),
}


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_psum_bank(config):
    run_block(PsumBank(config), config, "cosim_psum_bank")
