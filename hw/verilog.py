"""Verilog in fewer signals: registers assigned where they are clocked, vectors assigned as a whole.

Amaranth and yosys write a register as a combinational signal with its next value and a clocked copy of that, and a
vector as one assignment a field. The logic is the same without these signals, the text is shorter, and a simulator,
which evaluates and stores every signal in every cycle, is faster. The functions here know the layout of yosys's text;
what does not look as they expect stays as it is.
"""

import re

__all__ = ["tidy"]

_NAME = r"(?:\\\S+|[A-Za-z_]\w*)"
_NEXT = r"\\\$\d+"
_CLOCKED = re.compile(rf"^  always @\(posedge clk\)\n    ({_NAME}) +<= ({_NEXT}) ;\n", re.MULTILINE)
_TRIGGER = r"\\\$auto\$verilog_backend\S+"
_NEXT_VALUE = re.compile(
    rf"^  always @\*[^\n]*\n    if \({_TRIGGER} \) begin end\n    ({_NEXT})  = ([^\n]*);\n((?:    [^\n]*\n)*)  end\n",
    re.MULTILINE,
)
_FIELD = re.compile(rf"^  assign ({_NAME}) ?\[(\d+)(?::(\d+))?\] = ([^\n]*);\n", re.MULTILINE)


def tidy(verilog: str) -> str:
    """Return Verilog of the same logic with fewer signals.

    Parameters
    ----------
    verilog : str
        As yosys writes it from a design of Amaranth.
    """
    return "".join(_registers(_vectors(module)) for module in re.split(r"^(?=module )", verilog, flags=re.MULTILINE))


def _edited(text: str, edits: list[tuple[re.Match[str], str]]) -> str:
    for match, new in sorted(edits, key=lambda edit: edit[0].start(), reverse=True):
        text = text[: match.start()] + new + text[match.end() :]
    return text


def _written(name: str) -> str:
    """Return a name as it stands before anything: an escaped one ends with a space."""
    return f"{name} " if name.startswith("\\") else name


def _vectors(module: str) -> str:
    """Assign a vector once where every field of it has an assignment."""
    fields: dict[str, list[re.Match[str]]] = {}
    for match in _FIELD.finditer(module):
        fields.setdefault(match[1], []).append(match)
    edits = []
    for name, matches in fields.items():
        declared = re.search(rf"^  wire (?:signed )?\[(\d+):0\] {re.escape(name)} ?;", module, re.MULTILINE)
        ordered = sorted(matches, key=lambda match: -int(match[2]))
        tops = [int(match[2]) + 1 for match in ordered] + [0]
        bottoms = [int(match[3] or match[2]) for match in ordered]
        if declared is None or [int(declared[1]) + 1, *bottoms] != tops:
            continue
        value = ", ".join(match[4] for match in ordered)
        edits += [(match, "") for match in matches[1:]]
        edits.append((matches[0], f"  assign {_written(name)} = {{ {value} }};\n"))
    return _edited(module, edits)


def _registers(module: str) -> str:
    """Assign registers in their clocked blocks, without a signal for the next value."""
    values = {match[1]: match for match in _NEXT_VALUE.finditer(module)}
    edits = []
    for clocked in _CLOCKED.finditer(module):
        register, name = clocked[1], clocked[2]
        value = values.get(name)
        declared = re.search(rf"^  reg (?:signed )?(?:\[\d+:0\] )?{re.escape(name)} ;\n", module, re.MULTILINE)
        used = re.compile(re.escape(name) + r" {1,2}")
        if value is None or declared is None or len(used.findall(module)) != len(used.findall(value[0])) + 2:
            continue
        hold = value[2].strip() == register
        lines = [] if hold else [f"    {_written(register)} <= {value[2]};\n"]
        for line in value[3].splitlines(keepends=True):
            left, assigns, right = line.partition(" = ")
            if used.search(right if assigns else left):  # the next value is read
                break
            parts = used.split(f"{left} ")
            lines.append(f"{_written(register).join(parts).rstrip()} <= {right}" if len(parts) > 1 else line)
        else:
            edits += [(clocked, f"  always @(posedge clk) begin\n{''.join(lines)}  end\n"), (value, ""), (declared, "")]
    module = _edited(module, edits)
    trigger = re.search(rf"^  reg ({_TRIGGER})  = 0;\n", module, re.MULTILINE)
    if trigger is not None and module.count(f"{trigger[1]} ") == 1:
        module = module.replace(trigger[0], "")
    return module
