"""The mapper: enumerates the mappings of a dataflow and keeps the one that the model predicts to be fastest."""

import functools
from collections.abc import Iterator

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.counts import access_counts
from rowmesh.sw.files import InputError
from rowmesh.sw.mapping import IllegalMappingError, Mapping, ceil_div
from rowmesh.sw.model import energy, predict_parts
from rowmesh.sw.workload import Layer

__all__ = ["UnmappableError", "candidates", "find_mapping"]


class UnmappableError(InputError):
    """No mapping of the layer exists on this architecture; the message gives the rule that the last ones broke."""


def _divisors(value: int, limit: int) -> list[int]:
    return [d for d in range(1, min(value, limit) + 1) if value % d == 0]


def _tiles(size: int, unit: int) -> list[int]:
    """Sizes that split a dimension into 1, 2, 3 ... tiles as evenly as whole units allow."""
    sizes: list[int] = []
    for count in range(1, ceil_div(size, unit) + 1):
        tile = ceil_div(ceil_div(size, count), unit) * unit
        if not sizes or tile < sizes[-1]:
            sizes.append(min(tile, size))
        if len(sizes) >= 12:
            break
    return sizes


def _raw_candidates(config: ArchConfig, layer: Layer) -> Iterator[dict[str, int | bool]]:
    m, c = layer.m // layer.groups, layer.c // layer.groups
    for r_s in sorted({1, layer.r}):
        if r_s > config.rows:
            continue
        for c0 in _divisors(c, config.iact_spad):
            groups = min(config.rows // r_s, c // c0)
            for c_s in sorted({groups, *(d for d in _divisors(c // c0, groups) if 2 * d > groups)}, reverse=True):
                for p_x in sorted({min(config.cols, layer.p), 1, *_divisors(layer.p, config.cols)}, reverse=True):
                    for m_x in sorted({1, config.cols // p_x}):
                        for m0 in _divisors(m, min(config.psum_spad, config.weight_spad // (layer.s * c0) or 1)):
                            if m_x * m0 > m and m_x > 1:
                                continue
                            for q0 in _tiles(layer.q, 1):
                                steps = ceil_div(layer.p, p_x)
                                fit = max(1, config.psum_bank_words // (q0 * m0))
                                for p0 in {1, min(steps, fit)}:
                                    for resident in (False, True):
                                        yield {
                                            "r_s": r_s,
                                            "c_s": c_s,
                                            "c0": c0,
                                            "p_x": p_x,
                                            "m_x": m_x,
                                            "p0": p0,
                                            "q0": q0,
                                            "m0": m0,
                                            "resident": resident,
                                        }


def _steps(layer: Layer, f: dict[str, int | bool]) -> int:
    """Steps of the candidate: a lower bound of its cycles."""
    m, c = layer.m // layer.groups, layer.c // layer.groups
    tiles = layer.n * layer.groups * ceil_div(m, f["m_x"] * f["m0"]) * ceil_div(c, f["c_s"] * f["c0"])
    inner = ceil_div(layer.p, f["p_x"]) * layer.q * layer.s * f["c0"] * f["m0"]
    return tiles * (layer.r // f["r_s"]) * inner


def candidates(
    config: ArchConfig, layer: Layer, reasons: dict[str, int] | None = None
) -> Iterator[tuple[int, Mapping]]:
    """Yield every legal row-stationary mapping of the enumerated space with its steps, the fewest steps first.

    Parameters
    ----------
    config : ArchConfig
    layer : Layer
    reasons : dict, optional
        Counts how many candidates broke each rule.
    """
    space = [(_steps(layer, factors), number, factors) for number, factors in enumerate(_raw_candidates(config, layer))]
    for steps, _, factors in sorted(space, key=lambda entry: entry[:2]):
        try:
            yield steps, Mapping(config=config, layer=layer, dataflow="rs", **factors)  # type: ignore[arg-type]
        except IllegalMappingError as error:
            if reasons is not None:
                reasons[str(error)] = reasons.get(str(error), 0) + 1


_CLOSE = 1.002
"""Mappings within this factor of the fewest cycles are told apart by energy."""


@functools.lru_cache(maxsize=256)
def find_mapping(config: ArchConfig, layer: Layer) -> Mapping:
    """Find the mapping of least energy among those with (within 0.2 %) the fewest predicted cycles.

    The steps of a mapping are a lower bound of its cycles, so the search ends where they exceed the best.

    Raises
    ------
    UnmappableError
        If there is none.
    """
    reasons: dict[str, int] = {}
    found: list[tuple[int, int, Mapping]] = []
    best: int | None = None
    for steps, mapping in candidates(config, layer, reasons):
        if best is not None and steps > best * _CLOSE:
            break
        cycles = sum(predict_parts(mapping).values())
        if best is None or cycles <= best * _CLOSE:
            found.append((cycles, len(found), mapping))
            best = cycles if best is None else min(best, cycles)
    if best is None:
        rule = max(reasons, key=lambda reason: reasons[reason]) if reasons else "no factorisation exists"
        raise UnmappableError(f"layer {layer.name}: no row-stationary mapping fits {config.name}: {rule}")
    close = [(energy(access_counts(m)), number, m) for cycles, number, m in found if cycles <= best * _CLOSE]
    return min(close, key=lambda entry: entry[:2])[2]
