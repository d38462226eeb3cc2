"""What the commands that optimise share: options of plugins, and reading them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from featot.errors import UsageError
from featot_cli.config import after_parsing, before_parsing
from featot_cli.main import lazy_registry
from featot_cli.plugins import describe_options, option_help


class PluginCommand(click.Command):
    """Adds the options of every plugin of its ``kinds`` to the help, and those of the configuration file to -o."""

    kinds: tuple[str, ...] = ("features", "param", "loss")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        typed = list(args)  # click empties it
        before_parsing(ctx, typed)
        rest = super().parse_args(ctx, args)
        after_parsing(ctx, typed)
        return rest

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        registry = lazy_registry(ctx).registry
        for kind in self.kinds:
            for name in registry.names(kind):
                options = describe_options(registry.get(kind, name))
                if options:
                    with formatter.section(f"-o KEY=VALUE for --{kind} {name}"):
                        formatter.write_dl([(f"{o['name']}={o['default']}", option_help(o)) for o in options])
        super().format_epilog(ctx, formatter)


def _group(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


mixed_option = click.option(
    "-o",
    "mixed",
    multiple=True,
    metavar="OUT | KEY=VALUE",
    help="With an equals sign: an option of a plugin (size=5, or pyramid.size=5). Without: the same as --out.",
)
image_options = _group(
    click.option(
        "--quality", metavar="NAME", help="draft, standard or high: about 1, 3 and 20 times the time.  [standard]"
    ),
    click.option(
        "--size", metavar="HxW", help="Size of the result, in pixels: 512x384, or 512.  [default: EXEMPLAR's]"
    ),
    click.option("--tile", metavar="AXES", help="Where the result wraps round: both, x, y or none.  [default: both]"),
    click.option("--seed", type=int, help="The same seed gives the same image.  [default: 0]"),
)
problem_options = _group(
    click.option(
        "--features",
        multiple=True,
        metavar="NAME[:SHARE]",
        help="What is matched; again for more, with a share of the pull: --features vgg:0.1.  [default: pyramid]",
    ),
    click.option("--param", metavar="NAME", help="What is optimised.  [default: image]"),
    click.option(
        "--loss",
        multiple=True,
        metavar="[FEATURES=]NAME",
        help="How it is compared: a name, a weighted sum, or for one of the features vgg=gram.  [default: ot+sliced]",
    ),
)
weights_option = click.option(
    "--weights", metavar="FILE", help="VGG's weights, .pth or .safetensors; the same as -o vgg.weights=FILE."
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
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress bar, no summary.")


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


def synthesis_settings(changes: dict[str, Any]) -> Any:
    from featot.tasks import SynthesisSettings

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
