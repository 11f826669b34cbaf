"""Workloads: the layers of a network, checked.

A file is one mapping ``workload:`` with a name, a description and a list of layers, each with the field's own
letters (N images, M filters, C channels, H x W input, R x S filter)::

    workload:
      description: one layer
      layers:
        - {name: CONV1, kind: conv, N: 1, M: 96, C: 3, H: 227, W: 227, R: 11, S: 11, stride: 4}

In Python the same names are the constructor's; the attributes are in lower case (``layer.m``), as are the
derived ``layer.p`` and ``layer.q``.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from rowmesh.hw.config import COORDINATE_WIDTH
from rowmesh.sw.inputs import yaml as files
from rowmesh.sw.inputs.errors import InputError, one_line
from rowmesh.sw.inputs.select import select

__all__ = [
    "KINDS",
    "LARGEST",
    "LARGEST_PLANE",
    "Layer",
    "Workload",
    "describe_workload",
    "load_layers",
    "load_workload",
    "shrunk",
]

LARGEST = 65536
"""Largest size, stride, dilation and padding."""

LARGEST_PLANE = (1 << (COORDINATE_WIDTH - 1)) - 1
"""Most rows and columns of an input, padding included: what the hardware's coordinates count to."""

_TOP = "workload"
_MISSING = "is required"
_ARTICLES = {"add": "an add", "matmul": "a matmul"}
_REASONS = {
    "dwconv": "depthwise",
    "pointwise": "write a conv with R = S = 1",
    "linear": "fc",
    "dense": "fc",
    "gemm": "matmul",
    "pool": "maxpool",
    "averagepool": "avgpool",
    "globalaveragepool": "write avgpool without R and S",
    "eltwise": "add",
}


_Wrong = tuple[str, object, str, object]
"""A field, its value, the rule that it breaks and the nearest legal value."""


def _refuse(field: str, value: object, rule: str, nearest: object) -> NoReturn:
    """Raise the error that names field, value, rule and the nearest legal value."""
    near = nearest if isinstance(nearest, str) else files.show_value(nearest)
    raise PydanticCustomError(
        "rule",
        "{field} must be {rule}, not {value} (nearest legal value: {near})",
        {"field": field, "rule": rule, "value": files.show_value(value), "near": near},
    )


def _refuse_all(wrong: Iterable[_Wrong]) -> None:
    """Raise one error about several fields of a layer, if there are any."""
    complaints = []
    for field, value, rule, nearest in wrong:
        near = nearest if isinstance(nearest, str) else files.show_value(nearest)
        complaints.append((field, f"must be {rule}, not {files.show_value(value)} (nearest legal value: {near})"))
    if complaints:
        text = "; ".join(f"{field} {complaint}" for field, complaint in complaints)
        raise PydanticCustomError("rules", "{text}", {"text": text, "complaints": complaints})


def _is_int(value: object, low: int) -> bool:
    return type(value) is int and low <= value <= LARGEST


def _clamp(value: object, low: int) -> int:
    if not isinstance(value, int | float) or value != value:
        return low
    return min(max(low, LARGEST if value > LARGEST else round(max(value, 0))), LARGEST)


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _size(field: str) -> BeforeValidator:
    def check(value: object) -> object:
        if not _is_int(value, 1):
            _refuse(field, value, f"an integer from 1 to {LARGEST}", _clamp(value, 1))
        return value

    return BeforeValidator(check)


_WINDOWS = ("stride", "padding", "dilation")


def _wrong_sizes(data: dict[str, Any], limits: dict[str, int]) -> Iterator[_Wrong]:
    """Yield the sizes of a layer that is kept under other names which are no size."""
    for field, most in limits.items():
        value = data[field]
        if not _is_int(value, 1) or value > most:
            yield field, value, f"an integer from 1 to {most}", min(_clamp(value, 1), most)


def _not_of(data: dict[str, Any], fields: Iterable[str]) -> Iterator[_Wrong]:
    """Yield the fields of a layer that its kind does not have."""
    for field in fields:
        if field in data:
            yield field, data[field], f"left out of {_ARTICLES[data['kind']]} layer", "none"


def _pair(field: str) -> BeforeValidator:
    def check(value: object) -> object:
        parts = _listed(value) if isinstance(value, list | tuple) else [value, value]
        assert isinstance(parts, list)
        if len(parts) != 2 or not all(_is_int(part, 1) for part in parts):
            near = [_clamp(part, 1) for part in (*parts, 1, 1)[:2]]
            rule = f"an integer from 1 to {LARGEST} or a pair [y, x] of them"
            _refuse(field, _listed(value), rule, near if isinstance(value, list | tuple) else near[0])
        return tuple(parts)

    return BeforeValidator(check)


def _check_padding(value: object) -> object:
    parts = _listed(value) if isinstance(value, list | tuple) else [value, value]
    assert isinstance(parts, list)
    if len(parts) not in (2, 4) or not all(_is_int(part, 0) for part in parts):
        size = 4 if len(parts) > 2 else 2
        near = [_clamp(part, 0) for part in (*parts, 0, 0, 0, 0)[:size]]
        rule = f"an integer from 0 to {LARGEST}, a pair [y, x] or [top, left, bottom, right]"
        _refuse("padding", _listed(value), rule, near if isinstance(value, list | tuple) else near[0])
    return (*parts, *parts) if len(parts) == 2 else tuple(parts)


def _choice(field: str, *legal: str) -> BeforeValidator:
    def check(value: object) -> object:
        if value not in legal or not isinstance(value, str):
            hint = _REASONS.get(str(value).lower()) if field == "kind" else None
            rule = " or ".join(legal) + ""
            _refuse(field, value, rule, hint or files.suggest(value, legal) or legal[0])
        return value

    return BeforeValidator(check)


def _check_name(value: object) -> object:
    if not isinstance(value, str) or not value or not value.isprintable() or value != value.strip() or len(value) > 64:
        near = one_line(str(value))[:64].strip() if isinstance(value, str | int) else ""
        _refuse("name", value, "a string of 1 to 64 printable characters", near or "CONV1")
    return value


def _check_description(value: object) -> object:
    if not isinstance(value, str):
        _refuse("description", value, "a string", files.show_value(str(value)))
    return value


Name = Annotated[str, BeforeValidator(_check_name)]
Kind = Literal["conv", "fc", "depthwise", "matmul", "avgpool", "maxpool", "add"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Layer(BaseModel):
    """One layer. Frozen, hashable and checked.

    C and M are totals over all groups. Strides and dilations are kept as ``(y, x)``, padding as ``(top, left,
    bottom, right)``; they may be given as a scalar or a pair. Every kind is a convolution, and is kept as one:

    - ``fc``: the filter covers the input; H, W, R and S are 1 unless given.
    - ``depthwise``: one group a channel; M is C unless given.
    - ``matmul``: [M, K] times [K, N]: M columns of an input of K channels, N filters.
    - ``avgpool``, ``maxpool``: windows R x S of each channel, of the whole plane if R and S are not given, with
      a stride of the window unless given; averages count padding, maxima do not.
    - ``add``: the sum of two tensors of C x H x W, of which each is a row of C channels and H W columns.

    Parameters
    ----------
    name : str
        Unique in its workload.
    kind : {"conv", "fc", "depthwise", "matmul", "avgpool", "maxpool", "add"}
    N, M, C, H, W, R, S : int
        Images, filters, channels, input height and width, filter height and width.
    stride, dilation : int or (int, int)
    padding : int, (int, int) or (int, int, int, int)
        Zeros around the input.
    groups : int
        Divides C and M.
    output : {"raw", "requant"}
        Accumulators, or words of the data width after requantisation; the default of pools and sums.
    input : {"random", "photo"}
        Seeded random words, or a photograph scaled to H x W.

    Raises
    ------
    pydantic.ValidationError
        With field, value, rule and the nearest legal value of everything that is wrong.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", title="layer")

    name: Name
    kind: Annotated[Kind, _choice("kind", *KINDS)] = "conv"
    n: Annotated[int, _size("N")] = Field(alias="N", default=1)
    m: Annotated[int, _size("M")] = Field(alias="M")
    c: Annotated[int, _size("C")] = Field(alias="C")
    h: Annotated[int, _size("H")] = Field(alias="H")
    w: Annotated[int, _size("W")] = Field(alias="W")
    r: Annotated[int, _size("R")] = Field(alias="R")
    s: Annotated[int, _size("S")] = Field(alias="S")
    stride: Annotated[tuple[int, int], _pair("stride")] = (1, 1)
    padding: Annotated[tuple[int, int, int, int], BeforeValidator(_check_padding)] = (0, 0, 0, 0)
    dilation: Annotated[tuple[int, int], _pair("dilation")] = (1, 1)
    groups: Annotated[int, _size("groups")] = 1
    output: Annotated[Literal["raw", "requant"], _choice("output", "raw", "requant")] = "raw"
    input: Annotated[Literal["random", "photo"], _choice("input", "random", "photo")] = "random"

    @model_validator(mode="before")
    @classmethod
    def _as_convolution(cls, data: Any) -> Any:
        """Fill in the sizes that a layer of some kind may leave out, or has under other names."""
        if not isinstance(data, dict):
            return data
        data = dict(data)
        kind = data.get("kind")
        if kind == "fc":
            for size, filter_size in (("H", "R"), ("W", "S")):
                given = [data[key] for key in (size, filter_size) if key in data]
                for key in (size, filter_size):
                    data.setdefault(key, given[0] if given else 1)
        elif kind == "matmul":
            if "R" not in data:
                missing = next((key for key in ("M", "N", "K") if key not in data), None)
                if missing:
                    _refuse(missing, None, "given in a matmul layer: [M, K] times [K, N]", 1)
                limits = {"M": LARGEST_PLANE, "N": LARGEST, "K": LARGEST}
                _refuse_all([*_wrong_sizes(data, limits), *_not_of(data, ("C", "H", "W", "S", *_WINDOWS))])
                rows, columns, depth = (data.pop(key) for key in ("M", "N", "K"))
                data |= {"N": 1, "M": columns, "C": depth, "H": 1, "W": rows, "R": 1, "S": 1}
        elif kind in ("depthwise", "avgpool", "maxpool") and "C" in data:
            data.setdefault("M", data["C"])
            data.setdefault("groups", data["C"])
            if kind != "depthwise":
                for size, filter_size in (("H", "R"), ("W", "S")):
                    if size in data:
                        data.setdefault(filter_size, data[size])
                if "R" in data and "S" in data:
                    data.setdefault("stride", [data["R"], data["S"]])
                data.setdefault("output", "requant")
        elif kind == "add" and "R" not in data:
            _refuse_all(_not_of(data, ("M", "S", "groups", *_WINDOWS)))
            h, w = data.get("H"), data.get("W")
            if _is_int(h, 1) and _is_int(w, 1):
                if h * w > LARGEST_PLANE:
                    rule = f"at most {LARGEST_PLANE // w} with W = {w}: an add layer has at most {LARGEST_PLANE} pixels"
                    if w > LARGEST_PLANE:
                        _refuse("W", w, f"at most {LARGEST_PLANE}", LARGEST_PLANE)
                    _refuse("H", h, rule, LARGEST_PLANE // w)
                data |= {"H": 2, "W": h * w}
            data |= {"R": 2, "S": 1}
            if "C" in data:
                data |= {"M": data["C"], "groups": data["C"]}
            data.setdefault("output", "requant")
        return data

    @model_validator(mode="after")
    def _rules(self) -> Self:
        """Check what concerns several fields."""
        _refuse_all(self._conflicts())
        return self

    def _conflicts(self) -> Iterator[_Wrong]:
        top, left, bottom, right = self.padding
        height, width = self.h + top + bottom, self.w + left + right
        for field, size, padded in (("H", self.h, height), ("W", self.w, width)):
            if size > LARGEST_PLANE:
                yield field, size, f"at most {LARGEST_PLANE}", LARGEST_PLANE
            elif padded > LARGEST_PLANE:
                rest = LARGEST_PLANE - size
                rule = f"at most {rest} in all beside {field} = {size}, for padded inputs of at most {LARGEST_PLANE}"
                yield "padding", list(self.padding), rule, rest // 2
        if self.kind == "fc":
            for field, value, axis, legal in (("R", self.r, "H", self.h), ("S", self.s, "W", self.w)):
                if value != legal:
                    yield field, value, f"equal to {axis} ({legal}) in an fc layer", legal
            if self.stride != (1, 1):
                yield "stride", list(self.stride), "1 in an fc layer", 1
            if self.dilation != (1, 1):
                yield "dilation", list(self.dilation), "1 in an fc layer", 1
            if any(self.padding):
                yield "padding", list(self.padding), "0 in an fc layer", 0
        if self.kind not in ("conv", "fc", "matmul") and self.groups != self.c:
            yield "groups", self.groups, f"equal to C ({self.c}) in a {self.kind} layer", self.c
        elif math.gcd(self.c, self.m) % self.groups:
            common = math.gcd(self.c, self.m)
            legal_groups = (
                d for low in range(1, math.isqrt(common) + 1) if common % low == 0 for d in (low, common // low)
            )
            near = min(legal_groups, key=lambda d: (abs(d - self.groups), d))
            if self.kind == "depthwise":
                yield "M", self.m, f"a multiple of C ({self.c}) in a depthwise layer", -(-self.m // self.c) * self.c
            else:
                yield "groups", self.groups, f"a divisor of C ({self.c}) and M ({self.m})", near
        if self.kind in ("avgpool", "maxpool", "add") and self.m != self.c:
            yield "M", self.m, f"equal to C ({self.c}) in a {self.kind} layer", self.c
        if self.kind in ("add", "matmul"):  # kept as a convolution, in whose fields there is nothing to choose
            kept = (2, 1) if self.kind == "add" else (1, 1)
            if (self.r, self.s) != kept or (self.kind == "add" and self.h != 2):
                yield "R", self.r, f"left out of {_ARTICLES[self.kind]} layer", "none"
        fitting = True
        for field, taps, step, padded, axis in (
            ("R", self.r, self.dilation[0], height, "rows"),
            ("S", self.s, self.dilation[1], width, "columns"),
        ):
            if (taps - 1) * step + 1 > padded:
                near = (padded - 1) // step + 1
                rule = f"at most {near}: with dilation {step} it has to fit the padded input's {padded} {axis}"
                yield field, taps, rule, near
                fitting = False
        if fitting and self.kind in ("avgpool", "maxpool") and not self._windows_reach():
            # what frameworks take (ONNX: less than the window), and what is left of it with wide dilation
            if max(top, bottom) < self.r and max(left, right) < self.s:
                yield (
                    "dilation",
                    list(self.dilation),
                    f"such that each window of a {self.kind} layer meets the input",
                    1,
                )
            else:
                nearest = [min(part, taps - 1) for part, taps in zip(self.padding, (self.r, self.s) * 2, strict=True)]
                rule = f"less than the window ({self.r} x {self.s}) in a {self.kind} layer"
                yield "padding", list(self.padding), rule, nearest if len(set(nearest)) > 1 else nearest[0]
        if self.input == "photo" and self.c not in (1, 3):
            yield "C", self.c, "1 or 3 where the input is a photo", 1 if self.c == 2 else 3

    def _windows_reach(self) -> bool:
        """Whether each window of a pool has an element of the input."""
        top, left, bottom, right = self.padding
        for taps, step, stride, before, after, size, count in (
            (self.r, self.dilation[0], self.stride[0], top, bottom, self.h, self.p),
            (self.s, self.dilation[1], self.stride[1], left, right, self.w, self.q),
        ):
            if max(before, after) > (taps - 1) * step:
                return False
            for place in range(count) if step > size else ():
                tap = max(0, -(-(before - place * stride) // step))
                if tap >= taps or place * stride + tap * step >= before + size:
                    return False
        return True

    @property
    def p(self) -> int:
        """Output height."""
        top, _, bottom, _ = self.padding
        return (self.h + top + bottom - (self.r - 1) * self.dilation[0] - 1) // self.stride[0] + 1

    @property
    def q(self) -> int:
        """Output width."""
        _, left, _, right = self.padding
        return (self.w + left + right - (self.s - 1) * self.dilation[1] - 1) // self.stride[1] + 1

    @property
    def outputs(self) -> int:
        """Output words, N M P Q."""
        return self.n * self.m * self.p * self.q

    @property
    def macs(self) -> int:
        """Useful multiply-accumulates, N M (C/G) R S P Q; those on padding count."""
        return self.outputs * (self.c // self.groups) * self.r * self.s

    def psum_bits(self, data_width: int) -> int:
        """Bits that hold every sum of this layer for operands of a width, whatever their values."""
        if self.kind == "maxpool":
            return data_width + 1
        products = (self.c // self.groups) * self.r * self.s
        return (products << (2 * data_width - 2)).bit_length() + 1

    def describe(self) -> str:
        """Return the layer in one line."""
        parts = [
            f"{self.name}: {self.kind}",
            f"N={self.n} M={self.m} C={self.c} H={self.h} W={self.w} R={self.r} S={self.s}",
        ]
        for field, value, plain in (
            ("stride", self.stride, (1, 1)),
            ("padding", self.padding, (0, 0, 0, 0)),
            ("dilation", self.dilation, (1, 1)),
        ):
            if value != plain:
                parts.append(f"{field} {value[0] if len(set(value)) == 1 else list(value)}")
        if self.groups > 1:
            parts.append(f"groups {self.groups}")
        parts.append(f"P={self.p} Q={self.q}, {self.macs:,} MACs, {self.input} input, {self.output} output")
        return " ".join(parts[:2]) + "".join(f", {part}" for part in parts[2:])

    def as_row(self) -> "Layer":
        """Return the same layer with its plane as a single row; of use for 1 x 1 filters only."""
        return self.model_copy(update={"h": 1, "w": self.h * self.w})

    def with_batch(self, n: int) -> "Layer":
        """Return the same layer for ``n`` images."""
        return Layer.model_validate({**self.model_dump(by_alias=True), "N": n})


def shrunk(layer: Layer) -> Iterator[tuple[str, int, int, Callable[[int], Layer]]]:
    """Yield what could be less in a layer: the user's field, its value, what it is a multiple of, the smaller layer."""
    given = layer.model_dump(by_alias=True)

    def with_sizes(*names: str) -> Callable[[int], Layer]:
        return lambda value: Layer.model_validate({**given, **dict.fromkeys(names, value)})

    if layer.kind == "matmul":
        yield from (("M", layer.w, 1, with_sizes("W")), ("N", layer.m, 1, with_sizes("M")))
        yield "K", layer.c, 1, with_sizes("C")
        return
    yield "N", layer.n, 1, with_sizes("N")
    if layer.kind in ("conv", "fc"):
        yield "M", layer.m, layer.groups, with_sizes("M")
        yield "C", layer.c, layer.groups, with_sizes("C")
    elif layer.m == layer.c:
        yield "C", layer.c, 1, with_sizes("C", "M", "groups")
    else:
        yield "M", layer.m, layer.c, with_sizes("M")


class Workload(BaseModel):
    """A named list of layers.

    Parameters
    ----------
    name : str
    description : str
        One line.
    layers : sequence of Layer
        At least one; names are unique.

    Raises
    ------
    pydantic.ValidationError
        For anything wrong with it or its layers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", title="workload")

    name: Name
    description: Annotated[str, BeforeValidator(_check_description)] = ""
    layers: tuple[Layer, ...]

    @model_validator(mode="before")
    @classmethod
    def _unique(cls, data: Any) -> Any:
        """Refuse a list that is not one, and names used twice."""
        layers = data.get("layers") if isinstance(data, dict) else None
        if layers is None:
            return data
        if not isinstance(layers, list | tuple) or not layers:
            _refuse("layers", _listed(layers), "a list of at least one layer", "a list with one layer")
        seen: dict[str, int] = {}
        for index, layer in enumerate(layers):
            name = layer.get("name") if isinstance(layer, dict) else getattr(layer, "name", None)
            if not isinstance(name, str):
                continue
            if name in seen:
                _refuse(f"layers[{index}].name", name, f"unique (layers[{seen[name]}] has it)", f"{name}_{index}")
            seen[name] = index
        return data

    @property
    def macs(self) -> int:
        """Useful multiply-accumulates of all layers."""
        return sum(layer.macs for layer in self.layers)


def load_workload(name_or_path: str | os.PathLike[str]) -> Workload:
    """Load a workload.

    Parameters
    ----------
    name_or_path : str or path
        Name of a shipped workload, or path of a YAML file.

    Raises
    ------
    InputError
        For anything wrong with it, as ``file:line: field: message``.
    """
    stem, document = files.read("workloads", name_or_path)
    data = document.section(_TOP)
    try:
        return Workload.model_validate({"name": stem, **data})
    except ValidationError as error:
        raise _located(document, error.errors(include_url=False)) from None


def load_layers(
    name_or_path: str | os.PathLike[str], patterns: Sequence[str] | None = None, refused: list[str] | None = None
) -> list[Layer]:
    """Load the layers of a workload that are asked for, in its order; what is wrong with others does not matter.

    Parameters
    ----------
    name_or_path : str or path
    patterns : sequence of str, optional
        Names, which may hold wildcards; all layers by default.
    refused : list of str, optional
        If given, layers that are wrong are left out, and the list takes why.

    Raises
    ------
    InputError
        If a pattern matches no layer, or for anything wrong with the layers that are asked for.
    """
    stem, document = files.read("workloads", name_or_path)
    data = {"name": stem, **document.section(_TOP)}
    try:
        return select(Workload.model_validate(data).layers, patterns, str(name_or_path))
    except ValidationError as error:
        details = error.errors(include_url=False)
    places = [int(one["loc"][1]) for one in details if one["loc"][:1] == ("layers",)]
    if len(places) < len(details):  # something is wrong with the workload itself
        raise _located(document, details)
    named = [_Entry(str(entry.get("name")) if isinstance(entry, dict) else "", entry) for entry in data["layers"]]
    chosen = select(named, patterns, str(name_or_path))
    wrong = {place for place in places if any(named[place] is entry for entry in chosen)}
    if wrong and refused is None:
        raise _located(document, [one for one, place in zip(details, places, strict=True) if place in wrong])
    for at in sorted(wrong):
        of_layer = [one for one, place in zip(details, places, strict=True) if place == at]
        assert refused is not None
        refused.append(str(_located(document, of_layer)))
    return [Layer.model_validate(entry.given) for entry in chosen if all(named[at] is not entry for at in wrong)]


class _Entry(NamedTuple):
    """A layer as a file has it."""

    name: str
    given: Any


def describe_workload(name_or_path: str | os.PathLike[str]) -> str:
    """Return the description in a workload's file, or "" if there is none.

    Raises
    ------
    InputError
        If the file is wrong.
    """
    return load_workload(name_or_path).description


def _located(document: files.Document, errors: Sequence[ErrorDetails]) -> InputError:
    """Return all complaints, in the order of the file, with their lines."""
    complaints = [complaint for details in errors for complaint in _complaints(details)]
    # a misspelt key is why another is missing, so what is missing comes last
    complaints.sort(key=lambda complaint: (complaint[1] == _MISSING, document.line(complaint[0])))
    return document.errors(complaints)


def _complaints(details: ErrorDetails) -> list[tuple[files.Place, str]]:
    if details["type"] != "rules":
        return [_complaint(details)]
    path = (_TOP, *details["loc"])
    return [((*path, field), text) for field, text in details["ctx"]["complaints"]]


def _complaint(details: ErrorDetails) -> tuple[files.Place, str]:
    path: files.Place = (_TOP, *details["loc"])
    kind = details["type"]
    if kind == "rule":
        field = str(details["ctx"]["field"])
        if field.startswith("layers["):  # the one rule about several layers
            path = (*path, "layers", int(field[7 : field.index("]")]), "name")
        elif path[-1] != field:
            path = (*path, field)
        return path, details["msg"].removeprefix(f"{field} ")
    if kind == "extra_forbidden":
        model = Layer if "layers" in path else Workload
        return path, files.unknown_key(path[-1], [info.alias or name for name, info in model.model_fields.items()])
    if kind == "missing":
        return path, _MISSING
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return path, f"must be a mapping, not {files.show_value(details['input'])}"
    return path, f"{details['msg']}, not {files.show_value(details['input'])}"
