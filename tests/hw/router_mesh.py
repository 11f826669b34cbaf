"""The routers of one data type of a whole mesh, as one block for the tests."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from rowmesh.hw.block import Block
from rowmesh.hw.router import LINKS, Router

__all__ = ["WIDTH", "RouterMesh"]

WIDTH = 16


class RouterMesh(Block):
    """Banks' and PEs' sides of all routers, cluster after cluster, and a write for each route."""

    def __init__(self, operand, rows, cols):
        self._operand, self._rows, self._cols = operand, rows, cols
        count, port = rows * cols, stream.Signature(WIDTH)
        super().__init__(
            {
                "i": In(port).array(count),
                "o": Out(port).array(count),
                "write": In(count),
                "write_data": In(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        sides = LINKS[self._operand]
        routers = {}
        for number in range(self._rows * self._cols):
            m.submodules[f"router{number}"] = router = Router(WIDTH, sides)
            routers[divmod(number, self._cols)] = router
            wiring.connect(m, wiring.flipped(self.i[number]), router.i[0])
            wiring.connect(m, router.o[0], wiring.flipped(self.o[number]))
            m.d.comb += [router.write.eq(self.write[number]), router.write_data.eq(self.write_data)]
        for (y, x), router in routers.items():
            for k, side in enumerate(sides, 1):
                neighbour = routers.get((y + side.step[0], x + side.step[1]))
                if neighbour is not None:
                    wiring.connect(m, router.o[k], neighbour.i[1 + sides.index(side.opposite)])
        return m
