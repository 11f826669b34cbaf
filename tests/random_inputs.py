"""Random legal inputs: architectures and layers, as their files have them, from a seed.

Every field is drawn over its legal range (:data:`rowmesh.hw.config.RANGES`), small values and the ends most often, and
is left out now and then. What is drawn is legal: fields that exclude each other are drawn again.
"""

import dataclasses
import random
from typing import Any

from pydantic import ValidationError

from rowmesh.hw.config import CHOICES, RANGES, ArchConfig, ConfigError
from rowmesh.sw.inputs.arch import PARAMETERS
from rowmesh.sw.workload.layer import KINDS, Layer

__all__ = ["arch_text", "random_arch", "random_layer", "workload_text"]

_MESHES = ((1, 1),) * 5 + ((1, 2), (2, 1), (2, 2), (1, 4), (3, 2), (4, 4), (1, 32))


def _number(draw: random.Random, low: int, high: int, usual: int) -> int:
    """Return a number: now and then an end of its range or beside it, or any of it, else one up to ``usual``."""
    value = draw.choices(
        (low, low + 1, high, draw.randint(low, high), draw.randint(low, max(low, min(high, usual)))),
        (4, 3, 2, 4, 87),
    )[0]
    return min(value, high)


def random_arch(seed: int, *, small: bool = False) -> ArchConfig:
    """Draw an architecture; ``small``: only its array is small, and there is hardware of it."""
    draw, usual = random.Random(f"arch {seed}"), ArchConfig()
    while True:
        fields: dict[str, Any] = {
            name: getattr(usual, name) if draw.random() < 0.6 else draw.choice(legal) for name, legal in CHOICES.items()
        }
        for name, (low, high) in RANGES.items():
            if name in ("rows", "cols"):
                fields[name] = _number(draw, low, 64 if not small else 9, 9)
            elif draw.random() < 0.6:
                fields[name] = _number(draw, low, high, 2 * getattr(usual, name))
        fields["mesh_rows"], fields["mesh_cols"] = draw.choice(_MESHES if not small else _MESHES[:8])
        ports = draw.choice((1, 1, 1, 2, 3, 4))
        fields["rows"] = min(-(-fields["rows"] // ports) * ports, 64)
        fields["iact_ports"], fields["weight_ports"] = draw.choice(((ports, ports), (1, ports), (ports, 1)))
        fields["drain_lanes"] = draw.choice((0, 0, 1, draw.randint(0, 2 * fields["cols"])))
        fields["burst_beats"] = burst = 1 << draw.choice((0, 1, 2, 3, 4, 4, 4, 5, draw.randint(0, 8)))
        for name, least in (("glb_iact_flits", 2), ("glb_weight_flits", 2), ("param_words", 1)):
            fields[name] = max(fields.get(name, getattr(usual, name)), least * burst)
        for field in dataclasses.fields(ArchConfig):
            if field.type is bool and draw.random() < 0.3:
                fields[field.name] = draw.random() < 0.5
        try:
            config = ArchConfig(name=f"random{seed}", **fields)
            config.check_buildable()
        except ConfigError:
            continue
        return config


def _size(draw: random.Random, usual: int) -> int:
    whole = 8 * draw.randint(1, max(1, usual // 4))
    return draw.choice((1, 2, draw.randint(1, usual), draw.randint(1, 3 * usual), whole, whole))


def _border(draw: random.Random, most: int) -> Any:
    """Return a padding: of one number, two or four, most often less than the filter."""
    count = draw.choice((1, 2, 4))
    values = [draw.randint(0, most) for _ in range(count)]
    return values[0] if count == 1 else values


def _layer_fields(draw: random.Random, large: bool) -> dict[str, Any]:
    kind = draw.choice(KINDS)
    fields: dict[str, Any] = {"kind": kind}
    if kind == "matmul":
        fields |= {name: _size(draw, 40) for name in "MNK"}
    else:
        fields |= {"C": _size(draw, 24), "N": draw.choice((1, 1, 1, 2, 3, 5))}
    if kind in ("conv", "depthwise", "avgpool", "maxpool", "add"):
        fields |= {"H": _size(draw, 14), "W": _size(draw, 14)}
    if kind == "fc":
        fields["M"] = _size(draw, 40)
        if draw.random() < 0.5:
            fields |= {"H": draw.randint(1, 6), "W": draw.randint(1, 6)}
    if kind in ("conv", "depthwise"):
        if kind == "conv":
            groups = draw.choice((1, 1, 1, 2, 3, 5))
            fields |= {"M": groups * _size(draw, 12), "C": groups * _size(draw, 12), "groups": groups}
        elif draw.random() < 0.4:
            fields["M"] = fields["C"] * draw.randint(1, 3)
    if kind in ("conv", "depthwise") or (kind in ("avgpool", "maxpool") and draw.random() < 0.8):
        fields |= {"R": draw.choice((1, 2, 3, 3, 5, 7)), "S": draw.choice((1, 2, 3, 3, 5, 7))}
        if draw.random() < 0.5:
            fields["padding"] = _border(draw, max(fields["R"], fields["S"]) - draw.choice((0, 1, 1)))
        if draw.random() < 0.5:
            fields["stride"] = draw.choice((1, 2, 3, [1, 2], [2, 1], draw.randint(1, 9)))
        if draw.random() < 0.25:
            fields["dilation"] = draw.choice((2, 3, [1, 2], [2, 1]))
    if draw.random() < 0.6:
        fields["output"] = draw.choice(("raw", "requant"))
    if fields.get("C") in (1, 3) and draw.random() < 0.3:
        fields["input"] = "photo"
    if draw.random() < 0.02 and large:  # a size at its end
        fields[draw.choice([name for name in fields if name in "MCHWK"])] = draw.choice((32767, 65535, 65536))
    return fields


def random_layer(seed: int, *, large: bool = True) -> dict[str, Any]:
    """Draw a layer, as the fields of a file; ``large``: now and then with a size at the end of its range."""
    draw = random.Random(f"layer {seed}")
    while True:
        fields = {"name": f"L{seed}", **_layer_fields(draw, large)}
        try:
            Layer(**fields)
        except ValidationError:
            continue
        return fields


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def arch_text(config: ArchConfig) -> str:
    """Return the file of an architecture."""
    groups: dict[str, dict[str, Any]] = {}
    for (group, key), field in PARAMETERS.items():
        groups.setdefault(group, {})[key] = getattr(config, field)
    lines = "".join(f"  {group}: {_flow(values)}\n" for group, values in groups.items())
    return f"architecture:\n  name: {config.name}\n{lines}"


def workload_text(*layers: dict[str, Any]) -> str:
    """Return the file of a workload."""
    return "workload:\n  layers:\n" + "".join(f"    - {_flow(layer)}\n" for layer in layers)
