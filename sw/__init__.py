"""From layers to results: mappings, programs, the model, runs, and the command line.

``load_arch``, ``load_workload``, ``map_layer``, ``run_layer`` and ``generate`` are here; what they need is imported
when they are first used.
"""

import importlib
from typing import Any

__all__ = ["generate", "load_arch", "load_workload", "map_layer", "run_layer"]

_HOMES = {
    "load_arch": "inputs.arch",
    "load_workload": "workload.layer",
    "generate": "run",
    "map_layer": "run",
    "run_layer": "run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
