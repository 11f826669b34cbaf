"""The compiler's check that a program cannot block: exact counts of what every engine makes and takes, without time.

All engines are deterministic and every merge has a static order, so they are a Kahn network: if one order of all steps
exists in which every stream is delivered in its own order and every buffer stays within its capacity, no faster
execution can block (docs/architecture.md, deadlock freedom). The reference order here is tile after tile, and the
laziest one: a word is moved only when the next step, taken by all PEs together, needs it or one behind it.

All nests have the same loops over tiles, and what an engine does in a tile depends on nothing but which of these loops
are in their last iteration. So a check of each such class of tiles is one of all, and what is left behind by none adds
up nowhere. Counts come from the nests that are encoded, in closed form where they are of many steps
(:mod:`rowmesh.sw.program.occupancy`).
"""

from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import Engine
from rowmesh.sw.program.deadlock.banks import check_bank
from rowmesh.sw.program.deadlock.clusters import Clusters
from rowmesh.sw.program.deadlock.params import check_params
from rowmesh.sw.program.deadlock.psums import check_drain, check_psums, check_store, drain_classes, store_classes
from rowmesh.sw.program.deadlock.spads import check_spads
from rowmesh.sw.program.deadlock.tiles import TILES, DeadlockError, check_loops, classes, only
from rowmesh.sw.program.layer import Programs
from rowmesh.sw.program.nest import Nest

__all__ = ["DeadlockError", "check_deadlock_freedom"]


def check_deadlock_freedom(config: ArchConfig, programs: Programs) -> None:
    """Check a layer's programs by exact counts: loads, banks, reads, steps, psums, drain, store and parameters.

    Parameters
    ----------
    config : ArchConfig
    programs : Programs
        Of all clusters, see :func:`rowmesh.sw.program.assemble.programs`.

    Raises
    ------
    DeadlockError
        If a buffer overflows in the reference order, or if what is made for it and what is taken of it differ.
    """
    shared = programs.shared
    step, drain, store = (shared[engine] for engine in (Engine.STEP, Engine.DRAIN, Engine.STORE))
    clusters = Clusters(config, programs)
    params = shared.get(Engine.LOAD_PARAM)
    nests: list[tuple[Engine, Nest]] = [(engine, nest) for engine, nest in shared.items() if engine is not Engine.STEP]
    nests += [(engine, nest) for engine, nest, *_ in clusters.banks]
    nests += [(engine, nest) for *_, engine, nest in clusters.banks]
    for engine, nest in nests:
        check_loops(engine, nest, step)
    chains = clusters.check_chains(drain)
    edges = [f"edge{flag}_mask" for flag in range(config.edge_flags)]
    psums = only(step, "emit_mask", "first_mask", "last_mask", "start_mask", *edges)
    for tile in classes(step, TILES, (psums, drain_classes(drain), store_classes(store))):
        words = check_psums(config, tile, step, chains)
        beats = check_drain(config, tile, drain, words, clusters.drained)
        check_store(config, tile, store, beats)
    check_params(config, params, drain)
    for load_engine, load, read_engine, read in clusters.banks:
        depth = config.glb_iact_flits if load_engine.first is Engine.LOAD_IACT else config.glb_weight_flits
        check_bank(config, load_engine, load, read_engine, read, depth)
    for operand, read, rows, array in clusters.streams:
        check_spads(config, operand, read, step, rows, array)
