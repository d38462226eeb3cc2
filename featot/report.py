"""A page about a finished synthesis, to look at: one HTML file with everything in it."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import featot
from featot.errors import FeatotError, UsageError
from featot.evaluation import evaluate
from featot.exemplars import Picture, pixels
from featot.files import AnyPath, check_writable, write_text
from featot.images import png_of, side_by_side
from featot.interfaces import Size
from featot.match import MatchState, Record
from featot.patch_map import GAP, PatchMap, find_patches
from featot.plugins import load_registry
from featot.report_page import TEMPLATE
from featot.resample import wrapped_axes
from featot.runs import Synthesis
from featot.tables import arrow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARK = '<meta name="generator" content="featot'
_SCORES = ("msot", "swd", "sharp", "tileability")  # those that take seconds and need no weights
_OFTEN = 6  # times the mean: the histogram's end
_INK = "#010203"  # stands for the colour of the page's text, which is light or dark
_COLOURS = ("#3b82c4", "#d1661f", "#2a9d6f", "#b45ac8", "#c99a1a", "#7f8790")  # legible on white and on black
# Of the corners of an exemplar: top left, top right, bottom left, bottom right.
_CORNERS = torch.tensor([[[0.12, 0.10, 0.45], [0.93, 0.25, 0.30]], [[0.10, 0.72, 0.60], [1.00, 0.93, 0.40]]])


class Recorder:
    """A callback for a synthesis that keeps what the image does not tell: how ψ went; one run after the other.

    ``spreads``: by level, the standard deviation of its ψ after each step that moved it, as (step, spread).
    """

    def __init__(self) -> None:
        self.spreads: dict[str, list[tuple[int, float]]] = {}

    def __call__(self, state: MatchState) -> None:
        if state.record.step == 0:
            self.spreads = {}
        found = {tuple(name.split(".", 1)): psi for name, psi in state.inner().items() if name.endswith(".psi")}
        levels = [level for _, level in found]
        for (term, level), psi in found.items():
            of = "" if levels.count(level) == 1 else f" of term {int(term) + 1}"
            points = self.spreads.setdefault(level.removesuffix(".psi") + of, [])
            points.append((state.record.step, float(psi.std(correction=0))))


def check_report(path: AnyPath) -> None:
    """Tries, before a long run, whether a report could be written there.

    Raises `featot.UsageError` for an impossible place, or where a file is that is no report.
    """
    check_writable(path)
    if Path(path).exists() and _MARK not in Path(path).read_text("utf-8", errors="replace")[:1000]:
        raise UsageError(f"cannot write {path}: a file of another kind is there; expected a report or a new name")


def write_report(
    path: AnyPath,
    *,
    result: Synthesis,
    exemplar: Picture | Sequence[Picture],
    recorder: Recorder,
    command: str,
) -> None:
    """Writes one HTML page about ``result`` that needs no other file, whole or not at all.

    It shows the exemplar, or several, the result once and tiled, where its patches come from, the curves of the loss
    and of ψ, settings, timings, scores and ``command``. Of many channels the first three are shown and compared.
    ``recorder``: was a callback of the run. Scoring takes some seconds.
    Raises what `featot.files.atomic_write` raises, and `featot.UsageError` for a bad exemplar.
    """
    from jinja2 import Environment, StrictUndefined

    given: list[Any] = list(exemplar) if isinstance(exemplar, list | tuple) else [exemplar]
    exemplars = [_colours(pixels(picture)) for picture in given]
    image = _colours(result.image)
    found = find_patches(image, exemplars)
    settings = result.record["settings"]
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = page.from_string(TEMPLATE).render(
        version=featot.__version__,
        name=Path(path).stem,
        command=command,
        channels=result.image.shape[1],
        size=f"{image.shape[2]}×{image.shape[3]}",
        box=(image.shape[3], image.shape[2]),
        exemplar=_picture(side_by_side(exemplars, GAP)),
        result=_picture(image),
        seams=[axis for axis, wraps in zip("yx", wrapped_axes(settings["tile"]), strict=True) if not wraps],
        found=found,
        legend=_picture(_coordinates(_everywhere(found.canvas), found.canvas)),
        sources=_picture(_coordinates(found.places, found.canvas)),
        usage=_picture(_heat(found.usage.sqrt())),  # a few that are used much would leave the rest dark
        most=_number(float(found.usage.nan_to_num().amax())),
        ramp=_picture(_heat(torch.linspace(0, 1, 128).sqrt()[None])),
        **_curves(result, recorder, found),
        tables=_tables(result),
        scores=_scores(result.image, pixels(given[0])),
    )
    write_text(path, text)


def _colours(image: Tensor) -> Tensor:
    """Three channels: the first three, or the first as grey."""
    image = image.detach().float().cpu().clamp(0, 1)
    return image[:, :3] if image.shape[1] >= 3 else image[:, :1].expand(-1, 3, -1, -1)


def _picture(image: Tensor) -> str:
    """A PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png_of(image)).decode()


def _everywhere(canvas: Size) -> Tensor:
    return torch.cartesian_prod(*(torch.arange(side) for side in canvas)).view(*canvas, 2)


def _coordinates(places: Tensor, canvas: Size) -> Tensor:
    """Places ``(rows, columns, 2)`` on the canvas as colours, blended between those of its corners."""
    y, x = ((places[:, :, axis] / max(1, canvas[axis] - 1))[:, :, None] for axis in (0, 1))
    top, bottom = (corners[0] + x * (corners[1] - corners[0]) for corners in _CORNERS)
    blended: Tensor = top + y * (bottom - top)
    return blended.permute(2, 0, 1)[None]


def _heat(values: Tensor) -> Tensor:
    """Values ``(h, w)`` from 0 to the greatest as colours from dark to bright; NaN is grey."""
    from matplotlib import colormaps

    known = values.nan_to_num()
    colours = torch.from_numpy(colormaps["inferno"]((known / known.amax().clamp(min=1e-9)).numpy())[:, :, :3]).float()
    colours[values.isnan()] = 0.5
    return colours.permute(2, 0, 1)[None]


def _curves(result: Synthesis, recorder: Recorder, found: PatchMap) -> dict[str, Any]:
    """Loss, ψ (None where there is none) and usage as inline SVG, in the page's font and ink."""
    import matplotlib

    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "featot", **dict.fromkeys(inks, _INK)}
    with matplotlib.rc_context(style):
        return {
            "loss": _svg(_loss_curve(result.history), "loss"),
            "psi": _svg(_psi_curves(recorder.spreads), "psi") if recorder.spreads else None,
            "histogram": _svg(_histogram(found), "usage"),
        }


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _loss_curve(history: Sequence[Record]) -> Figure:
    figure, axes = _axes("step", "loss")
    scales = list(dict.fromkeys(line.scale for line in history))
    for number, scale in enumerate(scales):
        points = [(line.step, line.loss if line.scale == scale else math.nan) for line in history]
        axes.plot(*zip(*points, strict=True), label=f"1/{2**scale}", **_stroke(number))
    _finish(axes, "resolution", [line.loss for line in history])
    return figure


def _psi_curves(spreads: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    figure, axes = _axes("step", "spread of ψ")
    for number, (level, points) in enumerate(spreads.items()):
        label = level if any(spread > 0 for _, spread in points) else f"{level} (0 all along)"
        axes.plot(*zip(*points, strict=True), label=label, **_stroke(number))
    _finish(axes, "level", [spread for points in spreads.values() for _, spread in points])
    return figure


def _stroke(number: int) -> dict[str, Any]:
    again, color = divmod(number, len(_COLOURS))
    return {"color": _COLOURS[color], "linestyle": ("-", "--", ":")[again % 3]}


def _finish(axes: Axes, title: str, values: Sequence[float]) -> None:
    """A legend of curves, and a logarithmic axis where there is something to show on it."""
    if values:
        for text in axes.legend(title=title, frameon=False, loc="upper left", bbox_to_anchor=(1, 1)).get_texts():
            text.set_parse_math(False)  # a level may have any name
    if any(value > 0 for value in values):
        axes.set_yscale("log", nonpositive="mask")


def _histogram(found: PatchMap) -> Figure:
    label = f"times that a patch is the nearest, over the mean ({_OFTEN}: or more)"
    figure, axes = _axes(label, "share of the exemplar")
    usage = found.usage[~found.usage.isnan()].clamp(max=_OFTEN).numpy()
    axes.hist(usage, bins=24, range=(0, _OFTEN), weights=np.full(len(usage), 1 / len(usage)), color=_COLOURS[0])
    axes.axvline(1, color=_INK, linestyle=":", linewidth=1)
    return figure


def _svg(figure: Figure, name: str) -> Any:
    """The figure as inline SVG; ``name`` keeps its ids apart from other figures'."""
    from markupsafe import Markup

    written = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    text = written.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    return Markup(re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text))


def _tables(result: Synthesis) -> dict[str, dict[str, str]]:
    """What the record says, as rows of text by heading."""
    record = result.record
    settings = dict(record["settings"])
    options = settings.pop("options")
    timings = dict(record["timings"])
    levels = {f"level {name}": seconds for name, seconds in timings.pop("per_level").items()}
    sources = [record["exemplar"], *record["more_exemplars"]]
    files = {"exemplar": ", ".join(source["path"] or "pixels" for source in sources)}
    tables: dict[str, dict[str, Any]] = {
        "Settings": {**files, **settings, **options},
        "Seconds": {**timings, **levels},
        "Device and versions": {**record["device"], **record["versions"]},
    }
    return {title: {key: _shown(value) for key, value in rows.items()} for title, rows in tables.items()}


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "–"
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return f"{value:.4g}"


def _scores(image: Tensor, exemplar: Tensor) -> list[tuple[str, str, str]]:
    """Each metric that can run: its name with its direction, the image's score, and the exemplar's own."""
    rows: list[tuple[str, str, str]] = []
    if image.shape[1] != exemplar.shape[1]:
        return rows
    registry = load_registry()
    for name in _SCORES:
        try:
            scored = evaluate([image], exemplar, metrics=[name], registry=registry)
        except FeatotError:  # an image too small for it, or a plugin that is not installed
            continue
        values = (row.scores[name].value for row in (scored.images[0], scored.exemplar))
        mine, own = map(_number, values)
        rows.append((f"{name} {arrow(scored.metrics[name])}", mine, own))
    return rows
