"""Verilog that starts in every simulator, with few signals.

Amaranth and yosys write a register as a combinational signal with its next value and a clocked copy of that, and a
vector as one assignment a field. The logic is the same without these signals, the text is shorter, and a simulator,
which evaluates and stores every signal in every cycle, is faster.

They write a decision as ``always @*``, which computes nothing before something that it reads changes. In SystemVerilog
a register has its initial value before any process starts, and that is no change: what reads only such registers would
stay X. So a decision becomes a function, and the call of it a continuous assignment, which holds from the start.

The functions here know the layout of yosys's text; what does not look as they expect stays as it is.
"""

import itertools
import re
import textwrap

__all__ = ["tidy"]

_NAME = r"(?:\\\S+|[A-Za-z_]\w*)"
_NEXT = r"\\\$\d+"
_CLOCKED = re.compile(rf"^  always @\(posedge clk\)\n    ({_NAME}) +<= ({_NEXT}) ;\n", re.MULTILINE)
_TRIGGER = r"\\\$auto\$verilog_backend\S+"
_NEXT_VALUE = re.compile(
    rf"^  always @\*[^\n]*\n    if \({_TRIGGER} \) begin end\n    ({_NEXT})  = ([^\n]*);\n((?:    [^\n]*\n)*)  end\n",
    re.MULTILINE,
)
_COPY = re.compile(rf"^  always @\*\n    ({_NAME} ?(?:\[[\d:]+\])?) += ([^\n]*);\n", re.MULTILINE)
_DECISION = re.compile(
    rf"^  always @\*[^\n]*begin\n(?:    if \({_TRIGGER} \) begin end\n)?((?:    [^\n]*\n)*)  end\n", re.MULTILINE
)
_ASSIGNED = re.compile(rf"^( *)({_NAME}) ?(?:\[(\d+)(?::(\d+))?\] ?)? *= ([^\n]*);\n", re.MULTILINE)
_DECLARED = re.compile(rf"^  (?:wire|reg) ((?:signed )?(?:\[(\d+):0\] )?)({_NAME}) ?(?: = [^\n]*)?;\n", re.MULTILINE)
_COMMENT = re.compile(r"\(\*.*?\*\)|/\*.*?\*/")
_WORD = re.compile(rf"\d*'s?[bdoh][\w?]+|{_NAME}|\d+")
_FIELD = re.compile(rf"^  assign ({_NAME}) ?\[(\d+)(?::(\d+))?\] = ([^\n]*);\n", re.MULTILINE)


def tidy(verilog: str) -> str:
    """Return Verilog of the same logic with fewer signals.

    Parameters
    ----------
    verilog : str
        As yosys writes it from a design of Amaranth.
    """
    modules = re.split(r"^(?=module )", verilog, flags=re.MULTILINE)
    return "".join(_vectors(_decisions(_registers(module))) for module in modules)


def _edited(text: str, edits: list[tuple[re.Match[str], str]]) -> str:
    for match, new in sorted(edits, key=lambda edit: edit[0].start(), reverse=True):
        text = text[: match.start()] + new + text[match.end() :]
    return text


def _written(name: str) -> str:
    """Return a name as it stands before anything: an escaped one ends with a space."""
    return f"{name} " if name.startswith("\\") else name


def _unused(name: str, taken: set[str]) -> str:
    """Return a name, numbered if it is taken, and take it."""
    chosen = next(one for number in itertools.count() if (one := f"{name}_{number}" if number else name) not in taken)
    taken.add(chosen)
    return chosen


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
    return _edited(module, edits)


def _decisions(module: str) -> str:
    """Assign what is combinational without a process: a decision is a function of the signals that it reads."""
    declared = {match[3]: match for match in _DECLARED.finditer(module)}
    edits = []
    decided: set[str] = set()
    taken = set(declared)
    for copy in _COPY.finditer(module):
        edits.append((copy, f"  assign {copy[1]} = {copy[2]};\n"))
        decided.add(re.split(r"[ \[]", copy[1])[0])
    for decision in _DECISION.finditer(module):
        targets = list(_ASSIGNED.finditer(decision[1]))
        name = targets[0][2]
        highest = int(declared[name][2] or 0)
        spans = [(int(target[3]), int(target[4] or target[3])) if target[3] else (highest, 0) for target in targets]
        high, low = max(span[0] for span in spans), min(span[1] for span in spans)
        bits = {bit for top, bottom in spans for bit in range(bottom, top + 1)}
        if {target[2] for target in targets} != {name} or len(bits) != high - low + 1:
            continue
        function = _unused("value_of_" + re.sub(r"\W+", "_", name).strip("_"), taken)
        body, values, end = "", "", 0
        for target, (top, bottom) in zip(targets, spans, strict=True):
            between = decision[1][end : target.start()]
            part = "" if (top, bottom) == (high, low) else f"[{top - low}:{bottom - low}]"
            body += f"{between}{target[1]}{function}{part} = {target[5]};\n"
            values += f"{between}{target[5]}\n"
            end = target.end()
        body, values = body + decision[1][end:], values + decision[1][end:]
        words = dict.fromkeys(_WORD.findall(_COMMENT.sub("", values)))
        read = [word for word in words if word in declared]
        width = f"[{high - low}:0] " if high > low else ""
        whole = "" if (high, low) == (highest, 0) else f"[{high}:{low}]" if high > low else f"[{high}]"
        lines = [
            f"  function {width}{function};\n",
            *(f"    input {declared[word][1]}{_written(word)};\n" for word in read),
            f"    begin\n{textwrap.indent(body, '  ')}    end\n",
            "  endfunction\n",
            f"  assign {_written(name)}{whole} = {function}({', '.join(map(_written, read))});\n",
        ]
        edits.append((decision, "".join(lines)))
        decided.add(name)
    edits += [(declared[name], declared[name][0].replace("  reg ", "  wire ", 1)) for name in decided]
    module = _edited(module, edits)
    trigger = re.search(rf"^  reg ({_TRIGGER})  = 0;\n", module, re.MULTILINE)
    if trigger is not None and module.count(f"{trigger[1]} ") == 1:
        module = module.replace(trigger[0], "")
    return module
