"""Resets with a register for each part of the accelerator, so that none drives thousands of cells."""

from typing import Any, TypeVar

from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Module, ResetSignal, Signal
from amaranth.lib.wiring import In, Out

from rowmesh.hw.block import Block

__all__ = ["ResetRegister", "with_own_reset"]

T = TypeVar("T")


class ResetRegister(Block):
    """A register of a reset; a module of its own, because synthesis would merge equal registers.

    Members
    -------
    i : In(1)
    o : Out(1)
        One cycle later.
    """

    latency = 1

    def __init__(self) -> None:
        super().__init__({"i": In(1), "o": Out(1)})

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        reset = Signal(init=1, reset_less=True)
        m.d.sync += reset.eq(self.i)
        m.d.comb += self.o.eq(reset)
        return m


def with_own_reset(m: Module, name: str, unit: T) -> T:
    """Return a part with a register in its reset.

    Parameters
    ----------
    m : Module
        Where the part belongs; its reset is that of the domain ``sync``.
    name : str
        Unique in the module.
    unit : Elaboratable
    """
    register: Any = ResetRegister()
    m.submodules[f"reset_{name}"] = register
    domain = f"own_{name}"
    m.domains += ClockDomain(domain, local=True)
    m.d.comb += [
        register.i.eq(ResetSignal()),
        ClockSignal(domain).eq(ClockSignal()),
        ResetSignal(domain).eq(register.o),
    ]
    renamed: T = DomainRenamer(domain)(unit)
    return renamed
