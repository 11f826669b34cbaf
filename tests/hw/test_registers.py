import json
import re
import subprocess
from pathlib import Path

import pytest

from rowmesh.hw.config import MOST_COUNTED, ArchConfig, ConfigError
from rowmesh.hw.core import WAITS as CORE_WAITS
from rowmesh.hw.core import counter_widths
from rowmesh.hw.registers import COUNTER_BASE, MAX_COUNTERS, ErrorCode, c_header, markdown, register_map, registers

COUNTERS = ("part_config", "pe_mac")
WAITS = ("load_iact_room", "pe_iact")


def test_addresses_do_not_overlap():
    taken = []
    for register in registers(COUNTERS, WAITS):
        assert register.offset % (register.width // 8) == 0
        taken += range(register.offset, register.offset + register.width // 8)
    assert len(taken) == len(set(taken))
    assert max(taken) < 1 << 12


def test_fields_do_not_overlap():
    for register in registers(COUNTERS, WAITS):
        bits = [bit for field in register.fields for bit in range(field.low, field.low + field.width)]
        assert len(bits) == len(set(bits))
        assert all(bit < register.width for bit in bits)


@pytest.mark.parametrize("mesh", [(1, 1), (4, 5)])
def test_as_many_pes_as_can_be_counted_have_a_register(mesh):
    rows, cols = 20 // mesh[0], 20 // mesh[1]
    config = ArchConfig(rows=rows, cols=cols, mesh_rows=mesh[0], mesh_cols=mesh[1], pe_counters=True)
    assert config.pes == MOST_COUNTED
    names = {register.name for register in registers(tuple(counter_widths(config)), CORE_WAITS)}
    assert {"PE_MAC", "PE_MAC_0_0", "PE_MAC_19_19"} <= names
    with pytest.raises(ConfigError, match="pe_counters must be false with more than"):
        config.replace(rows=rows + 1)


def test_map_is_json():
    table = json.loads(json.dumps(register_map(COUNTERS, WAITS)))
    assert table["CONTROL"]["access"] == "wo"
    assert table["STATUS"]["fields"]["error"] == {
        "low": 2, "width": 1, "doc": "the last run ended with an error; cleared by a soft reset",
    }  # fmt: skip
    assert table["WAITS"]["fields"]["pe_iact"]["low"] == 1
    assert table["PE_MAC"] == {
        "offset": COUNTER_BASE + 8, "width": 64, "access": "ro", "reset": 0,
        "doc": "Counts pe mac in the last run.", "fields": {},
    }  # fmt: skip
    assert table["WATCHDOG"]["reset"] == 1_000_000


def test_limits():
    assert len(registers([f"c{k}" for k in range(MAX_COUNTERS)])) > MAX_COUNTERS
    with pytest.raises(ConfigError, match=f"counters must be at most {MAX_COUNTERS}"):
        registers([f"c{k}" for k in range(MAX_COUNTERS + 1)])
    with pytest.raises(ConfigError, match="waits must be at most 64, not 65"):
        registers((), [f"w{k}" for k in range(65)])
    with pytest.raises(ConfigError, match="different names"):
        registers(("a", "a"))
    with pytest.raises(ConfigError, match="name of a register"):
        registers(("cycles",))


def test_c_header(tmp_path):
    text = c_header(COUNTERS, WAITS)
    macros = dict(re.findall(r"#define (\w+) (\w+)", text))
    for name, entry in register_map(COUNTERS, WAITS).items():
        assert int(macros[f"ROWMESH_{name}_OFFSET"].rstrip("u"), 0) == entry["offset"]
        for field, value in entry["fields"].items():
            mask = int(macros[f"ROWMESH_{name}_{field.upper()}_MASK"].rstrip("ul"), 0)
            assert mask == ((1 << value["width"]) - 1) << value["low"]
    for code in ErrorCode:
        assert macros[f"ROWMESH_ERROR_CODE_{code.name}"] == str(code.value)
    (tmp_path / "registers.h").write_text(text)
    check = tmp_path / "check.c"
    check.write_text('#include "registers.h"\nint x[ROWMESH_STATUS_DONE_MASK == 2 ? 1 : -1];\n')
    command = ["cc", "-std=c99", "-Wall", "-Werror", "-pedantic", "-c", str(check), "-o", str(tmp_path / "o")]
    subprocess.run(command, check=True)


def test_the_document_has_the_tables():
    """Print them with ``python -c "from rowmesh.hw.registers import markdown; print(markdown())"``."""
    page = Path(__file__).resolve().parents[2] / "docs" / "control.md"
    assert markdown() in page.read_text(encoding="utf-8")
