"""Where the cycles of a layer went, and which parameter of the architecture would help most.

The cycles of a run are split into the array's limit (multiply-accumulates / PEs), what the mapping loses (PEs without
work, partial tiles), and the parts that the hardware counts. What would help is found by mapping and predicting the
layer again, the same search, on architectures that differ in one parameter each.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rowmesh.hw.config import ArchConfig, ConfigError
from rowmesh.sw.inputs.errors import InputError
from rowmesh.sw.mapping.dataflow import load_dataflows
from rowmesh.sw.mapping.layer import LayerMapping
from rowmesh.sw.model.energy import DEFAULT, load_energy
from rowmesh.sw.model.predict import predict
from rowmesh.sw.model.utilization import edges, link_cycles, pe_steps, used_pes
from rowmesh.sw.results.file import RunLayer
from rowmesh.sw.results.layer import LayerResult
from rowmesh.sw.search.mapper import find_mapping
from rowmesh.sw.search.objective import Objective

__all__ = ["CHANGED", "Change", "Loss", "bound", "changes", "losses", "verdict", "what_helps"]

CHANGED = (
    "rows",
    "cols",
    "iact_spad",
    "weight_spad",
    "psum_spad",
    "glb_iact_flits",
    "glb_weight_flits",
    "psum_bank_words",
    "axi_data_width",
    "read_bursts",
    "burst_beats",
    "uop_fifo",
    "chain_fifo",
)
"""Parameters that are doubled, one at a time."""

_CLUSTERS = ("mesh_rows", "mesh_cols")
"""Likewise, of a mesh."""

_PES = (*_CLUSTERS, "rows", "cols")
"""Those that make more PEs."""

WORTH = 0.005
"""Share of the cycles from which a change is said to help."""

_AT_LIMIT = 0.9
"""Share of the cycles from which the array itself is said to bound a layer."""

_PART_WORDS = {
    "config": "the program is read and written to the engines",
    "fill": "until the first multiply-accumulate: the first words come from memory",
    "noc": "a PE waits for a word that is in the global buffer: links, taps, or a full spad",
    "dma": "a PE waits for a word that is still in memory",
    "psum": "a PE waits for its psum chain",
    "drain": "behind the last step: psums are drained and stored",
}

_CURES = {
    "PEs": "more PEs",
    "unused PEs": "another split over the array, or an array of another shape",
    "partial tiles": "sizes that divide the layer's more evenly",
    "fill": "a smaller first tile, or more words a cycle from memory",
    "noc": "more words a flit or larger spads",
    "dma": "a larger global buffer, or more words a cycle from memory",
    "psum": "fewer chains a column or deeper psum FIFOs",
    "drain": "smaller last tiles or more drain lanes",
    "config": "nothing of the array: the layer is too short for its program",
}


@dataclass(frozen=True)
class Loss:
    """A share of the cycles and its cause.

    Parameters
    ----------
    name : str
    cycles : int
        Below 0 only for steps that were issued during the fill.
    words : str
        The cause.
    """

    name: str
    cycles: int
    words: str


def losses(result: LayerResult, mapping: LayerMapping) -> list[Loss]:
    """Split the RTL's cycles by cause.

    Parameters
    ----------
    result : LayerResult
    mapping : LayerMapping
        The mapping that was run.

    Returns
    -------
    list of Loss
        Their sum is the RTL's total.
    """
    parts, macs, used = result.rtl.parts, result.macs, used_pes(mapping)
    limit, by_used, done = round(macs / result.pes), round(macs / used), pe_steps(mapping)
    found = [
        Loss("PEs", limit, f"{macs:,} multiply-accumulates, one a cycle on each of {result.pes} PEs"),
        Loss("unused PEs", by_used - limit, f"the mapping has work for {used} of {result.pes} PEs"),
        Loss("partial tiles", done - by_used, _edge_words(mapping)),
    ]
    if parts["compute"] != done:
        early = "steps that were issued before the first multiply-accumulate, counted as fill"
        found.append(Loss("early steps", parts["compute"] - done, early))
    return found + [Loss(name, parts[name], words) for name, words in _PART_WORDS.items()]


def _edge_words(m: LayerMapping) -> str:
    cut = [f"{name}: {rest} of {full} in the last of {tiles}" for name, full, rest, tiles in edges(m)]
    return "; ".join(cut) or "every tile fills the PEs that are used"


def bound(result: LayerResult, mapping: LayerMapping) -> str:
    """Say in a sentence what bounds a layer; for parameters see :func:`losses`."""
    found = losses(result, mapping)
    total = result.rtl.cycles
    share = found[0].cycles / total
    worst = max((loss for loss in found[1:] if loss.name in _CURES), key=lambda loss: loss.cycles)
    if share >= _AT_LIMIT:
        text = f"Bound by its number of PEs: {share:.1%} of the cycles are the limit of the array."
        text += f" The largest loss is {worst.name}, {worst.cycles / total:.1%}."
    else:
        text = f"The array is at {share:.1%} of its limit; most is lost to {worst.name}, {worst.cycles / total:.1%}."
        text += f" Usual cures: {_CURES[worst.name]}."
    links = link_cycles(mapping)
    busiest = max(links, key=lambda name: links[name])
    return f"{text} The busiest link, {busiest}, is in use in {links[busiest] / total:.0%} of the cycles."


@dataclass(frozen=True)
class Change:
    """What the model predicts for a changed parameter.

    Parameters
    ----------
    parameter : str
    old, new : int
    cycles : int or None
        Predicted; None where ``reason`` says why there is no prediction.
    gain : float
        Share of the cycles that is saved; below 0 if it takes longer.
    pes : int
        Of the changed architecture.
    reason : str
    """

    parameter: str
    old: int
    new: int
    cycles: int | None = None
    gain: float = 0.0
    pes: int = 0
    reason: str = ""


def _changed(config: ArchConfig) -> tuple[str, ...]:
    """Return the parameters that are doubled."""
    return CHANGED if config.clusters == 1 else _CLUSTERS + CHANGED


def changes(config: ArchConfig) -> Iterator[tuple[Change, ArchConfig | None]]:
    """Yield every change with the architecture that it makes, or None where that is not legal."""
    for name in _changed(config):
        old = getattr(config, name)
        change = Change(name, old, 2 * old)
        try:
            # counters of the PEs change no cycle, and are of no more than MOST_COUNTED
            changed = config.replace(pe_counters=False, **{name: 2 * old})
        except ConfigError as error:
            reason = str(error).removeprefix(f"ArchConfig.{name} ").partition(", not")[0]
            yield Change(name, old, 2 * old, reason=f"not legal: {reason}"), None
        else:
            yield change, changed


def _cycles(run: RunLayer, config: ArchConfig, energy: str | None) -> int:
    """Predict the layer on an architecture, by the search of the run or by its mapping if that was given."""
    search = run.result.search
    if "mapping" in search:
        return predict(run.mapping_on(config)).cycles
    flows = load_dataflows(search.get("dataflow", "rs"))
    goal = Objective(search.get("objective", "cycles"), load_energy(energy or search.get("energy", DEFAULT)))
    return predict(find_mapping(config, run.layer, flows, goal)).cycles


def what_helps(
    run: RunLayer,
    progress: Callable[[str, float | None], None] = lambda stage, fraction: None,
    energy: str | None = None,
) -> tuple[int, list[Change]]:
    """Predict the layer with one parameter changed at a time.

    Parameters
    ----------
    run : RunLayer
    progress : callable
        Takes a stage and the share of all that is done.
    energy : str, optional
        Table of costs of accesses of the search, the run's by default.

    Returns
    -------
    cycles : int
        Predicted without a change.
    list of Change
        The largest gain first; those without a prediction last.

    Raises
    ------
    InputError
        If the file of results does not say what was run, or a file of the dataflow or of the energy is gone.
    """
    progress("as it is", 0.0)
    before = _cycles(run, run.config, energy)
    found = []
    for number, (change, config) in enumerate(changes(run.config), 1):
        progress(f"{change.parameter} {change.old} -> {change.new}", number / (len(_changed(run.config)) + 1))
        if config is None:
            found.append(change)
            continue
        try:
            after = _cycles(run, config, energy)
        except InputError as error:
            what = "not with the run's mapping" if "mapping" in run.result.search else "no mapping"
            reason = f"{what}: {str(error).rpartition(': ')[2]}"
            found.append(Change(change.parameter, change.old, change.new, reason=reason))
        else:
            gain = 1 - after / before
            found.append(Change(change.parameter, change.old, change.new, after, gain, config.pes))
    return before, sorted(found, key=lambda change: (change.cycles is None, -change.gain))


def verdict(before: int, found: list[Change], result: LayerResult) -> str:
    """Say which change helps most, or that none does.

    Parameters
    ----------
    before : int
        Cycles predicted without a change.
    found : list of Change
        The largest gain first.
    result : LayerResult
    """
    helping = [change for change in found if change.gain >= WORTH]
    if not helping:
        text = f"None of these saves {WORTH:.1%} of the predicted {before:,} cycles."
        if "mapping" in result.search:
            text += " The run's mapping came from a file and was not searched anew."
    else:
        best = helping[0]
        text = (
            f"{best.parameter} {best.old} -> {best.new} helps most: {best.gain:.1%} of the predicted {before:,} cycles."
        )
        cheap = next((change for change in helping if change.parameter not in _PES), None)
        if best.parameter in _PES:
            text += (
                f" Without more PEs: {cheap.parameter} {cheap.old} -> {cheap.new}, {cheap.gain:.1%}."
                if cheap
                else f" Without more PEs none saves {WORTH:.1%}."
            )
    if before != result.predicted.cycles:
        text += f" The run's own prediction was {result.predicted.cycles:,}: by an earlier model or search."
    return text
