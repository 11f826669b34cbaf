"""The issuer against its golden model; the tests are in cosim_issuer.py."""

from cocotb_block import run_block

from rowmesh.hw.config import ArchConfig
from rowmesh.hw.issuer import Issuer


def test_issuer():
    config = ArchConfig(nest_levels=6, edge_flags=2, iact_spad=12, weight_spad=20, psum_spad=5, link_segment=4)
    run_block(Issuer(config), config, "cosim_issuer")
