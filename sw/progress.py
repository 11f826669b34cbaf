"""What is going on, on standard error."""

import sys
from collections.abc import Callable

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from rowmesh.sw import files, report

__all__ = ["Stage", "StageBars"]

Stage = Callable[[str, float | None], None]


class StageBars:
    """Progress on standard error: bars on a terminal, a line a stage elsewhere."""

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
        self._started = False

    def __enter__(self) -> "StageBars":
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    def start(self) -> None:
        """Say from now on, off a terminal too, what is going on: the input has been accepted."""
        self._started = True

    def layer(self, name: str, index: int, count: int) -> Stage:
        """Return the callback that shows one layer's stages."""
        prefix = f"[{index + 1}/{count}] {name}"

        def stage(title: str, fraction: float | None) -> None:
            text = files.one_line(f"{prefix}: {title}")
            if self._bars and self._task is not None:
                total, done = (None, 0.0) if fraction is None else (1.0, min(max(fraction, 0.0), 1.0))
                if text != self._said:
                    self._bars.reset(self._task)
                self._bars.update(self._task, description=text, total=total, completed=done)
            elif text != self._said and self._started:
                print(text, file=sys.stderr, flush=True)
            self._said = text

        return stage
