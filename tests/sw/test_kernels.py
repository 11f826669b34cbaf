"""Compiled code that several processes keep in one cache."""

import subprocess
import sys
from pathlib import Path

import pytest

from rowmesh.sim.cache import VARIABLE
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.model.predict import predict_parts, predict_sequence
from rowmesh.sw.model.timing.loop import loop
from rowmesh.sw.search.mapper import find_mapping
from rowmesh.sw.workload.layer import Layer

ROOT = Path(__file__).parents[2]
_NUMBER = "import rowmesh.sw.{}; from numba.core.bytecode import FunctionIdentity as f; print(next(f._unique_ids))"


@pytest.mark.parametrize("module", ["model.timing", "search.evaluate"])
def test_no_two_processes_give_functions_the_same_numbers(module):
    """Symbols of equal names are one for the linker: a third process would run one's function in the other's place."""
    numbers = [
        int(subprocess.run([sys.executable, "-c", _NUMBER.format(module)], capture_output=True, check=True).stdout)
        for _ in range(2)
    ]
    assert abs(numbers[0] - numbers[1]) > 100_000


_KEEP = """
import sys
sys.path.insert(0, sys.argv[1])
import shape
print(shape.size(*[0] * int(sys.argv[2])), sum(shape.size.stats.cache_misses.values()))
"""


def test_processes_that_compile_at_once_keep_all_and_compile_nothing_twice(tmp_path, monkeypatch):
    """Each of several processes compiles the same function, some for other types; all are kept, and right."""
    source = (
        "from rowmesh.sw.jit.kernels import kernel\n\n@kernel('version')\ndef size(*given):\n    return len(given)\n"
    )
    (tmp_path / "shape.py").write_text(source)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    counts = (1, 2, 3, 3)
    for compiled in (3, 0):
        running = [
            subprocess.Popen([sys.executable, "-c", _KEEP, str(tmp_path), str(n)], stdout=subprocess.PIPE)
            for n in counts
        ]
        outputs = [tuple(map(int, process.communicate()[0].split())) for process in running]
        assert [size for size, _ in outputs] == list(counts)
        assert sum(misses for _, misses in outputs) == compiled
    assert len(list((tmp_path / "cache").rglob("*.nbc"))) == 3


def test_all_that_is_compiled_is_kept_in_the_project_s_cache():
    """numba's own caching writes beside the sources, when they are imported."""
    sources = [path for top in ("hw", "sw", "sim") for path in (ROOT / top).rglob("*.py")]
    assert sources
    assert [path for path in sources if "cache=True" in path.read_text()] == []


def test_the_timing_model_is_compiled_once_for_all_architectures_and_programs():
    small = Layer(name="small", M=16, C=16, H=12, W=12, R=3, S=3, padding=1)
    for name in ("tiny", "eyeriss", "squeezelerator", "mesh2x2"):
        mappings = [find_mapping(load_arch(name), layer) for layer in (small, small.model_copy(update={"M": 40}))]
        for mapping in mappings:
            predict_parts(mapping)
        predict_sequence(mappings)
    assert len(loop.signatures) == 1
