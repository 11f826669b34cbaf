"""The compiler: a mapping becomes a program for each engine.

One module for each part of the path: :mod:`~rowmesh.sw.program.loads`, :mod:`~rowmesh.sw.program.reads`,
:mod:`~rowmesh.sw.program.steps` and :mod:`~rowmesh.sw.program.outputs`. docs/architecture.md derives every stride;
the engines' descriptors are those of :mod:`rowmesh.hw`.
"""

from rowmesh.hw.descriptor import Engine
from rowmesh.sw.mapping.cluster import ClusterMapping
from rowmesh.sw.program.loads import load_iact, load_param, load_weight
from rowmesh.sw.program.memory_map import MemoryMap
from rowmesh.sw.program.nest import Nest
from rowmesh.sw.program.outputs import drain, store
from rowmesh.sw.program.reads import read_iact, read_weight
from rowmesh.sw.program.steps import step

__all__ = ["MemoryMap", "nests"]


def nests(
    m: ClusterMapping,
    memory: MemoryMap,
    zero_point: int = 0,
    clamp: tuple[int, int] | None = None,
    filter_parts: int = 1,
) -> dict[Engine, Nest]:
    """Return the nest of every engine that the layer uses.

    Parameters
    ----------
    m : ClusterMapping
    memory : MemoryMap
    zero_point : int
        Zero point of a requantised ofmap.
    clamp : (int, int) or None
        Smallest and largest output; None: the data width's range.
    filter_parts : int
        Shares of filters over the clusters of a mesh, ``m`` being the mapping of one.
    """
    width = m.config.data_width
    clamp = clamp or (-(1 << (width - 1)), (1 << (width - 1)) - 1)
    engines = {
        **{Engine.LOAD_IACT.at(port): load_iact(m, memory, port) for port in range(m.iact_ports)},
        **{Engine.LOAD_WEIGHT.at(port): load_weight(m, memory, port) for port in range(m.weight_ports)},
        **{Engine.READ_IACT.at(port): read_iact(m, port) for port in range(m.iact_ports)},
        **{Engine.READ_WEIGHT.at(port): read_weight(m) for port in range(m.weight_ports)},
        Engine.STEP: step(m),
        Engine.DRAIN: drain(m, zero_point, clamp),
        Engine.STORE: store(m, memory),
    }
    if m.layer.output == "requant":
        engines[Engine.LOAD_PARAM] = load_param(m, memory, filter_parts)
    return engines
