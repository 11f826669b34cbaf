"""Random legal mappings on whole accelerators, one after another without a reset: every word, count and cycle."""

import itertools
from collections import Counter

import pytest
from architectures import SHAPES, of_lanes, ported
from random_mappings import Drawn

from rowmesh.sw import run as flow
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.search.evaluate import FACTORS

TINY, LANES, PORTS, MESH = load_arch("tiny"), of_lanes(1), SHAPES[-1], ported()

ALWAYS = ("kind ", "order ", "output ")
"""What begins so is drawn by the short test too, and so are all factors and flags."""


def disagreements(mappings):
    """Yield what differs between hardware and model."""
    for mapping, result in zip(mappings, flow.run_mappings(mappings), strict=True):
        wrong = result.failures()
        if result.outputs.checked != mapping.layer.outputs or result.rtl.parts != result.predicted.parts:
            wrong = [*wrong, f"parts {result.predicted.parts} {result.rtl.parts}"]
        if wrong:
            yield mapping.config.name, mapping.layer.describe(), mapping.to_json(), wrong


def run(counted, seed):
    """Run so many mappings of each architecture; return how often each feature was among them."""
    counts, refused, wrong = Counter(), Counter(), []
    for config, count in counted:
        drawn = Drawn(config, seed, counts)
        wrong += disagreements(list(itertools.islice(drawn, count)))
        refused += drawn.refused
    print(*(f"{count:6} {name}" for name, count in sorted(counts.items())), f"refused: {dict(refused)}", sep="\n")
    assert wrong == []
    return counts


def test_random_mappings():
    counts = run([(TINY, 12), (LANES, 8), (PORTS, 8), (MESH, 12)], seed=1)
    wanted = {f"{name} > 1" for name in FACTORS} | set(FACTORS) | {name for name in counts if name.startswith(ALWAYS)}
    assert {name for name in wanted & set(counts) if not counts[name]} == set()


@pytest.mark.slow
def test_a_thousand_random_mappings():
    """No feature is never drawn: that would be a fault of the generator."""
    counts = run([(config, 200) for config in (TINY, LANES, PORTS, MESH, load_arch("mesh1x4"))], seed=2)
    assert {name for name, count in counts.items() if not count} == set()
