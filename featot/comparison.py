"""Several syntheses side by side: the paper's features × losses, and its table of methods."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from featot.errors import FeatotError
from featot.exemplars import Picture, pixels
from featot.interfaces import Metric
from featot.match import Callback
from featot.plugins import Registry, load_registry
from featot.recipe import KINDS
from featot.tables import ScoreTable
from featot.tasks import DEFAULT_LOSS, Synthesis, SynthesisSettings, synthesize

METHODS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "image": {},
        "paper": {"levels": 1, "loss": "ot"},
        "gatys": {"features": "vgg", "loss": "gram"},
        "vgg_ot": {"features": "vgg", "loss": "ot"},
        "random": {"features": "random_conv", "loss": "ot"},
        "sliced": {"loss": "sliced"},
        "moments": {"loss": "moments"},
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
            chosen = _for_case(settings or SynthesisSettings(), case)
            result = synthesize(case.exemplar, chosen, callback=callback, registry=registry)
            exemplar = pixels(case.exemplar)
            scores = {name: metric(result.image, exemplar) for name, metric in metrics.items()}
        except FeatotError as error:
            yield Outcome(case=case, synthesis=None, scores={}, error=str(error))
            continue
        yield Outcome(case=case, synthesis=result, scores=scores)
        if result.interrupted:
            return


def _for_case(settings: SynthesisSettings, case: Case) -> SynthesisSettings:
    """The settings of a case, without the options "plugin.key" of plugins that it does without."""
    settings = dataclasses.replace(settings, **case.changes)
    loss = settings.loss or DEFAULT_LOSS[settings.optimizer]
    named = {"", *KINDS, *re.findall(r"\w+", f"{settings.features} {settings.param} {loss}")}
    options = {key: value for key, value in settings.options.items() if key.rpartition(".")[0] in named}
    return dataclasses.replace(settings, options=options)


def tables(outcomes: Sequence[Outcome], metrics: Mapping[str, Metric]) -> list[ScoreTable]:
    """A table for each metric, rows and columns in the order in which they come."""
    rows = list(dict.fromkeys(outcome.case.row for outcome in outcomes))
    columns = list(dict.fromkeys(outcome.case.column for outcome in outcomes))
    return [
        ScoreTable(
            metric=name,
            rows=rows,
            columns=columns,
            scores={(o.case.row, o.case.column): o.scores[name] for o in outcomes if name in o.scores},
            lower_is_better=metric.lower_is_better,
        )
        for name, metric in metrics.items()
    ]
