"""Scores of finished images against their exemplar, by any of the metrics."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

import featot
from featot.errors import FeatotError, UsageError
from featot.exemplars import Picture, pixels
from featot.interfaces import Metric, Score
from featot.options import to_dict
from featot.plugins import Registry, load_registry, route_options
from featot.tables import arrow

Progress = Callable[[int, int, str], None]
"""Gets how many scores are done, of how many, and what comes next."""


@dataclass(frozen=True)
class Scored:
    """An image and its score by each metric; ``name``: its file, or "image 1" for pixels."""

    name: str
    scores: dict[str, Score] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `evaluate` found.

    ``exemplar``: its scores against itself, what the others are to be compared with. ``metrics``: those that ran.
    ``skipped``: why the others did not.
    """

    images: list[Scored]
    exemplar: Scored
    metrics: Mapping[str, Metric]
    skipped: Mapping[str, str]

    def best(self, metric: str) -> float:
        """The best score of the images."""
        return min((image.scores[metric].value for image in self.images), key=self.metrics[metric].fault)

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "featot": featot.__version__,
            "exemplar": _plain(self.exemplar),
            "images": [_plain(image) for image in self.images],
            "metrics": {
                name: {
                    "better": direction(metric),
                    "ideal": metric.ideal,
                    "options": {} if metric.options is None else to_dict(metric.options),
                }
                for name, metric in self.metrics.items()
            },
            "skipped": dict(self.skipped),
        }

    def _repr_markdown_(self) -> str:
        """The table, for Jupyter."""
        heads = [f"{name} {arrow(metric)}" for name, metric in self.metrics.items()]
        lines = ["| | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
        for row in (*self.images, self.exemplar):
            name = row.name.replace("|", "\\|")
            lines.append(f"| {name} | " + " | ".join(f"{row.scores[each].value:.4f}" for each in self.metrics) + " |")
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """A line for each image, a column for each metric; the last line is the exemplar itself."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["image", *self.metrics])
        for row in (*self.images, self.exemplar):
            writer.writerow([row.name, *(repr(row.scores[name].value) for name in self.metrics)])
        return text.getvalue()


def evaluate(
    images: Sequence[Picture],
    exemplar: Picture,
    *,
    metrics: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    callback: Progress | None = None,
    registry: Registry | None = None,
) -> Evaluation:
    """Scores every image, and the exemplar itself, by each of ``metrics`` (None: by all that can).

    ``options``: of the metrics, by "key" or "metric.key". Grey images among coloured ones count as coloured.
    Raises `featot.UsageError` for bad images, names or options, and what a metric raises that was asked for, by name
    or by an option of its own; others that cannot run are skipped.
    """
    registry = load_registry() if registry is None else registry
    chosen = {
        name: registry.get("metric", name) for name in (registry.names("metric") if metrics is None else metrics)
    }
    built = route_options(chosen, options or {})
    asked = {name for name in chosen if metrics is not None or built[name] != chosen[name].build_options({})}
    if not images or not chosen:
        raise UsageError(f"expected at least one image and one metric, got {len(images)} and {len(chosen)}")
    found = [pixels(picture) for picture in (*images, exemplar)]
    if any(image.shape[1] != found[0].shape[1] for image in found):
        found = [image.expand(-1, 3, -1, -1) for image in found]
    names = [_name(picture, f"image {i + 1}") for i, picture in enumerate(images)]
    rows = [Scored(name) for name in (*names, _name(exemplar, "exemplar"))]
    ran: dict[str, Metric] = {}
    skipped: dict[str, str] = {}
    for number, (name, plugin) in enumerate(chosen.items()):
        try:
            metric: Metric = plugin.create(built[name])
            scores: list[Score] = []
            for row, image in zip(rows, found, strict=True):
                if callback is not None:
                    callback(number * len(rows) + len(scores), len(chosen) * len(rows), f"{name} of {row.name}")
                scores.append(_score(metric, name, image, found[-1], row.name))
        except FeatotError as error:
            if name in asked:
                raise
            skipped[name] = str(error)
            continue
        ran[name] = metric
        for row, score in zip(rows, scores, strict=True):
            row.scores[name] = score
    return Evaluation(images=rows[:-1], exemplar=rows[-1], metrics=ran, skipped=skipped)


def direction(metric: Metric) -> str:
    """ "lower", "higher" or the ideal score itself: what is better."""
    if metric.ideal is not None:
        return f"{metric.ideal:g}"
    return "lower" if metric.lower_is_better else "higher"


def _score(metric: Metric, name: str, image: Tensor, exemplar: Tensor, of: str) -> Score:
    score = metric.score(image, exemplar.to(image.device))
    if not math.isfinite(score.value):
        raise FeatotError(f"the metric {name!r} gave {score.value} for {of}")
    return score


def _name(picture: Picture, otherwise: str) -> str:
    return os.fspath(picture) if isinstance(picture, str | os.PathLike) else otherwise


def _plain(row: Scored) -> dict[str, Any]:
    scores = {name: {"value": score.value, **score.details} for name, score in row.scores.items()}
    return {"name": row.name, "scores": scores}
