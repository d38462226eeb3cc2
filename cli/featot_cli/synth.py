"""`featot synth`: a texture from an exemplar."""

from __future__ import annotations

import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import click

from featot.errors import UsageError
from featot_cli.main import LazyRegistry, lazy_registry, pass_registry
from featot_cli.plugins import describe_options, option_help

_KINDS = ("features", "param", "loss")


class SynthCommand(click.Command):
    """Adds the options of every plugin to the help."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        registry = lazy_registry(ctx).registry
        for kind in _KINDS:
            for name in registry.names(kind):
                options = describe_options(registry.get(kind, name))
                if options:
                    with formatter.section(f"-o KEY=VALUE for --{kind} {name}"):
                        formatter.write_dl([(f"{o['name']}={o['default']}", option_help(o)) for o in options])
        super().format_epilog(ctx, formatter)


@click.command(cls=SynthCommand)
@click.argument("exemplar", required=False, metavar="EXEMPLAR")
@click.option(
    "-o",
    "mixed",
    multiple=True,
    metavar="OUT | KEY=VALUE",
    help="With an equals sign: an option of a plugin (size=5, or pyramid.size=5). Without: the same as --out.",
)
@click.option("--out", metavar="FILE", help="The image to write.  [default: EXEMPLAR's name with _synth.png]")
@click.option("--features", metavar="NAME", help="What is matched.  [default: pyramid]")
@click.option("--param", metavar="NAME", help="What is optimised.  [default: image]")
@click.option("--loss", metavar="NAME", help="How it is compared.  [default: ot]")
@click.option("--size", metavar="HxW", help="Size of the result in pixels, as 512x384 or 512.  [default: EXEMPLAR's]")
@click.option("--seed", type=int, help="The same seed gives the same image.  [default: 0]")
@click.option("--steps", type=int, help="Steps at the finest level.  [default: 40, or 500 with --levels 1]")
@click.option("--levels", type=int, help="Resolutions from coarse to fine; 1 is the paper's plain algorithm.")
@click.option("--optimizer", metavar="NAME", help="adam, lbfgs or closed-form.  [default: adam]")
@click.option("--max-points", type=int, help="Thin levels with more points than this.  [default: 8192]")
@click.option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N.  [default: auto]")
@click.option("--from-json", metavar="FILE", help="Repeat the run that this sidecar records, bit for bit.")
@click.option("--preview", is_flag=True, help="Also write OUT.preview.png, about once a second, while it grows.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar, no summary.")
@click.option("--json", "as_json", is_flag=True, help="Print the record of the run as JSON instead of the summary.")
@pass_registry
def synth(
    lazy: LazyRegistry,
    /,
    exemplar: str | None,
    mixed: tuple[str, ...],
    out: str | None,
    from_json: str | None,
    preview: bool,
    quiet: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Synthesise a texture that looks like EXEMPLAR: the same patches, in other places.

    Beside the image goes a .json with everything needed to repeat it. Ctrl-C stops at once and keeps the best
    image so far.

    \b
    featot synth bricks.png
    featot synth bricks.png -o wall.png --size 512x512 --seed 7
    featot synth bricks.png --features patches -o size=9
    featot synth --from-json wall.json -o again.png
    """
    # Imported here, with torch: --help does not wait for it.
    from featot.files import check_writable
    from featot.images import check_image_suffix
    from featot.provenance import is_record
    from featot.tasks import synthesize
    from featot_cli.progress import preview_file, progress_bar

    options, out = _split(mixed, out)
    changes = {name: value for name, value in given.items() if value is not None}
    if options:
        changes["options"] = options
    if from_json is not None:
        exemplar, settings = _recorded(from_json, exemplar, changes)
    elif exemplar is not None:
        settings = _settings(changes)
    else:
        raise UsageError("which image? Expected an EXEMPLAR, as in: featot synth bricks.png")
    path = Path(out) if out is not None else Path(f"{Path(exemplar).stem}_synth.png")
    check_image_suffix(path, settings.size)
    sidecar = path.with_suffix(".json")
    growing = path.with_suffix(f".preview{path.suffix}") if preview else None
    for file in (path, sidecar, *([growing] if growing else [])):
        check_writable(file)
        if os.path.exists(file) and os.path.exists(exemplar) and os.path.samefile(file, exemplar):
            raise UsageError(f"cannot write {file}: it is the exemplar; choose another name with --out")
    if sidecar.exists() and not is_record(sidecar):
        raise UsageError(f"cannot write {sidecar}: a file of another kind is there; choose another name with --out")

    with progress_bar(quiet=quiet or as_json) as show, preview_file(growing) as grow:

        def callback(state: Any) -> None:
            show(state)
            grow(state)

        result = synthesize(exemplar, settings, callback=callback, registry=lazy.registry)
    result.save(path)
    if as_json:
        click.echo(json.dumps(result.record))
    elif not quiet and not result.interrupted:
        h, w = result.image.shape[2:]
        seconds = result.record["timings"]["match"]
        click.echo(f"{path}  {h}x{w}, loss {result.record['loss']:.4g}, {seconds:.1f} s; record in {sidecar}")
    if result.interrupted:
        click.echo(f"featot: interrupted; {path} holds the best image so far", err=True)
        raise click.exceptions.Exit(130)


def _split(mixed: tuple[str, ...], out: str | None) -> tuple[dict[str, str], str | None]:
    """The options KEY=VALUE among the values of -o, and the output, given by -o or by --out."""
    options: dict[str, str] = {}
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


def _settings(changes: dict[str, Any]) -> Any:
    from featot.images import parse_size
    from featot.tasks import SynthesisSettings

    if "size" in changes:
        changes = {**changes, "size": parse_size(changes["size"])}
    return SynthesisSettings(**changes)


def _recorded(from_json: str, exemplar: str | None, changes: dict[str, Any]) -> tuple[str, Any]:
    """The exemplar and the settings of an earlier run; warns where they may not give the same image."""
    import torch

    from featot.images import read_image
    from featot.provenance import differences, fingerprint, read_record
    from featot.tasks import SynthesisSettings, find_device

    if changes:
        names = ("-o KEY=VALUE" if name == "options" else "--" + name.replace("_", "-") for name in changes)
        raise UsageError(f"--from-json repeats a run as it was; it cannot go with {', '.join(names)}")
    record = read_record(from_json)
    settings = SynthesisSettings.from_record(record)
    device = find_device(settings.device)
    if exemplar is None:
        exemplar = record["exemplar"]["path"]
        if exemplar is None or not os.path.exists(exemplar):
            where = "was no file" if exemplar is None else f"{exemplar} is gone"
            raise UsageError(f"the exemplar of {from_json} {where}; name it: featot synth EXEMPLAR --from-json FILE")
    torch.set_num_threads(record["device"]["threads"])  # sums depend on how they are shared out
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # told when it is read for the run
        changed = fingerprint(read_image(exemplar)) != record["exemplar"]["sha256"]
    if changed:
        warnings.warn(f"{exemplar} has changed since the run in {from_json}: the image will differ", stacklevel=1)
    if record.get("interrupted"):
        warnings.warn(f"the run in {from_json} was interrupted; this one goes to its end", stacklevel=1)
    for difference in differences(record, device):
        warnings.warn(f"{difference} since the run in {from_json}: the image may differ", stacklevel=1)
    return exemplar, settings
