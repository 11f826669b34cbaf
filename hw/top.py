"""The accelerator: AXI4 manager, AXI4-Lite subordinate and interrupt around control, read arbiter and core."""

import dataclasses
import re
from typing import Any

from amaranth.hdl import Cat, ClockDomain, ClockSignal, DomainRenamer, Module, ResetSignal, Shape, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from rowmesh.hw.axi import Axi4, Axi4Lite, flat_interface, flat_members
from rowmesh.hw.block import Block
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.control import Control
from rowmesh.hw.core import ENGINES, WAITS, Core, counter_widths, loaders
from rowmesh.hw.descriptor import Descriptor, Engine
from rowmesh.hw.drain import drain_descriptor
from rowmesh.hw.emit import emit
from rowmesh.hw.glb import reader_descriptor
from rowmesh.hw.issuer import step_descriptor
from rowmesh.hw.loader import loader_descriptor
from rowmesh.hw.read_arbiter import ReadArbiter
from rowmesh.hw.registers import ADDRESS_WIDTH, VERSION, c_header, register_map
from rowmesh.hw.storer import storer_descriptor

__all__ = ["TOP_NAME", "Top", "descriptors", "global_prefix", "metadata"]

TOP_NAME = "rowmesh"
"""Name of the top module, behind the prefix that all names have which are global in Verilog or C."""


def global_prefix(name: str) -> str:
    """Return what all global names of a design begin with: two designs can then be parts of one.

    Parameters
    ----------
    name : str
        Of the design; what no identifier can hold becomes an underscore. Without a name there is no prefix.
    """
    word = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return f"{'_' if word[:1].isdigit() else ''}{word}_" if word else ""


def descriptors(config: ArchConfig) -> dict[Engine, Descriptor]:
    """Return the descriptor layout of every engine."""
    iacts, weights = range(config.iact_ports), range(config.weight_ports)
    layouts = [
        *(loader_descriptor(config, Engine.LOAD_IACT.at(port), True) for port in iacts),
        *(loader_descriptor(config, Engine.LOAD_WEIGHT.at(port), False) for port in weights),
        loader_descriptor(config, Engine.LOAD_PARAM, False),
        *(reader_descriptor(config, Engine.READ_IACT.at(port)) for port in iacts),
        *(reader_descriptor(config, Engine.READ_WEIGHT.at(port)) for port in weights),
        step_descriptor(config),
        drain_descriptor(config),
        storer_descriptor(config),
    ]
    return {layout.engine: layout for layout in layouts}


def _interfaces(config: ArchConfig) -> dict[str, Any]:
    """Return the interfaces of the top, by the prefix of their ports."""
    return {
        "m_axi": Axi4(config.axi_addr_width, config.axi_data_width),
        "s_axil": Axi4Lite(ADDRESS_WIDTH).flip(),
    }


def _members(config: ArchConfig) -> dict[str, Any]:
    """Return the ports of the top."""
    interfaces = _interfaces(config).items()
    return {k: v for prefix, signature in interfaces for k, v in flat_members(prefix, signature).items()} | {
        "irq": Out(1)
    }


class Top(Block):
    """The whole accelerator.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    m_axi_* : AXI4 manager
    s_axil_* : AXI4-Lite subordinate
    irq : Out(1)
    """

    def __init__(self, config: ArchConfig) -> None:
        self._config = config
        super().__init__(_members(config))

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        config = self._config
        axi, axil = (flat_interface(self, prefix, signature) for prefix, signature in _interfaces(config).items())

        # parts of the core take a reset a cycle late (with_own_reset): the others stay in it until then
        reset, waking = Signal(), Signal(init=1, reset_less=True)
        m.domains.core = ClockDomain("core", local=True)
        m.d.sync += waking.eq(ResetSignal())
        m.d.comb += [
            ClockSignal("core").eq(ClockSignal()),
            ResetSignal("core").eq(ResetSignal() | waking | reset),
        ]
        in_core = DomainRenamer("core")
        control = Control(config, counter_widths(config), WAITS, ENGINES)
        core, arbiter = Core(config), ReadArbiter(config, 1 + len(loaders(config)))
        m.submodules.control = control
        m.submodules.core = in_core(core)
        m.submodules.arbiter = in_core(arbiter)

        wiring.connect(m, wiring.flipped(axil), control.s_axil)
        wiring.connect(m, arbiter.axi, wiring.flipped(axi.read))
        wiring.connect(m, core.axi, wiring.flipped(axi.write))
        # the store engine is one of them: what it offers in the first cycle after a reset is from before
        m.d.comb += [axi.write.awvalid.eq(core.axi.awvalid & ~waking), axi.write.wvalid.eq(core.axi.wvalid & ~waking)]
        wiring.connect(m, control.config, core.config)
        wiring.connect(m, control.request, arbiter.requests[0])
        wiring.connect(m, arbiter.data[0], control.data)
        for number in range(len(loaders(config))):
            wiring.connect(m, core.requests[number], arbiter.requests[1 + number])
            wiring.connect(m, arbiter.data[1 + number], core.data[number])
        for number in range(len(ENGINES)):
            wiring.connect(m, control.starts[number], core.starts[number])
        m.d.sync += reset.eq(control.core_reset)
        m.d.comb += [
            self.irq.eq(control.irq),
            control.idle.eq(core.idle),
            control.counts.eq(core.counters),
            control.waits.eq(core.waits),
            control.progress.eq(core.progress),
            control.read_error.eq(arbiter.error),
            control.read_port.eq(arbiter.error_port),
            control.write_error.eq(core.write_error),
            control.outstanding.eq(Cat(arbiter.outstanding != 0, core.writes_outstanding != 0)),
            control.unexpected.eq(Cat(arbiter.unexpected, core.unexpected & ~waking)),
            control.read_outside.eq(arbiter.outside),
            control.outside_port.eq(arbiter.outside_port),
            control.write_outside.eq(core.outside),
            control.held.eq(core.held),
            arbiter.window.eq(control.window),
            core.window.eq(control.window),
            arbiter.clear.eq(control.started),
            arbiter.halt.eq(control.halt),
            core.halt.eq(control.halt),
            core.busy.eq(control.active),
        ]
        return m

    def verilog(self, prefix: str = "", *, initial_values: bool = True) -> tuple[str, list[str], list[str]]:
        """Return the Verilog text, the names of its modules, and of those the shared ones (see `Block`).

        Parameters
        ----------
        prefix : str
            See :func:`global_prefix`.
        initial_values : bool
            See :func:`rowmesh.hw.emit.emit`.
        """
        return emit(self, prefix + TOP_NAME, prefix=prefix, initial_values=initial_values)

    def c_header(self, prefix: str = "") -> str:
        """Return a C header with the registers."""
        return c_header(tuple(counter_widths(self._config)), WAITS, (prefix + TOP_NAME).upper())


def metadata(
    config: ArchConfig, modules: list[str], shared: list[str], prefix: str = "", *, initial_values: bool = True
) -> dict[str, Any]:
    """Return what software needs to know of a generated accelerator, ready for JSON.

    Parameters
    ----------
    config : ArchConfig
    modules : list of str
        Module names of the Verilog.
    shared : list of str
        Those that a simulator should keep apart.
    prefix : str
        See :func:`global_prefix`.
    initial_values : bool
        Whether the Verilog has them.
    """
    ports = {
        name: {
            "direction": "output" if member.flow is Out else "input",
            "width": Shape.cast(member.shape).width,
        }
        for name, member in _members(config).items()
    }
    clock = {name: {"direction": "input", "width": 1} for name in ("clk", "rst")}
    return {
        "name": config.name,
        "top": prefix + TOP_NAME,
        "prefix": prefix,
        "initial_values": initial_values,
        "version": f"{VERSION >> 16}.{VERSION >> 8 & 255}.{VERSION & 255}",
        "parameters": dataclasses.asdict(config),
        "derived": {
            "pes": config.pes,
            "flit_words": config.flit_words,
            "lanes": config.all_lanes,
            "glb_bytes": config.glb_bytes,
        },
        "ports": clock | ports,
        "registers": register_map(tuple(counter_widths(config)), WAITS),
        "descriptors": {
            engine.name: {
                "start_bit": engine.first.value,
                "base": engine.base,
                "levels": layout.levels,
                "outputs": dict(layout.outputs),
                "fields": {
                    entry.name: {"address": layout.address(entry.name), "width": entry.width, "doc": entry.doc}
                    for entry in layout.fields
                },
            }
            for engine, layout in descriptors(config).items()
        },
        "modules": modules,
        "no_inline": shared,
    }
