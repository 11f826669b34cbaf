"""Compiled code that several processes keep in one cache."""

import subprocess
import sys

import pytest

from rowmesh.sim.cache import VARIABLE
from rowmesh.sw.mapper import find_mapping
from rowmesh.sw.model import predict_parts, predict_sequence
from rowmesh.sw.spec import load_arch
from rowmesh.sw.timing.loop import loop
from rowmesh.sw.workload import Layer

_NUMBER = "import rowmesh.sw.{}; from numba.core.bytecode import FunctionIdentity as f; print(next(f._unique_ids))"


@pytest.mark.parametrize("module", ["timing", "batch"])
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
print(shape.size(*[0] * int(sys.argv[2])))
"""


def test_processes_that_save_at_once_keep_all(tmp_path, monkeypatch):
    """Each of several processes compiles the same function for other types; all are there afterwards, and right."""
    source = "from rowmesh.sw.kernels import kernel\n\n@kernel('version')\ndef size(*given):\n    return len(given)\n"
    (tmp_path / "shape.py").write_text(source)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    counts = range(1, 7)
    for _ in range(2):
        running = [
            subprocess.Popen([sys.executable, "-c", _KEEP, str(tmp_path), str(n)], stdout=subprocess.PIPE)
            for n in counts
        ]
        assert [int(process.communicate()[0]) for process in running] == list(counts)
    assert len(list(tmp_path.rglob("*.nbc"))) == len(counts)


def test_the_timing_model_is_compiled_once_for_all_architectures_and_programs():
    small = Layer(name="small", M=16, C=16, H=12, W=12, R=3, S=3, padding=1)
    for name in ("tiny", "eyeriss", "squeezelerator", "mesh2x2"):
        mappings = [find_mapping(load_arch(name), layer) for layer in (small, small.model_copy(update={"M": 40}))]
        for mapping in mappings:
            predict_parts(mapping)
        predict_sequence(mappings)
    assert len(loop.signatures) == 1
