"""Conditions over a nest's first and last flags, as descriptor fields.

A mask field has one bit a level and an enable bit above them. The condition holds if it is enabled and all masked
levels are in their last (or first) iteration; with no level masked it always holds.
"""

from collections.abc import Iterable

from amaranth.hdl import Value

__all__ = ["mask_word", "matches"]


def matches(mask: Value, flags: Value, levels: int) -> Value:
    """Condition as hardware: ``mask`` has levels + 1 bits."""
    return mask[levels] & ((mask[:levels] & ~flags) == 0)


def mask_word(levels: int, chosen: Iterable[int] | None) -> int:
    """Encode a mask field; None: never.

    Raises
    ------
    ValueError
        If a level does not exist.
    """
    if chosen is None:
        return 0
    word = 1 << levels
    for level in chosen:
        if not 0 <= level < levels:
            raise ValueError(f"level must be from 0 to {levels - 1}, not {level}")
        word |= 1 << level
    return word
