"""How a first layer begins: the order of its program, and the model of the processor that executes it."""

import itertools

import pytest

from rowmesh.hw.command_processor import SETTLE_CYCLES, first_fetch
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import ENGINE_STRIDE, Engine
from rowmesh.hw.program import STARTABLE, Op, Program
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.mapping.cluster import ClusterMapping
from rowmesh.sw.mapping.latencies import MEMORY_LATENCY
from rowmesh.sw.mapping.layer import LayerMapping
from rowmesh.sw.mapping.orders import BLOCK
from rowmesh.sw.model.predict import config_cycles, predict_parts
from rowmesh.sw.model.timing.memory import fetch, memory_state
from rowmesh.sw.model.timing.processor import Begin, execute, fetch_first, processor_state, request, starts_at
from rowmesh.sw.program.assemble import assemble, memory_map, programs
from rowmesh.sw.search.mapper import find_mapping
from rowmesh.sw.workload.layer import Layer

LAYER = Layer(name="small", M=16, C=16, H=12, W=12, R=3, S=3, padding=1)
ARCHS = ("tiny", "square16", "eyeriss", "squeezelerator")


def commands(config, layer=LAYER):
    mapping = find_mapping(config, layer)
    parts = programs(mapping, memory_map(mapping))
    return parts, Program.decode(assemble((mapping, parts)).words)


@pytest.mark.parametrize("config", [*map(load_arch, ARCHS), load_arch("squeezelerator").replace(weight_ports=2)])
def test_engines_are_written_before_they_are_started_and_started_once(config):
    parts, program = commands(config)
    written, started = set(), []
    for command in program:
        if command.op is Op.WRITE:
            places = range(command.address, command.address + len(command.words))
            written |= {Engine(min(Engine.ARRAY, place // ENGINE_STRIDE)) for place in places}
        if command.op is Op.START:
            now = [engine for engine in STARTABLE if command.address >> engine & 1]
            ports = {engine for nests in (parts.shared, *parts.clusters) for engine in nests if engine.first in now}
            assert ports <= written
            # subscriptions take effect with STEP, further ports are opened by words of the array
            if Engine.STEP in now or config.ports > 1:
                assert Engine.ARRAY in written
            started += now
    assert sorted(started) == parts.started
    assert started[0] is Engine.LOAD_WEIGHT


@pytest.mark.parametrize("name", ["mesh2x2", "mesh1x4"])
def test_engines_of_a_mesh_start_together(name):
    parts, program = commands(load_arch(name))
    (start,) = [command for command in program if command.op is Op.START]
    assert [engine for engine in STARTABLE if start.address >> engine & 1] == parts.started


def tokens_of(config, begin, cycles, idle_at=0):
    """Cycles of the start tokens of a program whose engines are idle from a cycle on."""
    x, memory = processor_state(config, begin), memory_state(1, config.read_bursts)
    fetch_first(x, memory, MEMORY_LATENCY, config.read_bursts)
    tokens = []
    for now in range(cycles):
        place = len(tokens)
        if place < len(begin.heads):
            waits = len(begin.waits[place]) > 0
            if execute(x, begin.heads[place], waits, now >= idle_at, now, SETTLE_CYCLES):
                tokens.append(now)
        memory.ports["waiting"] = memory.ports["asked"]
        request(x, memory, now)
        fetch(memory, now, MEMORY_LATENCY, config.read_bursts)
    return tokens


@pytest.mark.parametrize(
    ("width", "burst", "head"),
    [
        *itertools.product((64, 128, 256, 512), (16,), (5, 40, 130, 383, 384, 385, 700)),
        *itertools.product((64,), (4,), (5, 55, 56, 57, 100)),
    ],
)
def test_the_processor_reaches_a_first_start_as_in_closed_form(width, burst, head):
    config = ArchConfig(axi_data_width=width, burst_beats=burst)
    (now,) = tokens_of(config, Begin(head + 3, heads=[head], engines=[[]], waits=[[]]), 2000)
    assert now == starts_at(config, head)
    # words of the first fetch come one a cycle, the others behind a round trip, unless that is hidden by the first ones
    fetched = first_fetch(config) * width // 32
    assert (now > head - 1 + SETTLE_CYCLES + 2) == (head >= fetched and fetched < MEMORY_LATENCY)


def test_a_start_waits_until_what_was_written_has_settled():
    tokens = tokens_of(ArchConfig(axi_data_width=128), Begin(30, heads=[10, 20], engines=[[], []], waits=[[], []]), 100)
    # a header more, the settling, the token; then nine words to the next one
    assert tokens == [9 + SETTLE_CYCLES + 2, 9 + SETTLE_CYCLES + 2 + 9 + SETTLE_CYCLES + 2]


@pytest.mark.parametrize("idle_at", [0, 40])
def test_a_start_behind_a_wait_waits_for_idle_engines(idle_at):
    """The WAIT is word 10, one word behind the last one written; it goes on when that has settled and all are idle."""
    begin = Begin(30, heads=[11], engines=[[]], waits=[[Engine.LOAD_WEIGHT]])
    tokens = tokens_of(ArchConfig(axi_data_width=128), begin, 100, idle_at)
    assert tokens == [max(9 + 1 + SETTLE_CYCLES, idle_at) + 1 + 2]


def test_parameters_are_loaded_behind_the_weights_of_a_layer_in_parts():
    config = load_arch("squeezelerator")
    layer = Layer(name="short", M=64, C=64, H=1, W=100, R=1, S=1, output="requant")
    factors = {"r_s": 1, "c_s": 16, "c0": 2, "c1": 2, "p_x": 1, "m_x": 16, "p0": 1, "q0": 40, "q1": 40, "m0": 4}
    own = ClusterMapping(config, layer, dataflow="ws", order=BLOCK, resident=False, **factors)
    assert own.part == 2
    mapping = LayerMapping.alone(own)
    program = Program.decode(assemble((mapping, programs(mapping, memory_map(mapping)))).words)
    started = [command.address for command in program if command.op is Op.START]
    order = [[engine for engine in STARTABLE if mask >> engine & 1] for mask in started]
    assert order[:2] == [[Engine.LOAD_WEIGHT], [Engine.LOAD_IACT]]
    assert order[-1] == [Engine.LOAD_PARAM]
    at = next(k for k, command in enumerate(program) if command.op is Op.WAIT)
    assert program[at].address == 1 << Engine.LOAD_WEIGHT
    assert (program[at + 1].op, program[at + 1].address) == (Op.START, 1 << Engine.LOAD_PARAM)


@pytest.mark.parametrize("name", ARCHS)
def test_the_estimate_of_the_program_is_not_more_than_the_prediction(name):
    """It leaves out fields, most loops, and subscriptions that differ from those of their line."""
    config = load_arch(name)
    for size, least in ((3, 0), (1, 1 / 2)):  # PEs of filter rows differ in two directions: they are no lines
        layer = LAYER.model_copy(update={"r": size, "s": size, "padding": (size // 2,) * 4})
        predicted = predict_parts(find_mapping(config, layer))["config"]
        assert least * predicted < config_cycles(config) <= predicted
