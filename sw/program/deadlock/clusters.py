"""Which array is fed from where: subscriptions, banks and routes, and the chains of psums."""

import functools
from collections.abc import Mapping as Dict

import numpy as np

from rowmesh.hw.array import OPERANDS, pe_words, row_words
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import Engine
from rowmesh.hw.multicast import ROW_FIELDS
from rowmesh.hw.pe import PE_FIELDS
from rowmesh.hw.router import Side
from rowmesh.sw.program.deadlock.tiles import (
    DeadlockError,
    form_of,
)
from rowmesh.sw.program.layer import Programs
from rowmesh.sw.program.nest import Nest
from rowmesh.sw.program.occupancy import Ints

__all__ = ["Clusters", "Subscriptions"]

_ENGINES = {"iact": (Engine.LOAD_IACT, Engine.READ_IACT), "weight": (Engine.LOAD_WEIGHT, Engine.READ_WEIGHT)}


@functools.lru_cache(maxsize=64)
def _addresses(rows: int, cols: int) -> tuple[Ints, dict[str, Ints]]:
    """Return the addresses of the words of all PEs [rows, cols, 2], and of all taps [rows, 2]."""
    of_pes = np.array([[list(pe_words(row, col, {})) for col in range(cols)] for row in range(rows)], np.int64)
    taps = {name: np.array([list(row_words(row, name, {})) for row in range(rows)], np.int64) for name in OPERANDS}
    return of_pes, taps


def _fields(fields: tuple[tuple[str, int, int], ...], words: Ints) -> dict[str, Ints]:
    """Return the fields of subscriptions from their words, the last axis."""
    values = {}
    for number, (name, word, shift) in enumerate(fields):
        above = [at for _, of_word, at in fields[number + 1 :] if of_word == word]
        width = (min(above) if above else 32) - shift
        values[name] = words[..., word] >> shift & (1 << width) - 1
    return values


class Subscriptions:
    """The subscriptions of a cluster's array: fields of PEs over rows and columns, of taps by operand over rows."""

    def __init__(self, config: ArchConfig, words: Dict[int, int]) -> None:
        of_pes, of_taps = _addresses(config.rows, config.cols)
        at = np.array([words[address] for address in of_pes.ravel().tolist()], np.int64).reshape(of_pes.shape)
        self.pes = _fields(PE_FIELDS, at)
        self.taps = {
            name: _fields(ROW_FIELDS, np.array([words[k] for k in taps.ravel().tolist()]).reshape(taps.shape))
            for name, taps in of_taps.items()
        }
        self.active = self.pes["active"] > 0


def _kind(nest: Nest) -> object:
    """Return what makes nests alike but for addresses and padding."""
    loops = tuple((k.name, *form_of(k), tuple(sorted(k.strides.items()))) for k in nest.loops)
    conditions = tuple((name, chosen and tuple(chosen)) for name, chosen in nest.conditions.items())
    values = tuple(item for item in nest.values.items() if item[0] not in ("width", "height", "blocks"))
    return loops, conditions, values


class Clusters:
    """The arrays in use, the banks and what they send to which array, each kind once.

    Attributes
    ----------
    banks : list of (Engine, Nest, Engine, Nest)
        Load engine and reader of each bank in use.
    streams : list of (str, Nest, range, Subscriptions)
        Operand, reader, and the rows of an array that it feeds.
    drained : list of int
        Clusters whose psums go to their banks.
    """

    def __init__(self, config: ArchConfig, programs: Programs) -> None:
        self._config = config
        self._north = list(programs.north) or [False] * config.clusters
        arrays: dict[int, Subscriptions] = {}
        self._arrays = []
        for words in programs.arrays:
            if id(words) not in arrays:
                arrays[id(words)] = Subscriptions(config, words)
            self._arrays.append(arrays[id(words)])
        self.used = [number for number, array in enumerate(self._arrays) if array.active.any()]
        self.drained = [number for number in self.used if not self._north[number]]
        banks: dict[object, tuple[Engine, Nest, Engine, Nest]] = {}
        streams: dict[object, tuple[str, Nest, range, Subscriptions]] = {}
        for operand, (load, read) in _ENGINES.items():
            kinds = [
                {engine: _kind(nest) for engine, nest in nests.items() if engine.first in (load, read)}
                for nests in programs.clusters
            ]
            for number in self.used:
                source = self._source(programs, operand, number)
                own = programs.clusters[source]
                ports = [engine.port for engine in own if engine.first is read]
                if not ports or any(load.at(port) not in own for port in ports):
                    raise DeadlockError(f"cluster {number}: nothing loads or reads its {operand}s")
                height = config.rows if len(ports) == 1 else config.port_rows
                for port in ports:
                    engines = load.at(port), read.at(port)
                    kind = tuple(kinds[source][engine] for engine in engines)
                    banks.setdefault(kind, (engines[0], own[engines[0]], engines[1], own[engines[1]]))
                    rows, array = range(port * height, (port + 1) * height), self._arrays[number]
                    key = kind[1], rows, id(array)
                    streams.setdefault(key, (operand, own[engines[1]], rows, array))
        self.banks, self.streams = list(banks.values()), list(streams.values())

    def _source(self, programs: Programs, operand: str, number: int) -> int:
        """Return the cluster whose bank an operand of a cluster comes from."""
        for _ in range(self._config.clusters if programs.routes else 0):
            side = programs.routes[operand][number].source
            if side is None:
                raise DeadlockError(f"cluster {number}: no route brings its {operand}s")
            if side is Side.LOCAL:
                break
            number += side.step[0] * self._config.mesh_cols + side.step[1]
        return number

    def check_chains(self, drain: Nest) -> Ints:
        """Check that every PE gets as many psums from below as it expects, and that columns with psums are drained.

        A chain's PEs let pass what comes from the chains below, and add their own psum to one that comes behind it,
        unless the chain begins with them. What is returned are the chains of each column: the edge flags at which all
        PEs of a chain are absent.
        """
        config, tops, heights = self._config, dict[int, Ints](), None
        absent = np.full((config.cols, config.rows + 1), -1, np.int64)
        for number in self.used:
            array, south = self._arrays[number], number - config.mesh_cols
            below = tops[south] if south in tops and self._north[south] else np.zeros(config.cols, np.int64)
            for row in range(config.rows):
                active = array.active[row]
                passes, begins = array.pes["passes"][row], array.pes["chain_start"][row]
                wrong = np.flatnonzero(active & (passes + 1 - begins != below))
                if len(wrong):
                    col = int(wrong[0])
                    raise DeadlockError(
                        f"psum chain: PE {(row, col)} of cluster {number} takes {passes[col] + 1 - begins[col]} psums "
                        f"from below for each of its own, and {below[col]} come"
                    )
                below = np.where(active, passes + 1, below)
                absent[active, passes[active]] &= array.pes["skip"][row][active]
            tops[number] = below
            if not self._north[number]:
                if heights is not None and not np.array_equal(heights, below):
                    raise DeadlockError(f"psum chain: cluster {number} has other columns than those before it")
                heights = below
        if heights is None:
            raise DeadlockError("psum chain: no cluster has psums")
        columns = drain.values["columns"]
        if np.count_nonzero(heights) != columns or not heights[:columns].all() or len(set(heights[:columns])) != 1:
            raise DeadlockError(
                f"DRAIN: it takes psums of {columns} columns, and {np.count_nonzero(heights)} have some"
            )
        return absent[:columns, : heights[0]]
