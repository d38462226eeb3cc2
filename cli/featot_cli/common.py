"""What the commands that optimise share: options of plugins, and reading them."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from featot.errors import UsageError
from featot.options import as_text
from featot_cli.config import after_parsing, before_parsing
from featot_cli.main import lazy_registry
from featot_cli.plugins import describe_options, option_help

_TYPED = "featot.typed"
_MATCHED, _TOLD = "What is matched", "What is told"
_SECTION = "section"  # attribute of an option: its heading in the help


class PluginCommand(click.Command):
    """A command about plugins.

    It adds the options of every plugin of its ``kinds`` to the help, those of the configuration file to -o, and
    remembers what was typed.
    """

    kinds: tuple[str, ...] = ("features", "param", "loss")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        typed = list(args)  # click empties it
        ctx.meta[_TYPED] = shlex.join(["featot", ctx.info_name or "", *typed])
        before_parsing(ctx, typed)
        rest = super().parse_args(ctx, args)
        after_parsing(ctx, typed)
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's, but what many commands share stands under headings, where there is more than one of a kind."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if row is not None and isinstance(parameter, click.Option):  # the usage line names the arguments
                sections.setdefault(getattr(parameter, _SECTION, "Options"), []).append(row)
        for title in [title for title, rows in sections.items() if len(rows) == 1 and title != "Options"]:
            sections["Options"].insert(-1, *sections.pop(title))  # before --help
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        registry = lazy_registry(ctx).registry
        for kind in self.kinds:
            for name in registry.names(kind):
                options = describe_options(registry.get(kind, name))
                if options:
                    with formatter.section(f"-o KEY=VALUE for --{kind} {name}"):
                        rows = [(f"{o['name']}={as_text(o['default'])}", option_help(o)) for o in options]
                        formatter.write_dl(rows)
        super().format_epilog(ctx, formatter)


def typed_command() -> str:
    """The present command as it was typed, quoted for a shell."""
    command: str = click.get_current_context().meta[_TYPED]
    return command


def _group(*options: Callable[[Any], Any], section: str = "Options") -> Callable[[Any], Any]:
    """The options as one decorator, under a heading in the help."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        for parameter in command.__click_params__[-len(options) :]:
            setattr(parameter, _SECTION, section)
        return command

    return decorate


mixed_option = click.option(
    "-o",
    "mixed",
    multiple=True,
    metavar="OUT | KEY=VALUE",
    help="With an equals sign: an option of a plugin (size=5, or pyramid.size=5). Without: the same as --out.",
)
quality_option = click.option(
    "--quality", metavar="NAME", help="draft, standard or high: of 1, 3 and 20 times the time.  [default: standard]"
)
seed_option = click.option("--seed", type=int, help="The same seed gives the same image.  [default: 0]")
image_options = _group(
    quality_option,
    click.option(
        "--size", metavar="HxW", help="Size of the result, in pixels: 512x384, or 512.  [default: EXEMPLAR's]"
    ),
    click.option("--tile", metavar="AXES", help="Where the result wraps round: both, x, y or none.  [default: both]"),
    seed_option,
)


def problem_options(param: str) -> Callable[[Any], Any]:
    """What is matched, of what, and how; ``param``: the default of the command."""
    return _group(
        click.option(
            "--features",
            multiple=True,
            metavar="NAME[:SHARE]",
            help="What is matched; again for more, with a share of the pull: --features vgg:0.1.  [default: pyramid]",
        ),
        click.option("--param", metavar="NAME", help=f"What is optimised.  [default: {param}]"),
        click.option(
            "--loss",
            multiple=True,
            metavar="[FEATURES=]NAME",
            help="How it is compared: a name, a weighted sum, or for one of the features vgg=gram.  "
            "[default: ot+sliced]",
        ),
        section=_MATCHED,
    )


weights_option = _group(
    click.option(
        "--weights", metavar="FILE", help="VGG's weights, .pth or .safetensors; the same as -o vgg.weights=FILE."
    ),
    section=_MATCHED,
)
augment_option = click.option(
    "--augment", metavar="A,B", help="Also learn from the exemplar's quarter turns (rot90), mirrored (flip)."
)
loop_options = _group(
    click.option("--steps", type=int, help="Steps at the finest level.  [default: --quality's; 500 with --levels 1]"),
    click.option("--levels", type=int, help="Resolutions from coarse to fine; 1 is the paper's plain algorithm."),
    click.option("--optimizer", metavar="NAME", help="adam, lbfgs or closed-form.  [default: adam]"),
    click.option("--max-points", type=int, help="Thin levels with more points than this.  [default: --quality's]"),
    click.option(
        "--starts", type=int, help="Try the smallest levels so often, go on with the best.  [default: --quality's]"
    ),
    click.option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N.  [default: auto]"),
    section="How it is optimised",
)
json_option = _group(
    click.option(
        "--json", "as_json", is_flag=True, help="Print the record of the run as JSON instead of the summary."
    ),
    section=_TOLD,
)
report_option = _group(
    click.option("--report", is_flag=True, help="Also write OUT.html, a page about the run: maps, curves, scores."),
    section=_TOLD,
)
quiet_option = _group(click.option("-q", "--quiet", is_flag=True, help="No progress bar, no summary."), section=_TOLD)


def split_options(
    mixed: tuple[str, ...], out: str | None, weights: str | None = None
) -> tuple[dict[str, str], str | None]:
    """The options KEY=VALUE among the values of -o, and the output, given by -o or by --out."""
    options = {} if weights is None else {"vgg.weights": weights}
    outputs = [] if out is None else [out]
    for text in mixed:
        key, equals, value = text.partition("=")
        if not equals:
            outputs.append(text)
        elif not re.fullmatch(r"[A-Za-z_][\w.-]*", key):
            raise UsageError(f"bad option {text!r}: expected KEY=VALUE; for a file with '=' in its name use --out")
        elif key in options:
            raise UsageError(f"option {key!r} is given twice: {options[key]!r} and {value!r}")
        else:
            options[key] = value
    if len(outputs) > 1:
        raise UsageError(f"expected one output, got {' and '.join(outputs)}; options of plugins are -o KEY=VALUE")
    return options, outputs[0] if outputs else None


def settings_and_output(
    given: dict[str, Any], mixed: tuple[str, ...], out: str | None, weights: str | None = None
) -> tuple[Any, str | None]:
    """The settings that were typed, and the output, if any was."""
    options, out = split_options(mixed, out, weights)
    changes = {name: value for name, value in given.items() if value not in (None, ())}
    return synthesis_settings({**changes, "options": options}), out


def synthesis_settings(changes: dict[str, Any]) -> Any:
    """The settings with what was typed, as `parsed_changes` reads it."""
    from featot.runs import SynthesisSettings

    return SynthesisSettings(**parsed_changes(changes))


def parsed_changes(changes: dict[str, Any]) -> dict[str, Any]:
    """What was typed for size, features, loss and augment as settings have it; the rest as it is."""
    from featot.images import parse_size

    if "size" in changes:
        changes = {**changes, "size": parse_size(changes["size"])}
    for name, joint in (("features", "+"), ("loss", ",")):
        if name in changes:
            changes = {**changes, name: joint.join(changes[name])}
    if "augment" in changes:
        changes = {**changes, "augment": tuple(name.strip() for name in changes["augment"].split(","))}
    return changes


def parsed_weights(text: str) -> list[float]:
    """The numbers in ".3,.7"."""
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise UsageError(f"bad weights {text!r}: expected numbers with commas between, as .3,.7") from None


def check_outputs(
    files: list[Path], sidecars: list[Path], inputs: list[str], size: tuple[int, int] | None = None
) -> None:
    """Refuses at once what could not be written, or would overwrite an input or somebody's file."""
    from featot.files import check_writable
    from featot.images import check_image_suffix
    from featot.provenance import is_record

    for file in files:
        check_image_suffix(file, size)
    for file in (*files, *sidecars):
        check_writable(file)
        for given in inputs:
            if os.path.exists(file) and os.path.exists(given) and os.path.samefile(file, given):
                which = "the exemplar" if given == inputs[0] else "an input"
                raise UsageError(f"cannot write {file}: it is {which}; choose another name with --out")
    for sidecar in sidecars:
        if sidecar.exists() and not is_record(sidecar):
            why = "a file of another kind is there"
            raise UsageError(f"cannot write {sidecar}: {why}; choose another name with --out")


@contextmanager
def folder_for_outputs(folder: Path) -> Iterator[None]:
    """Makes the folder where it is missing, and takes it away again if nothing was written into it."""
    made = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror}") from error
    try:
        yield
    finally:
        if made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def channels_fit(file: Path) -> Callable[[Any], None]:
    """A callback that refuses at the first step, not after the last, channels that the file cannot hold."""
    from featot.images import check_image_suffix

    def check(state: Any) -> None:
        if state.record.step == 0:
            check_image_suffix(file, channels=state.image().shape[1])

    return check


def save_result(result: Any, file: Path, *, quiet: bool, as_json: bool) -> None:
    """Writes image and record, and says so: by the record itself, or in a line."""
    record = result.save(file)
    if as_json:
        click.echo(json.dumps(result.record))
    elif not quiet and not result.interrupted:
        h, w = result.image.shape[2:]
        seconds = result.record["timings"]["match"]
        click.echo(f"{file}  {h}x{w}, loss {result.record['loss']:.4g}, {seconds:.1f} s; record in {record}")


def end_interrupted(result: Any, file: Path) -> None:
    """Ends the command with 130 where the result was interrupted."""
    if result.interrupted:
        click.echo(f"featot: interrupted; {file} holds the best image so far", err=True)
        raise click.exceptions.Exit(130)


class Reports:
    """The pages beside the images, where they were asked for; a callback of the runs that they are about."""

    def __init__(self, asked: bool, files: Iterable[Path]) -> None:
        """Refuses at once a page that could not be written."""
        from featot.report import Recorder, check_report

        self.asked, self._recorder = asked, Recorder()
        for file in files if asked else ():
            check_report(file.with_suffix(".html"))

    def __call__(self, state: Any) -> None:
        if self.asked:
            self._recorder(state)

    def write(self, result: Any, file: Path, exemplars: Sequence[Any]) -> None:
        """Writes the page beside the image, unless the run was interrupted."""
        from featot.report import write_report

        if self.asked and not result.interrupted:
            page, command = file.with_suffix(".html"), typed_command()
            write_report(page, result=result, exemplar=exemplars, recorder=self._recorder, command=command)


def each(*callbacks: Callable[[Any], None]) -> Callable[[Any], None]:
    """A callback that calls all of these."""

    def call(state: Any) -> None:
        for callback in callbacks:
            callback(state)

    return call
