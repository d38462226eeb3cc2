"""What every task shares: its settings, its result, and the way from the one to the other."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from featot import provenance
from featot.anchor import Anchor
from featot.device import find_device, memory_errors
from featot.errors import UsageError, unknown_name
from featot.exemplars import Pictures, check_augment
from featot.files import AnyPath, write_text
from featot.formats import Format
from featot.images import check_size, png_of, write_image
from featot.interfaces import Parametrization, Size
from featot.match import Callback, Match, OptimizerName, Record, match
from featot.options import rebuild
from featot.plugins import Registry, load_registry
from featot.problem import Stage
from featot.recipe import KINDS, Recipe
from featot.resample import wrapped_axes
from featot.schedule import check_levels, coarse_to_fine, count_levels, find_quality, paced
from featot.terms import Term

DEFAULT_LOSS = {"adam": "ot+sliced", "lbfgs": "ot+sliced", "closed-form": "ot"}  # by optimizer
_MARGIN = 2  # pixels of the coarsest level by which an axis that is not to tile is longer while it is made


@dataclass(frozen=True, kw_only=True)
class SynthesisSettings:
    """Everything that decides a synthesis: equal settings give equal images on one machine.

    ``size``: of the result in pixels (None: the first exemplar's, or the guide's). ``quality``: a preset of
    `featot.schedule.QUALITIES`; whatever else is given goes before it. ``param``: a plugin.
    ``features``: a plugin, or a sum such as "pyramid+0.1*vgg", where 1 means as much pull on the image as the first
    of them at the start. ``loss``: a plugin, or a weighted sum such as "ot+2*sliced"; for one of the features
    "vgg=gram", commas between (None, and where nothing is said: "ot+sliced", or "ot" for "closed-form").
    ``options``: of the plugins, as "key" where only one of them knows it, or as "plugin.key".
    ``optimizer``: see `featot.match.match`. ``levels``, ``steps``: see `featot.schedule.coarse_to_fine`.
    ``max_points``: levels of the image with more points than this are thinned. ``starts``: see `featot.match.match`.
    ``augment``: "rot90" adds the exemplar's quarter turns, "flip" its mirror images. ``tile``: the axes along which
    the result wraps round: "both", "x", "y" or "none".
    ``device``: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
    """

    size: Size | None = None
    features: str = "pyramid"
    param: str = "image"
    loss: str | None = None
    quality: str = "standard"
    options: Mapping[str, Any] = field(default_factory=dict)
    optimizer: OptimizerName = "adam"
    levels: int | None = None
    steps: int | None = None
    max_points: int | None = None
    starts: int | None = None
    augment: tuple[str, ...] = ()
    tile: str = "both"
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, least in (("levels", 1), ("steps", 1), ("max_points", 1), ("starts", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"expected {name} of at least {least}, got {value}")
            if value is not None and value >= 2**63:
                raise UsageError(f"expected {name} below 2^63, got {value}")
        if self.optimizer not in DEFAULT_LOSS:
            raise unknown_name("optimizer", self.optimizer, DEFAULT_LOSS)
        wrapped_axes(self.tile)
        find_quality(self.quality)
        check_augment(self.augment)
        if self.size is not None:
            check_size(self.size)

    @property
    def wraps(self) -> tuple[bool, bool]:
        """Whether the result tiles from top to bottom, and from left to right."""
        return wrapped_axes(self.tile)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> SynthesisSettings:
        """The settings of an earlier run, from `featot.provenance.read_record`."""
        try:
            settings: SynthesisSettings = rebuild(cls, record["settings"], "a synthesis")
            return settings
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"cannot repeat the run: its record's settings are damaged ({error})") from None


@dataclass(frozen=True, kw_only=True, repr=False)
class Synthesis:
    """A finished, or interrupted, synthesis.

    ``image``: ``(1, c, h, w)`` in [0, 1] on the CPU; ``history``: one `Record` a step; ``record``: what the
    sidecar JSON says: settings with every option, versions, device, timings, the loss curve. ``format``: the first
    exemplar's, if it was a file.
    """

    image: Float[Tensor, "1 c h w"]
    history: list[Record]
    interrupted: bool
    record: dict[str, Any]
    format: Format | None = None

    def save(self, path: AnyPath) -> Path:
        """Writes the image to ``path``, and the record beside it with the suffix .json; returns the latter's path.

        The first exemplar's depth and ICC profile are kept where the suffix can hold them.
        Raises `featot.UsageError` for an unknown suffix or an impossible place, `featot.FeatotError` where
        writing fails; whatever was there is then still whole.
        """
        write_image(self.image, path, self.format)
        sidecar = Path(path).with_suffix(".json")
        write_text(sidecar, json.dumps(self.record, indent=1) + "\n")
        return sidecar

    def __repr__(self) -> str:
        h, w = self.image.shape[2:]
        told = f"{h}x{w}, {self.image.shape[1]} channels, {len(self.history)} steps, loss {self.record['loss']:.4g}"
        return f"Synthesis({told}{', interrupted' if self.interrupted else ''})"

    def _repr_png_(self) -> bytes:
        """The image, for Jupyter."""
        return png_of(self.image)


def _overlaid(
    below: Mapping[str, Mapping[str, Any]], above: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Options of plugins by name, each option by itself: two presets of one plugin need not name the same ones."""
    return {name: {**below.get(name, {}), **above.get(name, {})} for name in below.keys() | above.keys()}


def check_plugins(settings: SynthesisSettings, registry: Registry) -> None:
    """Raises `featot.UsageError` for plugins and options that do not exist; imports none."""
    Recipe.choose(
        registry,
        features=settings.features,
        param=settings.param,
        loss=settings.loss,
        default_loss=DEFAULT_LOSS[settings.optimizer],
        options=settings.options,
        presets=find_quality(settings.quality).options,
        objects={},
    )


class Run:
    """One run of a task: its plugins, presets and device, settled before anything is computed.

    ``changes``: of the settings, by field; for ``features``, ``param`` and ``loss`` also objects. ``presets``:
    options of plugins by their names, which go before the quality's; ``pace``: how many times its steps are taken.
    Raises `featot.UsageError` for settings that make no sense, TypeError for a change of no setting.
    """

    def __init__(
        self,
        settings: SynthesisSettings | None,
        changes: Mapping[str, Any],
        registry: Registry | None,
        *,
        default_loss: str | None = None,
        presets: Mapping[str, Mapping[str, Any]] | None = None,
        pace: int = 1,
    ) -> None:
        self.begin: float = time.perf_counter()
        self.ready: float | None = None
        objects = {kind: changes[kind] for kind in KINDS if not isinstance(changes.get(kind) or "", str)}
        changes = {name: value for name, value in changes.items() if name not in objects}
        unknown = changes.keys() - {field.name for field in dataclasses.fields(SynthesisSettings)}
        if unknown:
            raise TypeError(f"there is no setting {min(unknown)!r}")
        self.settings = settings = dataclasses.replace(settings or SynthesisSettings(), **changes)
        quality = find_quality(settings.quality)
        self.quality = dataclasses.replace(quality, steps=pace * quality.steps)
        self.recipe = Recipe.choose(
            load_registry() if registry is None else registry,
            features=settings.features,
            param=settings.param,
            loss=settings.loss,
            default_loss=default_loss or DEFAULT_LOSS[settings.optimizer],
            options=settings.options,
            presets=_overlaid(self.quality.options, presets or {}),
            objects=objects,
        )
        self.max_points = settings.max_points or self.quality.max_points
        self.starts = settings.starts or self.quality.starts
        self.device = find_device(settings.device)

    def levels(self, size: Size, pictures: Pictures) -> int:
        """How many resolutions: as the settings say, or as many as make sense. Raises `featot.UsageError`."""
        check_levels(self.settings.levels, pictures.smallest)
        return self.settings.levels or count_levels(size, pictures.smallest)

    def torus(self, size: Size, levels: int) -> Size:
        """The size of the torus from which the result is cut: larger along the axes that are not to tile."""
        margin = _MARGIN * 2 ** (levels - 1)
        down, across = self.settings.wraps
        return size[0] + (0 if down else margin), size[1] + (0 if across else margin)

    def stages(self, size: Size, exemplar_size: Size, levels: int) -> list[Stage]:
        """The schedule that the settings ask for."""
        return coarse_to_fine(
            size,
            exemplar_size,
            quality=self.quality,
            levels=levels,
            steps=self.settings.steps,
            optimizer=self.settings.optimizer,
        )

    def paced(
        self,
        param: Parametrization,
        stages: Sequence[Stage],
        exemplars: Sequence[Float[Tensor, "1 c _ _"]],
        mask: Float[Tensor, "1 1 _ _"] | None = None,
        finest: float = 1.0,
        weights: Sequence[float] | None = None,
    ) -> list[Stage]:
        """The stages with steps that go by the exemplars, where Adam moves pixels; see `featot.schedule.paced`."""
        if not (param.linear and self.settings.optimizer == "adam"):
            return list(stages)
        with memory_errors(stages[-1].size):
            return paced(stages, exemplars, mask, finest, weights)

    def match(
        self,
        param: Parametrization,
        terms: Sequence[Term | Anchor],
        stages: Sequence[Stage],
        *,
        seed: int | None = None,
        callback: Callback | None = None,
    ) -> Match:
        """Runs the loop, with the settings' seed or another."""
        seed = self.settings.seed if seed is None else seed
        self.ready = self.ready or time.perf_counter()
        with memory_errors(stages[-1].size):
            return match(
                param,
                terms,
                stages,
                optimizer=self.settings.optimizer,
                max_points=self.max_points,
                starts=self.starts,
                generator=torch.Generator().manual_seed(seed),
                callback=callback,
            )

    def result(
        self,
        task: str,
        pictures: Pictures,
        image: Tensor,
        matches: Sequence[Match],
        stages: Sequence[Stage],
        **facts: Any,
    ) -> Synthesis:
        """What came of the task, of its matches and what else is to be known of it; the next one begins now."""
        history: list[Record] = []
        for found in matches:
            before = history[-1].seconds if history else 0.0
            step = len(history)
            history += [
                dataclasses.replace(line, step=step + line.step, seconds=before + line.seconds)
                for line in found.history
            ]
        interrupted = any(found.interrupted for found in matches)
        begin, ready, now = self.begin, self.ready or time.perf_counter(), time.perf_counter()
        self.begin, self.ready = now, None
        settings = {
            **dataclasses.asdict(self.settings),
            **self.recipe.settings(),
            "size": (image.shape[2], image.shape[3]),
            "levels": len(stages),
            "steps": stages[-1].num_steps,
            "max_points": self.max_points,
            "starts": self.starts,
            "device": str(self.device),
        }
        record = {
            "format": provenance.FORMAT,
            "task": task,
            **pictures.record,
            "settings": settings | {name: facts.pop(name) for name in facts.keys() & settings.keys()},
            **facts,
            "device": provenance.describe_device(self.device),
            "versions": provenance.versions(
                (plugin.owner, plugin.version) for plugin in self.recipe.plugins.values()
            ),
            "timings": {
                "setup": round(ready - begin, 4),
                "match": round(now - ready, 4),
                "per_level": provenance.seconds_per_level(history),
            },
            "interrupted": interrupted,
            "notes": [note for found in matches for note in found.notes],
            "loss": history[-1].loss if history else None,
            "history": [dataclasses.asdict(line) for line in history],
        }
        return Synthesis(
            image=pictures.as_given(image.cpu()),
            history=history,
            interrupted=interrupted,
            record=record,
            format=pictures.format,
        )
