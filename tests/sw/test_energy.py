"""Energy tables."""

import pytest

from rowmesh.sw.inputs.errors import InputError
from rowmesh.sw.inputs.yaml import shipped_names
from rowmesh.sw.model.energy import by_level, energy, load_energy
from rowmesh.sw.model.performance import ACCESSES

COUNTS = {name: 100 + index for index, name in enumerate(ACCESSES)}
GOOD = """energy:
  unit: pJ
  costs:
    dram: 10
    glb: {iact: 1, weight: 2, psum: 3}
    noc: 1
    spad: 0.5
    pe: 1
"""


def test_the_default_is_eyeriss():
    relative = {"dram": 200, "glb": 6, "noc": 2, "spad": 1, "pe": 1}
    expected = sum(n * relative[name.split(".")[0]] for name, n in COUNTS.items() if "injected" not in name)
    assert energy(COUNTS) == expected == energy(COUNTS, load_energy("eyeriss_65nm"))


@pytest.mark.parametrize("name", shipped_names("energy"))
def test_shipped_tables(name):
    table = load_energy(name)
    assert table.description
    assert sum(by_level(COUNTS, table).values()) == pytest.approx(energy(COUNTS, table))
    assert energy(COUNTS, table) > 0


def test_costs_by_type(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    table = load_energy(path)
    spent = by_level(COUNTS, table)
    psums = sum(COUNTS[f"glb.psum.{what}"] for what in ("write", "read", "drain"))
    assert (table.name, table.unit, spent["glb", "psum"]) == ("mine", "pJ", 3 * psums)
    assert spent["noc", "iact"] == COUNTS["noc.iact.delivered"] + COUNTS["noc.iact.hops"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("noc: 1", "nod: 1", r"mine.yaml:6: energy.costs.nod: unknown key, did you mean noc\?"),
        ("    noc: 1\n", "", "energy.costs.noc: is required"),
        ("noc: 1", "noc: -1", r"mine.yaml:6: energy.costs.noc: must be a number of 0 or more, not -1 \(nearest"),
        ("noc: 1", "noc: .inf", "must be a number of 0 or more"),
        ("noc: 1", "noc: .nan", "must be a number of 0 or more"),
        ("noc: 1", "noc: true", "must be a number of 0 or more, not True"),
        ("psum: 3", "ofmap: 3", r"energy.costs.glb.ofmap: unknown key"),
        (", psum: 3", "", r"energy.costs.glb.psum: is required where costs are given by type"),
        ("unit: pJ", "unit: 3", r"energy.unit: must be a string, not 3 \(for example pJ\)"),
        ("costs:", "cost:", "did you mean costs"),
    ],
)
def test_bad_tables(tmp_path, old, new, message):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(InputError, match=message):
        load_energy(path)


def test_unknown_names():
    with pytest.raises(InputError, match="no energy table named 'eyeris', did you mean eyeriss_65nm"):
        load_energy("eyeris")
