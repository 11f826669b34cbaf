"""The program: what the command processor fetches from memory and executes.

A program is a sequence of 32-bit words: a magic word, the number of words in all (these two included), then
commands. A command is a header word, and for WRITE the data words behind it::

    31      28   27   26          16  15           0
    +---------+------+--------------+---------------+
    |   op    | bank |    count     |    address    |
    +---------+------+--------------+---------------+

=====  ===  ==========================================================================================
op     no.  meaning
=====  ===  ==========================================================================================
END    0    the run is complete: done and interrupt
WRITE  1    the next ``count`` words go to consecutive word addresses of ``bank`` from ``address`` on
START  2    ``address`` is an engine mask: each of these engines is given ``bank`` to run
WAIT   3    ``address`` is an engine mask: go on when all of these engines are idle
=====  ===  ==========================================================================================

Number 4 is kept for a wait for a count of store responses, which networks of several layers need.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from amaranth.hdl import unsigned
from amaranth.lib import data

from rowmesh.hw.descriptor import Engine

__all__ = ["MAGIC", "MAX_COUNT", "STARTABLE", "Command", "Op", "Program", "engine_mask", "header_layout"]

MAGIC = 0x524D5031
"""First word of every program ("RMP1")."""

MAX_COUNT = (1 << 11) - 1
"""Most data words of one WRITE."""

STARTABLE = tuple(engine for engine in Engine if engine is not Engine.ARRAY and engine.port == 0)
"""Engines that can be started and waited for: those with a bit in the mask. Those of other ports go with them."""


class Op(enum.IntEnum):
    """Operation of a command."""

    END = 0
    WRITE = 1
    START = 2
    WAIT = 3


def header_layout() -> data.StructLayout:
    """Layout of a header word."""
    return data.StructLayout({"address": unsigned(16), "count": unsigned(11), "bank": unsigned(1), "op": unsigned(4)})


def engine_mask(engines: Iterable[Engine]) -> int:
    """Mask of a START or WAIT.

    Raises
    ------
    ValueError
        If an engine cannot be started.
    """
    mask = 0
    for engine in engines:
        if engine not in STARTABLE:
            raise ValueError(
                f"an engine of START and WAIT must be one of {[e.name for e in STARTABLE]}, not {engine!r}"
            )
        mask |= 1 << engine.value
    return mask


@dataclass(frozen=True)
class Command:
    """A decoded command.

    Parameters
    ----------
    op : Op
    bank : int
    address : int
        Address or engine mask.
    words : tuple of int
        Data of a WRITE.
    """

    op: Op
    bank: int = 0
    address: int = 0
    words: tuple[int, ...] = ()


class Program:
    """Builds a program command by command; the builder methods return the program itself."""

    def __init__(self) -> None:
        self._words: list[int] = []
        self._ended = False

    def _header(self, op: Op, bank: int, count: int, address: int) -> None:
        if self._ended:
            raise ValueError(f"{op.name} must come before END")
        if bank not in (0, 1):
            raise ValueError(f"bank must be 0 or 1, not {bank}")
        self._words.append(op << 28 | bank << 27 | count << 16 | address)

    def write(self, bank: int, words: Mapping[int, int]) -> "Program":
        """Write descriptor words.

        Parameters
        ----------
        bank : int
            Which of the two descriptors.
        words : Mapping[int, int]
            Words by word address; each run of consecutive addresses costs one header.

        Raises
        ------
        ValueError
            If an address does not fit 16 bits or a word 32.
        """
        for address, word in words.items():
            if not 0 <= address < 1 << 16:
                raise ValueError(f"word address must fit 16 bits, not {address:#x}")
            if not 0 <= word < 1 << 32:
                raise ValueError(f"word at {address:#x} must fit 32 bits, not {word:#x}")
        run: list[int] = []
        for address in sorted(words):
            if run and (address != run[-1] + 1 or len(run) == MAX_COUNT):
                self._run(bank, run, words)
                run = []
            run.append(address)
        if run:
            self._run(bank, run, words)
        return self

    def _run(self, bank: int, run: Sequence[int], words: Mapping[int, int]) -> None:
        self._header(Op.WRITE, bank, len(run), run[0])
        self._words += [words[address] for address in run]

    def start(self, bank: int, *engines: Engine) -> "Program":
        """Start engines on the descriptors in a bank."""
        self._header(Op.START, bank, 0, engine_mask(engines))
        return self

    def wait(self, *engines: Engine) -> "Program":
        """Wait until all of these engines are idle."""
        self._header(Op.WAIT, 0, 0, engine_mask(engines))
        return self

    def end(self) -> "Program":
        """End the program; nothing can follow."""
        self._header(Op.END, 0, 0, 0)
        self._ended = True
        return self

    @property
    def length(self) -> int:
        """Words of the commands so far."""
        return len(self._words)

    @property
    def words(self) -> list[int]:
        """All words, the two leading ones included, without padding."""
        return [MAGIC, len(self._words) + 2, *self._words]

    def to_bytes(self, beat_bytes: int, least_beats: int = 1) -> bytes:
        """Memory image, padded with zeros to whole beats and to no less than the first fetch.

        Parameters
        ----------
        beat_bytes : int
            Bytes of an AXI beat.
        least_beats : int
            Beats of the first fetch, see :func:`rowmesh.hw.command_processor.first_fetch`.

        Raises
        ------
        ValueError
            If the program has no END.
        """
        if not self._ended:
            raise ValueError("a program must end with END")
        image = b"".join(word.to_bytes(4, "little") for word in self.words)
        size = max(-(-len(image) // beat_bytes), least_beats) * beat_bytes
        return image.ljust(size, b"\0")

    @staticmethod
    def decode(words: Sequence[int]) -> list[Command]:
        """Decode the words of a program, as the command processor does.

        Raises
        ------
        ValueError
            If the processor would report an illegal descriptor.
        """
        if len(words) < 2 or words[0] != MAGIC:
            raise ValueError(f"first word must be {MAGIC:#x}, not {list(words[:1])}")
        if not 3 <= words[1] <= len(words):
            raise ValueError(f"length must be from 3 to {len(words)} words, not {words[1]}")
        commands: list[Command] = []
        position, legal = 2, engine_mask(STARTABLE)
        while position < words[1]:
            word = words[position]
            position += 1
            number, bank, count, address = word >> 28, word >> 27 & 1, word >> 16 & MAX_COUNT, word & 0xFFFF
            if number not in tuple(Op):
                raise ValueError(f"word {position - 1} must be a command, not {word:#010x}")
            op = Op(number)
            if op in (Op.START, Op.WAIT) and address & ~legal:
                raise ValueError(f"word {position - 1} must name existing engines, not {word:#010x}")
            taken = count if op is Op.WRITE else 0
            if position + taken > words[1]:
                break
            commands.append(Command(op, bank, address, tuple(words[position : position + taken])))
            position += taken
            if op is Op.END:
                return commands
        raise ValueError(f"a program must end with END within its {words[1]} words")
