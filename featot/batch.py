"""Many syntheses, one after the other or in several processes; one that fails leaves the others alone."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import time
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import torch

from featot.errors import FeatotError, UsageError
from featot.exemplars import Pictures, Sources
from featot.files import check_writable, what_is_missing
from featot.images import check_image_suffix, write_image
from featot.plugins import Registry
from featot.provenance import is_record
from featot.report import Recorder, check_report, write_report
from featot.runs import SynthesisSettings, check_plugins
from featot.tasks import synthesize_each

_PATIENCE = 10.0  # seconds for a process to clear up and end
_INPUTS = ("exemplar", "mask", "guide", "exemplar_guide")  # in a record


@dataclass(frozen=True, kw_only=True)
class Item:
    """One synthesis of a batch: from one exemplar, a file, to the image ``out``, with its record beside it.

    ``label``: how errors name it, such as "row 3 of list.csv". ``show_tiled``: also write the image 2×2.
    ``report``: the command that a page about it names (see `featot.report`); None writes no page.
    """

    sources: Sources
    settings: SynthesisSettings
    out: Path
    label: str
    show_tiled: bool = False
    report: str | None = None

    @property
    def name(self) -> str:
        """The exemplar's file."""
        return str(self.sources.exemplars[0])

    @property
    def sidecar(self) -> Path:
        """Where the record goes."""
        return self.out.with_suffix(".json")

    @property
    def tiled(self) -> Path | None:
        """Where the image goes 2×2, if it does."""
        return self.out.with_stem(f"{self.out.stem}_tiled") if self.show_tiled else None

    @property
    def page(self) -> Path | None:
        """Where the report goes, if there is one."""
        return self.out.with_suffix(".html") if self.report is not None else None

    @property
    def outputs(self) -> list[Path]:
        """Every file that is written."""
        return [file for file in (self.out, self.sidecar, self.tiled, self.page) if file is not None]

    @property
    def inputs(self) -> list[str]:
        """Every file that is read."""
        sources = self.sources
        return [str(file) for file in (self.name, sources.mask, sources.guide, sources.exemplar_guide) if file]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of an item: made with this ``loss``, skipped as it was there already, or failed with this ``error``.

    ``seconds``: all that it took. ``warnings``: what was to be said meanwhile.
    """

    item: Item
    status: Literal["made", "skipped", "failed"]
    seconds: float
    loss: float | None = None
    error: str | None = None
    warnings: tuple[str, ...] = ()


def check_items(items: Sequence[Item], registry: Registry) -> None:
    """Finds before a long run what cannot work. Raises `featot.UsageError`, which names the item.

    That is: files that are missing, plugins and options that do not exist, images that cannot be written or would
    overwrite an input, another item's image or somebody's file.
    """
    writers: dict[str, Item] = {}
    for item in items:
        for file in item.inputs:
            if not os.path.exists(file):
                raise UsageError(f"{item.label}: {what_is_missing(Path(file).absolute())}")
    inputs = {_identity(file) for item in items for file in item.inputs}
    for item in items:
        try:
            check_image_suffix(item.out, item.settings.size)
            for output in item.outputs:
                writer = writers.setdefault(os.path.realpath(output), item)
                if writer is not item:
                    why = f"it would write {output}, as {writer.label} does"
                    raise UsageError(f"{why}; expected an output of its own, by a column 'out' of a manifest")
                check_writable(output)
                if output.exists() and _identity(output) in inputs:
                    raise UsageError(f"cannot write {output}: it is an input; expected another folder or name")
            if item.sidecar.exists() and not is_record(item.sidecar):
                raise UsageError(f"cannot write {item.sidecar}: a file of another kind is there")
            if item.page is not None:
                check_report(item.page)
            check_plugins(item.settings, registry)
        except UsageError as error:
            raise UsageError(f"{item.label}: {error}") from None


def with_seeds(items: Sequence[Item], count: int) -> list[Item]:
    """Each item with its seed and those that follow, ``count`` in all, as out_seedN; raises `featot.UsageError`."""
    if count < 1:
        raise UsageError(f"expected --count of at least 1, got {count}")
    return [
        dataclasses.replace(
            item,
            settings=dataclasses.replace(item.settings, seed=seed),
            out=item.out.with_stem(f"{item.out.stem}_seed{seed}"),
        )
        for item in items
        for seed in range(item.settings.seed, item.settings.seed + count)
    ]


def run_items(items: Sequence[Item], jobs: int = 1) -> Generator[Outcome, None, None]:
    """Makes every item and saves it; what is there already with the same settings and inputs is skipped.

    ``jobs``: 1 works here, more in so many new processes, which share the CPU's cores; outcomes come as they are
    ready. Each process imports the program's main module, which must be safe to import.
    On Ctrl-C raises KeyboardInterrupt: what is done stays, what is not leaves nothing behind.
    Raises `featot.UsageError` for less than one job.
    """
    if jobs < 1:
        raise UsageError(f"expected at least 1 job, got {jobs}")
    return (_make(item) for item in items) if jobs == 1 else _in_processes(items, min(jobs, len(items)))


def _identity(file: str | Path) -> tuple[int, int]:
    """The same for all names of one file."""
    found = os.stat(file)
    return found.st_dev, found.st_ino


def _make(item: Item) -> Outcome:
    begin = time.perf_counter()
    found: dict[str, Any]
    with warnings.catch_warnings(record=True) as told:
        try:
            found = _skip_or_save(item)
        except Exception as error:  # whatever it is, the others go on
            known = isinstance(error, FeatotError | OSError)
            text = str(error) if known else f"{type(error).__name__}: {error}"
            found = {"status": "failed", "error": " ".join(text.split())}
    seconds = time.perf_counter() - begin
    return Outcome(item=item, seconds=seconds, warnings=tuple(str(warning.message) for warning in told), **found)


def _skip_or_save(item: Item) -> dict[str, Any]:
    pictures = item.sources.read()
    check_image_suffix(item.out, channels=pictures.channels)
    asked = json.loads(json.dumps(dataclasses.asdict(item.settings), default=str))
    if _is_made(item, asked, pictures):
        return {"status": "skipped"}
    recorder = Recorder()
    (result,) = synthesize_each(pictures, item.settings, callback=None if item.page is None else recorder)
    if result.interrupted:
        raise KeyboardInterrupt
    result.record["asked"] = asked
    item.sidecar.unlink(missing_ok=True)  # it must never be seen beside an image that it does not describe
    result.save(item.out)
    if item.tiled is not None:
        write_image(result.image.repeat(1, 1, 2, 2), item.tiled, result.format)
    if item.page is not None:
        write_report(
            item.page, result=result, exemplar=pictures.exemplars, recorder=recorder, command=str(item.report)
        )
    return {"status": "made", "loss": result.record["loss"]}


def _is_made(item: Item, asked: Mapping[str, Any], pictures: Pictures) -> bool:
    """Whether all outputs are there, by the record from the same pixels and settings."""
    if not (all(file.exists() for file in item.outputs) and is_record(item.sidecar)):
        return False
    record = json.loads(item.sidecar.read_text("utf-8"))
    same = all(_hash(record.get(key)) == _hash(pictures.record[key]) for key in _INPUTS)
    return same and record.get("asked") == asked and record.get("interrupted") is False


def _hash(described: Any) -> Any:
    return described.get("sha256") if isinstance(described, dict) else None


def _in_processes(items: Sequence[Item], jobs: int) -> Generator[Outcome, None, None]:
    """One item at a time to each process; where one dies of its item, another takes its place."""
    waiting = deque(items)
    busy: dict[Connection, tuple[BaseProcess, Item, float]] = {}
    idle: list[tuple[Connection, BaseProcess]] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < jobs:
                pipe, process = idle.pop() if idle else _start(jobs)
                item = waiting.popleft()
                busy[pipe] = process, item, time.perf_counter()
                with suppress(BrokenPipeError):  # it is dead: told below
                    pipe.send(item)
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                process, item, begin = busy[ready]
                try:
                    outcome = ready.recv()
                    idle.append((ready, process))
                except (EOFError, OSError):
                    process.join(_PATIENCE)
                    error = f"its process died (exit code {process.exitcode}); perhaps memory ran out: try fewer jobs"
                    outcome = Outcome(item=item, status="failed", seconds=time.perf_counter() - begin, error=error)
                del busy[ready]
                yield outcome
    finally:
        _end([process for _, process in idle] + [process for process, _, _ in busy.values()])


def _start(jobs: int) -> tuple[Connection, BaseProcess]:
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads without the threads
    here, there = context.Pipe()
    threads = min(torch.get_num_threads(), max(1, (os.cpu_count() or 1) // jobs))
    process = context.Process(target=_work, args=(there, threads), daemon=True)
    with _deaf_to_interrupts():
        process.start()
    there.close()  # or the end of the process would not be noticed
    return here, process


def _end(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_PATIENCE)
        process.kill()


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """A process that starts meanwhile ignores Ctrl-C, which reaches all of a terminal's: its parent ends it."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(pipe: Connection, threads: int) -> None:
    """Makes items until there are no more, or until SIGTERM, which then leaves nothing half written."""
    signal.signal(signal.SIGTERM, _interrupt)
    torch.set_num_threads(threads)
    with suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        while True:
            pipe.send(_make(pipe.recv()))


def _interrupt(*_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once
    raise KeyboardInterrupt
