"""The register map: one table for the hardware, the metadata, the C header and the documentation.

Registers are 32 or 64 bits wide; a 64-bit register is two words, the low one first.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rowmesh.hw.config import ConfigError

__all__ = [
    "ADDRESS_WIDTH",
    "BUDGET_DEFAULT",
    "COUNTER_BASE",
    "ID",
    "MAX_COUNTERS",
    "MAX_WAITS",
    "RESET_LIMIT",
    "VERSION",
    "WATCHDOG_DEFAULT",
    "WRITE_PORT",
    "ErrorCode",
    "Register",
    "RegisterField",
    "c_header",
    "markdown",
    "register_map",
    "registers",
]

ADDRESS_WIDTH = 12
"""Bits of a byte address."""

COUNTER_BASE = 0x100
"""Byte address of the first performance counter."""

MAX_COUNTERS = ((1 << ADDRESS_WIDTH) - COUNTER_BASE) // 8
MAX_WAITS = 64

ID = 0x524F574D
"""Value of the register ID ("ROWM")."""

VERSION = 0x000200
"""Value of VERSION: major, minor and patch, 8 bits each; it counts changes of the programmer's view."""

WATCHDOG_DEFAULT = 1_000_000
"""Cycles without progress that end a run, until the host sets others."""

BUDGET_DEFAULT = (1 << 32) - 1
"""Cycles that a run may take, until the host sets others."""

RESET_LIMIT = 1 << 16
"""Cycles after which a soft reset no longer waits for answers of the memory."""


WRITE_PORT = 0x100
"""In place of the number of a read port: the write channel."""


class ErrorCode(enum.IntEnum):
    """Value of the register ERROR."""

    NONE = 0
    AXI_READ = 1
    AXI_WRITE = 2
    ILLEGAL_DESCRIPTOR = 3
    START_WHILE_BUSY = 4
    WATCHDOG = 5
    BUDGET = 6
    WINDOW = 7
    BAD_ADDRESS = 8
    LEFTOVER = 9
    UNANSWERED = 10
    UNEXPECTED = 11

    @property
    def doc(self) -> str:
        """What happened, and what ERROR_DETAIL then holds if it is not the program's last header."""
        return _ERRORS[self]


_ERRORS = {
    ErrorCode.NONE: "no error",
    ErrorCode.AXI_READ: "a read was answered with an error (detail: number of the read port)",
    ErrorCode.AXI_WRITE: "a write was answered with an error",
    ErrorCode.ILLEGAL_DESCRIPTOR: "a word of the program is no command",
    ErrorCode.START_WHILE_BUSY: "a start came during a run or a soft reset",
    ErrorCode.WATCHDOG: "nothing moved for WATCHDOG cycles",
    ErrorCode.BUDGET: "the run took more than BUDGET cycles",
    ErrorCode.WINDOW: "an access outside of WINDOW_FIRST to WINDOW_LAST, which was not made "
    f"(detail: number of the read port, {WRITE_PORT:#x} for a write)",
    ErrorCode.BAD_ADDRESS: "PROGRAM is no multiple of the beat size or beyond the addresses, or the window's bounds "
    "are not those of 4 KB pages (detail: offset of the register)",
    ErrorCode.LEFTOVER: "at the program's END something was left in the core for WATCHDOG cycles",
    ErrorCode.UNANSWERED: f"in a soft reset the memory left a burst unanswered for {RESET_LIMIT} cycles "
    "(detail: bit 0 a read, bit 1 a write); nothing was reset",
    ErrorCode.UNEXPECTED: "the memory answered what was not asked (detail: bit 0 a read, bit 1 a write)",
}


@dataclass(frozen=True)
class RegisterField:
    """A field of a register.

    Parameters
    ----------
    name : str
    low : int
        Lowest bit.
    width : int
        Bits.
    doc : str
    """

    name: str
    low: int
    width: int
    doc: str


@dataclass(frozen=True)
class Register:
    """A register.

    Parameters
    ----------
    name : str
    offset : int
        Byte address.
    width : int
        32 or 64.
    access : {"ro", "rw", "wo"}
        A write of a read-only register is answered with an error; a write-only one reads as 0.
    doc : str
    fields : tuple of RegisterField
    reset : int
    """

    name: str
    offset: int
    width: int
    access: str
    doc: str
    fields: tuple[RegisterField, ...] = ()
    reset: int = 0

    @property
    def words(self) -> int:
        """32-bit words."""
        return self.width // 32


def registers(counters: Sequence[str] = (), waits: Sequence[str] = ()) -> tuple[Register, ...]:
    """Return all registers in the order of their addresses.

    Parameters
    ----------
    counters : sequence of str
        Names of the performance counters, in lower case; the registers' names are in upper case.
    waits : sequence of str
        Names of the bits of WAITS.

    Raises
    ------
    ConfigError
        If there are too many of them, or two of a name.
    """
    for what, names, most in (("counters", counters, MAX_COUNTERS), ("waits", waits, MAX_WAITS)):
        if len(names) > most:
            raise ConfigError(f"{what} must be at most {most}, not {len(names)} (nearest legal value: {most})")
        if len(set(names)) != len(names):
            raise ConfigError(f"{what} must have different names, not {list(names)}")
    field = RegisterField
    codes = ", ".join(f"{code.value} {code.name.lower()}" for code in ErrorCode)
    table = [
        Register("ID", 0x00, 32, "ro", "Identifies the accelerator.", reset=ID),
        Register("VERSION", 0x04, 32, "ro", "Major, minor and patch number, 8 bits each.", reset=VERSION),
        Register(
            "CONTROL",
            0x08,
            32,
            "wo",
            "Commands; each bit acts when it is written as 1.",
            (
                field("start", 0, 1, "run the program at PROGRAM"),
                field("soft_reset", 1, 1, "stop new requests, wait for outstanding ones, clear the core"),
                field("irq_clear", 2, 1, "clear the interrupt"),
            ),
        ),
        Register(
            "STATUS",
            0x0C,
            32,
            "ro",
            "State of the run.",
            (
                field("busy", 0, 1, "a program runs, or a soft reset is under way"),
                field("done", 1, 1, "the last run reached its END; cleared by a start or a soft reset"),
                field("error", 2, 1, "the last run ended with an error; cleared by a soft reset"),
                field("resetting", 3, 1, "a soft reset is under way"),
                field("irq", 4, 1, "the interrupt is pending, enabled or not"),
            ),
        ),
        Register("PROGRAM", 0x10, 64, "rw", "Address of the program, a multiple of the beat size."),
        Register(
            "ERROR",
            0x18,
            32,
            "ro",
            f"What ended the run: {codes}.",
            (field("code", 0, 8, "error code"),),
        ),
        Register(
            "ERROR_DETAIL",
            0x1C,
            32,
            "ro",
            "What the error code says; otherwise the last header of the program.",
        ),
        Register(
            "WATCHDOG",
            0x20,
            32,
            "rw",
            "Cycles without progress that end a run with an error; 0: never.",
            reset=WATCHDOG_DEFAULT,
        ),
        Register(
            "IRQ_ENABLE",
            0x24,
            32,
            "rw",
            "Which ends of a run raise irq.",
            (field("done", 0, 1, "the program's END"), field("error", 1, 1, "an error")),
            reset=0b11,
        ),
        Register(
            "WAITS",
            0x28,
            64,
            "ro",
            "Which engine waits for which buffet, now or, after an error, when it came.",
            tuple(field(name, bit, 1, name.replace("_", " ")) for bit, name in enumerate(waits)),
        ),
        Register("CYCLES", 0x30, 64, "ro", "Cycles from the start to the interrupt."),
        Register(
            "BUDGET",
            0x38,
            64,
            "rw",
            "Cycles that a run may take; one more ends it with an error.",
            reset=BUDGET_DEFAULT,
        ),
        Register(
            "WINDOW_FIRST",
            0x40,
            64,
            "rw",
            "Address of the first byte that a run may access; a page of 4 KB begins there.",
        ),
        Register(
            "WINDOW_LAST",
            0x48,
            64,
            "rw",
            "Address of the last byte that a run may access; a page of 4 KB ends there.",
            reset=(1 << 64) - 1,
        ),
    ]
    table += [
        Register(name.upper(), COUNTER_BASE + 8 * k, 64, "ro", f"Counts {name.replace('_', ' ')} in the last run.")
        for k, name in enumerate(counters)
    ]
    names = [register.name for register in table]
    if len(set(names)) != len(names):
        raise ConfigError(f"counters must not have the name of a register: {sorted(names)}")
    return tuple(table)


def register_map(counters: Sequence[str] = (), waits: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Return the register map as metadata: name to offset, width, access, reset, doc and fields."""
    return {
        register.name: {
            "offset": register.offset,
            "width": register.width,
            "access": register.access,
            "reset": register.reset,
            "doc": register.doc,
            "fields": {
                entry.name: {"low": entry.low, "width": entry.width, "doc": entry.doc} for entry in register.fields
            },
        }
        for register in registers(counters, waits)
    }


def markdown() -> str:
    """Return the registers but for the counters, and the error codes, as two tables for docs/control.md."""
    lines = ["| offset | name | bits | access | reset | meaning |", "| --- | --- | --- | --- | --- | --- |"]
    for entry in registers():
        places = "; ".join(f"[{place.low}] {place.name}: {place.doc}" for place in entry.fields)
        doc = "What ended the run; see below." if entry.name == "ERROR" else f"{entry.doc} {places}".strip()
        lines.append(
            f"| {entry.offset:#05x} | {entry.name} | {entry.width} | {entry.access} | {entry.reset:#x} | {doc} |"
        )
    lines += ["", "| ERROR | name | what happened |", "| --- | --- | --- |"]
    lines += [f"| {code.value} | {code.name} | {code.doc} |" for code in ErrorCode]
    return "\n".join(lines)


def c_header(counters: Sequence[str] = (), waits: Sequence[str] = (), prefix: str = "ROWMESH") -> str:
    """Return a C header with offsets, masks, reset values and error codes.

    Parameters
    ----------
    counters, waits
        As for :func:`registers`.
    prefix : str
        Prefix of every macro.
    """
    lines = [
        "/* Registers of the accelerator; generated, do not edit. */",
        f"#ifndef {prefix}_REGISTERS_H",
        f"#define {prefix}_REGISTERS_H",
        "",
    ]
    for register in registers(counters, waits):
        name = f"{prefix}_{register.name}"
        lines += [
            f"/* {register.doc} {register.width} bits, {register.access}. */",
            f"#define {name}_OFFSET 0x{register.offset:03X}u",
        ]
        if register.reset:
            lines.append(f"#define {name}_RESET 0x{register.reset:X}{'ull' if register.width == 64 else 'u'}")
        for entry in register.fields:
            suffix = "ull" if register.width == 64 else "u"
            mask = (1 << entry.width) - 1 << entry.low
            lines += [
                f"#define {name}_{entry.name.upper()}_SHIFT {entry.low}",
                f"#define {name}_{entry.name.upper()}_MASK 0x{mask:X}{suffix} /* {entry.doc} */",
            ]
        lines.append("")
    lines += [f"#define {prefix}_ERROR_CODE_{code.name} {code.value} /* {code.doc} */" for code in ErrorCode]
    lines.append(f"#define {prefix}_RESET_LIMIT {RESET_LIMIT}u /* cycles that a soft reset takes at most, about */")
    lines += ["", f"#endif /* {prefix}_REGISTERS_H */", ""]
    return "\n".join(lines)
