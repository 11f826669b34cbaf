"""Objectives: what they cost, what they refuse."""

import numpy as np
import pytest

from rowmesh.sw.inputs.errors import InputError
from rowmesh.sw.model.energy import energy, load_energy
from rowmesh.sw.model.performance import ACCESSES
from rowmesh.sw.search.objective import NAMES, Budget, Objective

WORDS = {name: 10 * (number + 1) for number, name in enumerate(ACCESSES)}
CYCLES = 7000


def cost(text, **options):
    return Objective(text, **options).costs(CYCLES, list(WORDS.values()))[0]


def words(start):
    return sum(count for name, count in WORDS.items() if name.startswith(start))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cycles", CYCLES),
        ("energy", energy(WORDS)),
        ("edp", energy(WORDS) * CYCLES),
        (" edp ", energy(WORDS) * CYCLES),
        ("latency", CYCLES),
        ("dram", words("dram.")),
        ("glb", words("glb.")),
        ("noc_iact", words("noc.iact.")),
        ("glb_psum", words("glb.psum.")),
        ("macs", WORDS["pe.mac"]),
        ("-cycles + 2 * dram / 4", -CYCLES + words("dram.") / 2),
        ("cycles ** 2", CYCLES**2),
        ("2 ** -1", 0.5),
        ("max(cycles, dram, 3)", max(CYCLES, words("dram."))),
        ("min(1, cycles)", 1),
        ("cycles < 7001", 1),
        ("1 < cycles < 2", 0),
        ("1e9 * (cycles >= 7000) + spad", 1e9 + words("spad.")),
        ("1 / 0", np.inf),
        ("0 / 0 * cycles", np.inf),
        ("(0 - cycles) ** 0.5", np.inf),
    ],
)
def test_costs(text, expected):
    assert cost(text) == pytest.approx(expected)


def test_only_latency_leaves_nothing_to_energy():
    assert Objective(" latency").slack == 0
    assert all(Objective(text).slack > 0 for text in ("cycles", "edp", "cycles + 0"))


def test_every_name_has_a_value():
    assert all(cost(name) > 0 for name in NAMES)


def test_costs_of_a_table():
    table = load_energy("generic_45nm")
    assert cost("energy", table=table) == pytest.approx(energy(WORDS, table))
    assert cost("energy", table=table) != cost("energy")


def test_a_row_each():
    many = np.array([list(WORDS.values())] * 3) * np.array([[1], [2], [3]])
    found = Objective("cycles + dram").costs([1, 2, 3], many)
    assert list(found) == [1 + words("dram."), 2 + 2 * words("dram."), 3 + 3 * words("dram.")]
    assert list(Objective("5").costs([1, 2, 3], many)) == [5, 5, 5]


def test_cycles_are_predicted_only_where_they_count():
    assert Objective("edp").depends_on_cycles
    assert not Objective("energy + max(dram, glb)").depends_on_cycles


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cycels", "there is no cycels, did you mean cycles? its names are cycles, energy, dram, dram_iact, "),
        ("delay", "there is no delay, its names are"),
        ("cycles +", "is not an expression"),
        ("", "is not an expression"),
        ("a = 1", "is not an expression"),
        ("cycles; dram", "is not an expression"),
        ("cycles\0", "is not an expression"),
        ("(" * 300 + "1" + ")" * 300, "is not an expression"),
        ("9" * 5000, "at most 1000 characters"),
        ("'a' * 3", "'a' is not a number"),
        ("True", "True is not a number"),
        ("1j", "is not a number"),
        ("abs(cycles)", "only min and max of two or more values can be called"),
        ("min(cycles)", "only min and max"),
        ("min(*[1, 2])", "only min and max"),
        ("min(1, *[2])", "is not arithmetic"),
        ("cycles.real", "Attribute is not arithmetic"),
        ("__import__('os')", "only min and max"),
        ("cycles[0]", "Subscript is not arithmetic"),
        ("lambda: 1", "Lambda is not arithmetic"),
        ("cycles if dram else glb", "IfExp is not arithmetic"),
        ("min", "there is no min"),
        ("cycles // 2", "FloorDiv is not arithmetic"),
        ("cycles and dram", "BoolOp is not arithmetic"),
        ("[c for c in dram]", "is not arithmetic"),
    ],
)
def test_refusals_are_one_line(text, message):
    with pytest.raises(InputError) as error:
        Objective(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_budgets():
    assert Budget.parse("100000") == Budget(mappings=100_000)
    assert Budget.parse("2.5s") == Budget(seconds=2.5)
    for text in ("", "0", "0s", "-1", "1.5", "1m", "s", "1e5"):
        with pytest.raises(InputError, match="--budget: must be a number of mappings or of seconds"):
            Budget.parse(text)
