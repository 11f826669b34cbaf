"""What is going on, on standard error."""

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from rowmesh.sw.inputs.errors import one_line
from rowmesh.sw.report import tables as report

__all__ = ["PATIENCE", "Stage", "StageBars", "notes"]

Stage = Callable[[str, float | None], None]

PATIENCE = 5.0
"""Seconds after which a command says what it does even though its input may yet be refused."""


class StageBars:
    """Progress on standard error: bars on a terminal, elsewhere a line a stage of what takes longer than `PATIENCE`.

    What the program's log says meanwhile is a stage as well.
    """

    def __init__(self) -> None:
        screen = report.console(sys.stderr)
        self._bars = (
            Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                console=screen,
                transient=True,
            )
            if screen.is_terminal
            else None
        )
        self._task = self._bars.add_task("", total=None) if self._bars else None
        self._said: str | None = None
        self._held: str | None = None
        self._started = False
        self._timer = threading.Timer(PATIENCE, self._waited)
        self._timer.daemon = True

    def __enter__(self) -> "StageBars":
        if self._bars:
            self._bars.start()
        else:
            self._timer.start()
        _open.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _open.remove(self)
        self._timer.cancel()
        if self._bars:
            self._bars.stop()

    def start(self) -> None:
        """Say from now on, off a terminal too, what is going on: the input has been accepted."""
        self._started, self._held = True, None

    def _waited(self) -> None:
        held = self._held
        self.start()
        if held:
            print(held, file=sys.stderr, flush=True)

    def show(self, text: str, fraction: float | None = None) -> None:
        """Show what is going on, and the share of it that is done or None."""
        if self._bars and self._task is not None:
            total, done = (None, 0.0) if fraction is None else (1.0, min(max(fraction, 0.0), 1.0))
            if text != self._said:
                self._bars.reset(self._task)
            self._bars.update(self._task, description=text, total=total, completed=done)
        elif text != self._said and self._started:
            print(text, file=sys.stderr, flush=True)
        elif not self._started:
            self._held = text
        self._said = text

    def layer(self, name: str, index: int, count: int) -> Stage:
        """Return the callback that shows one layer's stages."""
        prefix = f"[{index + 1}/{count}] {name}"

        def stage(title: str, fraction: float | None) -> None:
            self.show(one_line(f"{prefix}: {title}"), fraction)

        return stage


_open: list[StageBars] = []


class _Notes(logging.Handler):
    """Says what the program's log says: a warning at once, everything else as what is going on."""

    def emit(self, record: logging.LogRecord) -> None:
        text = one_line(record.getMessage())
        if record.levelno >= logging.WARNING:
            print(f"rowmesh: {text}", file=sys.stderr, flush=True)
        elif _open:
            _open[-1].show(text)


@contextlib.contextmanager
def notes() -> Iterator[None]:
    """Show the program's log on standard error."""
    log, handler = logging.getLogger("rowmesh"), _Notes()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
