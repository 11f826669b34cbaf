"""Constraint files: orders of DRAM's loops and of a PE's, and what is wrong with them in one line."""

import pytest

from rowmesh.sw.inputs.errors import InputError
from rowmesh.sw.mapping.dataflow import load_dataflow
from rowmesh.sw.mapping.orders import BLOCK

REST = """
    - {target: rows, type: spatial, dimensions: [C, R]}
    - {target: columns, type: spatial, dimensions: [P, M]}
    - {target: pe, type: temporal, permutation: [QCQSRCM]}
"""


def load(tmp_path, tiles):
    path = tmp_path / "own.yaml"
    path.write_text(f"dataflow:\n  description: own\n  constraints:{tiles}{REST}")
    return load_dataflow(path)


def test_orders(tmp_path):
    flow = load(tmp_path, "")
    assert (flow.orders, flow.m_outer) == ((BLOCK,), (False,))
    assert load(tmp_path, "\n    - {target: DRAM, type: temporal, permutation: GMNPQ}").m_outer == (True,)
    assert load_dataflow("rs-b").m_outer == (False, True)


@pytest.mark.parametrize(
    ("tiles", "message"),
    [
        ("permutation: GMNQP", r"permutation\[0\]: must be one of NGPQM, GMNPQ, not 'GMNQP'"),
        ("permutation: []", r"permutation: must name at least one of NGPQM, GMNPQ"),
        ("factors: {M: 2}", r"factors: unknown key"),
        ("type: spatial, permutation: NGPQM", r"type: must be temporal, not 'spatial'"),
        (
            "permutation: NGPQM}\n    - {target: DRAM, permutation: NGPQM",
            r"target: must be given once, not twice \(DRAM\)",
        ),
    ],
)
def test_bad_orders(tmp_path, tiles, message):
    with pytest.raises(InputError, match=r"^[^\n]*own\.yaml:\d+: dataflow\.constraints[^\n]*" + message):
        load(tmp_path, f"\n    - {{target: DRAM, {tiles}}}")


@pytest.mark.parametrize(
    ("permutation", "message"),
    [
        ("QSRM", "must end with Q, S, R and C in any order, and M, not 'QSRM'"),
        ("QQSRCM", "must have nothing, M or QC outside of its last five loops"),
        ("QCSRQCM", r"blocks of columns \(QC\) need Q outside of S, R and C"),
        ("MQSRC", r"sets of filters \(M\) need Q inside of S, R or C"),
        ("3", "must be a string of dimensions"),
    ],
)
def test_bad_orders_of_a_pe(tmp_path, permutation, message):
    path = tmp_path / "own.yaml"
    rest = REST.replace("QCQSRCM", permutation)
    path.write_text(f"dataflow:\n  description: own\n  constraints:\n{rest}")
    with pytest.raises(InputError, match=rf"^[^\n]*own\.yaml:\d+: [^\n]*permutation\[0\]: {message}[^\n]* \(nearest"):
        load_dataflow(path)
