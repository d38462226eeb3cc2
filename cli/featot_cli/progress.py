"""The bar of a file that is written, and the preview that grows beside a result."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from featot.errors import FeatotError
from featot.images import write_image
from featot.match import Callback, MatchState

_PREVIEW_SECONDS = 1.0


@contextmanager
def preview_file(path: Path | None) -> Iterator[Callback]:
    """A callback that writes the image as it is to ``path``, about once a second; the file is gone at the end.

    A preview that cannot be written is a warning: the run goes on.
    """
    if path is None:
        yield lambda state: None
        return
    last = -_PREVIEW_SECONDS

    def update(state: MatchState) -> None:
        nonlocal last
        if time.monotonic() - last >= _PREVIEW_SECONDS:
            try:
                write_image(state.image(), path)
            except FeatotError as error:
                warnings.warn(f"no preview: {error}", stacklevel=1)
            last = time.monotonic()

    try:
        yield update
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def strip_bar(name: str, height: int, *, quiet: bool) -> Iterator[Callable[[Iterable[Tensor]], Iterator[Tensor]]]:
    """A function that passes strips of an image on and moves a bar on standard error by their rows.

    Silent if ``quiet``, or where standard error is no terminal.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        bar = progress.add_task(name, total=height)

        def passed(strips: Iterable[Tensor]) -> Iterator[Tensor]:
            for strip in strips:
                yield strip
                progress.advance(bar, strip.shape[2])

        yield passed
