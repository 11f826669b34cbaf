"""Which rowmesh wrote a file: the schema of the file, the version, and the commit if there is one."""

import functools
import importlib.metadata
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["MAP_SCHEMA", "RUN_SCHEMA", "program_version", "written_by"]

RUN_SCHEMA = "rowmesh-run-1"
"""Of the entries of ``rowmesh run --json``; the number changes where a reader of the old ones would be wrong."""

MAP_SCHEMA = "rowmesh-map-1"
"""Of the entries of ``rowmesh map --json``."""


def program_version() -> str:
    """Return the version of rowmesh."""
    return importlib.metadata.version("rowmesh")


@functools.cache
def _commit() -> str | None:
    """Return the commit that this code is of, with ``-dirty`` if it was changed since; None outside a repository."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():  # installed; a repository further up is somebody else's
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def written_by(schema: str) -> dict[str, Any]:
    """Return the fields that begin every entry of a file of results."""
    return {"schema": schema, "version": program_version(), "commit": _commit()}
