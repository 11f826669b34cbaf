"""Formal harness: a design and its properties, from Amaranth to a verdict.

A :class:`Proof` is an Amaranth module with named checks, assumptions and covers. It is lowered by yosys to
an and-inverter graph and given to abc: ``pdr`` proves a check for every reachable state (IC3, unbounded),
``bmc3`` looks for the shortest counterexample. Everything needed comes with the Python packages (pyosys
holds abc).

The reset is part of the proof: the registers of the design under test and its memories start with *any*
value, reset is high for one cycle, and checks count from then on. So a control register without a reset is
found out. Registers of the harness itself start with their initial values.

A counterexample is replayed on a second and-inverter graph of the same netlist in which every named wire is
an output, by the simulator of this module; the replay has to see the failure too, and yields the table that
is printed.
"""

import hashlib
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from amaranth.back import rtlil  # type: ignore[attr-defined]
from amaranth.hdl import ClockDomain, Elaboratable, Fragment, Module, Mux, Shape, Signal, Value

__all__ = ["Proof", "Verdict", "assert_covered", "assert_proved", "assert_refuted", "mutant"]

_CACHE = Path(__file__).parents[2] / "build" / "formal"
_VERSION = "1"  # of the flow; part of the cache key


@dataclass(frozen=True)
class Verdict:
    """Outcome of a run.

    Parameters
    ----------
    status : str
        ``proved`` (every reachable state), ``bounded`` (no violation within ``frames``), ``violated``,
        ``covered`` (see ``missed``), ``constant`` (the checks do not depend on the design: most likely a
        mistake), ``unknown`` (out of time).
    frames : int
        Cycles explored, or the cycle of the violation.
    trace : list of dict
        Values of all named wires per cycle, for a violation.
    failed : tuple of str
        Names of the checks that the replay saw fail.
    missed : tuple of str
        Names of the covers that were not reached.
    """

    status: str
    frames: int = 0
    trace: list[dict[str, int]] = field(default_factory=list)
    failed: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()

    def table(self, *patterns: str) -> str:
        """Format the trace: one line a signal, one column a cycle.

        Parameters
        ----------
        *patterns : str
            Regular expressions of the signals to show; by default those of the harness (without a dot).
        """
        wanted = patterns or (r"[^.$]+",)
        names = sorted({n for frame in self.trace for n in frame if any(re.fullmatch(p, n) for p in wanted)})
        names = [n for n in names if not n.startswith(("check_", "cover_", "out_", "clk", "always_clk"))]
        left = max(map(len, names), default=0)
        lines = [f"failed in cycle {self.frames}: {', '.join(self.failed)}"]
        lines.append(" " * left + "".join(f"{cycle:>5}" for cycle in range(len(self.trace))))
        lines += [f"{n:<{left}}" + "".join(f"{frame[n]:>5x}" for frame in self.trace) for n in names]
        return "\n".join(lines)


class Proof:
    """A module with properties.

    Build the design under test and the reference in :attr:`m` (domain ``sync``), then state properties.

    Parameters
    ----------
    dut : Elaboratable
        The design under test; becomes the submodule ``dut``.

    Attributes
    ----------
    m : Module
        The harness.
    running : Signal
        Low in the cycle of the reset, high ever after.
    """

    def __init__(self, dut: Elaboratable) -> None:
        self.m = m = Module()
        self._inputs: list[Signal] = []
        self._assumed: list[Value] = []
        self._checks: dict[str, Signal] = {}
        self._covers: dict[str, Signal] = {}
        self._clk = Signal(name="clk")
        self.running = Signal()
        m.d.always += self.running.eq(1)
        m.submodules.dut = dut

    def free(self, shape: Any, name: str) -> Signal:
        """Return a signal with an arbitrary value in every cycle."""
        signal = Signal(shape, name=name)
        self._inputs.append(Value.cast(signal))  # type: ignore[arg-type]
        return signal

    def constant(self, shape: Any, name: str) -> Signal:
        """Return a signal with an arbitrary value which is the same in all cycles."""
        drawn = self.free(Shape.cast(shape), f"draw_{name}")
        kept = Signal.like(drawn, name=f"keep_{name}")
        signal = Signal(shape, name=name)
        with self.m.If(~self.running):
            self.m.d.always += kept.eq(drawn)
        self.m.d.comb += Value.cast(signal).eq(Mux(self.running, kept, drawn))
        return signal

    def past(self, value: Any, name: str) -> Signal:
        """Return ``value`` as it was in the previous cycle (0 in the first one)."""
        signal = Signal.like(Value.cast(value), name=name)
        self.m.d.sync += signal.eq(value)
        return signal

    def assume(self, condition: Any) -> None:
        """Restrict the environment: only traces in which ``condition`` holds in every cycle count."""
        self._assumed.append(Value.cast(condition).bool())

    def assume_if(self, condition: Any) -> None:
        """Like :meth:`assume`, under the conditions of the ``with m.If`` around it."""
        broken = Signal(name=f"broken{len(self._assumed)}")
        self.m.d.comb += broken.eq(~Value.cast(condition).bool())
        self._assumed.append(~broken)

    def check(self, name: str, condition: Any) -> None:
        """State a property: ``condition`` holds in every cycle after the reset."""
        self._checks[name] = signal = Signal(name=f"check_{name}")
        self.m.d.comb += signal.eq(~self.running | Value.cast(condition).bool())

    def cover(self, name: str, condition: Any) -> None:
        """State that ``condition`` can happen: a proof whose assumptions exclude it is worth nothing."""
        self._covers[name] = signal = Signal(name=f"cover_{name}")
        self.m.d.comb += signal.eq(self.running & Value.cast(condition).bool())

    @property
    def checks(self) -> tuple[str, ...]:
        """Names of the checks."""
        return tuple(self._checks)

    @property
    def covers(self) -> tuple[str, ...]:
        """Names of the covers."""
        return tuple(self._covers)

    def rtlil(self, targets: tuple[str, ...], cover: bool = False) -> str:
        """Return the harness as RTLIL, with one output a target and no other.

        Parameters
        ----------
        targets : tuple of str
            Checks, or covers.
        cover : bool
            The outputs are reached covers, instead of violated checks.
        """
        top = Module()
        sync: Any = ClockDomain("sync")
        always: Any = ClockDomain("always", reset_less=True)
        top.domains += [sync, always]
        top.d.comb += [sync.clk.eq(self._clk), always.clk.eq(self._clk), sync.rst.eq(~self.running)]
        top.submodules.harness = self.m
        legal, before = Signal(name="legal"), Signal(init=1, name="legal_before")
        top.d.always += before.eq(legal)
        top.d.comb += legal.eq(before)
        for condition in self._assumed:
            with top.If(~condition):
                top.d.comb += legal.eq(0)
        ports = [self._clk, *self._inputs]
        for name in targets:
            out = Signal(name=f"out_{name}")
            top.d.comb += out.eq(legal & (self._covers[name] if cover else ~self._checks[name]))
            ports.append(out)
        return rtlil.convert(Fragment.get(top, None), ports=ports, name="top", emit_src=False)


def mutant(module: ModuleType, old: str, new: str) -> ModuleType:
    """Return a copy of a module with one piece of its source replaced: a broken design for a control.

    Parameters
    ----------
    module : ModuleType
        Module to copy.
    old, new : str
        Text to replace and its replacement; ``old`` must occur exactly once, so a control cannot go stale
        unnoticed.

    Raises
    ------
    ValueError
        If ``old`` does not occur exactly once.
    """
    source = getattr(module, "mutated_source", None) or inspect.getsource(module)
    if source.count(old) != 1:
        raise ValueError(f"{module.__name__} must contain {old!r} exactly once, not {source.count(old)} times")
    spec = importlib.util.spec_from_loader(f"{module.__name__}_mutant", loader=None)
    assert spec is not None
    copy = importlib.util.module_from_spec(spec)
    source = source.replace(old, new)
    copy.__dict__["mutated_source"] = source  # so that a mutant can be mutated
    exec(compile(source, f"<mutant of {module.__name__}>", "exec"), copy.__dict__)
    return copy


_NETLIST = """\
read_rtlil design.il
hierarchy -check -top top
delete top.harness.dut*/t:$meminit*
setattr -unset init top.harness.dut*/w:*
proc
flatten
memory_nordff
memory_map
formalff -clk2ff -ff2anyinit
opt -full
write_rtlil netlist.il
"""

_EXPOSE = "read_rtlil netlist.il; expose w:* w:$* %d i:* %d"

_AIGER = """\
{expose}
techmap
opt -full
dffunmap
aigmap
opt_clean
write_aiger {flags} -zinit -map {name}.aim {name}.aig
"""


def _run(arguments: list[str], cwd: str, timeout: float) -> str:
    done = subprocess.run(
        arguments,
        cwd=cwd,
        timeout=timeout,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stdout[-3000:]}")
    return done.stdout


def _yosys(script: str, cwd: str) -> str:
    Path(cwd, "run.ys").write_text(script)
    return _run(
        [sys.executable, "-c", "from pyosys import libyosys as y; y.run_pass('script run.ys', y.Design())"],
        cwd,
        300,
    )


def _abc(script: str, cwd: str, timeout: float) -> str:
    spec = importlib.util.find_spec("pyosys")
    assert spec is not None
    assert spec.origin is not None
    return _run([str(Path(spec.origin).with_name("yosys-abc")), "-c", script], cwd, timeout)


class _Graph:
    """An ASCII and-inverter graph and its symbols, to be simulated cycle by cycle."""

    def __init__(self, folder: str, name: str) -> None:
        lines = iter(Path(folder, f"{name}.aig").read_text().splitlines())
        _, _, inputs, latches, outputs, gates, *_ = next(lines).split()
        self.inputs = [int(next(lines)) for _ in range(int(inputs))]
        self.latches = [tuple(map(int, next(lines).split()[:2])) for _ in range(int(latches))]
        self.outputs = [int(next(lines)) for _ in range(int(outputs))]
        self.gates = [tuple(map(int, next(lines).split())) for _ in range(int(gates))]
        self.input_names: dict[tuple[str, int], int] = {}
        self.output_names: list[tuple[str, int, int]] = []
        for line in Path(folder, f"{name}.aim").read_text().splitlines():
            kind, *words = line.split()
            if kind in ("input", "init"):
                self.input_names[words[2], int(words[1])] = int(words[0])
            elif kind == "output":
                self.output_names.append((words[2], int(words[1]), int(words[0])))

    def run(self, stimulus: list[dict[tuple[str, int], int]]) -> Iterator[dict[str, int]]:
        value = {0: 0, 1: 1}

        def put(literal: int, bit: int) -> None:
            value[literal], value[literal ^ 1] = bit, bit ^ 1

        for literal, _ in self.latches:
            put(literal, 0)
        for frame in stimulus:
            for literal in self.inputs:
                put(literal, 0)
            for key, bit in frame.items():
                if key in self.input_names:
                    put(self.inputs[self.input_names[key]], bit)
            for literal, left, right in self.gates:
                put(literal, value[left] & value[right])
            seen: dict[str, int] = {}
            for name, bit, position in self.output_names:
                seen[name] = seen.get(name, 0) | value[self.outputs[position]] << bit
            yield seen
            following = [(literal, value[source]) for literal, source in self.latches]
            for literal, bit in following:
                put(literal, bit)


def _aliases(folder: str, name: str) -> dict[int, list[tuple[str, int]]]:
    found: dict[int, list[tuple[str, int]]] = {}
    for line in Path(folder, f"{name}.aim").read_text().splitlines():
        kind, *words = line.split()
        if kind in ("input", "init"):
            found.setdefault(int(words[0]), []).append((words[2], int(words[1])))
    return found


def _replay(folder: str, targets: tuple[str, ...]) -> tuple[tuple[str, ...], list[dict[str, int]]]:
    """Replay abc's counterexample on the netlist with all names kept."""
    lines = Path(folder, "trace.aiw").read_text().split("\n")
    frames = [line for line in lines[1:] if re.fullmatch("[01]+", line)][1:]  # the first is the initial state
    aliases = _aliases(folder, "logic")
    stimulus = [{key: int(bit) for at, bit in enumerate(f) for key in aliases.get(at, ())} for f in frames]
    _yosys(_AIGER.format(expose=_EXPOSE, flags="-ascii", name="named"), folder)
    trace = []
    for seen in _Graph(folder, "named").run(stimulus):
        trace.append({name.removeprefix("harness."): value for name, value in seen.items()})
    failed = tuple(name for name in targets if trace[-1][f"out_{name}"])
    return failed, trace


def _select(folder: str, output: int) -> None:
    """Write ``one.aig``, ``logic.aig`` with one output: abc's search for several at once is not reliable."""
    lines = Path(folder, "logic.aig").read_bytes().split(b"\n")
    kind, size, inputs, latches, outputs, *rest = lines[0].split()
    at = 1 + int(latches)
    lines[at : at + int(outputs)] = [lines[at + output]]
    lines[0] = b" ".join((kind, size, inputs, latches, b"1", *rest))
    Path(folder, "one.aig").write_bytes(b"\n".join(lines))


def _cached(proof: Proof, targets: tuple[str, ...], cover: bool, command: str, timeout: float) -> Verdict:
    """Look the verdict up by the hash of all that goes into it, or find it."""
    text = proof.rtlil(targets, cover)
    key = hashlib.sha256("\0".join((_VERSION, command, _NETLIST, _AIGER, text)).encode()).hexdigest()[:24]
    cached = _CACHE / f"{key}.json"
    if cached.exists():
        return Verdict(**json.loads(cached.read_text()))
    with tempfile.TemporaryDirectory(prefix="prove") as folder:
        Path(folder, "design.il").write_text(text)
        _yosys(_NETLIST + _AIGER.format(expose="", flags="", name="logic"), folder)
        try:
            verdict = _solve(folder, targets, cover, command, timeout)
        except subprocess.TimeoutExpired:
            return Verdict("unknown")
    if not verdict.failed:
        _CACHE.mkdir(parents=True, exist_ok=True)
        scratch = cached.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps({"status": verdict.status, "frames": verdict.frames, "missed": verdict.missed}))
        scratch.replace(cached)
    return verdict


def _solve(folder: str, targets: tuple[str, ...], cover: bool, command: str, timeout: float) -> Verdict:
    """Run abc: on all checks together, as each helps the others, or on each cover alone."""
    if cover:
        missed = []
        for at, name in enumerate(targets):
            _select(folder, at)
            if "was asserted in frame" not in _abc(f"read_aiger one.aig; strash; {command}", folder, timeout):
                missed.append(name)
        return Verdict("covered", missed=tuple(missed))
    log = _abc(f"read_aiger logic.aig; strash; orpos; {command}; write_cex -a -t trace.aiw", folder, timeout)
    if hit := re.search(r"was asserted in frame (\d+)", log):
        failed, trace = _replay(folder, targets)
        if not failed:
            raise RuntimeError("the replay does not show the counterexample")
        return Verdict("violated", int(hit[1]), trace, failed)
    if "Property proved" in log:
        return Verdict("proved")
    if hit := re.search(r"No output asserted in (\d+) frames", log):
        return Verdict("bounded", int(hit[1]))
    if "combinational networks" in log or "Property UNDECIDED" in log:
        return Verdict("constant")
    raise RuntimeError(f"abc gave no verdict:\n{log}")


def assert_proved(proof: Proof, *, depth: int | None = None, only: tuple[str, ...] = (), timeout: float = 300) -> None:
    """Fail unless all checks hold.

    Parameters
    ----------
    proof : Proof
        Harness.
    depth : int, optional
        Cycles of a bounded check; without it, the proof is for every reachable state.
    only : tuple of str
        Checks to prove; by default all.
    timeout : float
        Seconds.
    """
    command = "pdr" if depth is None else f"bmc3 -F {depth}"
    verdict = _cached(proof, only or proof.checks, False, command, timeout)
    assert verdict.status == ("proved" if depth is None else "bounded"), verdict.status + "\n" + verdict.table()
    assert depth is None or verdict.frames >= depth


def assert_refuted(proof: Proof, check: str, *, depth: int = 30, timeout: float = 300) -> None:
    """Fail unless ``check`` is violated within ``depth`` cycles: the negative control of a property."""
    verdict = _cached(proof, (check,), False, f"bmc3 -F {depth}", timeout)
    assert verdict.status == "violated", f"{check} holds for a broken design: {verdict.status}"


def assert_covered(proof: Proof, *, depth: int = 30, timeout: float = 300) -> None:
    """Fail unless every cover is reached within ``depth`` cycles under the assumptions."""
    verdict = _cached(proof, proof.covers, True, f"bmc3 -F {depth}", timeout)
    assert verdict.status == "covered", verdict.status
    assert not verdict.missed, f"not reached in {depth} cycles: {', '.join(verdict.missed)}"
