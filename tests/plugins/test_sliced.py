"""The sliced loss: its value on each line, its draws, and the directions along which extractors project."""

from __future__ import annotations

import functools
import math

import numpy as np
import ot
import pytest
import torch

from featot.interfaces import FeatureExtractor
from featot.ot import Measure
from featot.testing import check_loss
from featot_plugins.options import PatchesOptions, PyramidOptions, SlicedOptions
from featot_plugins.patches import Patches
from featot_plugins.pyramid import Pyramid
from featot_plugins.sliced import SlicedLoss

EXTRACTORS = [Patches(PatchesOptions(size=3)), Pyramid(PyramidOptions(scales=2)), Pyramid(PyramidOptions(size=1))]


class Pixels(FeatureExtractor):
    """What a plugin has that overrides neither `directions` nor `project`."""

    def extract(self, image, *, scale=0, boundary="valid", max_points=None):
        return {"1/1": image.movedim(1, -1).flatten(0, 2)}


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=_generator(seed), dtype=dtype)


def _noise(*shape):
    return torch.rand(shape, generator=_generator(), dtype=torch.float64)


def _loss(target, seed=0, **options):
    return SlicedLoss(SlicedOptions(**options), Measure(target), _generator(seed))


def _value(loss, points):
    return float(loss(points).value)


def _spread(target):
    deviations = target - target.mean(0)
    return float(math.sqrt(0.5) * deviations.square().mean() / deviations.abs().mean())


# The value


@pytest.mark.parametrize("count", [40, 60_000])  # so many are sorted by several threads
def test_equally_many_points_pair_up_in_order(count):
    x, y = _normal(count, 5), 2 * _normal(count, 5, seed=1) + 1
    expected = _spread(y) * (x.sort(dim=0).values - y.sort(dim=0).values).abs().mean()
    assert _value(_loss(y), x) == pytest.approx(float(expected), rel=1e-12)


def test_the_value_is_the_mean_of_exact_transport_on_each_line():
    """Also for a count that divides neither the other nor is divided: within the roughness of the quantiles."""
    x, y = _normal(900, 3).numpy(), 2 * _normal(700, 3, seed=1).numpy() + 1
    expected = _spread(torch.as_tensor(y)) * np.mean(ot.wasserstein_1d(x, y, p=1))
    assert _value(_loss(torch.as_tensor(y)), torch.as_tensor(x)) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_more_points_meet_the_quantiles_between_the_targets(count):
    """n points have the ranks (i + ½) / n; the target is a line through (j + ½) / m, constant beyond its ends."""
    y, x = _normal(5, 1), _normal(count, 1, seed=1)
    ranks = (np.arange(count) + 0.5) / count
    quantiles = np.interp(ranks, (np.arange(5) + 0.5) / 5, np.sort(y[:, 0].numpy()))
    expected = _spread(y) * np.abs(np.sort(x[:, 0].numpy()) - quantiles).mean()
    assert _value(_loss(y), x) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [13, 20])
def test_a_shift_costs_its_length_times_the_spread(count):
    """Halves at ±1: a spread of √½."""
    target = torch.tensor([[-1.0], [1.0]]).repeat(20, 4)
    points = torch.tensor([[-1.0], [1.0]]).repeat(count, 4) + 0.5
    assert _value(_loss(target), points) == pytest.approx(0.5 * math.sqrt(0.5))


def test_the_spread_is_the_standard_deviation_of_what_images_are_like_and_more_of_what_is_rare():
    """Of Laplace's distribution it is the standard deviation. A star in a black sky is as far off as a squared cost
    takes it to be: one pixel of 50 has a standard deviation of 0.14, and deviates by almost 1."""

    def spread(target):
        return _value(_loss(target), target + 1)

    ranks = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    laplace = -torch.sign(ranks - 0.5) * (1 - 2 * (ranks - 0.5).abs()).log()
    assert spread(3 * laplace[:, None]) == pytest.approx(3 * math.sqrt(2), rel=1e-3)
    stars = torch.zeros(5_000, 1, dtype=torch.float64)
    stars[::50] = 1
    assert spread(stars) == pytest.approx(math.sqrt(0.5) * 0.5, rel=1e-6)  # E d² / E |d| is ½ for whatever is 0 or 1


@pytest.mark.parametrize("count", [13, 200])
def test_a_constant_target_pulls_too(count):
    points = torch.full((count, 4), 0.75, requires_grad=True)
    value = _loss(torch.full((40, 4), 0.25))(points).value
    value.backward()
    assert float(value.detach()) > 0
    assert bool((points.grad > 0).all())


def test_the_order_of_the_points_does_not_matter():
    x, y = _normal(30, 4), _normal(50, 4, seed=1)
    assert _value(_loss(y), x.flip(0)) == _value(_loss(y.flip(0)), x) == _value(_loss(y), x)


@pytest.mark.parametrize("count", [6, 9])
def test_gradient(count):
    loss = _loss(_normal(6, 3))
    assert torch.autograd.gradcheck(lambda points: loss(points).value, _normal(count, 3, seed=1).requires_grad_())


def test_contract():
    check_loss(functools.partial(SlicedLoss, SlicedOptions()))


# The draws


@pytest.mark.parametrize("directions", [1, 6, 128])
def test_every_draw_gives_distinct_directions(directions):
    loss = _loss(_normal(9, SlicedLoss.slices), directions=directions)
    for _ in range(3):
        drawn = loss.draw()
        assert len(drawn) == len(drawn.unique()) == directions
        assert 0 <= drawn.min() <= drawn.max() < SlicedLoss.slices


def test_every_direction_has_its_turn_before_any_has_another():
    loss = _loss(_normal(9, SlicedLoss.slices), directions=16)
    for _ in range(2):
        rounds = torch.cat([loss.draw() for _ in range(SlicedLoss.slices // 16)])
        assert sorted(rounds.tolist()) == list(range(SlicedLoss.slices))


def test_a_loaded_loss_goes_on_with_the_directions_whose_turn_it_is():
    loss, again = (_loss(_normal(9, SlicedLoss.slices), seed=seed, directions=12) for seed in (1, 2))
    for _ in range(3):
        loss.draw()
    again.load_state_dict({name: tensor.clone() for name, tensor in loss.state_dict().items()})
    assert [again.draw().tolist() for _ in range(7)] == [loss.draw().tolist() for _ in range(7)]


def test_draws_come_from_the_seed_and_change_from_call_to_call():
    first, again, other = (_loss(_normal(9, SlicedLoss.slices), seed=seed) for seed in (1, 1, 2))
    draws = [loss.draw().tolist() for loss in (first, again, other, first)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    assert draws[0] != draws[3]


def test_the_points_are_compared_with_the_directions_drawn_for_them():
    target = _normal(20, SlicedLoss.slices)
    loss = _loss(target, directions=4)
    for _ in range(3):
        assert _value(loss, target[:, loss.draw()]) == 0


# Directions and projections


@pytest.mark.parametrize("boundary", ["periodic", "valid"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("extractor", [*EXTRACTORS, Pixels()])
def test_projecting_is_extracting_and_multiplying(extractor, channels, boundary):
    image = _noise(2, channels, 30, 33)
    levels = extractor.extract(image, boundary=boundary)
    directions = {name: _normal(4, points.shape[1], seed=len(name)) for name, points in levels.items()}
    projected = extractor.project(image, directions, boundary=boundary)
    assert list(projected) == list(levels)
    for name, points in levels.items():
        torch.testing.assert_close(projected[name], points @ directions[name].t())


@pytest.mark.parametrize("boundary", ["periodic", "valid"])
def test_a_stride_projects_the_same_points_as_it_extracts(boundary):
    image, extractor = _noise(1, 1, 12, 15), Patches(PatchesOptions(size=3, stride=2))
    (points,), directions = extractor.extract(image, boundary=boundary).values(), {"1/1": _normal(4, 9)}
    projected = extractor.project(image, directions, boundary=boundary)["1/1"]
    torch.testing.assert_close(projected, points @ directions["1/1"].t())


@pytest.mark.parametrize("extractor", EXTRACTORS[:2])
def test_levels_without_directions_are_left_out(extractor):
    image = _noise(1, 1, 30, 33)
    *_, (name, points) = extractor.extract(image).items()
    assert list(extractor.project(image, {name: _normal(2, points.shape[1])})) == [name]
    assert extractor.project(image, {}) == {}


@pytest.mark.parametrize("extractor", EXTRACTORS)
def test_images_too_small_to_project(extractor):
    size = 1 if isinstance(extractor.options, PyramidOptions) and extractor.options.size else 3
    image = _noise(1, 1, 2, 2)
    levels = extractor.extract(image)
    projected = extractor.project(image, {"1/1": _normal(2, size * size)})
    assert list(projected) == list(levels)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("extractor", [*EXTRACTORS, Pixels()])
def test_directions_have_the_norm_of_the_square_root_of_the_dimension(extractor, channels):
    (points, *_) = extractor.extract(torch.rand(1, channels, 16, 16)).values()
    directions = extractor.directions("1/1", channels, points.shape[1], 10, _generator())
    assert directions.shape == (10, points.shape[1])
    torch.testing.assert_close(directions.norm(dim=1), torch.full((10,), math.sqrt(points.shape[1])))


@pytest.mark.parametrize("extractor", EXTRACTORS[:2])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_second_direction_sees_no_constant(extractor, channels):
    """Of each channel alone: a window whose channels are constant has 0 along them, though not along the others."""
    (points, *_) = extractor.extract(torch.rand(1, channels, 16, 16)).values()
    flat = torch.linspace(0.2, 1, channels).repeat(points.shape[1] // channels)  # (row, column, channel)
    along = extractor.directions("1/1", channels, points.shape[1], 40, _generator()) @ flat
    assert along[::2].abs().max() < 1e-4
    assert along[1::2].abs().median() > 0.1


def test_every_second_direction_sees_mostly_fine_detail():
    """Neighbours along them differ in sign: rougher than the random ones by far."""
    directions = Patches(PatchesOptions(size=8)).directions("1/1", 1, 64, 40, _generator()).view(40, 8, 8)
    alike = (directions[:, :, 1:] * directions[:, :, :-1]).mean((1, 2))
    assert alike[::2].mean() < -0.15
    assert alike[1::2].mean().abs() < 0.1


@pytest.mark.parametrize(("level", "alone"), [("1/1", 10), ("1/2", 10), ("1/4", 0)])
def test_at_fine_levels_every_fourth_direction_compares_a_pixel_with_its_neighbours(level, alone):
    patches = Patches(PatchesOptions(size=5))
    directions = patches.directions(level, 3, 75, 40, _generator()).view(40, 5, 5, 3)
    others = directions - directions[:, :1, :1]  # less what is subtracted everywhere
    outside = torch.ones(5, 5, dtype=torch.bool)
    outside[1:4, 1:4] = False
    lonely = others[:, outside].abs().amax((1, 2)) < 1e-5
    assert lonely.nonzero()[:, 0].tolist() == list(range(0, 4 * alone, 4))
    assert (directions[lonely, 2, 2] * directions[lonely, 1, 2] < 0).all()  # of opposite signs, in every channel


@pytest.mark.parametrize("extractor", [Patches(PatchesOptions(size=5)), Pyramid(PyramidOptions(size=5))])
def test_in_grey_no_two_directions_are_the_same(extractor):
    """A pixel of one channel differs from its neighbours in one way only."""
    directions = extractor.directions("1/1", 1, 25, 40, _generator())
    alike = (directions @ directions.t() / 25).fill_diagonal_(0)
    assert alike.abs().max() < 0.95


def test_directions_come_from_the_generator():
    first, again, other = (EXTRACTORS[0].directions("1/1", 1, 9, 4, _generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_with_power_two_it_is_the_squared_distance_of_the_quantiles():
    """On a line W2² between clouds of as many points is the mean squared difference in order."""
    x, y = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)), torch.rand(50, 4)
    loss = SlicedLoss(SlicedOptions(directions=4, power=2), Measure(y), torch.Generator().manual_seed(0))
    drawn = loss.draw()
    expected = np.mean([wasserstein2(x[:, k].numpy(), y[:, drawn[k]].numpy()) for k in range(4)])
    assert float(loss(x).value) == pytest.approx(expected, rel=1e-5)


def wasserstein2(x, y):
    return ot.wasserstein_1d(x.astype(float), y.astype(float), p=2)
