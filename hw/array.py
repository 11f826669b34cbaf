"""The PE array of a cluster: rows of PEs on row buses, columns of psum chains."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from rowmesh.hw.block import Block
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import Engine
from rowmesh.hw.layouts import flit_layout, psum_layout, step_layout, word_layout
from rowmesh.hw.link import Buffer
from rowmesh.hw.multicast import ROW_FIELDS, RowTap, Tap
from rowmesh.hw.nest import ConfigBus
from rowmesh.hw.pe import PE_EVENTS, PE_FIELDS, PE_WAITS, ProcessingElement
from rowmesh.hw.reset import with_own_reset

__all__ = [
    "OPERANDS",
    "Array",
    "Row",
    "all_rows_address",
    "column_address",
    "mesh_address",
    "pe_words",
    "port_words",
    "row_address",
    "row_words",
    "word_number",
]

OPERANDS = ("iact", "weight")
"""What comes along trunks of flits."""

# Addresses within the array. A word of a PE: row, word, column. With the line bit it is a word of a line: kind (the
# lowest bit is the word), all lines, number of the line. So words of neighbours have addresses one behind the other.
_LINE_BIT, _KIND_SHIFT, _ALL_BIT, _NUMBER_BITS = 14, 7, 6, 6
_ROW_SHIFT, _WORD_SHIFT = 7, 6
_KIND_BITS = 4
_OF_ROW, _OF_COLUMN, _OF_TAPS, _OF_PORT, _OF_MESH = 0, 2, 4, 8, 9  # first kind of each
_MESH_WORDS = (*OPERANDS, "psum")


def _line(kind: int, number: int) -> int:
    return Engine.ARRAY.base | 1 << _LINE_BIT | kind << _KIND_SHIFT | number


def _pack(fields: tuple[tuple[str, int, int], ...], values: dict[str, int]) -> list[int]:
    words = [0, 0]
    for name, word, shift in fields:
        words[word] |= values.get(name, 0) << shift
    return words


def pe_words(row: int, col: int, values: dict[str, int]) -> dict[int, int]:
    """Configuration words of a PE's subscription, by address (fields: PE_FIELDS)."""
    at = Engine.ARRAY.base | row << _ROW_SHIFT | col
    return {at | k << _WORD_SHIFT: word for k, word in enumerate(_pack(PE_FIELDS, values))}


def row_address(row: int, word: int) -> int:
    """Address of a word of the subscriptions of all PEs of a row; neighbours lie one behind the other."""
    return _line(_OF_ROW + word, row)


def column_address(col: int, word: int) -> int:
    """Address of a word of the subscriptions of all PEs of a column; neighbours lie one behind the other."""
    return _line(_OF_COLUMN + word, col)


def all_rows_address(address: int) -> int:
    """Address of the word of a row's PEs or taps, but of all rows."""
    return address >> _NUMBER_BITS << _NUMBER_BITS | 1 << _ALL_BIT


def word_number(address: int) -> int:
    """Which of the two words of a subscription is at an address."""
    return address >> (_KIND_SHIFT if address >> _LINE_BIT & 1 else _WORD_SHIFT) & 1


def row_words(row: int, operand: str, values: dict[str, int]) -> dict[int, int]:
    """Configuration words of a row's tap for ``iact`` or ``weight``, by address (fields: ROW_FIELDS)."""
    kind = _OF_TAPS + 2 * OPERANDS.index(operand)
    return {_line(kind + k, row): word for k, word in enumerate(_pack(ROW_FIELDS, values))}


def port_words(config: ArchConfig, used: dict[str, int]) -> dict[int, int]:
    """Configuration words that open the ports of ``used``, a number for each of OPERANDS, by address.

    The first port is always open; where a port is closed, its rows take what comes from the rows below.
    """
    return {
        _port_address(port): sum((port < used[operand]) << k for k, operand in enumerate(OPERANDS))
        for port in range(1, config.ports)
    }


def mesh_address(data_type: str) -> int:
    """Address of a cluster's route of iacts or weights (:mod:`rowmesh.hw.router`), or of its psums' way (1: north)."""
    return _line(_OF_MESH, _MESH_WORDS.index(data_type))


def _port_address(port: int) -> int:
    return _line(_OF_PORT, port)


class Row(Block):
    """A row of PEs with its taps of the three trunks.

    Contract: one flit, one weight flit and one step a cycle past the row; one word a cycle of each operand along it.
    Every ``link_segment`` PEs the buses have a fully registered link, those of words one in front of the first PE too.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    number : In(6)
        The row's number, constant.
    config_i, config_o : ConfigBus
        From the previous, to the next row (one cycle later).
    commit_i, commit_o : 1 bit
        What was written takes effect; with the configuration bus from row to row.
    iact_i, iact_o, weight_i, weight_o : streams of flit_layout(config)
    step_i, step_o : streams of step_layout(config)
    psum_i, psum_o : arrays of streams of psum_layout(config), one a column
    events : Out
        For each of PE_EVENTS, how many PEs report it (registered).
    waits : Out(len(PE_WAITS))
        Some PE waits for ... (registered).
    held : Out(1)
        Something is held in the row (registered).
    macs : Out(cols)
        Which PEs multiply and accumulate (registered); with ``pe_counters``.
    """

    def __init__(self, config: ArchConfig) -> None:
        self._config = config
        self.shared = config.clusters > 1  # of each cluster
        flit = stream.Signature(flit_layout(config))
        step = stream.Signature(step_layout(config))
        psum = stream.Signature(psum_layout(config))
        self._sum_width = bits_for(config.cols)
        super().__init__(
            {
                "number": In(6),
                "config_i": In(ConfigBus()),
                "config_o": Out(ConfigBus()),
                "commit_i": In(1),
                "commit_o": Out(1),
                "iact_i": In(flit),
                "iact_o": Out(flit),
                "weight_i": In(flit),
                "weight_o": Out(flit),
                "step_i": In(step),
                "step_o": Out(step),
                "psum_i": In(psum).array(config.cols),
                "psum_o": Out(psum).array(config.cols),
                "events": Out(self._sum_width * len(PE_EVENTS)),
                "waits": Out(len(PE_WAITS)),
                "held": Out(1),
                **({"macs": Out(config.cols)} if config.pe_counters else {}),
            }
        )

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        config = self._config
        for name in ("valid", "bank", "address", "data"):
            m.d.sync += getattr(self.config_o, name).eq(getattr(self.config_i, name))
        m.d.sync += self.commit_o.eq(self.commit_i)
        address, valid = self.config_o.address, self.config_o.valid & self.config_o.address[15]
        place, kind = address[:_NUMBER_BITS], address[_KIND_SHIFT : _KIND_SHIFT + _KIND_BITS]
        mine, of_pes, by_column = Signal(), Signal(), Signal()
        m.d.comb += [
            mine.eq(valid & address[_LINE_BIT] & ((place == self.number) | address[_ALL_BIT])),
            of_pes.eq(valid & ~address[_LINE_BIT] & (address[_ROW_SHIFT:_LINE_BIT] == self.number)),
            by_column.eq(valid & address[_LINE_BIT] & (kind[1:] == _OF_COLUMN >> 1)),
        ]
        word = Mux(address[_LINE_BIT], kind[0], address[_WORD_SHIFT])

        pes = []
        for col in range(config.cols):
            m.submodules[f"pe{col}"] = pe = ProcessingElement(config)
            pes.append(pe)
            chosen = mine & (kind[1:] == _OF_ROW >> 1) | (of_pes | by_column) & (place == col)
            m.d.comb += [
                pe.write.eq(Cat(chosen & ~word, chosen & word)),
                pe.write_data.eq(self.config_o.data),
                pe.commit.eq(self.commit_o),
            ]
            wiring.connect(m, wiring.flipped(self.psum_i[col]), pe.psum_i)
            wiring.connect(m, pe.psum_o, wiring.flipped(self.psum_o[col]))

        buses = {}
        held: list[Value] = [pe.held for pe in pes]
        for operand, name in enumerate(OPERANDS):
            m.submodules[f"{name}_tap"] = tap = RowTap(config)
            held.append(tap.held)
            chosen = mine & (kind[1:] == (_OF_TAPS >> 1) + operand)
            m.d.comb += [
                tap.write.eq(Cat(chosen & ~word, chosen & word)),
                tap.write_data.eq(self.config_o.data),
                tap.commit.eq(self.commit_o),
            ]
            wiring.connect(m, wiring.flipped(getattr(self, f"{name}_i")), tap.i)
            wiring.connect(m, tap.o, wiring.flipped(getattr(self, f"{name}_o")))
            buses[name] = (tap.row, word_layout(config))
        m.submodules.step_tap = step_tap = Tap(step_layout(config))
        m.d.comb += step_tap.match.eq(1)
        wiring.connect(m, wiring.flipped(self.step_i), step_tap.i)
        wiring.connect(m, step_tap.o, wiring.flipped(self.step_o))
        held.append(step_tap.held)
        buses["step"] = (step_tap.local, step_layout(config))

        for name, (upstream, layout) in buses.items():
            for col, pe in enumerate(pes):
                # behind the row's tap too, whose ready goes on to the whole trunk; steps come one a cycle anyway
                if col % config.link_segment == 0 and (col or name in OPERANDS):
                    m.submodules[f"{name}_link{col}"] = link = Buffer(layout)
                    wiring.connect(m, upstream, link.i)
                    upstream = link.o
                    held.append(link.o.valid)
                wiring.connect(m, upstream, getattr(pe, f"{name}_i"))
                upstream = getattr(pe, f"{name}_o")
            m.d.comb += upstream.ready.eq(1)

        for number in range(len(PE_EVENTS)):
            at = number * self._sum_width
            m.d.sync += self.events[at : at + self._sum_width].eq(sum(pe.events[number] for pe in pes))
        for number in range(len(PE_WAITS)):
            m.d.sync += self.waits[number].eq(Cat(pe.waits[number] for pe in pes).any())
        m.d.sync += self.held.eq(Cat(held).any())
        if config.pe_counters:
            mac = PE_EVENTS.index("mac")
            m.d.sync += self.macs.eq(Cat(pe.events[mac] for pe in pes))
        return m


class Array(Block):
    """All rows of a cluster.

    Contract: as of :class:`Row`; flits and steps reach row r after r hops; psums leave above the last row, one a
    cycle and column.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    config : In(ConfigBus())
    commit : In(1)
        What was written takes effect (one cycle): a layer begins.
    iact, weight : In(stream.Signature(flit_layout(config)))
    iact_more, weight_more : In(arrays of stream.Signature(flit_layout(config)))
        Of the ports behind the first.
    iact_open, weight_open : Out(arrays of 1 bit)
        Which of these feed their rows, as it was written for the next layer.
    step : In(stream.Signature(step_layout(config)))
    psum_i : In(array of streams of psum_layout(config))
        From below the first row.
    psum : Out(array of streams of psum_layout(config))
    events : Out
        For each of PE_EVENTS, how many PEs report it (two cycles later).
    waits : Out(len(PE_WAITS))
    held : Out(1)
        Something is held in the array (two cycles later).
    macs : Out(rows * cols)
        Which PEs multiply and accumulate, row by row (a cycle later); with ``pe_counters``.
    """

    def __init__(self, config: ArchConfig) -> None:
        self._config = config
        self.shared = config.clusters > 1  # of each cluster
        self._sum_width = bits_for(config.rows * config.cols)
        super().__init__(
            {
                "config": In(ConfigBus()),
                "commit": In(1),
                "iact": In(stream.Signature(flit_layout(config))),
                "weight": In(stream.Signature(flit_layout(config))),
                "iact_more": In(stream.Signature(flit_layout(config))).array(config.iact_ports - 1),
                "weight_more": In(stream.Signature(flit_layout(config))).array(config.weight_ports - 1),
                "iact_open": Out(1).array(config.iact_ports - 1),
                "weight_open": Out(1).array(config.weight_ports - 1),
                "step": In(stream.Signature(step_layout(config))),
                "psum_i": In(stream.Signature(psum_layout(config))).array(config.cols),
                "psum": Out(stream.Signature(psum_layout(config))).array(config.cols),
                "events": Out(self._sum_width * len(PE_EVENTS)),
                "waits": Out(len(PE_WAITS)),
                "held": Out(1),
                **({"macs": Out(config.rows * config.cols)} if config.pe_counters else {}),
            }
        )

    @property
    def event_width(self) -> int:
        """Bits of one event's count."""
        return self._sum_width

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        config = self._config
        rows = [Row(config) for _ in range(config.rows)]
        held: list[Value] = [row.held for row in rows]
        for number, row in enumerate(rows):
            m.submodules[f"row{number}"] = with_own_reset(m, f"row{number}", row)
            m.d.comb += row.number.eq(number)
            if number == 0:
                wiring.connect(m, wiring.flipped(self.config), row.config_i)
                m.d.comb += row.commit_i.eq(self.commit)
                for name in ("iact", "weight", "step"):
                    wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(row, f"{name}_i"))
                for col in range(config.cols):
                    wiring.connect(m, wiring.flipped(self.psum_i[col]), row.psum_i[col])
                continue
            below = rows[number - 1]
            wiring.connect(m, below.config_o, row.config_i)
            m.d.comb += row.commit_i.eq(below.commit_o)
            for name in ("iact", "weight", "step"):
                upstream = getattr(below, f"{name}_o")
                if number % config.port_rows == 0 and name in OPERANDS and len(getattr(self, f"{name}_more")):
                    upstream = self._port(m, name, number // config.port_rows, upstream)
                wiring.connect(m, upstream, getattr(row, f"{name}_i"))
            for col in range(config.cols):
                upstream = below.psum_o[col]
                if number % config.link_segment == 0:
                    m.submodules[f"psum_link{number}_{col}"] = link = Buffer(psum_layout(config))
                    wiring.connect(m, upstream, link.i)
                    upstream = link.o
                    held.append(link.o.valid)
                wiring.connect(m, upstream, row.psum_i[col])
        self._open_ports(m)
        top = rows[-1]
        m.d.comb += [top.iact_o.ready.eq(1), top.weight_o.ready.eq(1), top.step_o.ready.eq(1)]
        for col in range(config.cols):
            m.submodules[f"psum_link{config.rows}_{col}"] = link = Buffer(psum_layout(config))
            wiring.connect(m, top.psum_o[col], link.i)
            wiring.connect(m, link.o, wiring.flipped(self.psum[col]))
            held.append(link.o.valid)
        width = rows[0].events.shape().width // len(PE_EVENTS)
        for number in range(len(PE_EVENTS)):
            total = sum(row.events[number * width : (number + 1) * width] for row in rows)
            m.d.sync += self.events[number * self._sum_width : (number + 1) * self._sum_width].eq(total)
        for number in range(len(PE_WAITS)):
            m.d.sync += self.waits[number].eq(Cat(row.waits[number] for row in rows).any())
        m.d.sync += self.held.eq(Cat(held).any())
        if config.pe_counters:
            m.d.comb += self.macs.eq(Cat(row.macs for row in rows))
        return m

    def _open_ports(self, m: Module) -> None:
        """Keep which ports are open."""
        for port in range(1, self._config.ports):
            for number, operand in enumerate(OPERANDS):
                opened = getattr(self, f"{operand}_open")
                if len(opened):
                    with m.If(self.config.valid & (self.config.address == _port_address(port))):
                        m.d.sync += opened[port - 1].eq(self.config.data[number])

    def _port(self, m: Module, operand: str, port: int, below: stream.Interface) -> stream.Interface:
        """Return what the rows of a port take: its own flits if it is open, or those that come from ``below``.

        What comes from below ends there if the port is open.
        """
        own, opened = getattr(self, f"{operand}_more")[port - 1], Signal(name=f"{operand}_opened_{port}")
        with m.If(self.commit):
            m.d.sync += opened.eq(getattr(self, f"{operand}_open")[port - 1])
        chosen: stream.Interface = stream.Signature(flit_layout(self._config)).create(path=(f"{operand}_{port}",))
        m.d.comb += [
            chosen.valid.eq(Mux(opened, own.valid, below.valid)),
            chosen.payload.eq(Mux(opened, own.payload, below.payload)),
            own.ready.eq(opened & chosen.ready),
            below.ready.eq(opened | chosen.ready),
        ]
        return chosen
