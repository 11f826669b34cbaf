"""Programs that a simulation needs and that pip cannot install."""

import shutil
from collections.abc import Iterable

from rowmesh.sim.machine import MachineError

__all__ = ["TOOLS", "MissingToolError", "require_tools"]

TOOLS = {
    "g++": ("g++", "gcc-c++"),
    "make": ("make", "make"),
    "perl": ("perl", "perl"),
    "ar": ("binutils", "binutils"),
}
"""Each program with its package of Debian and Ubuntu, and its package of Fedora."""


class MissingToolError(MachineError):
    """A program that is not on PATH; the message says what to install."""


def require_tools(tools: Iterable[str] = tuple(TOOLS)) -> None:
    """Check that the programs which build a simulation are there.

    Parameters
    ----------
    tools : iterable of str
        Programs of :data:`TOOLS` to look for on PATH.

    Raises
    ------
    MissingToolError
        If one or several are missing; the message names all of them.
    """
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        debian, fedora = (" ".join(TOOLS[tool][system] for tool in missing) for system in (0, 1))
        raise MissingToolError(
            f"{', '.join(missing)} not found on PATH, needed to build a simulation: "
            f"install with `apt install {debian}` (Debian, Ubuntu) or `dnf install {fedora}` (Fedora)"
        )
