"""Faults for a run of an accelerator, drawn by seed: of the memory, of resets and registers, of the program."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rowmesh.hw.program import MAGIC, MAX_COUNT, Op, header_layout

__all__ = ["KINDS", "Injection", "Target", "draw"]


@dataclass(frozen=True, kw_only=True)
class Injection:
    """One fault in one run.

    Attributes
    ----------
    kind : str
        One of KINDS.
    layer : int
        Which of the layers runs.
    faults : dict of str to int
        Of the memory; see `rowmesh.sim.host.Host.set_faults`.
    patches : list of (int, str)
        Address and contents (hexadecimal) that replace the image's.
    actions : list of (int, str, list of int)
        Cycle after the start, what is done then, and its arguments.
    """

    kind: str
    layer: int
    faults: dict[str, int] = field(default_factory=dict)
    patches: list[tuple[int, str]] = field(default_factory=list)
    actions: list[tuple[int, str, list[int]]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a run consists of: its memory regions, bursts and cycles."""

    program: bytes
    image_bytes: int
    read_bursts: int
    write_bursts: int
    cycles: int


Draw = dict[str, Any]


def _memory(*names: str) -> Callable[[random.Random, Target], Draw]:
    def make(rng: random.Random, target: Target) -> Draw:
        name = rng.choice(names)
        bursts = target.read_bursts if name.endswith("read") else target.write_bursts
        return {"faults": {name: rng.randint(1, bursts)}}

    return make


def _action(name: str, *arguments: range) -> Callable[[random.Random, Target], Draw]:
    def make(rng: random.Random, target: Target) -> Draw:
        return {"actions": [(rng.randint(1, target.cycles), name, [rng.choice(values) for values in arguments])]}

    return make


def _accesses(rng: random.Random, target: Target) -> Draw:
    """Accesses of any register, and of none, in bursts: addresses, words and strobes at will, but no word that ends."""
    actions = []
    for _ in range(rng.randint(1, 12)):
        at = rng.randint(1, target.cycles)
        offset = rng.choice((rng.randrange(0, 0x60, 4), rng.randrange(0x1000)))
        word = rng.choice((0, 1, rng.getrandbits(3), rng.getrandbits(32), 0xFFFFFFFF))
        actions.append((at, rng.choice(("read", "write")), [offset, word]))
    return {"actions": sorted(actions)}


def _words(first: int, words: Sequence[int]) -> list[tuple[int, str]]:
    return [(4 * first, b"".join(word.to_bytes(4, "little") for word in words).hex())]


def _flip(rng: random.Random, target: Target) -> Draw:
    """One bit of the program, or now and then of the tensors."""
    word = rng.randrange(len(target.program) // 4)
    if rng.random() < 0.1:
        word = rng.randrange(target.image_bytes // 4)
    return {"patches": [(4 * word, f"^{1 << rng.randrange(32):08x}")]}


def _truncated(rng: random.Random, target: Target) -> Draw:
    """A program that ends early: by its length, in zeros, or in what lies there."""
    length = int.from_bytes(target.program[4:8], "little")
    cut = rng.randint(2, length - 1)
    way = rng.randrange(3)
    if way == 0:
        return {"patches": _words(1, [rng.choice((0, 1, 2, cut, length + 1, 1 << 20, 0xFFFFFFFF))])}
    filler = 0 if way == 1 else rng.getrandbits(32)
    return {"patches": _words(cut, [filler] * (length - cut))}


def _garbage(rng: random.Random, target: Target) -> Draw:
    """A program of legal commands with any contents, or of no commands at all."""
    words = [MAGIC, len(target.program) // 4]
    header = header_layout()
    while len(words) < len(target.program) // 4:
        if rng.random() < 0.02:
            words.append(rng.getrandbits(32))
            continue
        op = rng.choices((Op.WRITE, Op.START, Op.WAIT, Op.END), (20, 6, 3, 1))[0]
        count = rng.choice((1, 2, 5, 40, MAX_COUNT >> 4)) if op is Op.WRITE else 0
        engine = rng.randint(1, 8) if rng.random() < 0.9 else rng.randrange(64)
        address = engine << 10 | rng.choice((rng.randrange(80), 512 + rng.randrange(24)))
        mask = rng.getrandbits(8) << 1
        fields = {"op": op, "bank": rng.randrange(2), "count": count, "address": address if op is Op.WRITE else mask}
        words.append(header.const(fields).as_value().value & 0xFFFFFFFF)
        words += [rng.choice((rng.getrandbits(32), rng.randrange(9))) for _ in range(count)]
    return {"patches": _words(0, words[: len(target.program) // 4])}


KINDS: dict[str, Callable[[random.Random, Target], Draw]] = {
    "error": _memory("fail_read", "fail_write"),
    "no_answer": _memory("hold_read", "hold_write"),
    "two_answers": _memory("extra_read", "extra_write"),
    "reset": _action("reset", range(1, 4)),
    "soft_reset": _action("soft_reset"),
    "start": _action("start"),
    "accesses": _accesses,
    "flip": _flip,
    "truncated": _truncated,
    "garbage": _garbage,
}
"""How each kind of fault is drawn."""

_WEIGHTS = {"flip": 6, "reset": 2, "garbage": 2, "truncated": 2}


def draw(targets: Sequence[Target], seed: int, count: int) -> Iterator[Injection]:
    """Yield faults, each kind at least once if there are as many.

    Parameters
    ----------
    targets : sequence of Target
        The layers' runs.
    seed, count : int
    """
    rng = random.Random(seed)
    kinds = list(KINDS)
    kinds += rng.choices(list(KINDS), [_WEIGHTS.get(kind, 1) for kind in KINDS], k=count)
    for kind in kinds[:count]:
        layer = rng.randrange(len(targets))
        yield Injection(kind=kind, layer=layer, **KINDS[kind](rng, targets[layer]))
