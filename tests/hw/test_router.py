"""The routers of a mesh against their golden model; the tests are in cosim_router.py."""

import pytest
from cocotb_block import run_block
from router_mesh import RouterMesh

from rowmesh.hw.config import ArchConfig
from rowmesh.hw.router import LINKS, NEIGHBOURS, Side

MESHES = [
    ("iact", 2, 2),
    ("weight", 2, 2),
    ("weight", 1, 4),
    pytest.param("iact", 3, 2, marks=pytest.mark.slow),
    pytest.param("iact", 8, 2, marks=pytest.mark.slow),
    pytest.param("weight", 8, 2, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("operand", "rows", "cols"), MESHES)
def test_router_mesh(operand, rows, cols):
    settings = {"operand": operand, "rows": rows, "cols": cols}
    run_block(RouterMesh(operand, rows, cols), ArchConfig(), "cosim_router", **settings)


def test_sides_face_each_other():
    for side in NEIGHBOURS:
        assert side.opposite.opposite is side
        assert [a + b for a, b in zip(side.step, side.opposite.step, strict=True)] == [0, 0]
    assert Side.LOCAL.opposite is Side.LOCAL
    assert set(LINKS["weight"]) == {Side.EAST, Side.WEST}
