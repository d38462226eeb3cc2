"""The contract checks: every built-in passes them, and whatever breaks the contract is caught."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass, field

import pytest
import torch

from featot.interfaces import FeatureExtractor, Generator, Loss, LossValue, Metric, Parametrization, Score
from featot.noise import NoiseField
from featot.options import NoOptions, option
from featot.plugins import Plugin, Registered, load_registry
from featot.testing import (
    check_extractor,
    check_generator,
    check_loss,
    check_metric,
    check_options,
    check_parametrization,
    contract,
)
from featot_plugins.image import Image
from featot_plugins.msot import MSOT
from featot_plugins.options import (
    ImageOptions,
    MSOTOptions,
    OTLossOptions,
    PatchesOptions,
    PyramidOptions,
    TexnetLiteOptions,
)
from featot_plugins.ot import OTLoss
from featot_plugins.patches import Patches
from featot_plugins.pyramid import Pyramid
from featot_plugins.texnet import TexnetLite

_PLUGINS = [plugin for plugin in load_registry().all() if plugin.kind != "command"]


@pytest.mark.parametrize("plugin", _PLUGINS, ids=str)
def test_registered_plugins(plugin, monkeypatch, vgg19_file, inception_file):
    monkeypatch.setenv("FEATOT_VGG19_WEIGHTS", str(vgg19_file))
    monkeypatch.setenv("FEATOT_INCEPTION_WEIGHTS", str(inception_file))
    if plugin.kind == "loss":
        check_loss(plugin.factory())
    elif plugin.kind == "features":
        check_extractor(plugin.create())
    elif plugin.kind == "param":
        param = plugin.create()
        (check_generator if isinstance(param, Generator) else check_parametrization)(param)
    else:
        check_metric(plugin.create())


def test_every_kind_is_there():
    assert {plugin.kind for plugin in _PLUGINS} == {"features", "param", "loss", "metric"}


@pytest.mark.parametrize(
    "extractor",
    [
        Patches(PatchesOptions(size=1)),
        Patches(PatchesOptions(size=8, stride=5)),
        Pyramid(PyramidOptions(size=7, scales=5)),
        Pyramid(PyramidOptions(size=3, stride=2)),
    ],
    ids=lambda extractor: repr(extractor.options),
)
def test_extractors_with_other_options(extractor):
    check_extractor(extractor)


@pytest.mark.parametrize("exponent", [0.5, 1.5, 2.0])
def test_losses_with_other_options(exponent):
    check_loss(functools.partial(OTLoss, OTLossOptions(exponent=exponent, targets=50)))


def test_other_plugins_with_other_options():
    check_parametrization(Image(ImageOptions(noise=0.0)))
    check_metric(MSOT(MSOTOptions(points=50, scales=1)))


# Toys that are sound, but for the one thing that each test breaks.


class Changed(FeatureExtractor):
    """Two scales of patches, but for what ``change`` makes of the levels and the arguments of a call."""

    def __init__(self, change=None, linear=False):
        super().__init__()
        self.change, self.linear = change, linear
        self.calls = 0

    def extract(self, image, *, scale=0, boundary="valid", max_points=None):
        self.calls += 1
        levels = Pyramid(PyramidOptions(size=3, scales=2)).extract(image, boundary=boundary, max_points=max_points)
        arguments = {"image": image, "boundary": boundary, "max_points": max_points, "calls": self.calls}
        return self.change(levels, arguments) if self.change else levels


def _map(function):
    return lambda levels, arguments: {name: function(points) for name, points in levels.items()}


def _raise(levels, arguments):
    if min(arguments["image"].shape[2:]) < 3:
        raise ValueError("kernel larger than the image")
    return levels


def _fewer_on_the_torus(levels, arguments):
    return {name: p[:9] if arguments["boundary"] == "periodic" else p for name, p in levels.items()}


def _more_where_thinned(levels, arguments):
    return {name: torch.cat([p] * 99) if arguments["max_points"] else p for name, p in levels.items()}


def _holes_where_thinned(levels, arguments):
    return {name: p[:20] if arguments["max_points"] else p for name, p in levels.items()}


def _one_level_where_thinned(levels, arguments):
    return {"1/1": levels["1/1"]} if arguments["max_points"] and levels else levels


def _first_image_only(levels, arguments):
    return {name: p[: len(p) // len(arguments["image"])] for name, p in levels.items()}


def _wider_on_the_torus(levels, arguments):
    return {name: torch.cat([p, p], 1) if arguments["boundary"] == "periodic" else p for name, p in levels.items()}


def _new_names(levels, arguments):
    return {f"{name} {arguments['calls']}": p for name, p in levels.items()}


def test_the_toy_extractor_is_sound_if_nothing_is_changed():
    check_extractor(Changed())
    check_extractor(Changed(linear=True))


@pytest.mark.parametrize(
    ("change", "linear", "sentence"),
    [
        (lambda levels, _: list(levels.values()), False, "must return a dict, got list"),
        (lambda levels, _: {}, False, "no level"),
        (lambda levels, _: dict(reversed(levels.items())), False, "finest first"),
        (_new_names, False, "different level names"),
        (_map(lambda p: p[:, :, None]), False, "must be"),
        (_map(lambda p: p[:0]), False, "neither of them 0"),
        (_map(lambda p: (p * 255).int()), False, "floating"),
        (_map(lambda p: p / 0), False, "finite"),
        (_map(lambda p: p + torch.rand(())), False, "differ from call to call"),
        (_map(torch.Tensor.detach), False, "must be differentiable"),
        (_map(lambda p: 0 * p), False, "gradient of zero everywhere"),
        (_map(lambda p: (p - p.detach()).sqrt() + p), False, "must have a finite gradient"),
        (_first_image_only, False, "must be pooled"),
        (_wider_on_the_torus, False, "dimension"),
        (_fewer_on_the_torus, False, "fewer points"),
        (_raise, False, "too small must give {}"),
        (_map(torch.Tensor.double), False, "must have the image's dtype and device, got torch.float64"),
        (_more_where_thinned, False, "max_points must not give more"),
        (_one_level_where_thinned, False, "must not change the names"),
        (_holes_where_thinned, True, "count in none"),
        (_map(lambda p: 2 * p), True, "sum to 2, not 1"),
        (_map(lambda p: 2 * p - p.roll(1, 1)), True, "negative weight"),
        (_map(lambda p: p + 0.5), True, "not 0 for a black image"),
    ],
)
def test_broken_extractors(change, linear, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_extractor(Changed(change, linear), channels=(1,))


class ChangedImage(Parametrization):
    """Free pixels, but for what the subclass says."""

    resizable = True

    def initialize(self, exemplar, size, generator):
        self.set(torch.rand(1, exemplar.shape[1], *size, generator=generator))

    def set(self, pixels):
        self.pixels = pixels.requires_grad_()

    def resize(self, size):
        self.set(torch.nn.functional.interpolate(self.pixels.detach(), size))

    def parameters(self):
        return [self.pixels]

    def __call__(self, size, generator):
        return self.pixels


def _changed(**attributes):
    return type("Toy", (ChangedImage,), attributes)()


def test_the_toy_parametrization_is_sound_if_nothing_is_changed():
    check_parametrization(_changed())
    check_parametrization(_changed(linear=True))


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"boundary": "torus"}, "boundary is 'torus'"),
        ({"__call__": lambda self, size, generator: self.pixels[:, :, :32, :32]}, "got \\("),
        ({"__call__": lambda self, size, generator: self.pixels[0]}, "got \\("),
        ({"__call__": lambda self, size, generator: self.pixels.mean(1, keepdim=True)}, "expected an image"),
        ({"__call__": lambda self, size, generator: self.pixels / 0}, "finite"),
        ({"__call__": lambda self, size, generator: self.pixels.detach()}, "the image must be differentiable"),
        ({"__call__": lambda self, size, generator: 0 * self.pixels}, "does not depend"),
        ({"__call__": lambda self, size, generator: self.pixels * torch.rand(())}, "equal generators"),
        ({"set": lambda self, p: ChangedImage.set(self, p.double())}, "must have the exemplar's dtype and device"),
        ({"parameters": lambda self: []}, "leaf tensors"),
        ({"parameters": lambda self: [self.pixels * 1]}, "leaf tensors"),
        ({"parameters": lambda self: [self.pixels.detach()]}, "leaf tensors"),
        ({"resize": lambda self, size: None}, "1, 35, 61"),
        ({"resize": Parametrization.resize}, "resizable is True, but resize raises"),
        ({"resizable": False}, "resize works, but resizable is False"),
        ({"linear": True, "__call__": lambda self, size, generator: 3 * self.pixels}, "sum to 3"),
        ({"linear": True, "__call__": lambda s, z, g: 2 * s.pixels - s.pixels.roll(1, 3)}, "negative weight"),
    ],
)
def test_broken_parametrizations(attributes, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_parametrization(_changed(**attributes))


class ChangedLoss(Loss):
    """The distance to the target's mean, but for what the function ``options`` makes of it."""

    def __init__(self, options, target, generator):
        super().__init__(options, target, generator)
        self.calls = 0

    def __call__(self, points, *, improve=True):
        self.calls += 1
        squared = (points - self.target.points.mean(0)).square().sum(1)
        weights = torch.full_like(squared, 1 / len(points)).detach()
        changed = self.options(self, squared.mean(), points) if self.options else squared.mean()
        return changed if isinstance(changed, LossValue) else LossValue(changed, weights)


def test_the_toy_loss_is_sound_if_nothing_is_changed():
    check_loss(functools.partial(ChangedLoss, None))
    check_loss(functools.partial(ChangedLoss, lambda self, value, points: LossValue(value)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda self, value, points: value * torch.ones(2), "must be a finite scalar"),
        (lambda self, value, points: value * torch.inf, "must be a finite scalar"),
        (lambda self, value, points: value.detach(), "differentiable"),
        (lambda self, value, points: value + (points - points.detach()).sqrt().sum(), "finite"),
        (lambda self, value, points: (value > 3) * 1.0 + 0 * value, "gradient is zero"),
        (lambda self, value, points: value * self.calls, "improve=False changed the value"),
        (lambda self, value, points: -value, "points of the target cost"),
        (lambda self, value, points: value * torch.rand(()).add(1), "improve=False changed the value"),
        (lambda self, value, points: LossValue(value, torch.ones(3)), "curvature"),
        (lambda self, value, points: LossValue(value, -torch.ones(len(points))), "curvature"),
    ],
)
def test_broken_losses(change, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_loss(functools.partial(ChangedLoss, change))


class Counting(ChangedLoss):
    """Its value grows with the calls that improve it: they are its state."""

    def __call__(self, points, *, improve=True):
        self.seen = getattr(self, "seen", 0) + improve
        return LossValue(super().__call__(points).value * (1 + self.seen))

    def state_dict(self):
        return {"seen": torch.tensor(self.seen)}

    def load_state_dict(self, tensors):
        self.seen = int(tensors["seen"])


def test_a_loss_that_keeps_or_forgets_its_state():
    check_loss(functools.partial(Counting, None))
    for broken in ({"state_dict": lambda self: {"seen": torch.tensor(0)}}, {"load_state_dict": lambda self, t: None}):
        forgetful = type("Forgetful", (Counting,), broken)
        with pytest.raises(AssertionError, match="what state_dict gives, loaded, makes another value"):
            check_loss(functools.partial(forgetful, None))


def test_a_loss_of_another_dtype():
    with pytest.raises(AssertionError, match=r"must have the points' dtype and device, got torch\.float64"):
        check_loss(functools.partial(ChangedLoss, lambda self, value, points: value.double()))


def test_a_loss_that_uses_other_random_numbers():
    factors = itertools.count(1)

    def factory(target, generator):
        factor = next(factors)
        return ChangedLoss(lambda self, value, points: factor * value, target, generator)

    with pytest.raises(AssertionError, match="equal generators must give equal values"):
        check_loss(factory)


class Distance(Metric):
    """The mean squared difference, but for what the function ``options`` makes of it."""

    def __call__(self, image, exemplar):
        distance = float((image - exemplar).square().mean())
        return self.options(distance) if self.options else distance


class Likeness(Distance):
    lower_is_better = False


class Ratio(Distance):
    """1 for images that are equal."""

    ideal = 1.0

    def __call__(self, image, exemplar):
        return 1 + super().__call__(image, exemplar)


class Brightness(Metric):
    measures_likeness = False

    def __call__(self, image, exemplar):
        return float(image.mean())


class Detailed(Distance):
    def __init__(self, score):
        super().__init__()
        self.score = score


def test_the_toy_metric_is_sound_if_nothing_is_changed():
    check_metric(Distance())
    check_metric(Likeness(lambda distance: -distance))
    check_metric(Ratio())
    check_metric(Ratio(lambda distance: -distance))
    check_metric(Brightness())


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        (Distance(torch.tensor), "must be a finite float, got tensor"),
        (Distance(lambda distance: float("nan")), "must be a finite float"),
        (Distance(lambda distance: distance * float(torch.rand(()))), "differs from call to call"),
        (Distance(lambda distance: -distance), "lower_is_better = True, but"),
        (Distance(lambda distance: 1.0), "lower_is_better = True, but"),
        (Likeness(), "lower_is_better = False, but"),
        (Ratio(lambda distance: distance - 1), "ideal = 1.0, but"),
        (Detailed(lambda image, exemplar: 0.1), "score gave 0.1, but the metric itself"),
        (Detailed(lambda image, exemplar: Score(0.1)), r"score gave Score\(value=0.1"),
        (Detailed(lambda *pair: Score(Distance()(*pair), {"map": pair[0]})), "details .* must be ready for JSON"),
        (Detailed(lambda *pair: Score(Distance()(*pair), {"gap": math.nan})), "details .* must be ready for JSON"),
    ],
)
def test_broken_metrics(metric, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_metric(metric)


# ---- options ----


@dataclass(frozen=True)
class Endless:
    most: float = option(math.inf, "no limit")


@dataclass(frozen=True)
class Bare:
    size: int = 3


@dataclass(frozen=True)
class Derived:
    size: int = option(3, "side of the window")
    area: int = field(init=False, compare=False, default=0)


class Forgets(Changed):
    def __init__(self, options):
        super().__init__()


class Takes(Changed):
    def __init__(self, options):
        super().__init__()
        self.options = options


def _registered(target, options):
    return Registered("features", Plugin("toy", target, "a toy", options), "toys", "1.0")


def test_sound_options():
    for options in (NoOptions, Derived):
        check_options(_registered(Takes, options))


@pytest.mark.parametrize(
    ("target", "options", "sentence"),
    [
        (Takes, Bare, "option 'size' has no line of help"),
        (Takes, Endless, "the defaults of the options must be ready for JSON"),
        (Forgets, Derived, "must keep its first argument as self.options"),
    ],
)
def test_broken_options(target, options, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_options(_registered(target, options))


# ---- all of it, check by check ----


@pytest.mark.parametrize("plugin", _PLUGINS, ids=str)
def test_the_contract_names_every_check_once(plugin):
    checks = contract(plugin)
    common = {"options", "determinism"}
    assert common < checks.keys()
    assert ("windows" in checks) == plugin.plugin.name.startswith("texnet")
    checks["options"]()


# ---- generators ----


def _blurs_borders(frozen):
    class Windowed(type(frozen)):
        def render(self, noise, rows, columns):
            image = super().render(noise, rows, columns)
            return image - image.mean()

    frozen.__class__ = Windowed


def _ignores_the_seed(frozen):
    class Deaf(type(frozen)):
        def render(self, noise, rows, columns):
            return super().render(NoiseField(0, noise.period), rows, columns)

    frozen.__class__ = Deaf


def _forgets_the_period(frozen):
    class Endless(type(frozen)):
        def render(self, noise, rows, columns):
            return super().render(NoiseField(noise.seed), rows, columns)

    frozen.__class__ = Endless


def _claims_a_channel_more(frozen):
    frozen.channels += 1


BROKEN = {
    "depends on its extent": _blurs_borders,
    "another seed gives the same image": _ignores_the_seed,
    "no period": _forgets_the_period,
    "channels is 2, not 1": _claims_a_channel_more,
}


@pytest.mark.parametrize("sentence", BROKEN)
def test_broken_generators_are_found(sentence):
    class Broken(TexnetLite):
        def freeze(self):
            frozen = super().freeze()
            BROKEN[sentence](frozen)
            return frozen

    with pytest.raises(AssertionError, match=sentence):
        check_generator(Broken(TexnetLiteOptions(scales=2, width=3)), channels=(1,))


def test_a_generator_that_samples_its_live_weights_is_found():
    class Live(TexnetLite):
        def freeze(self):
            frozen = super().freeze()
            frozen.network.colors.bias = self.net.colors.bias
            return frozen

    with pytest.raises(AssertionError, match="what was frozen changes with the parameters"):
        check_generator(Live(TexnetLiteOptions(scales=2, width=3)), channels=(1,))


def test_a_generator_that_saves_too_little_is_found():
    class Partial(TexnetLite):
        def load_state_dict(self, tensors, device):
            super().load_state_dict(tensors, device)
            with torch.no_grad():
                self.net.colors.bias.zero_()

    with pytest.raises(AssertionError, match="what state_dict gives, loaded, makes another image"):
        check_generator(Partial(TexnetLiteOptions(scales=2, width=3)), channels=(1,))
