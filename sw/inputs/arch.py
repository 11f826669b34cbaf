"""Architecture files: YAML to :class:`~rowmesh.hw.config.ArchConfig`.

A file is one mapping ``architecture:`` with a name, a description, and the generator's parameters in groups::

    architecture:
      description: four by four PEs for int8 networks
      array: {rows: 4, cols: 4}
      spads: {iact: 16, weight: 224, psum: 24}

Only ``array.rows`` and ``array.cols`` are required; whatever is left out has ArchConfig's default.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from rowmesh.hw.config import ArchConfig, ConfigError
from rowmesh.sw.inputs import yaml as files

__all__ = ["PARAMETERS", "assumed_buffers", "describe_arch", "given_fields", "load_arch"]

# The one table: group and key in the file, field of ArchConfig.
PARAMETERS: Mapping[tuple[str, str], str] = {
    ("array", "rows"): "rows",
    ("array", "cols"): "cols",
    ("mesh", "rows"): "mesh_rows",
    ("mesh", "cols"): "mesh_cols",
    ("data", "data_width"): "data_width",
    ("data", "acc_width"): "acc_width",
    ("spads", "iact"): "iact_spad",
    ("spads", "weight"): "weight_spad",
    ("spads", "psum"): "psum_spad",
    ("noc", "iact_ports"): "iact_ports",
    ("noc", "weight_ports"): "weight_ports",
    ("glb", "iact_flits"): "glb_iact_flits",
    ("glb", "weight_flits"): "glb_weight_flits",
    ("glb", "psum_bank_words"): "psum_bank_words",
    ("output", "lanes"): "drain_lanes",
    ("output", "param_words"): "param_words",
    ("memory", "data_width"): "axi_data_width",
    ("memory", "addr_width"): "axi_addr_width",
    ("memory", "burst_beats"): "burst_beats",
    ("memory", "read_bursts"): "read_bursts",
    ("noc", "tag_width"): "tag_width",
    ("noc", "edge_flags"): "edge_flags",
    ("noc", "link_segment"): "link_segment",
    ("pe", "uop_fifo"): "uop_fifo",
    ("pe", "chain_fifo"): "chain_fifo",
    ("pe", "max_pooling"): "max_pooling",
    ("control", "nest_levels"): "nest_levels",
    ("control", "pe_counters"): "pe_counters",
}

_BUFFERS = (
    *("iact_spad", "weight_spad", "psum_spad"),
    *("glb_iact_flits", "glb_weight_flits", "psum_bank_words", "param_words"),
)
_REQUIRED = (("array", "rows"), ("array", "cols"))
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_TOP = "architecture"


def load_arch(name_or_path: str | os.PathLike[str], *, buildable: bool = False) -> ArchConfig:
    """Load an architecture.

    Parameters
    ----------
    name_or_path : str or path
        Name of a shipped architecture, or path of a YAML file.
    buildable : bool
        Refuse what there is only a model of.

    Raises
    ------
    InputError
        For anything wrong with it, as ``file:line: field: message``.
    """
    stem, document = files.read("arch", name_or_path)
    config, _ = _loaded(stem, document, buildable)
    return config


def given_fields(name_or_path: str | os.PathLike[str]) -> frozenset[str]:
    """Return the fields of ArchConfig that an architecture's file gives; the others have their defaults.

    Raises
    ------
    InputError
        If the file is wrong.
    """
    return _loaded(*files.read("arch", name_or_path), False)[1]


def assumed_buffers(name_or_path: str | os.PathLike[str]) -> str:
    """Return in one line the sizes of buffers that a user's file leaves out; nothing if it gives all.

    Raises
    ------
    InputError
        If the file is wrong.
    """
    if os.fspath(name_or_path) in files.shipped_names("arch"):
        return ""
    config, given = _loaded(*files.read("arch", name_or_path), False)
    sizes = [
        f"{'.'.join(place)} {getattr(config, field)}"
        for place, field in PARAMETERS.items()
        if field in _BUFFERS and field not in given
    ]
    return f"note: {config.name} has default sizes of {', '.join(sizes)}" if sizes else ""


def _loaded(stem: str, document: files.Document, buildable: bool) -> tuple[ArchConfig, frozenset[str]]:
    """Return the configuration that a file describes, and which fields the file gives; tell all that is wrong."""
    top = document.section(_TOP)
    groups = dict.fromkeys(group for group, _ in PARAMETERS)
    complaints = document.unknown((_TOP,), top, ["name", "description", *groups])
    _text(document, top, "description", complaints)

    changes: dict[str, Any] = {}
    for group in groups:
        if group not in top:
            continue
        path = (_TOP, group)
        if not isinstance(top[group], dict):
            complaints.append((path, f"must be a mapping, not {files.show_value(top[group])}"))
            continue
        section = document.mapping(path, top[group])
        keys = [key for of, key in PARAMETERS if of == group]
        complaints += document.unknown(path, section, keys)
        changes |= {PARAMETERS[group, key]: value for key, value in section.items() if key in keys}
    name = _text(document, top, "name", complaints) or stem
    if not _NAME.fullmatch(name):
        text = f"must be a letter, then letters, digits, _ or -, not {files.show_value(name)}"
        complaints.append(((_TOP, "name"), f"{text} (nearest legal value: {_legal_name(name)})"))
        name = _legal_name(name)
    config = None
    try:
        config = ArchConfig(name=name, **changes)
        if buildable:
            config.check_buildable()
    except ConfigError as error:
        places = {field: (_TOP, *place) for place, field in PARAMETERS.items()}
        complaints += [(places[field], text) for field, text in error.complaints]
    complaints.sort(key=lambda complaint: document.line(complaint[0]))
    for group, key in _REQUIRED:  # a misspelt key is why another is missing, so what is missing comes last
        if PARAMETERS[group, key] not in changes:
            complaints.append(((_TOP, group, key), "is required, for example 4"))
    if complaints or config is None:
        raise document.errors(complaints)
    return config, frozenset(changes)


def describe_arch(name_or_path: str | os.PathLike[str]) -> str:
    """Return the description in an architecture's file, or "" if there is none.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    _, document = files.read("arch", name_or_path)
    description = document.section(_TOP).get("description")
    return description if isinstance(description, str) else ""


def _text(
    document: files.Document, top: Mapping[str, Any], key: str, complaints: list[tuple[files.Place, str]]
) -> str | None:
    value = top.get(key)
    if value is not None and not isinstance(value, str):
        complaints.append(((_TOP, key), f"must be a string, not {files.show_value(value)}"))
        return None
    return value


def _legal_name(name: str) -> str:
    legal = re.sub(r"[^A-Za-z0-9_-]+", "_", name).lstrip("0123456789_-")[:64]
    return legal or "custom"
