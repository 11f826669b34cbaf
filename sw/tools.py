"""Programs that a simulation needs and that pip cannot install."""

import shutil
from collections.abc import Iterable

from rowmesh.sw.files import InputError

__all__ = ["REQUIRED", "MissingToolError", "require_tools"]

# program: package of Debian and Ubuntu, package of Fedora
REQUIRED = {"g++": ("g++", "gcc-c++"), "make": ("make", "make"), "perl": ("perl", "perl")}


class MissingToolError(InputError):
    """A program that is not on PATH; the message says what to install."""


def require_tools(tools: Iterable[str] = tuple(REQUIRED)) -> None:
    """Check that the programs which build a simulation are there.

    Parameters
    ----------
    tools : iterable of str
        Programs to look for on PATH.

    Raises
    ------
    MissingToolError
        If one or several are missing; the message names all of them.
    """
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        debian, fedora = (" ".join(REQUIRED.get(tool, (tool, tool))[system] for tool in missing) for system in (0, 1))
        raise MissingToolError(
            f"{', '.join(missing)} not found on PATH, needed to build a simulation: "
            f"install with `apt install {debian}` (Debian, Ubuntu) or `dnf install {fedora}` (Fedora)"
        )
