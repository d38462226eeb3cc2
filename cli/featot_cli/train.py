"""`featot train`: a generator from an exemplar."""

from __future__ import annotations

import csv
import io
import json
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from featot.errors import UsageError
from featot_cli.common import (
    PluginCommand,
    augment_option,
    json_option,
    mixed_option,
    parsed_changes,
    problem_options,
    quiet_option,
    split_options,
    weights_option,
)
from featot_cli.main import LazyRegistry, pass_registry

if TYPE_CHECKING:
    from featot.training import Training, TrainingState

_LEAST_DIVERSITY = 0.3
_SAMPLE_SECONDS, _CHECKPOINT_SECONDS = 30.0, 120.0


@click.command(cls=PluginCommand)
@click.argument("exemplars", nargs=-1, metavar="EXEMPLAR...")
@mixed_option
@click.option("--out", metavar="FILE", help="The model to write.  [default: EXEMPLAR's name with .safetensors]")
@click.option("--steps", type=int, help="Steps of the optimiser.  [default: 6000, or what --minutes allows]")
@click.option("--minutes", type=float, help="End after this time.")
@click.option("--size", metavar="HxW", help="Of the images it learns from.  [default: EXEMPLAR's twice, at most 512]")
@problem_options("texnet_lite")
@weights_option
@click.option("--rate", type=float, help="Adam's rate at the start.  [default: 0.006]")
@click.option("--max-points", type=int, help="Thin levels with more points than this.  [default: 8192]")
@augment_option
@click.option("--conditional", is_flag=True, help="Learn each EXEMPLAR, and what lies between them, by weights.")
@click.option("--seed", type=int, help="The same seed and steps give the same model.  [default: 0]")
@click.option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N.  [default: auto]")
@click.option(
    "--precision", metavar="NAME", help="Of the network: auto, float32 or bfloat16 (auto's on GPUs).  [default: auto]"
)
@click.option("--run", "folder", metavar="DIR", help="Where checkpoint, curve and samples go.  [default: runs/MODEL]")
@click.option("--resume", metavar="DIR", help="Go on with the run in this folder, to its end.")
@quiet_option
@json_option
@pass_registry
def train(
    lazy: LazyRegistry,
    /,
    exemplars: tuple[str, ...],
    mixed: tuple[str, ...],
    out: str | None,
    weights: str | None,
    folder: str | None,
    resume: str | None,
    quiet: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Train a generator network on EXEMPLAR's features; `featot sample` then makes images of any size at once.

    In the run's folder are config.json, curve.csv, samples, and a checkpoint that is written every two minutes and on
    Ctrl-C or SIGTERM; --resume goes on from it, on the CPU bit for bit. Where TensorBoard is installed, its logs too.
    Unless given, targets is 2048 here, for more and quicker steps.

    \b
    featot train bricks.png --minutes 10 -o bricks.safetensors
    featot train bricks.png --features vgg --loss gram --param texnet --weights vgg19.pth
    featot train rust.png moss.png --conditional --minutes 20 -o between.safetensors   # then sample --weights .3,.7
    featot train --resume runs/bricks
    featot sample bricks.safetensors --size 2048
    torchrun --nproc-per-node 2 -m featot_cli train bricks.png     # a batch shared by two processes
    """
    from featot.files import check_writable
    from featot.parallel import joined, world

    options, out = split_options(mixed, out, weights)
    changes = {name: value for name, value in given.items() if value not in (None, ()) and value is not False}
    with joined():
        if resume is not None:
            if exemplars or options or out or folder or changes:
                raise UsageError("--resume goes on with a run as it was; it takes no exemplar and no settings")
            training, place, model = _resumed(lazy, Path(resume))
        else:
            if not exemplars:
                raise UsageError("which image? Expected an EXEMPLAR, as in: featot train bricks.png --minutes 10")
            model = Path(out) if out is not None else Path(f"{Path(exemplars[0]).stem}.safetensors")
            if model.suffix != ".safetensors":
                raise UsageError(f"expected a model .safetensors, got {model}")
            place = Path(folder) if folder is not None else Path("runs") / model.stem
            training = _begun(lazy, exemplars, {**changes, "options": options}, place, model)
        check_writable(model)
        first = world()[0] == 0
        _run(training, place, lazy, quiet=quiet or as_json, first=first)
        if training.fraction < 1:
            if first:
                why = f"stopped at step {training.steps}; go on with: featot train --resume {place}"
                click.echo(f"featot: {why}", err=True)
            raise click.exceptions.Exit(130)
        if first:
            _tell(training.save(model), model, place, quiet=quiet, as_json=as_json)


def _run(training: Training, place: Path, lazy: LazyRegistry, *, quiet: bool, first: bool) -> None:
    """Trains to the end, or until Ctrl-C; the first of several processes shows and writes how it goes."""
    checkpoint, last_saved = place / "checkpoint.safetensors", time.monotonic()
    with (
        _stop_on_signals() as stop,
        _progress(quiet or not first) as show,
        _samples(place, training, lazy) as sample,
    ):

        def callback(state: TrainingState) -> None:
            nonlocal last_saved
            sample(state, show(state))
            if time.monotonic() - last_saved > _CHECKPOINT_SECONDS:
                training.save_checkpoint(checkpoint)
                last_saved = time.monotonic()

        training.run(callback if first else None, stop)
    if first:
        training.save_checkpoint(checkpoint)
        _write_curve(training, place / "curve.csv")


def _tell(record: dict[str, Any], model: Path, place: Path, *, quiet: bool, as_json: bool) -> None:
    if record["diversity"] < _LEAST_DIVERSITY:
        why = f"diversity {record['diversity']:.2f}, expected about 1"
        click.echo(f"featot: warning: the model makes nearly the same image from every seed ({why})", err=True)
    if as_json:
        click.echo(json.dumps(record))
    elif not quiet:
        what = f"{record['steps']} steps, loss {record['loss']:.4g}, diversity {record['diversity']:.2f}"
        seconds = f"{record['seconds']:.0f} s"
        shares = ",".join(str(n) for n in range(1, 2 + len(record["more_exemplars"])))
        how = f"--weights {shares}" if record["settings"]["conditional"] else "--size 1024"
        click.echo(f"{model}  {what}, {seconds}; run in {place}; try: featot sample {model} {how}")


def _begun(
    lazy: LazyRegistry, exemplars: tuple[str, ...], changes: dict[str, Any], place: Path, model: Path
) -> Training:
    """A new training, with its folder and its config.json."""
    from featot.exemplars import Sources
    from featot.files import write_text
    from featot.training import Training
    from featot.training_settings import TrainingSettings

    settings = TrainingSettings(**parsed_changes(changes))
    training = Training(Sources(exemplars=exemplars), settings, lazy.registry)
    if (place / "checkpoint.safetensors").exists():
        raise UsageError(f"there is a run in {place} already: go on with --resume {place}, or name another --run")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {place}: {error.strerror}") from error
    config = {"model": str(model.resolve()), **training.config()}
    write_text(place / "config.json", json.dumps(config, indent=1) + "\n")
    return training


def _resumed(lazy: LazyRegistry, place: Path) -> tuple[Training, Path, Path]:
    """The training of the run in ``place``, where it was left."""
    import torch

    from featot.checkpoints import read_checkpoint
    from featot.exemplars import Sources
    from featot.training import Training, recorded_settings

    if not place.is_dir():
        raise UsageError(f"there is no folder {place}; --resume expects the folder of a run, such as runs/bricks")
    checkpoint = place / "checkpoint.safetensors"
    header, _ = read_checkpoint(checkpoint)
    try:
        model = Path(json.loads((place / "config.json").read_text("utf-8"))["model"])
        pictures = [header["pictures"]["exemplar"], *header["pictures"]["more_exemplars"]]
        paths = [picture["path"] for picture in pictures]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"cannot go on with {place}: its config.json is gone or damaged ({error})") from None
    torch.set_num_threads(header["threads"])  # sums depend on how they are shared out
    training = Training(Sources(exemplars=paths), recorded_settings(header), lazy.registry)
    if [training.pictures["exemplar"], *training.pictures["more_exemplars"]] != pictures:
        warnings.warn(f"an exemplar of {place} has changed: the model learns the new one now", stacklevel=1)
    training.load_checkpoint(checkpoint)
    return training, place, model


@contextmanager
def _stop_on_signals() -> Iterator[Any]:
    """Whether Ctrl-C or SIGTERM came: the step under way is finished first. A second one ends at once."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _progress(quiet: bool) -> Iterator[Any]:
    """Moves a bar on standard error: step, loss, time left."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("1/{task.fields[part]}  step {task.fields[step]}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]}  msot {task.fields[msot]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("", total=1.0, part="1", step="–", loss="–", msot="–")

        def show(state: TrainingState) -> Any:
            progress.update(
                bar, completed=state.fraction, part=2**state.scale, step=state.step, loss=f"{state.loss:.4f}"
            )
            return lambda score: progress.update(bar, msot=f"{score:.4f}")

        yield show


@contextmanager
def _samples(place: Path, training: Training, lazy: LazyRegistry) -> Iterator[Any]:
    """Every half a minute scores a sample and writes it to the run's folder, and to TensorBoard where that is."""
    from featot.images import write_image
    from featot.parallel import world

    try:
        from torch.utils.tensorboard import SummaryWriter

        board: Any = SummaryWriter(str(place)) if world()[0] == 0 else None
    except ImportError:
        board = None
    plugin = lazy.registry.get("metric", "msot")
    msot = plugin.create(plugin.build_options({"points": 500, "draws": 1}))
    last = time.monotonic()

    def sample(state: TrainingState, tell: Any) -> None:
        nonlocal last
        if board is not None:
            board.add_scalar("loss", state.loss, state.step)
        if time.monotonic() - last < _SAMPLE_SECONDS:
            return
        image = state.image()
        write_image(image, place / f"sample_{state.step:06d}.png")
        if board is not None:
            board.add_image("sample", image[0], state.step)
        if state.scale == 0:  # until then the finest detail is still to come
            score = msot(image, training.exemplar.cpu())
            tell(score)
            if board is not None:
                board.add_scalar("msot", score, state.step)
        last = time.monotonic()

    try:
        yield sample
    finally:
        if board is not None:
            board.close()


def _write_curve(training: Training, path: Path) -> None:
    from featot.files import write_text

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "loss"])
    writer.writerows(enumerate(training.losses, start=1))
    write_text(path, text.getvalue())
