"""The progress bar of long work, and the preview that grows beside the result."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from featot.images import write_image
from featot.match import Callback, MatchState

_PREVIEW_SECONDS = 1.0


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Callback]:
    """A callback that moves a bar on standard error: stage, size, loss and time left. Silent if ``quiet``."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as progress:
        bar = progress.add_task("preparing", total=1, loss="–")

        def update(state: MatchState) -> None:
            h, w = state.size
            progress.update(
                bar,
                description=f"level {state.stage + 1}/{state.num_stages}, {h}x{w}",
                completed=state.record.step + 1,
                total=state.num_steps,
                loss=f"{state.record.loss:.4f}",
            )

        yield update


@contextmanager
def preview_file(out: Path | None) -> Iterator[Callback]:
    """A callback that writes the image as it is, about once a second, to NAME.preview.SUFFIX; gone at the end."""
    if out is None:
        yield lambda state: None
        return
    path = out.with_suffix(f".preview{out.suffix}")
    last = 0.0

    def update(state: MatchState) -> None:
        nonlocal last
        if time.monotonic() - last >= _PREVIEW_SECONDS:
            write_image(state.image().clamp(0, 1), path)
            last = time.monotonic()

    try:
        yield update
    finally:
        path.unlink(missing_ok=True)
