"""The progress bar of long work."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from featot.match import Callback, MatchState


@contextmanager
def progress_bar(*, quiet: bool = False) -> Iterator[Callback]:
    """A callback for any task that moves a bar, on standard error or in the notebook: level, size, loss, time left.

    Silent if ``quiet``, where standard error is no terminal, and in notebooks without ipywidgets. On a terminal it is
    gone when a run has ended, so that what is printed then has a line of its own, and back when the next one begins.

    >>> with featot.progress_bar() as callback:
    ...     result = featot.synthesize("bricks.png", callback=callback)
    """
    console = Console(stderr=True)
    seen = importlib.util.find_spec("ipywidgets") is not None if console.is_jupyter else console.is_terminal
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=quiet or not seen, transient=True) as progress:
        bar = progress.add_task("preparing", total=1, loss="–")

        def update(state: MatchState) -> None:
            h, w = state.size
            progress.start()
            progress.update(
                bar,
                description=f"level {state.stage + 1}/{state.num_stages}, {h}x{w}",
                completed=state.record.step + 1,
                total=state.num_steps,
                loss=f"{state.record.loss:.4f}",
            )
            if state.record.step + 1 == state.num_steps and not console.is_jupyter:
                progress.stop()

        yield update
