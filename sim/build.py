"""Verilator models of a generated design, built once and cached.

A model is the design below the wrapper ``simtop`` (sim/verilog) with the memory of sim/cpp/memory.cpp.
Three kinds share everything but their host and their flags: ``run`` for long simulations, ``regress`` with
assertions and random initial values for tests, and ``loop``, which a C++ loop drives instead of cocotb, as
the yardstick of the benchmark.

A model for long simulations can be *trained*: it is compiled to count its branches, simulates some cycles of the job
at hand, and is compiled again for what these have shown.
"""

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cocotb_tools.config
from cocotb_tools.runner import VerilatorControlFile, Verilog

from rowmesh.sim.cache import built_once, cache_folder, keep_newest
from rowmesh.sim.machine import check_room
from rowmesh.sim.toolrunner import (
    COUNTING,
    LOOP_MAIN,
    MAKE_VARIABLES,
    PLAIN,
    TRAINED,
    BuildProgress,
    Kind,
    ToolRunner,
)
from rowmesh.sim.tools import require_tools

__all__ = [
    "BuildError",
    "BuiltModel",
    "Register",
    "RegisterError",
    "Trainer",
    "build_model",
    "read_metadata",
]

Trainer = Callable[["BuiltModel"], None]
"""Simulates some cycles with the model that it is given."""

_HERE = Path(__file__).resolve().parent
_VERILOG = (_HERE / "verilog" / "axi_memory.sv", _HERE / "verilog" / "simtop.sv")
_MEMORY = _HERE / "cpp" / "memory.cpp"
_TOP = "simtop"
_BUILT = "seconds"  # file with those of the build
_KEPT_MODELS = 64

_FAST = ("--x-assign", "fast", "--x-initial", "fast", "--no-assert")
_FLAGS: Mapping[Kind, tuple[str, ...]] = {
    # -fno-dfg: that pass moves what drives the ports of a shared module into each of its instances, which then differ
    "run": ("-O3", "-fno-dfg", *_FAST, "--timing"),
    "regress": ("-O3", "-fno-dfg", "--x-assign", "unique", "--x-initial", "unique", "--assert", "--timing"),
    "loop": ("-O3", "-fno-dfg", *_FAST, "--no-timing", "-DROWMESH_EXTERNAL_CLOCK"),
}

_WORTH_TRAINING = 4
"""An untrained model that has simulated for so many times the seconds of its build is trained: that takes longer than
the build, and wins a part of what is simulated from then on."""


class BuildError(Exception):
    """A model could not be built; the message holds the end of the tool's log."""


class RegisterError(Exception):
    """There is no such register or field, or an access was answered with an error or not at all."""


@dataclass(frozen=True, kw_only=True)
class Register:
    """One register of the design, as rowmesh.json describes it."""

    name: str
    offset: int
    width: int
    readable: bool = True
    fields: Mapping[str, int] = field(default_factory=dict)
    """Mask of each field, by name."""

    def word(self, *names: str) -> int:
        """Return the word in which the named fields are all ones, and all others 0."""
        return functools.reduce(int.__or__, (self._mask(name) for name in names), 0)

    def value(self, name: str, word: int) -> int:
        """Return a field of a word read from the register."""
        mask = self._mask(name)
        return (word & mask) // (mask & -mask)

    def _mask(self, name: str) -> int:
        try:
            return self.fields[name]
        except KeyError:
            known = ", ".join(self.fields) or "none"
            raise RegisterError(f"register {self.name} has no field {name}; it has {known}") from None


@dataclass(frozen=True, kw_only=True)
class BuiltModel:
    """A compiled model.

    Attributes
    ----------
    kind : {"run", "regress", "loop"}
        Flags and host.
    directory : Path
        Where the executable is; shared by all processes, never written to.
    registers : dict of str to Register
        Register map of the design.
    parameters : dict
        The design's parameters.
    trained : bool
        Whether it was compiled for what a simulation has shown.
    cached : bool
        Whether it was found and not built.
    seconds : float
        Time spent here.
    """

    kind: Kind
    directory: Path
    registers: dict[str, Register]
    parameters: dict[str, Any]
    trained: bool
    cached: bool
    seconds: float

    @property
    def executable(self) -> Path:
        """The simulation program."""
        return self.directory / _TOP

    def used(self, seconds: float) -> None:
        """Note how long an untrained model has simulated; some time of that and it is worth training."""
        if not self.trained and self.directory.is_dir():
            with suppress(OSError), _seconds_of(self.directory).open("a", encoding="utf-8") as file:
                file.write(f"{seconds:.1f}\n")


def _seconds_of(target: Path) -> Path:
    return target.with_suffix(".seconds")


def _worth_training(target: Path) -> bool:
    built, used = target / _BUILT, _seconds_of(target)
    if not built.exists() or not used.exists():
        return False
    return sum(map(float, used.read_text(encoding="utf-8").split())) > _WORTH_TRAINING * float(
        built.read_text(encoding="utf-8")
    )


def read_metadata(verilog_dir: Path) -> tuple[str, dict[str, Any], dict[str, Register], list[str]]:
    """Read rowmesh.json: name of the top module, parameters, registers, and the modules to keep apart.

    Parameters
    ----------
    verilog_dir : Path
        Folder of the generated design.

    Returns
    -------
    tuple of str, dict, dict of str to Register, list of str
        In that order.
    """
    path = verilog_dir / "rowmesh.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        registers = {
            name: Register(
                name=name,
                offset=int(entry["offset"]),
                width=int(entry["width"]),
                readable="r" in str(entry.get("access", "rw")).lower(),
                fields={
                    part: (1 << int(place["width"])) - 1 << int(place["low"])
                    for part, place in entry.get("fields", {}).items()
                },
            )
            for name, entry in raw["registers"].items()
        }
        return str(raw["top"]), dict(raw["parameters"]), registers, [str(name) for name in raw.get("no_inline", [])]
    except FileNotFoundError:
        raise BuildError(f"{path} must exist beside the design's Verilog") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BuildError(f"{path} is not the description of a design: {error!r}") from error


def build_model(
    verilog_dir: Path | str,
    *,
    kind: Kind = "run",
    progress: BuildProgress | None = None,
    trainer: Trainer | None = None,
    train: bool = False,
) -> BuiltModel:
    """Build a design's model, or find it in the cache.

    Two processes that ask for the same model build it once: the second waits. A trained model is taken where there is
    one; it is built if asked for, or after the untrained one has simulated for four times as long as its build took.

    Parameters
    ----------
    verilog_dir : Path
        Folder with the design's Verilog (all its .v and .sv files) and rowmesh.json.
    kind : {"run", "regress", "loop"}
        Speed, checks, or the benchmark's C++ loop.
    progress : callable, optional
        Called a few times a second while it builds.
    trainer : callable, optional
        What a model would be trained with; without it none is.
    train : bool
        Train the model now.

    Returns
    -------
    BuiltModel

    Raises
    ------
    BuildError
        If a tool is missing or fails, or the folder is not a design.
    """
    begin = time.monotonic()
    if kind not in _FLAGS:
        raise ValueError(f"kind must be one of {', '.join(_FLAGS)}, not {kind!r}")
    folder = Path(verilog_dir).resolve()
    top, parameters, registers, no_inline = read_metadata(folder)
    sources = sorted([*folder.glob("*.v"), *folder.glob("*.sv")])
    if not sources:
        raise BuildError(f"{folder} has no Verilog")
    try:
        generics = {
            "DATA_WIDTH": int(parameters["axi_data_width"]),
            "ADDR_WIDTH": int(parameters["axi_addr_width"]),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise BuildError(
            f"rowmesh.json must give the parameters axi_data_width and axi_addr_width: {error!r}"
        ) from error
    control = _control_file(sources, no_inline)

    digest = hashlib.sha256()
    own = (*_VERILOG, _MEMORY, *((LOOP_MAIN,) if kind == "loop" else ()))
    for path in (*sources, *own):
        digest.update(b"\0" + path.name.encode() + b"\0" + path.read_bytes())
    flags = (*_FLAGS[kind], f"-DROWMESH_TOP={top}")
    digest.update(repr((kind, flags, MAKE_VARIABLES, PLAIN, generics, control, _tool_versions())).encode())
    models = cache_folder("models")
    plain = models / digest.hexdigest()[:32]
    digest.update(repr((COUNTING, TRAINED)).encode())
    better = models / digest.hexdigest()[:32]
    trained = better.is_dir() or (trainer is not None and (train or _worth_training(plain)))
    target = better if trained else plain

    model = BuiltModel(
        kind=kind,
        directory=target,
        registers=registers,
        parameters=parameters,
        trained=trained,
        cached=False,
        seconds=0.0,
    )

    def build(folder: Path) -> None:
        _build(folder, model, sources, flags, generics, control, progress, trainer if trained else None)

    built = built_once(target, build)
    keep_newest(target, _KEPT_MODELS)
    return replace(model, cached=not built, seconds=time.monotonic() - begin)


def _control_file(sources: Sequence[Path], no_inline: Sequence[str]) -> str:
    """Text of the .vlt file: what is public, what stays a module of its own, whose warnings are not ours."""
    lines = ["`verilator_config", 'lint_off -file "*/design/*"']
    lines += [f'public_flat_rw -module "{_TOP}" -var "{names}"' for names in ("host_*", "traffic_*", "*axi_*")]
    modules: dict[str, str] = {}
    if no_inline:
        for path in sources:
            text = path.read_text(encoding="utf-8")
            modules.update(re.findall(r"^module\s+\\?([^\s(#;]+)(.*?)^endmodule", text, re.MULTILINE | re.DOTALL))
    for name in no_inline:
        if name not in modules:
            raise BuildError(
                f"rowmesh.json asks for no_inline of {name!r}, but the Verilog has no such module: "
                f"it has {', '.join(sorted(modules))}"
            )
        lines.append(f'no_inline -module "{name}"')
        # Ports that can be looked at stay between the module and what is around it, so that all its instances are one
        # piece of code. (A port whose name is a word of Verilog is escaped by a backslash.)
        ports = re.findall(r"^\s*(?:input|output)\s[^;]*?\\?([^\s;\\]+)\s*;", modules[name], re.MULTILINE)
        lines += [f'public_flat_rd -module "{name}" -var "{port}"' for port in ports if port != "clk"]
    return "\n".join(lines) + "\n"


@functools.cache
def _tool_versions() -> tuple[str, ...]:
    """Everything outside the sources that a model depends on."""
    require_tools()
    compiler = subprocess.run(["g++", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
    machine = os.uname()
    return (
        version("verilator"),
        version("cocotb"),
        compiler,
        machine.sysname,
        machine.machine,
        str(cocotb_tools.config.libs_dir),
    )


def _build(
    work: Path,
    model: BuiltModel,
    sources: Sequence[Path],
    flags: Sequence[str],
    generics: Mapping[str, int],
    control: str,
    progress: BuildProgress | None,
    trainer: Trainer | None,
) -> None:
    """Build in a folder in which only the program, its log and its build's seconds stay."""
    kind = model.kind
    begin = time.monotonic()
    parts = work / "parts"
    objects, design, kept = (parts / name for name in ("objects", "design", "library"))
    design.mkdir(parents=True)
    log = work / "build.log"
    for path in sources:
        shutil.copy(path, design / path.name)
    control_path = parts / "simtop.vlt"
    control_path.write_text(control, encoding="utf-8")
    library = cache_folder("models") / f"runtime-{_runtime_key(kind)}"
    variables = PLAIN if trainer is None else COUNTING
    runner = ToolRunner(kind=kind, build_progress=progress, library=library, variables=variables)
    try:
        runner.build(
            sources=[
                VerilatorControlFile(control_path),
                *(Verilog(design / path.name) for path in sources),
                *(Verilog(path) for path in _VERILOG),
            ],
            hdl_toplevel=_TOP,
            parameters=generics,
            build_args=[*flags, str(_MEMORY)],
            build_dir=objects,
            timescale=("1ns", "1ns"),
            log_file=log,
        )
        if trainer is not None:
            if progress is not None:
                progress("train", 0.0)
            trainer(replace(model, directory=objects))
            for path in (
                *objects.glob("*.o"),
                *objects.glob("*.fast.gch"),
                objects / "Vtop__ALL.a",
                objects / _TOP,
            ):
                if not path.name.startswith("verilated") and not path.name.endswith("Slow.o"):
                    path.unlink()
            runner.make_again(TRAINED, log)
    except (RuntimeError, SystemExit) as error:
        check_room(log)
        raise BuildError(f"Verilator could not build the {kind} model: {error}\n{_useful(log)}") from error
    _keep_library(objects, library, kept)
    shutil.copy(objects / _TOP, work / _TOP)
    shutil.rmtree(parts)
    (work / _BUILT).write_text(f"{time.monotonic() - begin:.1f}")


def _runtime_key(kind: Kind) -> str:
    """Hash of what Verilator's own runtime library depends on: the design is not part of it."""
    return hashlib.sha256(repr((kind == "loop", MAKE_VARIABLES, PLAIN, _tool_versions())).encode()).hexdigest()[:16]


def _keep_library(objects: Path, library: Path, kept: Path) -> None:
    """Keep the runtime's objects for the next model: they are most of a small model's build time."""
    if library.is_dir():
        return
    kept.mkdir()
    for path in objects.glob("verilated*.o"):
        shutil.copy(path, kept / path.name)
    with suppress(OSError):  # another process was first
        kept.rename(library)


def _useful(log: Path, lines: int = 20) -> str:
    """Return a build log's errors, or its end where it names none."""
    text = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    start = next((i for i, line in enumerate(text) if re.search(r"%Error|%Warning| error: |\*\*\*", line)), None)
    return "\n".join(text[-lines:] if start is None else text[start : start + lines])
