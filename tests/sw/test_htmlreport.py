"""The page of a run: complete, well formed, and loading nothing."""

from html.parser import HTMLParser

import numpy as np
import pytest

from rowmesh.sw.cli import main as cli
from rowmesh.sw.inputs.errors import InputError
from rowmesh.sw.model.energy import load_energy
from rowmesh.sw.report.charts import array_map
from rowmesh.sw.report.html import dram_bytes, report_page
from rowmesh.sw.results.file import read_run

VOID = {"meta", "br", "path", "use", "rect", "col"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and keeps attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.attributes, self.words = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def page_of(*paths, table="eyeriss_65nm"):
    text = report_page([one for path in paths for one in read_run(path)], load_energy(table))
    return Page(text), text


def test_the_page_loads_nothing_and_has_all_parts(run_file):
    page, text = page_of(run_file())
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(page.seen)
    links = [value for name, value in page.attributes if name in ("href", "xlink:href", "src")]
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in links)
    assert "url(http" not in text
    assert "@import" not in text
    assert page.seen.count("svg") == 4 + 2  # scatter, parts, roofline, energy; a map for each layer
    words = " ".join(page.words)
    for title in ("Predicted against RTL", "Where the cycles went", "Roofline", "Energy", "CONV", "POINT"):
        assert title in words
    assert "parallel-for" in words
    assert "not measured" in words
    assert any("RTL: compute" in word for word in page.words)


def test_the_work_of_each_pe_is_that_which_was_counted(run_file):
    def count(entries):
        for entry in entries:
            entry["rtl"]["pe_macs"] = [[entry["rtl"]["cycles"] // 4] * 3] * 2

    page, text = page_of(run_file(count))
    assert "not measured" not in " ".join(page.words)
    assert text.count("row 1, columns 0 to 2: 25.0%") == 2

    def cut(entries):
        entries[0]["rtl"]["pe_macs"] = [[1, 2], [3]]

    with pytest.raises(InputError, match="rows must have one length"):
        page_of(run_file(cut))


def test_names_are_text(run_file):
    def rename(entries):
        for entry in entries:
            entry["layer"] = entry["shape"]["name"] = "<b>$x_1$ & 層</b>"

    page, _ = page_of(run_file(rename))
    assert "b" not in page.seen
    assert any("<b>$x_1$ & 層</b>" in word for word in page.words)


def test_failures_are_shown(run_file):
    def break_(entries):
        entries[0]["outputs"]["mismatches"] = 3
        entries[1]["memory"] = "axi-random"

    page, _ = page_of(run_file(break_))
    words = " ".join(page.words)
    assert "CONV: outputs: 3 of" in words
    assert "FAIL" in words
    assert "Memory axi-random: cycles are reported and not judged." in words


def test_runs_of_several_architectures_and_files(run_file):
    def wider(entries):
        for entry in entries:
            entry["arch"]["cols"] = 6

    page, _ = page_of(run_file(), run_file(name="again.json"), run_file(wider, name="wide.json"))
    assert page.seen.count("h2") == 2
    assert page.seen.count("svg") == 2 * 4 + 6
    assert any("CONV (again.json)" in word for word in page.words)


def test_dram_bytes(run_file, results):
    conv, point = read_run(run_file())
    reads = [
        sum(n for name, n in r.rtl.accesses.items() if name.startswith("dram.") and "read" in name) for r in results
    ]
    assert dram_bytes(conv) == 2 * (reads[0] + conv.layer.outputs)
    assert dram_bytes(point) == 2 * reads[1] + 4 * point.layer.outputs


def test_the_command(run_file, tmp_path, capsys):
    out = tmp_path / "r.html"
    argv = ["report", str(run_file()), "-o", str(out)]
    assert cli.main([*argv, "--energy", "generic_45nm", "--layer", "CO*"]) == 0
    text = out.read_text()
    assert "energy, pJ" in text
    assert "POINT" not in text
    assert capsys.readouterr().out == f"{out}\n"
    for extra, message in (
        (["--energy", "x"], "no energy table named 'x'"),
        (["--layer", "x"], "no layer of"),
    ):
        assert cli.main([*argv, *extra]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["report", str(run_file()), "-o", str(tmp_path / "none" / "r.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("rows", [1, 64])
def test_arrays_of_any_size_can_be_drawn(rows):
    shares = np.full((rows, 3), 0.5)
    assert array_map(shares).count("columns 0 to 2: 50.0%") == rows
    shares[0] = (0.25, 0.25, 1)
    drawn = array_map(shares)
    assert "row 0, columns 0 to 1: 25.0%" in drawn
    assert "row 0, column 2: 100.0%" in drawn
