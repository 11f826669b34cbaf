"""The drain: reads final psums, post-processes them and packs them into beats.

``lanes`` adjacent columns are drained together, one word each a cycle; the nest gives the same offset to all of them.
In a mesh these may be columns of a *set* of neighbouring clusters, as many of each. Each lane adds the bias,
requantises (or passes the accumulator on) and packs its words into beats of its own, so that one full beat a cycle
leaves the lanes together.
"""

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from rowmesh.hw.block import Block
from rowmesh.hw.buffet import Buffet
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import Descriptor, Engine, Field
from rowmesh.hw.flags import matches
from rowmesh.hw.link import Buffer, Stage
from rowmesh.hw.nest import ConfigBus, LoopNest
from rowmesh.hw.requantize import Requantizer

__all__ = ["DRAIN_PIPELINE", "Drain", "beat_layout", "drain_descriptor", "drain_port", "lane_depth"]


_GATHER = 2  # cycles: bank and parameter read, multiplexer over the groups
_PACK = 1  # from a beat's last word to the beat

PIPELINE_STAGES = _GATHER + len(Requantizer.STAGES)
"""Registers between a word's read and its packer."""

UNSEEN = 2
"""Words of a lane that may have gone while they still are in its credits."""

DRAIN_PIPELINE = Stage.latency + Buffer.latency + Stage.latency + PIPELINE_STAGES + _PACK
"""Cycles from a step of the drain's nest to its word's beat."""


def beat_layout(config: ArchConfig) -> data.StructLayout:
    """A beat to be stored: data and byte strobes."""
    return data.StructLayout({"data": config.axi_data_width, "strobe": config.axi_data_width // 8})


def drain_descriptor(config: ArchConfig) -> Descriptor:
    """Descriptor of the drain."""
    levels, members = config.nest_levels, config.drain_clusters
    mask = levels + 1
    outputs = {
        "offset": ceil_log2(config.psum_bank_words) + 1,
        "group": bits_for(config.clusters // members * config.bank_groups) + 1,
        "param": ceil_log2(config.param_words) + 1,
        "slot": bits_for(config.flit_words) + 1,
    }
    fields = (
        Field("columns", bits_for(config.cols), "columns that produce psums"),
        Field("columns_edge", bits_for(config.cols), "columns with outputs where edge_mask holds"),
        Field("edge_mask", mask, "levels in their last iterations that select columns_edge"),
        Field("release_mask", mask, "levels in their last iterations: the group's words are done"),
        *(
            Field(f"release{k}", bits_for(config.psum_bank_words), f"words freed in each bank of the group{text}")
            for k, text in enumerate(("", " if only short_mask holds", " if only thin_mask holds", " if both hold"))
        ),
        Field("short_mask", mask, "levels in their last iterations: the tile has fewer positions"),
        Field("thin_mask", mask, "levels in their last iterations: the tile has fewer channels"),
        Field("flush_mask", mask, "levels in their last iterations: the beat is complete"),
        Field("lane_param", ceil_log2(config.param_words), "distance of the parameters of neighbouring lanes"),
        Field("param_release", bits_for(config.param_words), "parameters freed where param_mask holds"),
        Field("param_thin", bits_for(config.param_words), "parameters freed if thin_mask holds too"),
        Field("param_mask", mask, "levels in their last iterations: the parameters of the tile are done"),
        Field("use_param", 1, "add bias and scale from the parameter buffet"),
        Field("raw", 1, "store accumulators, 32 bits each, instead of requantised words"),
        Field("zero_point", config.data_width, "zero point of the output"),
        Field("clamp_low", config.data_width, "smallest output"),
        Field("clamp_high", config.data_width, "largest output"),
    )
    if members > 1:
        width = ceil_log2(config.param_words)
        fields = (
            *fields,
            Field("members", members, "clusters of a set that have outputs"),
            *(
                Field(f"member_param{k}", width, f"distance of the parameters of a set's cluster {k}")
                for k in range(members)
            ),
        )
    return Descriptor(Engine.DRAIN, levels, outputs, fields)


def lane_depth(config: ArchConfig) -> int:
    """Beats of a lane that the store engine has room for: two bursts, and what is under way in the drain."""
    return 2 * config.burst_beats + DRAIN_PIPELINE


def drain_port(config: ArchConfig) -> wiring.Signature:
    """The drain's side of a psum bank (see PsumBank and PsumEntry)."""
    depth = config.psum_bank_words
    return wiring.Signature(
        {
            "offset": Out(ceil_log2(depth)),
            "finals": In(range(depth + 1)),
            "busy_next": In(1),
            "enable": Out(1),
            "free": Out(1),
            "release": Out(range(depth + 1)),
            "response": In(signed(config.acc_width)),
        }
    )


class Packer(Block):
    """Packs a lane's words into beats.

    Contract: one word a cycle; a beat leaves in the cycle after its last word, and never waits.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    valid, place, flush : In
        A word, a bit for each data word of the beat that it fills, and whether it completes the beat.
    raw : In(1)
    word : In(signed(data_width))
    accumulator : In(signed(acc_width))
    o : Out(stream.Signature(beat_layout(config)))
    partial : Out(1)
        A beat has been begun and is not complete.
    """

    latency = _PACK

    def __init__(self, config: ArchConfig) -> None:
        self._config = config
        super().__init__(
            {
                "valid": In(1),
                "place": In(config.flit_words),
                "flush": In(1),
                "raw": In(1),
                "word": In(signed(config.data_width)),
                "accumulator": In(signed(config.acc_width)),
                "o": Out(stream.Signature(beat_layout(config))),
                "partial": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        width, size = config.data_width, config.data_width // 8
        gathered: Any = Signal(beat_layout(config), reset_less=True)
        merged: Any = Signal(beat_layout(config))
        fresh = Signal(init=1)
        wide = Signal(signed(32))
        m.d.comb += [wide.eq(self.accumulator), self.partial.eq(~fresh)]
        span = 32 // width
        m.d.comb += merged.eq(Mux(fresh, 0, gathered))
        for k in range(config.flit_words):
            with m.If(self.place[k]):
                m.d.comb += [
                    merged.data.word_select(k, width).eq(Mux(self.raw, wide.word_select(k % span, width), self.word)),
                    merged.strobe.word_select(k, size).eq((1 << size) - 1),
                ]
        m.d.sync += [self.o.valid.eq(self.valid & self.flush), self.o.payload.eq(merged)]
        with m.If(self.valid):
            m.d.sync += [gathered.eq(merged), fresh.eq(self.flush)]
        return m


class Drain(Block):
    """The drain engine with its post-processing lanes.

    Contract: ``all_lanes`` words a cycle while the banks' words are final; ``latency`` cycles from the start token to
    the first completed beat of one word, if nothing waits.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    config : In(ConfigBus())
    start : In(stream.Signature(1))
    banks : Out(array of drain_port(config), one a column, cluster after cluster)
    fill : In(stream.Signature(64))
        Parameters of output channels: bias in the low, scale (float32 bits) in the high half.
    freed : Out
        Parameters released in this cycle.
    lanes : Out(array of streams of beat_layout(config))
        Beats for the store engine; ready is not looked at (credits).
    returned : In(lanes)
        Places for a beat that became free at the store engine, of ``lane_depth(config)`` a lane.
    idle : Out(1)
        No step is left and the pipeline is empty.
    held : Out(1)
        A parameter, a word or a part of a beat is held.
    waits : Out(3)
        The next word waits for: a final psum, a parameter, room for its beat.
    """

    def __init__(self, config: ArchConfig) -> None:
        self._config = config
        self.descriptor = drain_descriptor(config)
        super().__init__(
            {
                "config": In(ConfigBus()),
                "start": In(stream.Signature(1)),
                "banks": Out(drain_port(config)).array(config.clusters * config.cols),
                "fill": In(stream.Signature(unsigned(64))),
                "freed": Out(bits_for(config.param_words)),
                "lanes": Out(stream.Signature(beat_layout(config))).array(config.all_lanes),
                "returned": In(config.all_lanes),
                "idle": Out(1),
                "held": Out(1),
                "waits": Out(3),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from the start token to the first beat."""
        nest = LoopNest.cycles_to_first(self.descriptor.levels, self._config.link_segment)
        return nest + DRAIN_PIPELINE

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        config, descriptor = self._config, self.descriptor
        members, own_lanes, lanes = config.drain_clusters, config.lanes, config.all_lanes
        levels, groups = descriptor.levels, config.clusters // members * config.bank_groups
        banks = range(len(self.banks))
        cols = [bank % config.cols for bank in banks]
        sets, member = zip(*(divmod(bank // config.cols, members) for bank in banks), strict=True)
        group_of = [sets[bank] * config.bank_groups + cols[bank] // own_lanes for bank in banks]
        lane_of = [member[bank] * own_lanes + cols[bank] % own_lanes for bank in banks]
        of_lane = [[bank for bank in banks if lane_of[bank] == lane] for lane in range(lanes)]
        m.submodules.nest = nest = LoopNest(levels, descriptor.outputs, config.link_segment)
        own = descriptor.connect(m, self.config, nest)
        wiring.connect(m, wiring.flipped(self.start), nest.start)
        token = nest.o.payload
        run_fields = ("raw", "zero_point", "clamp_low", "clamp_high", "use_param")
        pipe_bank = Signal()
        field, piped = {}, {}
        for entry in descriptor.fields:
            users = [token.bank, pipe_bank] if entry.name in run_fields else [token.bank]
            values = descriptor.store(m, own, entry.name, *users)
            field[entry.name], piped[entry.name] = values[0], values[-1]

        # first stage: flags
        word_layout = data.StructLayout(
            {
                "bank": 1,
                "offset": ceil_log2(config.psum_bank_words),
                "group": bits_for(groups),
                "use_param": 1,
                "params": data.ArrayLayout(unsigned(ceil_log2(config.param_words)), lanes),
                "slot": ceil_log2(config.flit_words),
                "used": len(banks),  # banks of the group that give a word
                "held": len(banks),  # banks of the group that hold a slot
                "release": bits_for(config.psum_bank_words),
                "need": bits_for(config.psum_bank_words),  # final words, for a column that gives a word
                "param_release": bits_for(config.param_words),
                "flush": 1,
                "end": 1,
            }
        )
        m.submodules.plan = plan = Buffer(word_layout)
        m.submodules.choice = choice = Stage(word_layout)
        m.submodules.word = word = Stage(word_layout)
        wiring.connect(m, plan.o, word.i)

        def multiple(value: Value, factor: int) -> Any:
            """Product with a constant as a sum of shifted values: it needs no multiplier."""
            return sum(value << bit for bit in range(factor.bit_length()) if factor >> bit & 1)

        short, thin, columns, group = Signal(), Signal(), Signal(bits_for(config.cols)), Signal(bits_for(groups))

        def present(bank: int) -> Any:
            """Whether a bank is of the group, and of a cluster with outputs."""
            of_group = group == group_of[bank]
            return of_group if members == 1 else of_group & field["members"].bit_select(member[bank], 1)

        def param_of(lane: int) -> Any:
            """Parameter of a lane's word."""
            of_member, place = divmod(lane, own_lanes)
            offset = token.out.param + multiple(field["lane_param"], place)
            return offset if members == 1 else offset + field[f"member_param{of_member}"]

        chosen_word = choice.o.payload
        made, coming, now = choice.i.payload, plan.o.payload, word.o.payload
        m.d.comb += [
            choice.i.valid.eq(nest.o.valid),
            nest.o.ready.eq(choice.i.ready),
            plan.i.valid.eq(choice.o.valid),
            choice.o.ready.eq(plan.i.ready),
            plan.i.payload.eq(choice.o.payload),
            plan.i.payload.need.eq(
                Mux(chosen_word.offset < chosen_word.release, chosen_word.release, chosen_word.offset + 1)
            ),
            made.bank.eq(token.bank),
            *[getattr(made, name).eq(token.out[name]) for name in ("offset", "group", "slot")],
            made.use_param.eq(field["use_param"]),
            *[made.params[lane].eq(param_of(lane)) for lane in range(lanes)],
            columns.eq(Mux(matches(field["edge_mask"], token.last, levels), field["columns_edge"], field["columns"])),
            group.eq(token.out.group),
            *[made.used[bank].eq(present(bank) & (cols[bank] < columns)) for bank in banks],
            *[made.held[bank].eq(present(bank) & (cols[bank] < field["columns"])) for bank in banks],
            short.eq(matches(field["short_mask"], token.last, levels)),
            thin.eq(matches(field["thin_mask"], token.last, levels)),
            made.release.eq(
                Mux(
                    matches(field["release_mask"], token.last, levels),
                    Array(field[f"release{k}"] for k in range(4))[Cat(short, thin)],
                    0,
                )
            ),
            made.param_release.eq(
                Mux(
                    matches(field["param_mask"], token.last, levels),
                    Mux(thin, field["param_thin"], field["param_release"]),
                    0,
                )
            ),
            made.flush.eq(matches(field["flush_mask"], token.last, levels)),
            made.end.eq(token.last.all()),
        ]

        # second stage: all lanes' psums and parameters at once
        params = []
        for lane in range(lanes):
            m.submodules[f"params{lane}"] = table = Buffet(
                unsigned(64), config.param_words, release_width=bits_for(config.param_words), block=True
            )
            m.d.comb += [table.fill.valid.eq(self.fill.valid), table.fill.payload.eq(self.fill.payload)]
            params.append(table)
        m.d.comb += self.fill.ready.eq(params[0].fill.ready)

        # what a word waits for is looked up a cycle before: of the next word while this one goes, then of it as long as
        # it waits. The answers for all lanes are one register each
        go, word_ready, room = Signal(), Signal(), Signal()
        psums_final, params_there, undisturbed = Signal(), Signal(), Signal()
        settled = Signal()  # the words in the pipeline belong to the same descriptor
        chosen = Signal(lanes)  # lanes that give a word
        for lane in range(lanes):
            m.d.comb += chosen[lane].eq(Cat(now.used[bank] for bank in of_lane[lane]).any())

        def reaches(held: Value, *needs: Any) -> Value:
            """Whether no more is needed than is held: the sign of one sum."""
            rest = Signal(signed(len(held) + len(needs)), name="rest")
            m.d.comb += rest.eq(held - sum(needs))
            return ~rest[-1]

        def final(words: Any, col: int, freed: Any) -> Value:
            need = Mux(words.used[col], words.need, words.release)
            return ~words.held[col] | reaches(self.banks[col].finals, need, freed)

        def there(words: Any, freed: Any) -> Value:
            held = params[0].held  # all lanes' parameters are filled and released together
            used = [Cat(words.used[bank] for bank in of_lane[lane]).any() for lane in range(lanes)]
            enough = [~used[lane] | reaches(held, words.params[lane], freed, 1) for lane in range(lanes)]
            return ~words.use_param | (reaches(held, words.param_release, freed) & Cat(enough).all())

        next_final, still_final = Signal(len(banks)), Signal(len(banks))
        next_busy, still_busy = Signal(len(banks)), Signal(len(banks))
        for col, bank in enumerate(self.banks):
            freed = Mux(word.o.valid & now.held[col], now.release, 0)  # what goes with this word
            m.d.comb += [
                next_final[col].eq(final(coming, col, freed)),
                still_final[col].eq(final(now, col, 0)),
                next_busy[col].eq(coming.used[col] & bank.busy_next),
                still_busy[col].eq(now.used[col] & bank.busy_next),
                bank.offset.eq(now.offset),
                bank.enable.eq(go & now.used[col]),
                bank.free.eq(go & now.held[col]),
                bank.release.eq(now.release),
            ]
        next_there, still_there = Signal(), Signal()
        m.d.comb += [
            next_there.eq(there(coming, Mux(word.o.valid, now.param_release, 0))),
            still_there.eq(there(now, 0)),
            word_ready.eq(psums_final & undisturbed & params_there & room & settled),
            word.o.ready.eq(word_ready),
            go.eq(word.o.valid & word_ready),
            self.freed.eq(Mux(go, now.param_release, 0)),
        ]
        m.d.sync += [
            psums_final.eq(Mux(word.i.ready, next_final.all(), still_final.all())),
            undisturbed.eq(Mux(word.i.ready, ~next_busy.any(), ~still_busy.any())),
            params_there.eq(Mux(word.i.ready, next_there, still_there)),
        ]
        for lane, table in enumerate(params):
            m.d.comb += [
                table.offset.eq(now.params[lane]),
                table.enable.eq(go),
                table.release.eq(now.param_release),
                table.sync.eq(1),
            ]

        # the pipeline: bank and parameter responses, group multiplexer, requantiser, packer; it never stops: a word
        # goes only if there is room for its beat at the store engine
        depth = PIPELINE_STAGES
        tag = data.StructLayout({"valid": lanes, "slot": len(now.slot), "flush": 1})
        tags: list[Any] = [Signal(tag, name=f"tag{k}") for k in range(depth)]
        source = Signal.like(now.group, reset_less=True)
        m.d.sync += [
            tags[0].valid.eq(Mux(go, chosen, 0)),
            tags[0].slot.eq(now.slot),
            tags[0].flush.eq(now.flush),
            source.eq(now.group),
            *[tags[k].eq(tags[k - 1]) for k in range(1, depth)],
        ]
        places = lane_depth(config)
        credits = [Signal(range(places + 1), init=places, name=f"credits{lane}") for lane in range(lanes)]
        for lane, credit in enumerate(credits):
            m.d.sync += credit.eq(credit - (tags[0].valid[lane] & tags[0].flush) + self.returned[lane])
        m.d.sync += room.eq(Cat(credit > UNSEEN for credit in credits).all())
        # one descriptor's constants serve the whole pipeline: the next one's first word waits until it is empty
        with m.If(go):
            m.d.sync += pipe_bank.eq(now.bank)
        empty = Signal(init=1)
        m.d.sync += empty.eq(~Cat(t.valid for t in tags).any() & ~go)
        m.d.comb += settled.eq((now.bank == pipe_bank) | empty)
        constant = {}
        for name in run_fields:
            constant[name] = Signal.like(piped[name], name=f"run_{name}", reset_less=True)
            m.d.sync += constant[name].eq(piped[name])
        place = Signal(config.flit_words, reset_less=True)  # data words of the beat that a word fills
        slot, span = tags[-2].slot, 32 // config.data_width
        for k in range(config.flit_words):
            m.d.sync += place[k].eq(slot == Mux(constant["raw"], k // span * span, k))
        packers: list[Any] = []
        for lane in range(lanes):
            m.submodules[f"requantizer{lane}"] = unit = Requantizer(config.acc_width, config.data_width)
            m.submodules[f"packer{lane}"] = packer = Packer(config)
            packers.append(packer)
            psum = Signal(signed(config.acc_width), name=f"psum{lane}", reset_less=True)
            param = Signal(64, name=f"param{lane}", reset_less=True)
            by_group = {group_of[bank]: self.banks[bank].response for bank in of_lane[lane]}
            responses = [by_group.get(number, by_group[0]) for number in range(groups)]
            m.d.sync += [psum.eq(Array(responses)[source]), param.eq(params[lane].response)]
            m.d.comb += [
                unit.psum.eq(psum),
                unit.bias.eq(Mux(constant["use_param"], param[:32], 0)),
                unit.scale.eq(param[32:]),
                unit.zero_point.eq(constant["zero_point"]),
                unit.clamp_low.eq(constant["clamp_low"]),
                unit.clamp_high.eq(constant["clamp_high"]),
                packer.valid.eq(tags[-1].valid[lane]),
                packer.place.eq(place),
                packer.flush.eq(tags[-1].flush),
                packer.raw.eq(constant["raw"]),
                packer.word.eq(unit.word),
                packer.accumulator.eq(unit.raw),
            ]
            wiring.connect(m, packer.o, wiring.flipped(self.lanes[lane]))

        running = Signal(2)
        started = self.start.valid & self.start.ready
        m.d.sync += running.eq(running + started - (go & now.end))
        m.d.comb += [
            self.idle.eq((running == 0) & ~Cat(t.valid for t in tags).any() & ~Cat(p.o.valid for p in packers).any()),
            self.held.eq(
                Cat(stage.o.valid for stage in (choice, plan, word)).any()
                | (params[0].held != 0)
                | Cat(packer.partial for packer in packers).any()
            ),
            self.waits.eq(Cat(~(psums_final & undisturbed), ~params_there, ~room) & word.o.valid.replicate(3)),
        ]
        return m
