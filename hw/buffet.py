"""The buffet: storage that synchronises its producer and its consumer word by word (EDDO; Sze et al. 2020, 5.8).

Words are filled at the tail, read at offsets from an origin, and released at the head. A read of a word that has not
arrived is not available; a fill waits for room. Releasing frees room at once, word by word; the origin of the offsets
moves up to the head only when the reader says so (``sync``), so that the offsets of a tile stay affine while its
words are released one after the other during their last use.
"""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import memory, stream
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rowmesh.hw.block import Block, memory_style

__all__ = ["Buffet", "wrapped_sum"]


def wrapped_sum(m: Module, a: Any, b: Any, depth: int, name: str) -> Signal:
    """Return ``(a + b) mod depth`` for ``a, b < depth`` as a combinational signal."""
    width = max(1, ceil_log2(depth))
    result = Signal(width, name=name)
    if depth & (depth - 1) == 0:
        m.d.comb += result.eq(a + b)
    else:
        total = Signal(width + 1, name=f"{name}_total")
        m.d.comb += [total.eq(a + b), result.eq(total)]
        with m.If(total >= depth):
            m.d.comb += result.eq(total - depth)
    return result


class Buffet(Block):
    """A buffet with one fill port and one read port.

    Contract: one fill and one read a cycle sustained; a word can be read in the cycle after its fill; the response
    comes one cycle after the read; room freed by a release can be filled in the next cycle. ``fill.ready`` and
    ``available`` do not depend on any valid or enable.

    Parameters
    ----------
    shape : ShapeLike
        A word.
    depth : int
        Usable words.
    release_width : int
        Bits of the number of words a read can release.
    round_up : bool
        Build the memory with a power-of-two depth (cheaper wrap); the usable depth stays ``depth``.
    block : bool
        Synchronous read (block RAM); otherwise asynchronous (distributed RAM) and a register.
    skip_width : int
        Bits of the number of words that can be skipped at the tail in one cycle (slots without data); 0: no such port.

    Members
    -------
    fill : In(stream.Signature(shape))
    skip : In(skip_width)
        Words to skip at the tail in this cycle, behind a word filled in the same one; the producer knows that
        there is room.
    offset : In(unsigned)
        Word to be read, from the origin; below the memory's depth.
    available : Out(1)
        The word at ``offset`` has been filled.
    enable : In(1)
        Read the word at ``offset`` now; only while it is available and not released (or with ``quiet``).
    quiet : In(1)
        With ``enable``: release and sync only, no word is read.
    release : In(release_width)
        With ``enable``: words to free at the head; no more than are held, and no more than ``depth`` in
        all between two syncs.
    sync : In(1)
        With ``enable``: after the release, the origin moves up to the head.
    covered : Out(1)
        At least ``release`` words are held. A read's own word is always held; a quiet release has to wait for this.
    response : Out(shape)
        The word read in the previous cycle; what it is in other cycles means nothing.
    held : Out(unsigned)
        Words between head and tail.
    """

    fill: stream.Interface
    skip: Signal
    offset: Signal
    available: Signal
    enable: Signal
    quiet: Signal
    release: Signal
    sync: Signal
    covered: Signal
    response: Any
    held: Signal

    latency = 1

    def __init__(
        self,
        shape: Any,
        depth: int,
        *,
        release_width: int = 1,
        round_up: bool = True,
        block: bool = False,
        skip_width: int = 0,
    ) -> None:
        self._shape, self._depth, self._block = shape, depth, block
        self._physical = 1 << max(1, ceil_log2(depth)) if round_up else depth
        self._skip_width = skip_width
        super().__init__(
            {
                "fill": In(stream.Signature(shape)),
                "skip": In(skip_width),
                "offset": In(ceil_log2(self._physical)),
                "available": Out(1),
                "enable": In(1),
                "quiet": In(1),
                "release": In(release_width),
                "sync": In(1),
                "covered": Out(1),
                "response": Out(shape),
                "held": Out(range(depth + 1)),
            }
        )

    @property
    def depth(self) -> int:
        """Usable words."""
        return self._depth

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        count = unsigned(ceil_log2(self._depth + 1))
        store: Any = memory.Memory(shape=self._shape, depth=self._physical, init=[], attrs=memory_style(self._block))
        m.submodules.store = store
        write = store.write_port()
        read = store.read_port(domain="sync" if self._block else "comb")

        tail, head, origin = (Signal(range(self._physical), name=name) for name in ("tail", "head", "origin"))
        # words from the origin to the tail: up to a depth of released ones and a depth of held ones
        stored = Signal(range(2 * self._depth + 1))
        held = Signal(count)  # words from the head to the tail
        filled = Signal(count)

        fill = Signal()
        m.d.comb += [
            fill.eq(self.fill.valid & self.fill.ready),
            filled.eq(fill + self.skip),
            write.addr.eq(tail),
            write.data.eq(self.fill.payload),
            write.en.eq(fill),
            self.available.eq(self.offset < stored),
            self.covered.eq(self.release <= held),
            self.held.eq(held),
            read.addr.eq(wrapped_sum(m, origin, self.offset, self._physical, "address")),
        ]
        kept, left = Signal(count), Signal(count)  # of `held`: without and with a release
        if len(self.release) == 1 and not self._skip_width:  # one adder: by 1, 0 or -1
            freed = Signal()
            m.d.comb += [
                freed.eq(self.enable & self.release),
                left.eq(held + Cat(fill ^ freed, (freed & ~fill).replicate(count.width - 1))),
                kept.eq(left),
            ]
        else:  # enable comes late: what it selects from is computed without it
            m.d.comb += [kept.eq(held + filled), left.eq(held - self.release + filled)]
        m.d.sync += [
            held.eq(Mux(self.enable, left, kept)),
            stored.eq(Mux(self.enable & self.sync, left, stored + filled)),
        ]
        next_head = wrapped_sum(m, head, self.release, self._physical, "next_head")
        with m.If(self.enable):
            m.d.sync += head.eq(next_head)
            with m.If(self.sync):
                m.d.sync += origin.eq(next_head)
        if self._skip_width:
            m.d.comb += self.fill.ready.eq(held != self._depth)
        else:  # the same as a register
            full = Signal()
            m.d.comb += self.fill.ready.eq(~full)
            with m.If(self.enable & (self.release != 0)):
                m.d.sync += full.eq(0)
            with m.Elif(fill & (held == self._depth - 1)):
                m.d.sync += full.eq(1)
        step = 1 if not self._skip_width else filled
        with m.If(fill | (self.skip != 0) if self._skip_width else fill):
            m.d.sync += tail.eq(wrapped_sum(m, tail, step, self._physical, "next_tail"))
        if self._block:
            m.d.comb += [self.response.eq(read.data), read.en.eq(1)]
        else:
            response = Signal(self._shape, reset_less=True)
            m.d.comb += self.response.eq(response)
            m.d.sync += response.eq(read.data)
        return m
