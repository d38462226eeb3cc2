"""Contract checks for plugins: run them in your own tests, on your own plugin.

>>> from featot.testing import check_extractor
>>> check_extractor(MyExtractor(MyOptions(size=5)))

Each raises AssertionError with a sentence that says what of `featot.interfaces` is violated. They take a second or
two on the CPU, and all their random numbers are fixed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from featot.errors import UsageError
from featot.interfaces import (
    Boundary,
    FeatureExtractor,
    FrozenGenerator,
    Generator,
    Metric,
    Parametrization,
    Score,
    Size,
)
from featot.noise import NoiseField
from featot.ot import Measure
from featot.terms import LossFactory


def check_extractor(extractor: FeatureExtractor, channels: Sequence[int] = (1, 3)) -> None:
    """Checks an extractor on images of each of these numbers of ``channels``."""
    for image in (_image(c, (64, 64)) for c in channels):
        levels, again = _levels(extractor, image), _levels(extractor, image)
        _require(levels, "extract gave no level for an image of 64x64")
        _require(list(levels) == list(again), "extract gave different level names for the same image")
        counts = [len(points) for points in levels.values()]
        _require(counts == sorted(counts, reverse=True), f"levels must come finest first, got {counts} points")
        pair = _levels(extractor, torch.cat([image, image]))
        periodic = _levels(extractor, image, "periodic")
        others = (pair, periodic, _levels(extractor, _image(image.shape[1], (51, 70))))
        for name, points in levels.items():
            where = f"of level {name!r}"
            _require(torch.allclose(points, again[name]), f"the points {where} differ from call to call")
            _require(len(pair.get(name, ())) == 2 * len(points), f"the points {where} of two images must be pooled")
            same = {points.shape[1]} == {found.get(name, points).shape[1] for found in others}
            _require(same, f"the dimension {where} must not depend on size, batch or boundary")
            more = len(periodic.get(name, points)) >= len(points)
            _require(more, f"boundary 'periodic' gives fewer points {where} than 'valid'")
        for h, w in ((1, 1), (2, 3)):
            try:
                tiny = extractor.extract(image[:, :, :h, :w])
            except Exception as error:
                raise AssertionError(f"extract raised {error!r} for {h}x{w}: too small must give {{}}") from error
            _check_levels(tiny)
        for boundary in get_args(Boundary):
            _check_gradients(extractor, image.clone().requires_grad_(), boundary)


def _check_gradients(extractor: FeatureExtractor, image: Tensor, boundary: Boundary) -> None:
    dense, thinned = _levels(extractor, image, boundary), _levels(extractor, image, boundary, max_points=50)
    black = _levels(extractor, torch.zeros_like(image), boundary)
    _require(list(dense) == list(thinned), "max_points must not change the names of the levels")
    for name, points in dense.items():
        where = f"the points of level {name!r} ({boundary})"
        _require(len(thinned[name]) <= len(points), f"max_points must not give more of {where}")
        _require(_gradient(points.square().sum(), image, where).any(), f"{where} have a gradient of zero everywhere")
        if not extractor.linear:
            continue
        for i in (0, len(points) // 2, len(points) - 1):
            row = _gradient(points[i, i % points.shape[1]], image, where)
            _require_average(row, f"{where} say linear = True, but one")
        _require(black[name].abs().max() < 1e-5, f"{where} say linear = True, but are not 0 for a black image")
        met, still_met = (_gradient(cloud.sum(), image, where) > 0 for cloud in (points, thinned[name]))
        _require(not (met & ~still_met).any(), f"with max_points, some pixels count in none of {where}")


def check_parametrization(param: Parametrization, channels: Sequence[int] = (1, 3)) -> None:
    """Checks a parametrization on exemplars of each of these numbers of ``channels``."""
    _require(param.boundary in get_args(Boundary), f"boundary is {param.boundary!r}, expected 'valid' or 'periodic'")
    for exemplar in (_image(c, (40, 32)) for c in channels):
        images = []
        for size, global_seed in (((33, 47), 0), ((32, 32), 1), ((32, 32), 2)):  # the global seed must not matter
            with torch.random.fork_rng():
                torch.manual_seed(global_seed)
                generator = torch.Generator().manual_seed(5)
                param.initialize(exemplar, size, generator)
                images.append(_check_image(param, exemplar.shape[1], size, generator))
        _require(torch.equal(*images[1:]), "equal generators must give equal images")
        try:
            param.resize((35, 61))
        except TypeError:
            _require(not param.resizable, "resizable is True, but resize raises TypeError")
            continue
        _require(param.resizable, "resize works, but resizable is False")
        _check_image(param, exemplar.shape[1], (35, 61), torch.Generator().manual_seed(5))


def check_generator(generator: Generator, channels: Sequence[int] = (1, 3)) -> None:
    """Checks a generator: as a parametrization, and that its samples are a function of weights and coordinates."""
    check_parametrization(generator, channels)
    for exemplar in (_image(c, (40, 32)) for c in channels):
        generator.initialize(exemplar, (64, 64), torch.Generator().manual_seed(5))
        generator.calibrate((64, 64), torch.Generator().manual_seed(6))
        frozen = generator.freeze()
        _require(frozen.channels == exemplar.shape[1], f"channels is {frozen.channels}, not {exemplar.shape[1]}")
        for period in ((None, None), (48, 96), (45, 71)):
            _check_windows(frozen, NoiseField(3, period))
        plane = _window(frozen, NoiseField(3), (0, 0), (2 * frozen.stride, 3 * frozen.stride))
        again = type(generator)(generator.options)
        again.load_state_dict({name: value.clone() for name, value in generator.state_dict().items()}, plane.device)
        loaded = _window(again.freeze(), NoiseField(3), (0, 0), (2 * frozen.stride, 3 * frozen.stride))
        _require(torch.allclose(loaded, plane, atol=1e-5), "what state_dict gives, loaded, makes another image")
        noise = [_inputs(frozen, NoiseField(3), scale, (2, 3)) for scale in range(len(frozen.margins()))]
        _require(torch.allclose(frozen(*noise), plane, atol=1e-4), "forward, given the noise, differs from render")
        with torch.no_grad():
            for theta in generator.parameters():
                theta.mul_(2)
        kept = _window(frozen, NoiseField(3), (0, 0), (2 * frozen.stride, 3 * frozen.stride))
        _require(torch.equal(kept, plane), "what was frozen changes with the parameters")
        try:
            again.load_state_dict({}, plane.device)
        except UsageError:
            continue
        raise AssertionError("load_state_dict must raise featot.UsageError for tensors that do not fit")


def _check_windows(frozen: FrozenGenerator, noise: NoiseField) -> None:
    where = f"of a plane of period {noise.period}"
    whole, again = (_window(frozen, noise, (-20, -9), (70, 91)) for _ in range(2))
    _require(torch.equal(whole, again), f"the same window {where} differs from call to call")
    part = _window(frozen, noise, (3, 1), (17, 30))
    _require(torch.allclose(whole[:, :, 23:40, 10:40], part, atol=1e-4), f"a window {where} depends on its extent")
    turn = [side or 0 for side in noise.period]
    _require(
        torch.allclose(_window(frozen, noise, (turn[0] + 3, 1 - turn[1]), (17, 30)), part, atol=1e-4), "no period"
    )
    other = _window(frozen, NoiseField(noise.seed + 1, noise.period), (3, 1), (17, 30))
    _require(not torch.allclose(other, part, atol=1e-4), "another seed gives the same image")


def _window(frozen: FrozenGenerator, noise: NoiseField, at: Size, size: Size) -> Tensor:
    image = frozen.render(noise, range(at[0], at[0] + size[0]), range(at[1], at[1] + size[1]))
    expected = (1, frozen.channels, *size)
    _require(tuple(image.shape) == expected, f"render must give {expected}, got {tuple(image.shape)}")
    _require(not image.requires_grad and image.isfinite().all(), "render must give finite pixels, without gradients")
    return image


def _inputs(frozen: FrozenGenerator, noise: NoiseField, scale: int, cells: Size) -> Tensor:
    channels, margin = frozen.margins()[scale]
    sides = [count * frozen.stride // 2**scale for count in cells]
    rows, columns = (range(-margin, side + margin) for side in sides)
    return noise.uniform(scale, channels, rows, columns)


def _check_image(param: Parametrization, channels: int, size: Size, generator: torch.Generator) -> Tensor:
    image, parameters = param(size, generator), param.parameters()
    expected = (len(image), channels, *size)
    _require(image.shape == expected, f"expected an image (b, c, h, w) = {expected}, got {tuple(image.shape)}")
    _require(image.is_floating_point() and image.isfinite().all(), "the image must be floating and finite")
    leaves = parameters and all(theta.is_leaf and theta.requires_grad for theta in parameters)
    _require(leaves, "parameters must be leaf tensors that require gradients, at least one")
    gradients = _gradients(image.square().sum(), parameters, "the image")
    _require(any(gradient.any() for gradient in gradients), "the image does not depend on the parameters")
    if param.linear:
        row = _gradients(image[0, 0, size[0] // 2, size[1] // 2], parameters, "the image")
        flat = torch.cat([gradient.flatten() for gradient in row])
        _require_average(flat, "the parametrization says linear = True, but a pixel")
    return image.detach().clone()


def check_loss(factory: LossFactory) -> None:
    """Checks a loss, given a function ``(target, generator) -> Loss``: the class with its options filled in."""
    cloud = torch.rand(200, 6, generator=torch.Generator().manual_seed(0))
    values = []
    for shift in (0, 3, 3):
        points = (cloud[:77] + shift).requires_grad_()
        loss = factory(Measure(cloud), torch.Generator().manual_seed(0))
        result = loss(points)
        shape = tuple(result.value.shape)
        _require(shape == () and result.value.isfinite(), f"the value must be a finite scalar, got shape {shape}")
        gradient = _gradient(result.value, points, "the value")
        _require(shift == 0 or gradient.any(), "the gradient is zero for points far from the target")
        curvature = points[:, 0] * 0 if result.curvature is None else result.curvature
        right = curvature.shape == points.shape[:1] and ((curvature >= 0) & curvature.isfinite()).all()
        _require(right, f"the curvature must be (n,), finite and >= 0, got shape {tuple(curvature.shape)}")
        first, second = (float(loss(points, improve=False).value.detach()) for _ in range(2))
        _require(math.isclose(first, second, rel_tol=1e-4), f"improve=False changed the value: {first} to {second}")
        values.append(float(result.value.detach()))
    near, far, again = values
    _require(near < far, f"points of the target cost {near}, points far from it only {far}")
    _require(math.isclose(far, again, rel_tol=1e-4), "equal generators must give equal values")


def check_metric(metric: Metric, channels: Sequence[int] = (1, 3)) -> None:
    """Checks a metric on images of each of these numbers of ``channels``."""
    for exemplar in (_image(c, (32, 32)) for c in channels):
        noise = torch.rand(exemplar.shape, generator=torch.Generator().manual_seed(1))
        itself, worse, again = metric(exemplar, exemplar), metric(noise, exemplar), metric(noise, exemplar)
        floats = all(isinstance(score, float) and math.isfinite(score) for score in (itself, worse))
        _require(floats, f"the score must be a finite float, got {itself!r} and {worse!r}")
        _require(math.isclose(worse, again, rel_tol=1e-4), "the score differs from call to call")
        score = metric.score(noise, exemplar)
        same = isinstance(score, Score) and math.isclose(score.value, worse, rel_tol=1e-4)
        _require(same, f"score gave {score!r}, but the metric itself {worse}")
        try:
            json.dumps(dict(score.details), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise AssertionError(f"the details of a score must be ready for JSON: {error}") from error
        if not metric.measures_likeness:
            continue
        claim = f"lower_is_better = {metric.lower_is_better}"
        claim = claim if metric.ideal is None else f"ideal = {metric.ideal}"
        better = metric.fault(itself) < metric.fault(worse)
        _require(better, f"{claim}, but an exemplar scores {itself} against itself and noise scores {worse}")


def _require(condition: object, sentence: str) -> None:
    if not condition:
        raise AssertionError(sentence)


def _require_average(row: Tensor, what: str) -> None:
    _require(row.min() > -1e-6, f"{what} has a negative weight ({float(row.min()):.3g})")
    _require(abs(float(row.sum()) - 1) < 1e-4, f"{what} has weights that sum to {float(row.sum()):.4g}, not 1")


def _gradient(value: Tensor, inputs: Tensor, what: str) -> Tensor:
    return _gradients(value, [inputs], what)[0]


def _gradients(value: Tensor, inputs: list[Tensor], what: str) -> list[Tensor]:
    _require(value.requires_grad, f"{what} must be differentiable")
    found = torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
    _require(all(gradient.isfinite().all() for gradient in found), f"{what} must have a finite gradient")
    return list(found)


def _levels(
    extractor: FeatureExtractor, image: Tensor, boundary: Boundary = "valid", max_points: int | None = None
) -> dict[str, Tensor]:
    return _check_levels(extractor.extract(image, boundary=boundary, max_points=max_points))


def _check_levels(levels: Any) -> dict[str, Tensor]:
    _require(isinstance(levels, dict), f"extract must return a dict, got {type(levels).__name__}")
    for name, points in levels.items():
        right = points.ndim == 2 and points.numel() > 0 and points.is_floating_point()
        got = f"{tuple(points.shape)} of {points.dtype}"
        _require(right, f"level {name!r} must be (n, d), floating, neither of them 0, got {got}")
        _require(points.isfinite().all(), f"level {name!r} has points that are not finite")
    return dict(levels)


def _image(channels: int, size: Size) -> Tensor:
    """Slanted stripes with a little noise, in [0, 1]."""
    rows, columns = torch.arange(size[0])[:, None], torch.arange(size[1])
    stripes = torch.stack([((columns + (c + 1) * rows) % 8 < 4).float() for c in range(channels)])
    return (0.15 + 0.6 * stripes + 0.2 * torch.rand(stripes.shape, generator=torch.Generator().manual_seed(0)))[None]
