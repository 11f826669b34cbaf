"""Golden models of the blocks, in plain Python: loop nests, steps, processing elements, chains."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Token", "absent", "chain", "deliver", "holds", "issue", "nest", "pe", "row_words", "wrap"]

Loop = tuple[int, int, int, Mapping[str, int]]
"""A level: bound, last bound, mask, strides."""


@dataclass
class Token:
    """A nest's step: outputs, and the levels in their first and last iterations as bit masks."""

    out: dict[str, int]
    first: int
    last: int


def wrap(value: int, width: int) -> int:
    """Two's complement of a width."""
    value &= (1 << width) - 1
    return value - (1 << width) if value >> (width - 1) else value


def nest(levels: int, loops: Sequence[Loop], bases: Mapping[str, int]) -> Iterator[Token]:
    """Run a nest as nested for loops, the last level outermost."""

    def level(number: int, out: dict[str, int], first: int, last: int) -> Iterator[Token]:
        if number < 0:
            yield Token(defaultdict(int, out), first, last)
            return
        bound, last_bound, mask, strides = loops[number] if number < len(loops) else (1, 1, 0, {})
        if mask and mask & ~last == 0:
            bound = last_bound
        out = dict(out)
        for index in range(bound):
            bit = 1 << number
            yield from level(number - 1, out, first | bit * (index == 0), last | bit * (index == bound - 1))
            for name, stride in strides.items():
                out[name] = out.get(name, 0) + stride

    yield from level(levels - 1, dict(bases), 0, 0)


def holds(mask: int, flags: int, levels: int) -> bool:
    """Condition of a mask field (see rowmesh.hw.flags)."""
    return bool(mask >> levels & 1) and (mask & ((1 << levels) - 1) & ~flags) == 0


def issue(
    levels: int, loops: Sequence[Loop], bases: Mapping[str, int], values: Mapping[str, int], edges: int
) -> list[dict[str, int]]:
    """Steps of a step descriptor (offsets not yet reduced to their widths)."""
    steps = []
    for token in nest(levels, loops, bases):

        def first(name: str, token: Token = token) -> bool:
            return holds(values.get(f"{name}_mask", 0), token.first, levels)

        def last(name: str, token: Token = token) -> bool:
            return holds(values.get(f"{name}_mask", 0), token.last, levels)

        release = 0
        if last("restart"):
            release = values.get("restart", 0)
        elif last("slide"):
            release = values.get("slide", 0)
        steps.append(
            {
                **{name: token.out.get(name, 0) for name in ("iact", "weight", "psum")},
                "clear": int(first("clear")),
                "emit": int(last("emit")),
                "iact_release": release,
                "iact_sync": int(last("iact_sync")),
                "weight_release": int(last("weight_release")),
                "weight_sync": int(last("weight_sync")),
                "first": int(first("first")),
                "last": int(last("last")),
                "start": int(first("start")),
                "edge": sum(last(f"edge{k}") << k for k in range(edges)),
            }
        )
    return steps


@dataclass
class Result:
    """What a PE did: psums of its own, and its event counts."""

    psums: list[dict[str, int]] = field(default_factory=list)
    events: dict[str, int] = field(default_factory=dict)


def absent(step: Mapping[str, int], skip: int) -> bool:
    """The PE takes no part in this step."""
    return (step["edge"] & skip) != 0


def pe(
    steps: Sequence[Mapping[str, int]],
    iacts: Sequence[int],
    weights: Sequence[int],
    skip: int,
    acc_width: int,
    maximum: bool = False,
) -> Result:
    """Run a PE's steps on the words that it took; every word must be used up."""
    result = Result(events={"mac": 0, "gated": 0, "psum_read": 0, "psum_write": 0})
    spad: dict[int, int] = {}
    origin, lag = {"iact": 0, "weight": 0}, {"iact": 0, "weight": 0}
    for step in steps:
        flags = {name: step[name] for name in ("first", "last", "start")}
        if absent(step, skip):
            if step["emit"]:
                result.psums.append({"value": 0, "void": 1, **flags})
            continue
        product = iacts[origin["iact"] + step["iact"]] * weights[origin["weight"] + step["weight"]]
        before = product if maximum else 0
        before = before if step["clear"] else spad[step["psum"]]
        total = wrap(max(before, product) if maximum else before + product, acc_width)
        result.events["gated"] += product == 0
        result.events["mac"] += 1
        result.events["psum_read"] += not step["clear"]
        if step["emit"]:
            result.psums.append({"value": total, "void": 0, **flags})
        else:
            spad[step["psum"]] = total
            result.events["psum_write"] += 1
        for name in origin:
            lag[name] += step[f"{name}_release"]
            if step[f"{name}_sync"]:
                origin[name], lag[name] = origin[name] + lag[name], 0
    for name, words in (("iact", iacts), ("weight", weights)):
        used = origin[name] + lag[name]
        assert used == len(words), f"the program uses {used} of {len(words)} {name} words"
    return result


def chain(
    below: Sequence[Mapping[str, int]],
    own: Sequence[Mapping[str, int]],
    *,
    passes: int,
    start: int,
    active: int,
    acc_width: int,
) -> list[dict[str, int]]:
    """Return what leaves a PE towards the next one."""
    if not active:
        return [dict(psum) for psum in below]
    result, waiting = [], list(below)
    for mine in own:
        result += [dict(waiting.pop(0)) for _ in range(passes)]
        psum = dict(mine)
        psum["start"] = int(mine["start"] and passes == 0)
        if not start:
            partial = waiting.pop(0)
            psum["value"] = wrap(partial["value"] + mine["value"], acc_width)
            psum["void"] = partial["void"] & mine["void"]
        result.append(psum)
    assert not waiting, "psums are left below"
    return result


def row_words(flits: Sequence[Mapping[str, Any]], subscription: Mapping[str, int]) -> list[dict[str, int]]:
    """Words that a row's tap takes from the trunk."""
    names = ("phase_low", "phase_high", "index_low", "index_high", "lane_low", "lane_high", "enable")
    subscription = dict.fromkeys(names, 0) | dict(subscription)
    words = []
    for flit in flits:
        if not subscription["enable"]:
            continue
        if not subscription["phase_low"] <= flit["phase"] <= subscription["phase_high"]:
            continue
        if not subscription["index_low"] <= flit["index"] <= subscription["index_high"]:
            continue
        low, high = max(flit["low"], subscription["lane_low"]), min(flit["high"], subscription["lane_high"])
        words += [{"data": flit["data"][k], "index": flit["index"], "edge": flit["edge"]} for k in range(low, high + 1)]
    return words


def deliver(words: Sequence[Mapping[str, int]], low: int, high: int, skip: int, width: int) -> list[int]:
    """Words that a PE takes from its row's bus, as signed values."""
    return [wrap(word["data"], width) for word in words if low <= word["index"] <= high and not word["edge"] & skip]
