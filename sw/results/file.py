"""Files of results: what ``rowmesh run --json`` writes, read back."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.inputs import yaml as files
from rowmesh.sw.inputs.errors import InputError
from rowmesh.sw.inputs.select import select
from rowmesh.sw.mapping.cluster import ClusterMapping, IllegalMappingError
from rowmesh.sw.mapping.layer import CLUSTERS, LayerMapping, Splits, sub_layer
from rowmesh.sw.mapping.orders import BLOCK, IACT, PSUM, WEIGHT, Order
from rowmesh.sw.model.performance import Measurement, Prediction
from rowmesh.sw.results.layer import LayerResult, Outputs
from rowmesh.sw.results.provenance import RUN_SCHEMA
from rowmesh.sw.workload.layer import Layer
from rowmesh.sw.workload.lowering import lower

__all__ = ["MADE_BY", "RunLayer", "check_same", "read_run", "select_results"]

MADE_BY = "rowmesh run ... --json FILE"

_LARGEST_FILE = 1 << 28
_LATER = ("s_t", "r_d", "s_d")
_STATIONARY = {"weight": WEIGHT, "block": BLOCK, "psum": PSUM, "iact": IACT}
_Count = Annotated[int, Field(ge=0)]


class _Performance(BaseModel):
    cycles: _Count
    parts: dict[str, _Count]
    accesses: dict[str, _Count]
    pe_macs: list[list[_Count]] = []

    @field_validator("pe_macs")
    @classmethod
    def _is_an_array(cls, rows: list[list[int]]) -> list[list[int]]:
        if len({len(row) for row in rows}) > 1:
            raise ValueError("rows must have one length")
        return rows


class _Outputs(BaseModel):
    checked: _Count
    mismatches: _Count


class _Gated(BaseModel):
    zero: _Count = 0
    counted: _Count = 0


class _Entry(BaseModel):
    """One element of the list; fields that are not known are left for later versions."""

    @model_validator(mode="before")
    @classmethod
    def _has_the_schema(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("schema") != RUN_SCHEMA:
            rule = f"schema: must be {RUN_SCHEMA!r}, as this version writes it, not {given.get('schema')!r:.60}"
            rule += ": run the layers again"
            raise PydanticCustomError("schema", "{rule}", {"rule": rule})
        return given

    layer: str
    dataflow: str
    mapping: dict[str, Any]
    predicted: _Performance
    rtl: _Performance
    outputs: _Outputs
    macs: Annotated[int, Field(ge=1)]
    pes: Annotated[int, Field(ge=1)]
    cycles_per_second: float
    gated: _Gated = _Gated()
    memory: str = "fast"
    arch: dict[str, Any] = {}
    shape: dict[str, Any] = {}
    search: dict[str, str] = {}


_ENTRIES = TypeAdapter(list[_Entry])


@dataclass(frozen=True)
class RunLayer:
    """One layer's results, and what they are results of.

    Parameters
    ----------
    source : str
        The file's name for messages.
    result : LayerResult
    """

    source: str
    result: LayerResult

    @property
    def name(self) -> str:
        """Name of the layer."""
        return self.result.layer

    @cached_property
    def config(self) -> ArchConfig:
        """Architecture of the run.

        Raises
        ------
        InputError
            If the file does not say, or what it says is not legal.
        """
        try:
            return ArchConfig(**self._given("arch"))
        except (TypeError, ValueError) as error:
            raise self._error("arch", str(error)) from None

    @cached_property
    def layer(self) -> Layer:
        """The layer, as the workload had it; for errors see :attr:`config`."""
        if "sequence" in self.result.shape:
            raise self._error("shape", "must be of one layer: run them without --one-program")
        try:
            return Layer.model_validate(self._given("shape"))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise self._error(files.show_path(("shape", *first["loc"])), first["msg"]) from None

    @cached_property
    def mapping(self) -> LayerMapping:
        """The mapping that was run; for errors see :attr:`config`."""
        return self.mapping_on(self.config)

    def mapping_on(self, config: ArchConfig) -> LayerMapping:
        """Return the same mapping on another architecture.

        Raises
        ------
        InputError
            If the file does not hold it, or that architecture cannot run it.
        """
        given = self.result.mapping
        if "sequence" in given:
            raise self._error("mapping", "must be of one layer: run them without --one-program")
        steps = ["row"] if given.get("plane") == "row" else given.get("lowered", [])
        known = isinstance(steps, list) and all(isinstance(step, str) for step in steps)
        lowered = lower(config, self.layer, steps) if steps and known else None
        if steps and lowered is None:
            rule = f"must be steps that can lower the layer, not {files.show_value(steps)}"
            raise self._error("mapping.lowered", rule)
        layer = lowered.layer if lowered else self.layer
        factors = self._factors(ClusterMapping, "config", "layer", "dataflow", "within", "order")
        factors["order"] = self._order()
        try:
            splits = Splits(**self._factors(Splits)) if config.clusters > 1 else Splits()
            part = sub_layer(layer, splits, 0, 0).layer
            own = ClusterMapping(config.cluster, part, dataflow=self.result.dataflow, within=layer, **factors)
            return LayerMapping(config, layer, splits, own, lowered)
        except IllegalMappingError as error:
            raise self._error("mapping", str(error)) from None
        except (TypeError, ArithmeticError):
            raise self._error("mapping", "must hold the factors of a mapping") from None

    def _factors(self, of: type[ClusterMapping | Splits], *but: str) -> dict[str, Any]:
        """Return the fields of a mapping, or of its splits over clusters, as the file has them."""
        prefix = CLUSTERS if of is Splits else ""
        names = {field.name: prefix + field.name for field in fields(of) if field.name not in but}
        for later in _LATER:  # what a file of an earlier version has not is 1
            if names.get(later) not in self.result.mapping:
                names.pop(later, None)
        missing = [name for name in names.values() if name not in self.result.mapping]
        if missing:
            raise self._error(f"mapping.{missing[0]}", "is required")
        return {name: self.result.mapping[written] for name, written in names.items()}

    def _order(self) -> Order:
        """Return the order of loops; files of earlier versions name what stays in a PE."""
        given = self.result.mapping
        letters = given.get("order", _STATIONARY.get(str(given.get("stationary"))))
        try:
            return Order(str(letters))
        except ValueError as error:
            raise self._error("mapping.order", f"{error}, not {files.show_value(letters)}") from None

    def _given(self, name: str) -> dict[str, Any]:
        value = dict(getattr(self.result, name))
        if not value:
            raise self._error(name, "is required; the file is of an earlier version, run the layer again")
        return value

    def _error(self, field: str, message: str) -> InputError:
        return InputError(f"{self.source}: layer {self.name}: {field}: {message}")


def read_run(path: str | os.PathLike[str]) -> list[RunLayer]:
    """Read a file of results.

    Parameters
    ----------
    path : str or path

    Raises
    ------
    InputError
        As ``file: field: message``.
    """
    source = os.fspath(path)
    text = files.own_text(path, "file of results", MADE_BY, _LARGEST_FILE)
    try:
        entries = _ENTRIES.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise InputError(f"{source}: not valid JSON: {first['ctx']['error']}") from None
        place = files.show_path(first["loc"])
        if first["type"] == "schema":
            raise InputError(f"{source}: {place}.{first['msg']}") from None
        value = "" if first["type"] == "missing" else f", not {files.show_value(first['input'])}"
        rule = "is required" if first["type"] == "missing" else first["msg"].lower()
        raise InputError(f"{source}: {place}: {rule}{value}" if place else f"{source}: {rule}{value}") from None
    if not entries:
        raise InputError(f"{source}: holds no layer")
    return [RunLayer(source, _result(source, number, entry)) for number, entry in enumerate(entries)]


def _result(source: str, number: int, entry: _Entry) -> LayerResult:
    try:
        return LayerResult(
            predicted=Prediction(**entry.predicted.model_dump()),
            rtl=Measurement(**entry.rtl.model_dump()),
            outputs=Outputs(**entry.outputs.model_dump()),
            zero_macs=entry.gated.zero,
            gated_macs=entry.gated.counted,
            **entry.model_dump(exclude={"predicted", "rtl", "outputs", "gated"}),
        )
    except ValueError as error:
        raise InputError(f"{source}: [{number}]: {error}") from None


def select_results(runs: Sequence[RunLayer], patterns: Sequence[str] | None) -> list[RunLayer]:
    """Return the layers that are asked for; see :func:`rowmesh.sw.inputs.select.select`."""
    return select(runs, patterns, runs[0].source)


def check_same(
    source: str | os.PathLike[str], run: RunLayer | None, config: ArchConfig, layer: Layer, flows: Sequence[str]
) -> None:
    """Check that results are of a layer on an architecture, under one of some dataflows.

    Raises
    ------
    InputError
        If they are not, or there are none (``run`` is None).
    """
    name = os.fspath(source)
    if run is None:
        raise InputError(f"{name}: holds no layer {layer.name}; choose layers with --layer")
    if run.config != config:
        raise InputError(f"{name}: layer {layer.name} was run on {run.config.name}, not on this {config.name}")
    if run.layer != layer:
        raise InputError(f"{name}: layer {layer.name} was run as {run.layer.describe()}, not as {layer.describe()}")
    if run.result.dataflow not in flows:
        raise InputError(
            f"{name}: layer {layer.name} was run with dataflow {run.result.dataflow}, not with {', '.join(flows)}"
        )
