"""Timing of the command processor while it executes the program of a first layer (hw/command_processor.py)."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rowmesh.hw.command_processor import SETTLE_CYCLES, CommandProcessor, fetch_beats, fetch_depth, first_fetch
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import Engine
from rowmesh.hw.link import Buffer, Fifo
from rowmesh.sw.mapping.latencies import ROUND_TRIP
from rowmesh.sw.model.timing import compiled
from rowmesh.sw.model.timing.array import LINK, Records, records
from rowmesh.sw.model.timing.memory import Memory, fetch

__all__ = ["FIRST_WORD", "Begin", "Processor", "execute", "fetch_first", "processor_state", "request", "starts_at"]

_TO_WORD = Fifo.latency + 1 + Buffer.latency
"""Cycles from a beat of the program to its first word: the FIFO, in block RAM, and the register behind it."""

FIRST_WORD = CommandProcessor.latency + ROUND_TRIP + _TO_WORD - 1
"""Cycles of a run before that in which its first word is executed."""

_LONGER = CommandProcessor.length_latency - 1
"""Cycle, from that of the first word, in which the second fetch is requested: the length is the word behind it."""

_FIRST_REQUEST = -(ROUND_TRIP + _TO_WORD)
"""Cycle, from that of the first word, in which the first fetch's first burst is requested."""

_ROOM = 3
"""Cycles from a beat that leaves the FIFO to a request for what takes its place."""

_BETWEEN_REQUESTS = 2


class Begin(NamedTuple):
    """The program of a first layer up to the last START of its engines.

    Parameters
    ----------
    words : int
        Words of the whole program.
    heads : sequence of int
        Numbers of the headers of the STARTs.
    engines : sequence of collection of Engine
        What each of them starts.
    waits : sequence of collection of Engine
        What a WAIT before each of them waits for, load engines only; nothing if there is none.
    """

    words: int
    heads: Sequence[int]
    engines: Sequence[Collection[Engine]]
    waits: Sequence[Collection[Engine]]


class Processor(NamedTuple):
    """A command processor.

    Parameters
    ----------
    state : Records
        One record.
    arrives, left : arrays of int32
        For each beat the cycle in which its first word can come to the register, and that in which it has left the
        FIFO.
    """

    state: Records
    arrives: npt.NDArray[np.int32]
    left: npt.NDArray[np.int32]


def starts_at(config: ArchConfig, head: int) -> int:
    """Return the cycle of a first START's tokens, from that of the program's first word, by the number of its header.

    No engine has been started before it, so the memory has nothing else to do.
    """
    fetched = first_fetch(config) * config.beat_bytes // 4
    gap = max(0, _LONGER + ROUND_TRIP + _TO_WORD - fetched)
    last_write, header = (word + (gap if word >= fetched else 0) for word in (head - 1, head))
    return max(last_write + SETTLE_CYCLES, header) + 2


def processor_state(config: ArchConfig, begin: Begin | None) -> Processor:
    """Return a processor that has not yet fetched anything; see :func:`fetch_first`."""
    words_of_beat, first = config.beat_bytes // 4, first_fetch(config)
    beats = max(first, -(-begin.words // words_of_beat)) if begin else 0
    kind = records(
        # words executed and in the register in front, the next one to come there, beats that have come
        "taken", "ahead", "next", "arrived",
        # of the fetch: beats asked for, those to be asked for and those of the whole program (no fewer than the first
        # fetch's), the largest burst, the FIFO, when it may ask again
        "asked", "beats", "all", "most", "depth", "again", "words_of_beat",
        # of a START: the cycle of its tokens (-1: none is under way); when the word before it was executed. Whether a
        # WAIT is being executed
        "tokens", "last", "waiting",
    )  # fmt: skip
    state = np.zeros(1, kind)
    state["ahead"], state["next"] = 1, 1
    state["beats"], state["all"] = first, beats
    state["most"], state["depth"] = fetch_beats(config), fetch_depth(config)
    state["words_of_beat"], state["again"], state["tokens"] = words_of_beat, _FIRST_REQUEST, -1
    return Processor(state, np.zeros(beats, np.int32), np.full(beats, 1 << 30, np.int32))


@compiled
def fetch_first(processor: Processor, memory: Memory, latency: int, bursts: int) -> None:
    """Fetch until the first word is about to be executed: the first fetch's other bursts are under way."""
    x = processor.state[0]
    requests = memory.ports[len(memory.ports) - 1]
    for now in range(_FIRST_REQUEST, 0):
        requests.waiting = requests.asked
        request(processor, memory, now)
        fetch(memory, now, latency, bursts)
    x.beats = x.all  # the length is the second word
    x.again = _LONGER


@compiled
def execute(processor: Processor, head: int, waits: bool, idle: bool, now: int, settle: int) -> bool:
    """Execute a word; return whether the tokens of the START at word ``head`` are there.

    ``waits`` tells whether a WAIT is the word before it, ``idle`` whether the engines that it waits for are.
    """
    x = processor.state[0]
    held, done = 0, False
    if x.tokens >= 0:
        done = now == x.tokens
        if done:
            x.tokens = -1
            x.last = now
    elif x.waiting:
        if idle and now > x.last + settle:
            x.waiting = 0
    else:
        held = x.ahead
    took = 0
    if held > 0:
        took = 1
        if x.taken == head:
            x.tokens = max(now + 1, x.last + 1 + settle) + 1
        elif waits and x.taken == head - 1:
            x.waiting = 1
        else:
            x.last = now
        x.taken += 1
    # the register in front
    beat = x.next // x.words_of_beat
    if x.ahead < LINK and beat < x.arrived and now >= processor.arrives[beat]:
        x.next += 1
        x.ahead += 1
        if x.next % x.words_of_beat == 0:
            processor.left[beat] = now
    x.ahead -= took
    return done


@compiled
def request(processor: Processor, memory: Memory, now: int) -> None:
    """Note a beat that has come, and request a burst if there is room for the largest."""
    x = processor.state[0]
    port = len(memory.ports) - 1
    requests = memory.ports[port]
    if memory.state[0].data == port and x.arrived < x.asked:
        processor.arrives[x.arrived] = now + _TO_WORD - 1
        x.arrived += 1
    first = x.asked + x.most - x.depth  # beats that have to have left
    if (
        x.asked < x.beats
        and now >= x.again
        and requests.asked < LINK
        and (first <= 0 or now >= processor.left[first - 1] + _ROOM)
    ):
        beats = min(x.most, x.beats - x.asked)
        requests.want[requests.asked] = beats
        requests.asked += 1
        x.asked += beats
        x.again = now + _BETWEEN_REQUESTS
