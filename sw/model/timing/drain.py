"""Timing of the drain: final psums through the post-processing pipeline to the lanes of the store engine."""

from typing import Any

import numpy as np
import numpy.typing as npt

from rowmesh.hw.drain import PIPELINE_STAGES, UNSEEN
from rowmesh.sw.model.timing import compiled
from rowmesh.sw.model.timing.array import LINK, Records, records, updates

__all__ = ["WORD", "drain", "drain_state"]

WORD = records("group", "columns", "need", "release", "params", "param_release", "flush")
"""A step of the drain. ``columns`` give a word, of those that hold one; ``need`` are the final words that a column has
to have, ``params`` the parameters (0: none)."""


def drain_state() -> Records:
    """Return an idle drain.

    ``stage_words`` are the words that each cluster of a set gives; ``packed``: a lane has a beat that is not yet in its
    FIFO.
    """
    kind = records(
        "made", "choice", "plan", "word", "done", "psums", "there", "held", "inside", "room", "packed",
        stage_words=PIPELINE_STAGES, stage_flush=PIPELINE_STAGES,
    )  # fmt: skip
    state = np.zeros(1, kind)
    state["room"] = 1
    return state


@compiled
def drain(
    d: Any,
    words: Records,
    banks: Records,
    lanes: Records,
    params: Any,
    started: bool,
    columns: int,
    groups: int,
    members: npt.NDArray[np.bool_],
) -> None:
    """Advance the drain (hw/drain.py).

    ``banks`` are those of all clusters, over clusters and columns; ``columns`` of a cluster hold slots of a tile, and
    ``groups`` of them are drained one after another; ``params`` is the parameters' load engine; ``members`` are the
    clusters of a set that are drained.
    """
    width, stages, size = len(lanes) // len(members), len(d.stage_words), len(members)
    k, go = d.done, False
    now = words[min(k, len(words) - 1)]
    first, own = width * (now.group % groups), size * (now.group // groups)
    if d.word and d.room and d.psums and d.there:
        go = True
        for member in range(size):
            if members[member]:
                for c in range(first, min(first + width, now.columns)):
                    if updates(banks[own + member, c]):
                        go = False
    # what the next word waits for, known a cycle before
    accepts = go or not d.word
    n = k + 1 if go else k
    if n < len(words):
        coming = words[n]
        leaves = d.word and accepts
        begin, others = width * (coming.group % groups), size * (coming.group // groups)
        freed = now.release if leaves and coming.group == now.group else 0
        d.psums = 1
        for member in range(size):
            if members[member]:
                for c in range(begin, min(begin + width, columns)):
                    need = coming.need if c < coming.columns else coming.release
                    if need + freed > banks[others + member, c].finals:
                        d.psums = 0
        d.there = coming.params + (now.param_release if leaves else 0) <= d.held
    # beats of a lane that have gone leave its credits two cycles later: two more may have gone
    d.room = 1
    for lane in range(len(lanes)):
        x = lanes[lane]
        if x.credits <= UNSEEN:
            d.room = 0
        gone = d.stage_flush[0] and lane % width < d.stage_words[0] and members[lane // width]
        x.credits += x.gone - gone
        x.gone = x.returned
        if x.packed:
            x.packed = 0
            x.held += 1
            x.free += 1
    d.packed = 0
    # the pipeline and the packers
    if d.inside or go:
        last = d.stage_words[stages - 1]
        if last:
            d.inside -= 1
            if d.stage_flush[stages - 1]:
                d.packed = 1
                for lane in range(len(lanes)):
                    lanes[lane].packed = lane % width < last and members[lane // width]
        for s in range(stages - 1, 0, -1):
            d.stage_words[s], d.stage_flush[s] = d.stage_words[s - 1], d.stage_flush[s - 1]
        d.stage_words[0] = 0
        if go:
            d.stage_words[0] = max(0, min(width, now.columns - first))
            d.stage_flush[0] = now.flush
            d.inside += d.stage_words[0] > 0
    d.held += params.fill
    if go:
        for member in range(size):
            if members[member]:
                for c in range(first, min(first + width, columns)):
                    banks[own + member, c].freed = now.release
        d.held -= now.param_release
        params.released = now.param_release
        d.done += 1
    # the words in front
    planned = d.plan
    if accepts:
        d.word = planned > 0
        d.plan -= planned > 0
    moves = d.choice and planned < LINK
    d.plan += 1 if moves else 0
    if (moves or not d.choice) and started and d.made < len(words):
        d.choice = 1
        d.made += 1
    elif moves:
        d.choice = 0
