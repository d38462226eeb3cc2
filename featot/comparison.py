"""Several syntheses side by side: the paper's features × losses, and its table of methods."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from featot.errors import FeatotError
from featot.exemplars import Picture, pixels
from featot.files import AnyPath
from featot.interfaces import Metric
from featot.match import Callback
from featot.options import describe
from featot.plugins import Registry, load_registry, plugin_name
from featot.recipe import KINDS
from featot.runs import DEFAULT_LOSS, Synthesis, SynthesisSettings
from featot.sheets import write_sheet
from featot.tables import ScoreTable
from featot.tasks import synthesize

_PROBE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))  # what any metric can score

METHODS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "image": {},
        "paper": {"levels": 1, "loss": "ot"},
        "gatys": {"features": "vgg", "loss": "gram"},
        "vgg_ot": {"features": "vgg", "loss": "ot"},
        "random": {"features": "random_conv", "loss": "ot"},
        "sliced": {"loss": "sliced"},
        "moments": {"loss": "moments"},
        "texnet": {"param": "texnet_lite", "steps": 1000},
    }
)
"""Settings that go by a name of their own in tables; anything not said is as in `SynthesisSettings`."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One synthesis and its place in the table; ``changes``: of the settings that all have in common."""

    row: str
    column: str
    exemplar: Picture
    changes: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, common: SynthesisSettings) -> SynthesisSettings:
        """Its own, of those in ``common``."""
        return fitting(dataclasses.replace(common, **self.changes))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a case: a synthesis with its scores by metric, or the error that ended it."""

    case: Case
    synthesis: Synthesis | None
    scores: Mapping[str, float]
    error: str | None = None


def grid_cases(exemplar: Picture, features: Sequence[str], losses: Sequence[str]) -> list[Case]:
    """Each of the features with each of the losses (Houdard et al. 2021, Sec. 6: four ways to combine them)."""
    return [
        Case(row=name, column=loss, exemplar=exemplar, changes={"features": name, "loss": loss})
        for name in features
        for loss in losses
    ]


def choose_metrics(
    names: Sequence[str] | None = None, options: Mapping[str, Any] | None = None, registry: Registry | None = None
) -> dict[str, Metric]:
    """The metrics of these names (None: msot, and vgg where its weights are), each with its "metric.key" options.

    Raises `featot.UsageError` for an unknown name, `featot.FeatotError` for one that cannot run although it was asked
    for, by name or by an option of its own.
    """
    registry = load_registry() if registry is None else registry
    metrics: dict[str, Metric] = {}
    for name in names or ("msot", "vgg"):
        plugin = registry.get("metric", name)
        known = {f"{plugin.plugin.name}.{info.name}": info.name for info in describe(plugin.plugin.options)}
        values = {known[key]: value for key, value in (options or {}).items() if key in known}
        metric: Metric = plugin.create(plugin.build_options(values))
        try:
            metric(_PROBE, _PROBE)
        except FeatotError:
            if names is not None or values:
                raise
            continue
        metrics[name] = metric
    return metrics


def compare(
    cases: Sequence[Case],
    settings: SynthesisSettings | None = None,
    *,
    metrics: Mapping[str, Metric],
    callback: Callback | None = None,
    registry: Registry | None = None,
) -> Iterator[Outcome]:
    """Makes and scores one case after the other; one that fails is told, and the others go on.

    After Ctrl-C there are no more.
    """
    registry = load_registry() if registry is None else registry
    for case in cases:
        try:
            chosen = case.settings(settings or SynthesisSettings())
            result = synthesize(case.exemplar, chosen, callback=callback, registry=registry)
            exemplar = pixels(case.exemplar)
            scores = {name: metric(result.image, exemplar) for name, metric in metrics.items()}
        except FeatotError as error:
            yield Outcome(case=case, synthesis=None, scores={}, error=str(error))
            continue
        yield Outcome(case=case, synthesis=result, scores=scores)
        if result.interrupted:
            return


def fitting(settings: SynthesisSettings) -> SynthesisSettings:
    """The settings without the options "plugin.key" of plugins that they do without."""
    loss = settings.loss or DEFAULT_LOSS[settings.optimizer]
    said = re.findall(r"[\w-]+", f"{settings.features} {settings.param} {loss}")
    named = {"", *KINDS, *map(plugin_name, said)}
    options = {key: value for key, value in settings.options.items() if plugin_name(key.rpartition(".")[0]) in named}
    return dataclasses.replace(settings, options=options)


def tables(outcomes: Sequence[Outcome], metrics: Mapping[str, Metric]) -> list[ScoreTable]:
    """A table for each metric, rows and columns in the order in which they come."""
    rows = list(dict.fromkeys(outcome.case.row for outcome in outcomes))
    columns = list(dict.fromkeys(outcome.case.column for outcome in outcomes))
    return [
        ScoreTable(
            name=name,
            metric=metric,
            rows=rows,
            columns=columns,
            scores={(o.case.row, o.case.column): o.scores[name] for o in outcomes if name in o.scores},
        )
        for name, metric in metrics.items()
    ]


def to_json(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """What came of each case, ready for JSON: its place, its scores, the seconds it took; or the error."""
    return [
        {
            "row": outcome.case.row,
            "column": outcome.case.column,
            "scores": dict(outcome.scores),
            "seconds": None if outcome.synthesis is None else outcome.synthesis.record["timings"]["match"],
            "error": outcome.error,
        }
        for outcome in outcomes
    ]


def write_contact_sheet(outcomes: Sequence[Outcome], path: AnyPath) -> None:
    """A row of pictures for each row of the table, the exemplar first, with their scores below, as a PNG."""
    placed = {(outcome.case.row, outcome.case.column): outcome for outcome in outcomes}
    columns = list(dict.fromkeys(outcome.case.column for outcome in outcomes))
    one = len({str(outcome.case.exemplar) for outcome in outcomes}) == 1
    rows: list[list[tuple[str, Tensor] | None]] = []
    for row in dict.fromkeys(outcome.case.row for outcome in outcomes):
        exemplar = next(outcome.case.exemplar for outcome in outcomes if outcome.case.row == row)
        shown = (("exemplar", pixels(exemplar)) if not rows else None) if one else (row, pixels(exemplar))
        line: list[tuple[str, Tensor] | None] = [shown]
        for column in columns:
            outcome = placed.get((row, column))
            if outcome is None or outcome.synthesis is None:
                line.append(None)
                continue
            scores = "  ".join(f"{name} {score:.3f}" for name, score in outcome.scores.items())
            line.append((f"{row}, {column}\n{scores}", outcome.synthesis.image))
        rows.append(line)
    write_sheet(rows, path)
