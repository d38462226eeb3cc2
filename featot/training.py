"""Training: a generator learns the exemplar's feature distributions once, and then makes any size at once.

It is Algorithm 2 of Houdard et al. 2021: the same problem as a synthesis, whose image is drawn anew at each step.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from featot import provenance
from featot.checkpoints import flattened, nested, read_checkpoint, write_checkpoint
from featot.conditions import Conditions
from featot.device import find_device
from featot.errors import FeatotError, UsageError
from featot.exemplars import Pictures, Sources, turns
from featot.files import AnyPath
from featot.interfaces import Generator, Parametrization, Size
from featot.mixing import PRESETS as MIXED
from featot.models import save_model
from featot.options import rebuild
from featot.parallel import apart, average, in_any
from featot.plugins import Registered, Registry, load_registry
from featot.precision import Mixed, find_precision
from featot.problem import Problem, Stage
from featot.recipe import Recipe
from featot.runs import DEFAULT_LOSS
from featot.terms import Term, start_from
from featot.training_plan import TrainingPlan
from featot.training_settings import TrainingSettings
from featot.updates import Adam

_STEPS = 6000  # where neither they nor minutes are asked for
_SIDE = 512  # pixels of the images it learns from, where none are asked for and it starts with small ones
_PLAIN_SIDE = 256  # where it does not
# Half of a synthesis': noise is fresh at every step, and more steps do more good than more targets.
_TARGETS = 2048
_GREY_SIZES, _COLOR_SIZE = (7, 6, 5), 4  # of patches: a network copies little, and learns more of large ones
_FINAL = 0.05  # of the rate at the start
_REOPENED = 0.5  # of a scale's time, until what coarser ones have learnt moves as fast as what is new
_CELL = 32  # pixels: sides are multiples of it, so that the noise of every scale fits
_WARM = 20  # first steps, over which the average of the weights is still short


def _presets(settings: TrainingSettings, pictures: Pictures) -> dict[str, dict[str, Any]]:
    """Options of plugins where none are given."""
    targets = {"targets": _TARGETS}
    presets: dict[str, dict[str, Any]] = {
        "ot": targets,
        "pyramid": {"size": _GREY_SIZES if pictures.channels == 1 else _COLOR_SIZE},
    }
    return {**presets, **MIXED, "ot": {**MIXED["ot"], **targets}} if settings.conditional else presets


def _training_size(pictures: Pictures, coarser: int) -> Size:
    """The exemplar's, but no more than some; twice that from coarse to fine: what is large needs room to vary."""
    most, times = (_SIDE, 2) if coarser else (_PLAIN_SIDE, 1)
    h, w = (max(_CELL, min(most, times * side) // _CELL * _CELL) for side in pictures.smallest)
    return h, w


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """What a callback sees after each step; ``scale``: how often its images are halved; ``num_steps``: None where
    only the minutes are given; ``image()``: see `Training.image`."""

    scale: int
    step: int
    num_steps: int | None
    fraction: float
    loss: float
    seconds: float
    image: Callable[[], Tensor] = field(repr=False)


class Training:
    """A training that can be stopped, written to a checkpoint, and gone on with, bit for bit on the CPU.

    Raises `featot.UsageError` for settings that make no sense, and for a parametrization that is no generator.
    """

    def __init__(self, sources: Sources, settings: TrainingSettings, registry: Registry | None = None) -> None:
        self.settings = settings
        pictures = sources.read()
        self.recipe = Recipe.choose(
            load_registry() if registry is None else registry,
            features=settings.features,
            param=settings.param,
            loss=settings.loss,
            default_loss=DEFAULT_LOSS["adam"],
            options=settings.options,
            presets=_presets(settings, pictures),
            objects={},
        )
        param = self.recipe.parametrization()
        if not isinstance(param, Generator):
            raise UsageError(f"parametrization {settings.param!r} cannot be trained; expected one such as 'texnet'")
        self.generator = param
        self.pictures, self._grey, self._as_given = pictures.record, pictures.grey, pictures.as_given
        self.exemplar = pictures.as_given(pictures.exemplars[0])
        self.device = find_device(settings.device)
        coarser = 0 if settings.conditional else param.coarser
        self.size = settings.size or _training_size(pictures, coarser)
        self._follows = param.follows and not settings.conditional  # statistics of several exemplars do not
        self.num_steps = _STEPS if settings.steps is None and settings.minutes is None else settings.steps
        self._plan = TrainingPlan(self.size, coarser, self.num_steps or _STEPS)
        self.steps: int = 0
        self.seconds = 0.0
        self.losses: list[float] = []
        self._random = torch.Generator().manual_seed(settings.seed)
        self._conditions, terms = self._terms(pictures)
        start = terms[0].exemplars[0] if self._conditions is None else start_from(terms, 0)
        self.generator.initialize(start, self.size, self._random)
        made: Parametrization = self.generator
        if find_precision(settings.precision, self.device) == torch.bfloat16:
            made = Mixed(self.generator, self.device)
        self._problem = Problem(made, terms, settings.max_points, self._random)
        for scale in self._plan.scales:  # all losses are made at the start, so that a run that goes on has the same
            self._enter(scale, self._plan.size(scale, 0))
        if len(self._plan.scales) > 1:
            self._enter(self._plan.scales[0], self._plan.size(self._plan.scales[0], 0))
        self._update = Adam(self.generator, self._problem)
        self._mean = [theta.detach().clone() for theta in self.generator.parameters()]

    def _terms(self, pictures: Pictures) -> tuple[Conditions | None, Sequence[Term]]:
        """What is compared: with the exemplars pooled, or with each on its own."""
        if not self.settings.conditional:
            images, masks = pictures.varied(self.settings.augment)
            images = [image.to(self.device) for image in images]
            grey = pictures.channels == 1  # its lines see no single pixels (docs/benchmarks.md)
            return None, self.recipe.terms(images, masks=masks, everywhere=True, detailed=grey)
        count = len(pictures.exemplars)
        if not self.generator.conditionable:
            raise UsageError(f"parametrization {self.settings.param!r} cannot be conditioned on several exemplars")
        if count < 2:
            raise UsageError(f"expected at least two exemplars for a conditional training, got {count}")
        self.generator.conditions = count
        exemplars = [turns(image.to(self.device), self.settings.augment) for image in pictures.exemplars]
        conditions = Conditions(self.recipe, exemplars)
        return conditions, conditions.terms

    @property
    def fraction(self) -> float:
        """How much of the training is done."""
        parts = [self._plan.fraction(self.steps)] if self.num_steps else []
        if self.settings.minutes is not None:
            parts.append(self.seconds / (60 * self.settings.minutes))
        return min(1.0, max(parts))

    def run(
        self,
        callback: Callable[[TrainingState], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Goes on to the end, or until ``stop()``, which is asked after each step.

        Raises `featot.FeatotError` if the loss stops being finite.
        """
        while self.fraction < 1 and not in_any(stop()):
            begin = time.perf_counter()
            self._step()
            passed = torch.tensor(time.perf_counter() - begin, dtype=torch.float64, device=self.device)
            self.seconds += float(average(passed))  # the same everywhere, as the rate depends on it
            if callback is not None:
                state = TrainingState(
                    scale=self.generator.scale,
                    step=self.steps,
                    num_steps=self.num_steps,
                    fraction=self.fraction,
                    loss=self.losses[-1],
                    seconds=self.seconds,
                    image=self.image,
                )
                callback(state)

    def _enter(self, scale: int, size: Size) -> None:
        self.generator.scale = scale
        self._problem.enter(
            Stage(scale=scale, size=size, num_steps=self.num_steps or _STEPS, rate=self.settings.rate)
        )

    def _step(self) -> None:
        scale, passed = self._plan.at(self.fraction)
        stage, size = self._problem.stage, self._plan.size(scale, passed)
        if (scale, size) != (stage.scale, stage.size):
            if scale != stage.scale:
                self._update.settle()
            self._enter(scale, size)
        if self._follows and not self.generator.steady and self._plan.ends(scale, passed):
            self.generator.calibrate(self.size, self._random)
            self.generator.steady = True
        self._problem.shake()
        falling = (1 + math.cos(math.pi * passed)) / 2
        rate = self.settings.rate * (_FINAL + (1 - _FINAL) * falling)
        self._update.share = min(1.0, passed / _REOPENED)
        if self._conditions is None:
            loss = self._update(rate)
        else:
            self.generator.shares = self._conditions.draw(self._random)
            with self._conditions.weighing(self._problem, self.generator.shares):
                loss = self._update(rate)
            self.generator.shares = None
        if not math.isfinite(loss):
            raise FeatotError(f"the loss became {loss} at step {self.steps}; try a smaller rate")
        self.steps += 1
        self.losses.append(loss)
        keep = min(self.settings.average, self.steps / (self.steps + _WARM))
        with torch.no_grad():
            for mean, theta in zip(self._mean, self.generator.parameters(), strict=True):
                mean.lerp_(theta, 1 - keep)

    def image(self) -> Tensor:
        """What the mean of the weights makes of one fixed noise, ``(1, c, h, w)`` in [0, 1], on the CPU.

        It is halved as often as the images it learns from are at the time.
        Of a conditional training it is like the first exemplar.
        """
        with apart(), self._mean_weights(), torch.no_grad():
            return self._as_given(self._made(1, self._alone()[0])).clamp(0, 1).cpu()

    def diversity(self) -> float:
        """How much two images differ: 1 as two that know nothing of one another do, 0 if they are the same.

        The mean squared difference of two seeds' images over twice the variance of their pixels. A generator that
        ignores its noise, and so makes one image only, is no generator. Of a conditional training, the least of those
        that are like one exemplar.
        """
        found = []
        with apart(), self._mean_weights(), torch.no_grad():
            for shares in self._alone():
                first, second = (self._made(number, shares).double() for number in (1, 2))
                variance = torch.cat([first, second]).var(dim=(0, 2, 3), correction=0).sum()
                apart_by = (first - second).square().mean((0, 2, 3)).sum()
                found.append(float(apart_by / (2 * variance).clamp(min=1e-12)))
        return min(found)

    def _alone(self) -> list[Tensor | None]:
        """The shares of each exemplar without the others; None alone if the training is not conditional."""
        count = self.generator.conditions
        return list(torch.eye(count)) if count else [None]

    def _made(self, number: int, shares: Tensor | None) -> Tensor:
        """The image of a noise with this number, for these shares."""
        self.generator.shares = shares
        noise = torch.Generator().manual_seed(self.settings.seed + number)
        made = self.generator(self._problem.stage.size, noise)[:1]
        self.generator.shares = None
        return made

    def save(self, path: AnyPath) -> dict[str, Any]:
        """Writes the mean of the weights, calibrated, as a model for `featot.load_model`; returns its record."""
        record = self.record()
        with apart(), self._mean_weights():
            self.generator.scale, before = 0, self.generator.scale
            if not self.generator.steady:
                self.generator.calibrate(self.size, torch.Generator().manual_seed(self.settings.seed + 2))
            save_model(path, self.generator, self._plugin, record, grey=self._grey)
            self.generator.scale = before
        return record

    def config(self) -> dict[str, Any]:
        """What decides the training, fit for JSON."""
        return {
            "task": "train",
            **self.pictures,
            "settings": {**dataclasses.asdict(self.settings), **self.recipe.settings(), "size": self.size},
            "device": provenance.describe_device(self.device),
        }

    def record(self) -> dict[str, Any]:
        """What a model file says of its training: the config, and what came of it."""
        return {
            **self.config(),
            "steps": self.steps,
            "seconds": round(self.seconds, 2),
            "finished": self.fraction >= 1,
            "loss": self.losses[-1] if self.losses else None,
            "diversity": round(self.diversity(), 4),
        }

    def save_checkpoint(self, path: AnyPath) -> None:
        """Writes all that `load_checkpoint` needs to go on, whole or not at all."""
        header = {
            "steps": self.steps,
            "seconds": self.seconds,
            "scale": self._problem.stage.scale,
            "size": self._problem.stage.size,
            "steady": self.generator.steady,
            "settled": self._update.settled,
            "balance": list(self._problem.balance.values()),
            "losses": self.losses,
            "pictures": self.pictures,
            "threads": torch.get_num_threads(),
            "settings": dataclasses.asdict(self.settings),
        }
        parts = {
            "weights": self.generator.state_dict(),
            "mean": {str(i): mean for i, mean in enumerate(self._mean)},
            "adam": flattened(self._update.state()),
            "losses": self._problem.state_dict(),
            "random": {"state": self._random.get_state()},
        }
        write_checkpoint(path, header, parts)

    def load_checkpoint(self, path: AnyPath) -> None:
        """Goes back to the state in which `save_checkpoint` wrote ``path``; for a training of the same settings.

        Raises `featot.UsageError` for any other file.
        """
        header, parts = read_checkpoint(path)
        try:
            h, w = header["size"]
            self._enter(int(header["scale"]), (int(h), int(w)))
            self.generator.steady = bool(header["steady"])
            self._update.settled = [int(number) for number in header["settled"]]
            self._problem.balance = dict(zip(self._problem.balance, header["balance"], strict=True))
            self.generator.load_state_dict(parts["weights"], self.device)
            for i, mean in enumerate(self._mean):
                mean.copy_(parts["mean"][str(i)])
            self._update.load_state(nested(parts["adam"]))
            self._problem.load_state_dict(parts["losses"])
            self._random.set_state(parts["random"]["state"])
            self.steps, self.seconds = int(header["steps"]), float(header["seconds"])
            self.losses = [float(loss) for loss in header["losses"]]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            why = " ".join(str(error).split()[:20])
            raise UsageError(f"cannot go on from {path}: it does not fit these settings ({why})") from None

    @property
    def _plugin(self) -> Registered:
        return self.recipe.plugins["param"]

    def _mean_weights(self) -> _Swapped:
        return _Swapped(self.generator.parameters(), self._mean)


def recorded_settings(header: Mapping[str, Any]) -> TrainingSettings:
    """The settings in a checkpoint's header. Raises `featot.UsageError` where they are damaged."""
    try:
        settings: TrainingSettings = rebuild(TrainingSettings, header["settings"], "a training")
        return settings
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the checkpoint's settings are damaged ({error})") from None


class _Swapped:
    """While it is entered, the parameters have other values."""

    def __init__(self, parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        self.parameters, self.values = parameters, values
        self.kept: list[Tensor] = []

    def __enter__(self) -> None:
        self.kept = [theta.detach().clone() for theta in self.parameters]
        self._set(self.values)

    def __exit__(self, *_: object) -> None:
        self._set(self.kept)

    @torch.no_grad()
    def _set(self, values: Sequence[Tensor]) -> None:
        for theta, value in zip(self.parameters, values, strict=True):
            theta.copy_(value)
