"""Mappings that are kept in the cache."""

import json

import pytest

from rowmesh.sim import cache
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.mapping.dataflow import load_dataflows
from rowmesh.sw.search import kept
from rowmesh.sw.search.objective import Budget
from rowmesh.sw.workload.layer import Layer

TINY, FLOWS = load_arch("tiny"), load_dataflows("rs")
LAYERS = [
    Layer(name="plain", M=8, C=8, H=6, W=6, R=3, S=3),
    Layer(name="point", M=8, C=8, H=6, W=5, R=1, S=1),
    Layer(name="lowered", kind="fc", C=37, M=11),
    Layer(name="wide", M=4, C=8, H=3, W=12, R=1, S=11),
]


@pytest.fixture
def searched(monkeypatch, tmp_path):
    """The names of layers that are searched, with a cache of one's own."""
    names, search = [], kept.search
    monkeypatch.setattr(cache, "_root", lambda asked: tmp_path)
    monkeypatch.setattr(
        kept, "search", lambda config, layer, *others: names.append(layer.name) or search(config, layer, *others)
    )
    return names


@pytest.mark.parametrize("arch", ["tiny", "mesh1x4"])
def test_a_second_search_finds_the_same_without_a_search(searched, arch):
    config = load_arch(arch)
    first = [kept.kept_search(config, layer, FLOWS) for layer in LAYERS]
    assert searched == [layer.name for layer in LAYERS]
    assert [kept.kept_search(config, layer, FLOWS) for layer in LAYERS] == first
    assert len(searched) == len(LAYERS)
    other = LAYERS[0].model_copy(update={"name": "other"})
    assert kept.kept_search(config, other, FLOWS).mapping.origin.name == "other"
    assert len(searched) == len(LAYERS)


def test_what_a_search_depends_on_is_searched_again(searched):
    kept.kept_search(TINY, LAYERS[0], FLOWS)
    kept.kept_search(TINY, LAYERS[0], load_dataflows("ws"))
    kept.kept_search(TINY, LAYERS[0], FLOWS, "energy")
    kept.kept_search(TINY.replace(psum_spad=TINY.psum_spad + 1), LAYERS[0], FLOWS)
    kept.kept_search(TINY, LAYERS[0], FLOWS, budget=Budget(mappings=50_000))
    kept.kept_search(TINY, LAYERS[0], FLOWS, budget=Budget(mappings=50_000), seed=1)
    assert len(searched) == 6


@pytest.mark.parametrize("spoilt", ["", "{}", "[1]", "order", "c0"])
def test_what_cannot_be_read_is_searched_again(searched, tmp_path, spoilt):
    found = kept.kept_search(TINY, LAYERS[0], FLOWS)
    (path,) = (tmp_path / "mappings").glob("*/*.json")
    text = path.read_text()
    if spoilt in text and spoilt:
        given = json.loads(text)
        given.update({"order": "QQQ"} if spoilt == "order" else {"factors": given["factors"] | {"c0": 3}})
        spoilt = json.dumps(given)
    path.write_text(spoilt)
    assert kept.kept_search(TINY, LAYERS[0], FLOWS) == found
    assert len(searched) == 2
    assert path.read_text() == text
