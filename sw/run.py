"""From a configuration and a layer to Verilog, a mapping, a run and its comparison."""

import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from rowmesh import hw
from rowmesh.hw.axi import PAGE_BYTES
from rowmesh.hw.command_processor import first_fetch
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.core import pe_counter
from rowmesh.hw.top import Top, global_prefix, metadata
from rowmesh.sim.cache import built_once, cache_folder, keep_newest
from rowmesh.sim.run import SimJob, SimResult, simulate, simulate_all
from rowmesh.sw.inputs.errors import InputError
from rowmesh.sw.mapping.cluster import ceil_div
from rowmesh.sw.mapping.dataflow import Dataflow
from rowmesh.sw.mapping.latencies import MEMORY_LATENCY, WRITE_LATENCY
from rowmesh.sw.mapping.layer import LayerMapping
from rowmesh.sw.model.performance import PARTS, Measurement, Prediction
from rowmesh.sw.model.predict import predict, predict_sequence
from rowmesh.sw.model.utilization import pe_macs
from rowmesh.sw.program.assemble import compile_layers, memory_map, packed_weights
from rowmesh.sw.program.memory_map import MemoryMap
from rowmesh.sw.program.packing import pack_params
from rowmesh.sw.results.layer import LayerResult, Outputs
from rowmesh.sw.search.kept import kept_search
from rowmesh.sw.search.mapper import Search, UnmappableError
from rowmesh.sw.search.objective import Budget, Objective
from rowmesh.sw.workload.data import LayerData, make_data, nonzero_macs
from rowmesh.sw.workload.layer import Layer
from rowmesh.sw.workload.limits import beyond_reach

__all__ = [
    "LayerData",
    "MappedLayer",
    "RunError",
    "UnmappableError",
    "generate",
    "make_data",
    "make_job",
    "map_layer",
    "predict_mapping",
    "run_layer",
    "run_mapping",
    "run_mappings",
    "run_sequence",
]

Progress = Callable[[str, float | None], None]

# of the generator as it was imported: sources that change under a running process are not what it generates from
_GENERATOR = hashlib.sha256(
    b"\0".join(source.read_bytes() for source in sorted(Path(hw.__file__).parent.glob("*.py")))
).digest()

_WATCHDOG = 200_000  # cycles without progress that end a run

_FILLER = b"\xa5"  # of ofmaps before a run, so that a word that is not written is seen, and between tensors


KIND: Literal["run", "regress"] = "run"
"""What layers are simulated with; the tests of whole layers choose ``regress``."""


class RunError(RuntimeError):
    """The hardware reported an error or never finished; the message says what its status registers hold."""


@dataclass(frozen=True)
class MappedLayer:
    """A layer's mapping, what the model predicts for it, and how it was found (None if it was given)."""

    mapping: LayerMapping
    predicted: Prediction
    search: Search | None = None


def generate(
    config: ArchConfig, out_dir: Path, *, prefix: str | None = None, initial_values: bool = True
) -> list[Path]:
    """Write Verilog, metadata (JSON) and a C header of an accelerator.

    Parameters
    ----------
    config : ArchConfig
    out_dir : Path
        Created if missing; nothing is left half written.
    prefix : str, optional
        What modules and macros are called after, the architecture's name by default; see
        :func:`rowmesh.hw.top.global_prefix`.
    initial_values : bool
        Whether registers and memories have values before the first reset, as in an FPGA.

    Returns
    -------
    list of Path
        rowmesh.v, rowmesh.json, rowmesh.h.
    """
    config.check_buildable()
    top = Top(config)
    prefix = global_prefix(config.name if prefix is None else prefix)
    verilog, modules, shared = top.verilog(prefix, initial_values=initial_values)
    description = metadata(config, modules, shared, prefix, initial_values=initial_values)
    texts = {
        "rowmesh.v": verilog,
        "rowmesh.json": json.dumps(description, indent=2) + "\n",
        "rowmesh.h": top.c_header(prefix),
    }
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=".new-") as scratch:
        for name, text in texts.items():
            Path(scratch, name).write_text(text, encoding="utf-8")
        for name in texts:
            os.replace(Path(scratch, name), out_dir / name)
            paths.append(out_dir / name)
    return paths


def map_layer(
    config: ArchConfig,
    layer: Layer,
    flows: tuple[Dataflow, ...] | None = None,
    objective: Objective | str = "cycles",
    budget: Budget | None = None,
    seed: int = 0,
) -> MappedLayer:
    """Find a mapping and predict it; see :func:`rowmesh.sw.search.kept.kept_search`.

    Raises
    ------
    UnmappableError
        If the layer cannot run on this architecture; with the reason.
    """
    found = kept_search(config, layer, flows, objective, budget, seed)
    return MappedLayer(found.mapping, predict(found.mapping), found)


def predict_mapping(mapping: LayerMapping) -> MappedLayer:
    """Predict a mapping that was given."""
    return MappedLayer(mapping, predict(mapping))


_KEPT_DESIGNS = 64


def _verilog_folder(config: ArchConfig, initial_values: bool = True) -> Path:
    """Generate into the cache, once for each configuration and version of the generator."""
    digest = hashlib.sha256(repr((asdict(config), initial_values)).encode() + _GENERATOR)
    folder = cache_folder("verilog") / digest.hexdigest()[:32]
    built_once(folder, functools.partial(generate, config, initial_values=initial_values))
    keep_newest(folder, _KEPT_DESIGNS)
    return folder


def _accesses(mappings: Sequence[LayerMapping], r: dict[str, int]) -> dict[str, int]:
    """Counters of the hardware under the model's names, in data words; an accumulator in memory is one."""
    config = mappings[0].config
    words = config.flit_words
    beside = 32 // config.data_width - 1  # words of an accumulator behind the first
    accumulators = sum(mapping.layer.outputs for mapping in mappings if mapping.layer.output == "raw")
    return {
        "dram.iact.read": r["beats_load_iact"] * words,
        "dram.weight.read": r["beats_load_weight"] * words,
        "dram.param.read": r["beats_load_param"] * words,
        "dram.ofmap.write": r["words_store"] - beside * accumulators,
        "glb.iact.write": r["glb_iact_fill"] * words,
        "glb.iact.read": r["glb_iact_read"],
        "glb.weight.write": r["glb_weight_fill"] * words,
        "glb.weight.read": r["glb_weight_read"],
        "glb.psum.write": r["bank_write"],
        "glb.psum.read": r["bank_read"],
        "glb.psum.drain": r["bank_drain"],
        "noc.iact.injected": r["noc_iact_injected"],
        "noc.iact.delivered": r["pe_iact_delivered"],
        "noc.weight.injected": r["noc_weight_injected"],
        "noc.weight.delivered": r["pe_weight_delivered"],
        "noc.psum.delivered": r["bank_write"],
        **{f"noc.{name}.hops": r.get(f"noc_{name}_hops", 0) for name in ("iact", "weight", "psum")},
        "spad.iact.read": r["pe_mac"],
        "spad.weight.read": r["pe_mac"],
        "spad.psum.read": r["pe_psum_read"],
        "spad.psum.write": r["pe_psum_write"],
        "pe.mac": r["pe_mac"],
    }


def _places(mappings: Sequence[LayerMapping], program_bytes: int, base: int = 0) -> list[MemoryMap]:
    """Lay out the memory of layers in one program, which comes first, from an address on."""
    places: list[MemoryMap] = []
    for mapping in mappings:
        own = memory_map(mapping, 0 if places else program_bytes)
        places.append(own.moved(places[-1].size if places else base))
    if reason := beyond_reach(mappings[0].config, places[-1].size):
        fewer = ": choose fewer with --layer" if len(places) > 1 else ""
        names = _joined([mapping.layer.name for mapping in mappings])
        raise InputError(f"{names} do not fit the memory together: {reason}{fewer}")
    return places


def make_job(
    layers: Sequence[tuple[LayerMapping, LayerData]],
    *,
    seed: int,
    memory: str,
    max_cycles: int,
    kind: Literal["run", "regress"] | None = None,
    base: int = 0,
) -> SimJob:
    """Compile mappings to a program and lay out its memory: everything that a simulation needs.

    Parameters
    ----------
    layers : sequence of (LayerMapping, LayerData)
        Those of one program, in their order.
    seed, memory, max_cycles
        See :class:`rowmesh.sim.run.SimJob`.
    kind : {"run", "regress"}, optional
        For ``regress`` the Verilog has no initial values, the simulation begins with random ones, and assertions are
        on; KIND by default.
    base : int
        Address of the program, a multiple of 4096; the tensors follow.

    Raises
    ------
    DeadlockError
        If the program could block.
    ValueError
        If a nest has more loops than its engine.
    InputError
        If the memory would be larger than addresses reach.
    """
    mappings = [mapping for mapping, _ in layers]
    config = mappings[0].config
    kind = KIND if kind is None else kind

    def image_of(places: list[MemoryMap]) -> bytes:
        program = compile_layers(list(zip(mappings, places, strict=True)))
        return program.to_bytes(config.beat_bytes, first_fetch(config))

    places = _places(mappings, len(image_of(_places(mappings, 1 << 16, base))), base)
    contents = [(places[0].program, image_of(places))]
    for (mapping, data), place in zip(layers, places, strict=True):
        contents += [
            (place.iact, mapping.iact_layout.pack(data.iacts)),
            (place.weight, packed_weights(mapping, data.weights)),
            (place.param, pack_params(config, data.bias, data.scale)),
            (place.ofmap, b""),
        ]
    size = ceil_div(places[-1].size, PAGE_BYTES) * PAGE_BYTES
    ends = [*(address for address, _ in contents[1:]), size]
    return SimJob(
        verilog_dir=_verilog_folder(config, initial_values=kind == "run"),
        image=[(at, content.ljust(end - at, _FILLER)) for (at, content), end in zip(contents, ends, strict=True)],
        memory_size=size,
        program_address=places[0].program,
        dumps=[(place.ofmap, m.ofmap_layout.nbytes) for m, place in zip(mappings, places, strict=True)],
        memory=memory,  # type: ignore[arg-type]
        latency=MEMORY_LATENCY,
        write_latency=WRITE_LATENCY,
        seed=seed,
        max_cycles=max_cycles,
        kind=kind,
        register_writes={
            "WATCHDOG": _WATCHDOG,
            "BUDGET": max_cycles,
            "WINDOW_FIRST": base,
            "WINDOW_LAST": size - 1,
        },
    )


def run_mapping(
    mapping: LayerMapping,
    *,
    seed: int = 0,
    memory: str = "fast",
    progress: Progress = lambda stage, fraction: None,
) -> LayerResult:
    """Run a mapping on the generated hardware and compare outputs, cycles and counts.

    Parameters
    ----------
    mapping : LayerMapping
    seed : int
        Of weights and random inputs.
    memory : {"fast", "axi-random"}
    progress : callable
        Takes a stage, and the share of it that is done or None.

    Raises
    ------
    RunError
        If the hardware reports an error or does not finish.
    """
    return run_sequence([mapping], seed=seed, memory=memory, progress=progress)


def run_sequence(
    mappings: Sequence[LayerMapping],
    *,
    seed: int = 0,
    memory: str = "fast",
    progress: Progress = lambda stage, fraction: None,
) -> LayerResult:
    """Run mappings as one program: one start, one interrupt.

    While a layer runs, the descriptors of the next are written, and its weights and parameters loaded. The result is
    that of all layers together; each has tensors of its own.

    Parameters
    ----------
    mappings : sequence of ClusterMapping
        All of one architecture.
    seed, memory, progress
        See :func:`run_mapping`.

    Raises
    ------
    RunError
        If the hardware reports an error or does not finish.
    InputError
        If the memory would be larger than addresses reach.
    """
    progress("golden", None)
    case = _prepared(mappings, seed, memory)
    progress("build", None)
    result = simulate(
        case.job,
        progress=lambda cycles: progress("simulate", min(0.99, cycles / case.predicted.cycles)),
        build_progress=lambda *_: progress("build", None),
    )
    return _compared(case, result)


def run_mappings(mappings: Sequence[LayerMapping], *, seed: int = 0, memory: str = "fast") -> list[LayerResult]:
    """Run mappings on one accelerator, one after another without a reset between them.

    Parameters
    ----------
    mappings : sequence of ClusterMapping
        All of one architecture.
    seed, memory
        See :func:`run_mapping`.

    Raises
    ------
    RunError
        If the hardware reports an error or does not finish.
    """
    cases = [_prepared([mapping], seed, memory) for mapping in mappings]
    results = simulate_all([case.job for case in cases])
    return [_compared(case, result) for case, result in zip(cases, results, strict=False)]


@dataclass(frozen=True)
class _Case:
    """Mappings of one program, ready to be run."""

    mappings: Sequence[LayerMapping]
    memory: str
    predicted: Prediction
    data: Sequence[LayerData]
    job: SimJob


def _data(mapping: LayerMapping, seed: int) -> LayerData:
    """Make the tensors of the workload's layer, as the array takes them."""
    data = make_data(mapping.config, mapping.origin, seed)
    return mapping.lowered.data(data) if mapping.lowered else data


def _prepared(mappings: Sequence[LayerMapping], seed: int, memory: str) -> _Case:
    predicted = predict(mappings[0]) if len(mappings) == 1 else predict_sequence(mappings)
    if mappings[0].config.pe_counters:
        predicted = replace(predicted, pe_macs=np.sum([pe_macs(m) for m in mappings], axis=0).tolist())
    data = [_data(mapping, seed) for mapping in mappings]
    most = 4 * predicted.cycles + 2_000_000
    job = make_job(list(zip(mappings, data, strict=True)), seed=seed, memory=memory, max_cycles=most)
    return _Case(mappings, memory, predicted, data, job)


def _joined(names: Sequence[str]) -> str:
    return " + ".join(dict.fromkeys(names))


def _compared(case: _Case, result: SimResult) -> LayerResult:
    """Compare what a run left behind with what was expected; see :func:`run_mapping`."""
    mappings, config = case.mappings, case.mappings[0].config
    layers = [mapping.layer for mapping in mappings]
    origins = [mapping.origin for mapping in mappings]
    name = _joined([layer.name for layer in layers])
    status = result.registers
    if result.timed_out or status["ERROR"]:
        shown = ", ".join(f"{name} {status[name]:#x}" for name in ("STATUS", "ERROR", "ERROR_DETAIL", "WAITS"))
        raise RunError(f"layer {name}: the accelerator did not finish ({result.cycles} cycles): {shown}")
    if result.changed is not None:
        raise RunError(f"layer {name}: memory was changed outside of the ofmap, first at {result.changed:#x}")
    ofmaps = [mapping.ofmap_layout.unpack(dump) for mapping, dump in zip(mappings, result.dumps, strict=True)]
    wrong = [int((ofmap != data.expected).sum()) for ofmap, data in zip(ofmaps, case.data, strict=True)]
    counters = {name.lower(): value for name, value in result.registers.items()}
    rows, cols = config.mesh_rows * config.rows, config.mesh_cols * config.cols
    measured = Measurement(
        cycles=sum(counters[f"part_{part}"] for part in PARTS),
        parts={part: counters[f"part_{part}"] for part in PARTS},
        accesses=_accesses(mappings, counters),
        pe_macs=[[counters[pe_counter(row, col)] for col in range(cols)] for row in range(rows * config.pe_counters)],
    )
    described = [
        {
            **mapping.to_json(),
            "loop_nest": mapping.loop_nest(),
        }
        for mapping in mappings
    ]
    shapes = [origin.model_dump(by_alias=True) for origin in origins]
    done = sum(layer.macs for layer in layers)
    return LayerResult(
        layer=name,
        dataflow=_joined([mapping.dataflow for mapping in mappings]),
        mapping=described[0] if len(mappings) == 1 else {"sequence": described},
        predicted=case.predicted,
        rtl=measured,
        outputs=Outputs(
            checked=sum(int(ofmap.size) for ofmap in ofmaps),
            mismatches=sum(wrong),
            where=", ".join(layer.name for layer, words in zip(layers, wrong, strict=True) if words),
        ),
        macs=sum(origin.macs for origin in origins),
        zero_macs=done - sum(nonzero_macs(layer, data) for layer, data in zip(layers, case.data, strict=True)),
        gated_macs=counters["pe_gated"],
        pes=config.pes,
        cycles_per_second=result.cycles_per_second,
        memory=case.memory,
        arch=asdict(config),
        shape=shapes[0] if len(mappings) == 1 else {"sequence": shapes},
    )


def run_layer(
    config: ArchConfig,
    layer: Layer,
    flows: tuple[Dataflow, ...] | None = None,
    objective: Objective | str = "cycles",
    *,
    seed: int = 0,
    memory: str = "fast",
    progress: Progress = lambda stage, fraction: None,
) -> LayerResult:
    """Map a layer and run it; see :func:`rowmesh.sw.search.kept.kept_search` and :func:`run_mapping`.

    Raises
    ------
    UnmappableError
        If the layer cannot run on this architecture.
    RunError
        If the hardware reports an error or does not finish.
    """
    progress("map", None)
    mapping = kept_search(config, layer, flows, objective).mapping
    return run_mapping(mapping, seed=seed, memory=memory, progress=progress)
