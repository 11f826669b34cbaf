"""Subscriptions of the array: the writes that make them."""

import itertools

import numpy as np
import pytest

from rowmesh.hw.array import OPERANDS, all_rows_address, column_address, pe_words, row_address, row_words
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.program import Program
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.mapping.dataflow import load_dataflow
from rowmesh.sw.program.subscriptions import array_writes, subscriptions
from rowmesh.sw.search.mapper import find_mapping
from rowmesh.sw.search.pool import candidates
from rowmesh.sw.workload.layer import Layer

SMALL = ArchConfig(rows=6, cols=5, data_width=16, iact_ports=2, glb_iact_flits=512, psum_bank_words=96)
LAYER = Layer(name="x", M=24, C=16, H=9, W=11, R=3, S=3, padding=1)


def replay(config, writes):
    """Return every PE's words and those of every row's taps after some writes, and all other words by address."""
    lines = {row_address(row, word): (row, slice(None), word) for row in range(config.rows) for word in range(2)}
    lines |= {column_address(col, word): (slice(None), col, word) for col in range(config.cols) for word in range(2)}
    lines |= {all_rows_address(row_address(0, word)): (slice(None), slice(None), word) for word in range(2)}
    for row, col in itertools.product(range(config.rows), range(config.cols)):
        lines |= {address: (row, col, word) for word, address in enumerate(pe_words(row, col, {}))}
    taps = {address for row in range(config.rows) for operand in OPERANDS for address in row_words(row, operand, {})}
    words, others = np.full((config.rows, config.cols, 2), -1, np.int64), {}
    for write in writes:
        assert write
        for address, value in write.items():
            if address in lines:
                words[lines[address]] = value
            elif address in taps or address not in map(all_rows_address, taps):
                others[address] = value
            else:
                others |= {tap: value for tap in taps if all_rows_address(tap) == address}
    return words, others


@pytest.mark.parametrize("flow", ["rs", "ws", "os-a", "os-c", "is"])
def test_writes_give_every_pe_its_words(flow):
    legal = [mapping for _, mapping in itertools.islice(candidates(SMALL, LAYER, (load_dataflow(flow),)), 300)]
    for mapping in legal[:: max(1, len(legal) // 12)]:
        wanted = subscriptions(mapping.cluster)
        words, others = replay(SMALL, array_writes(SMALL, wanted))
        for row, col in itertools.product(range(SMALL.rows), range(SMALL.cols)):
            first, second = (wanted[address] for address in pe_words(row, col, {}))
            assert words[row, col, 1] == second
            if second:  # active
                assert words[row, col, 0] == first
        pes = {at for row in range(SMALL.rows) for col in range(SMALL.cols) for at in pe_words(row, col, {})}
        for row, operand in itertools.product(range(SMALL.rows), OPERANDS):
            first, second = row_words(row, operand, {})
            if not wanted[second]:  # the tap takes nothing
                others[first] = wanted[first]
        assert others == {address: value for address, value in wanted.items() if address not in pes}


def test_what_all_have_is_one_write():
    """Weight stationary: columns differ in the filter, the first row begins the chains, taps are those of channels."""
    config = load_arch("squeezelerator")
    mapping = find_mapping(config, Layer(name="x", M=128, C=64, H=14, W=14, R=1, S=1), (load_dataflow("ws"),))
    program = Program()
    for write in array_writes(config, subscriptions(mapping.cluster)):
        program.write(0, write)
    # PEs: a word of all columns, one of all PEs, what the first row has; taps: three words of all rows, one at once
    assert program.length <= (1 + config.cols) + 2 + 2 + 3 * (1 + config.rows) + 2


def test_idle_lines_cost_a_word_each():
    """Where half of the columns are idle, all PEs get what active ones want, and idle columns are put right."""
    config = load_arch("eyeriss")
    layer = Layer(name="x", kind="depthwise", M=96, C=96, H=7, W=7, R=3, S=3, padding=1, groups=96)
    mapping = find_mapping(config, layer, (load_dataflow("rs-g"),))
    assert mapping.cluster.columns == 7
    words = subscriptions(mapping.cluster)
    pes = {at for row in range(config.rows) for col in range(config.cols) for at in pe_words(row, col, {})}
    program = Program()
    for write in array_writes(config, words):
        if own := {address: value for address, value in write.items() if address not in words or address in pes}:
            program.write(0, own)
    idle = config.cols - mapping.cluster.columns
    at_once = 2 * 2 * len(OPERANDS)  # words of the taps of all rows
    assert program.length <= (1 + config.rows) + (1 + mapping.cluster.columns) + (1 + idle) + at_once
