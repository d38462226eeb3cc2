"""The recipe of a run: which plugins, with which weights and options, and the terms they make."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from featot.errors import UsageError, unknown_name
from featot.interfaces import FeatureExtractor, Parametrization
from featot.options import to_dict
from featot.plugins import Registered, Registry, plugin_name, route_options
from featot.sight import Blend, Region
from featot.terms import LossFactory, Term

KINDS = ("features", "param", "loss")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The plugins of a run with their options; or, in ``objects`` by kind, what takes their place.

    ``shares``: of each features plugin, 1 meaning as much pull on the image as the first at the start.
    ``losses``: for each of them the losses by name, with their weights.
    """

    shares: Mapping[str, float]
    losses: Mapping[str, Mapping[str, float]]
    plugins: Mapping[str, Registered]
    options: Mapping[str, Any]
    objects: Mapping[str, Any]
    _extractors: dict[str, FeatureExtractor] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def choose(
        cls,
        registry: Registry,
        *,
        features: str,
        param: str,
        loss: str | None,
        default_loss: str,
        options: Mapping[str, Any],
        presets: Mapping[str, Mapping[str, Any]],
        objects: Mapping[str, Any],
    ) -> Recipe:
        """The recipe that these names stand for; see `SynthesisSettings`. Raises `featot.UsageError`."""
        shares = {"features": 1.0} if "features" in objects else parse_sum(features, "features")
        losses = {name: {"loss": 1.0} for name in shares}
        if "loss" not in objects:
            losses = parse_losses(loss or default_loss, shares, default_loss)
        names = {
            "features": [] if "features" in objects else list(shares),
            "param": [] if "param" in objects else [param],
            "loss": []
            if "loss" in objects
            else list(dict.fromkeys(name for sum_ in losses.values() for name in sum_)),
        }
        plugins: dict[str, Registered] = {}
        for kind in KINDS:
            for name in names[kind]:
                key = kind if len(names[kind]) == 1 else name
                plugins[key if key not in plugins else f"{kind}.{name}"] = registry.get(kind, name)
        return cls(
            shares=shares,
            losses=losses,
            plugins=plugins,
            options=route_options(plugins, options, presets),
            objects=dict(objects),
        )

    def parametrization(self) -> Parametrization:
        """A new one."""
        given: Parametrization | None = self.objects.get("param")
        return given or self._make("param", None)()

    def terms(
        self,
        exemplars: Sequence[Tensor],
        *,
        weight: float = 1.0,
        guide: Tensor | None = None,
        masks: Sequence[Tensor] | None = None,
        only: Region | Blend | None = None,
        everywhere: bool = False,
        detailed: bool = False,
    ) -> list[Term]:
        """A term for each loss of each extractor, with the exemplars as target; all calls share the extractors."""
        terms = []
        for group, (features, share) in enumerate(self.shares.items()):
            extractor = self._extractor(features)
            for name, part in self.losses[features].items():
                loss: LossFactory = self.objects.get("loss") or self._make("loss", name)
                terms.append(
                    Term(
                        exemplars=exemplars,
                        extractor=extractor,
                        loss=loss,
                        weight=weight * part,
                        guide=guide,
                        masks=masks,
                        only=only,
                        everywhere=everywhere,
                        detailed=detailed,
                        group=group,
                        share=share,
                    )
                )
        return terms

    def settings(self) -> dict[str, Any]:
        """What a record says of it: names, sums and every option, from which `choose` makes the same recipe."""
        sums = {features: format_sum(losses) for features, losses in self.losses.items()}
        same = len(set(sums.values())) == 1
        loss = next(iter(sums.values())) if same else ",".join(f"{name}={sum_}" for name, sum_ in sums.items())
        named = {"features": format_sum(self.shares), "loss": loss}
        return {
            **{kind: text for kind, text in named.items() if kind not in self.objects},
            **{kind: f"{type(given).__module__}:{type(given).__qualname__}" for kind, given in self.objects.items()},
            "options": {
                f"{key}.{name}": value for key in self.plugins for name, value in to_dict(self.options[key]).items()
            },
        }

    def _extractor(self, features: str) -> FeatureExtractor:
        if features not in self._extractors:
            self._extractors[features] = self.objects.get("features") or self._make("features", features)()
        return self._extractors[features]

    def _make(self, kind: str, name: str | None) -> Any:
        for key, registered in self.plugins.items():
            if registered.kind == kind and name in (None, registered.plugin.name):
                return registered.factory(self.options[key])
        raise AssertionError(f"no {kind} {name}")


def parse_sum(text: str, what: str) -> dict[str, float]:
    """The weights of a sum of plugins such as "ot+2*sliced" or "pyramid+vgg:0.1", by name; ``what`` for errors.

    Raises `featot.UsageError`.
    """
    weights: dict[str, float] = {}
    for part in re.split(r"(?<!\de)\+", text):  # not the sign in 1e+3
        weight, times, name = part.strip().rpartition("*")
        if not times:
            name, times, weight = part.strip().partition(":")
        name = plugin_name(name)
        try:
            number = float(weight) if times else 1.0
        except ValueError:
            number = math.nan
        if not (0 < number < math.inf) or not name or ":" in name or name in weights:
            example = "ot+2*sliced" if what == "loss" else "pyramid+0.1*vgg"
            raise UsageError(f"bad {what} {text!r}: expected a name, or a sum such as {example}, with weights > 0")
        weights[name] = number
    return weights


def parse_losses(text: str, features: Mapping[str, float], default: str) -> dict[str, dict[str, float]]:
    """For each of the features, its sum of losses: "ot+sliced" is for all others, "vgg=gram" for one, commas between.

    Raises `featot.UsageError`.
    """
    chosen: dict[str, dict[str, float]] = {}
    for part in text.split(","):
        name, equals, sum_ = part.rpartition("=")
        name = plugin_name(name)
        if equals and name not in features:
            raise unknown_name("features in --loss", name, features)
        if name in chosen:
            raise UsageError(f"bad loss {text!r}: two of them are for {name or 'all features'}")
        chosen[name] = parse_sum(sum_, "loss")
    rest = chosen.get("") or parse_sum(default, "loss")
    return {name: chosen.get(name, rest) for name in features}


def format_sum(weights: Mapping[str, float]) -> str:
    """The text that `parse_sum` reads."""
    terms = (name if weight == 1 else f"{weight!r}*{name}".replace("e+", "e") for name, weight in weights.items())
    return "+".join(terms)
