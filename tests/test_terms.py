"""The terms of the loop: pooled exemplars, masks, guides, and what a sliced loss is given."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from featot.errors import UsageError
from featot.interfaces import FeatureExtractor, Loss, LossValue, Parametrization
from featot.match import match
from featot.problem import Stage
from featot.sight import Blend, Region
from featot.terms import Term, loneliness
from featot_plugins.options import PatchesOptions, PyramidOptions, SlicedOptions
from featot_plugins.patches import Patches
from featot_plugins.pyramid import Pyramid
from featot_plugins.sliced import SlicedLoss


def _noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


class Given(Parametrization):
    """Pixels that start as given, at whatever size the stage has."""

    boundary = "periodic"
    resizable = True

    def initialize(self, exemplar, size, generator):
        self.started_from = exemplar
        self.resize(size)

    def resize(self, size):
        self.pixels = _noise(1, 1, *size).requires_grad_()

    def parameters(self):
        return [self.pixels]

    def __call__(self, size, generator):
        return self.pixels


class GivenInside(Given):
    boundary = "valid"


class Squares(FeatureExtractor):
    """Pixels squared: not linear."""

    def extract(self, image, *, scale=0, boundary="valid", max_points=None):
        return {"squares": image.square().movedim(1, -1).flatten(0, 2)}


class Keeps(Loss):
    """Keeps its target and all the points it sees."""

    def __init__(self, target, generator):
        super().__init__(None, target, generator)
        self.seen = []

    def __call__(self, points, *, improve=True):
        self.seen.append(points.detach().clone())
        return LossValue(points.square().mean())


class Ones(Keeps):
    """Is 1 whatever it sees."""

    def __call__(self, points, *, improve=True):
        return LossValue(1 + 0 * points.sum())


class KeepsSlices(Keeps):
    """Wants the coordinates along three directions, now these two, now those."""

    slices = 3

    def draw(self):
        return torch.tensor([[2, 0], [1, 2]][len(self.seen) % 2])


def _recording(factory=Keeps):
    """``factory``, and the list of all that it makes."""
    made = []

    @functools.wraps(factory, updated=())
    def make(target, generator):
        made.append(factory(target, generator))
        return made[-1]

    make.slices = factory.slices
    return make, made


def _run(term, *stages, param=None, **arguments):
    terms = [term] if isinstance(term, Term) else term
    random = torch.Generator().manual_seed(0)
    return match(param or Given(), terms, stages or [_stage()], generator=random, **arguments)


def _stage(size=(6, 8), num_steps=2, scale=0, settle=0.0):
    return Stage(scale=scale, size=size, num_steps=num_steps, rate=0.0, settle=settle)


def _patches(size=3):
    return Patches(PatchesOptions(size=size))


def _with_mean(points, image):
    """Shifted to the mean of the image, of one channel."""
    return points - points.mean() + image.mean()


# Several exemplars


def test_the_target_is_every_exemplars_points_in_turn():
    factory, made = _recording()
    exemplars = [_noise(1, 1, 5, 6), _noise(1, 1, 7, 4, seed=1)]
    _run(Term(exemplars=exemplars, extractor=_patches(), loss=factory))
    expected = torch.cat([_patches().extract(exemplar)["1/1"] for exemplar in exemplars])
    assert torch.equal(made[0].target.points, expected)


def test_an_exemplar_gives_the_levels_it_is_large_enough_for():
    factory, made = _recording()
    exemplars = [_noise(1, 1, 5, 6), _noise(1, 1, 20, 20)]
    extractor = Pyramid(PyramidOptions(size=4, scales=2))
    _run(Term(exemplars=exemplars, extractor=extractor, loss=factory), _stage((16, 16)))
    assert [len(loss.target) for loss in made] == [2 * 3 + 17 * 17, 6 * 6]


@pytest.mark.parametrize("masked", [False, True])
def test_for_an_image_that_may_lie_anywhere_an_exemplar_is_halved_at_every_place(masked):
    factory, made = _recording()
    exemplar, mask = _noise(1, 1, 40, 40), torch.ones(1, 1, 40, 40)
    mask[..., 9, 30] = 0 if masked else 1
    extractor = Pyramid(PyramidOptions(size=4, scales=3))
    masks = [mask] if masked else None
    _run(
        Term(exemplars=[exemplar], extractor=extractor, loss=factory, masks=masks, everywhere=True), _stage((32, 32))
    )
    for times, loss in enumerate(made):
        places = [(top, left) for top in range(2**times) for left in range(2**times)]
        points, seen = (
            torch.cat([extractor.extract(image[..., top:, left:])[f"1/{2**times}"] for top, left in places])
            for image in (exemplar, mask)
        )
        points = points[seen.amin(1) > 1 - 1e-3]
        if times > 0:
            points = _with_mean(points, exemplar[mask > 0])
        torch.testing.assert_close(loss.target.points, points)


def test_a_level_met_at_a_coarse_stage_keeps_its_places():
    factory, made = _recording()
    exemplar, extractor = _noise(1, 1, 40, 40), Pyramid(PyramidOptions(size=4, scales=3))
    term = Term(exemplars=[exemplar], extractor=extractor, loss=factory, everywhere=True)
    _run(term, _stage((8, 8), scale=2), _stage((16, 16), scale=1))
    places = [exemplar[..., top:, left:] for top in range(4) for left in range(4)]
    points = torch.cat([extractor.extract(part)["1/4"] for part in places])
    torch.testing.assert_close(made[0].target.points, _with_mean(points, exemplar))
    assert len(made) == 2


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_mean_colour_of_every_coarser_level_is_that_of_the_pixels(masked, everywhere):
    factory, made = _recording()
    exemplar, mask = _noise(1, 3, 40, 40), torch.ones(1, 1, 40, 40)
    exemplar[:, 0, :8] += 2  # at its border, where coarse patches see less of it
    mask[..., 36:, :] = 0 if masked else 1
    extractor = Pyramid(PyramidOptions(size=4, scales=3))
    masks = [mask] if masked else None
    term = Term(exemplars=[exemplar], extractor=extractor, loss=factory, masks=masks, everywhere=everywhere)
    _run(term, _stage((32, 32)))
    colour = exemplar[..., : 36 if masked else 40, :].mean((0, 2, 3))
    own = extractor.extract(exemplar[..., : 36 if masked else 40, :])
    assert torch.equal(made[0].target.points, own["1/1"])
    for loss in made[1:]:
        torch.testing.assert_close(loss.target.points.view(-1, 3).mean(0), colour)
    assert (own["1/4"].view(-1, 3).mean(0) - colour).abs().max() > 0.1  # unless it is seen to


def test_a_guide_keeps_the_colours_of_its_places():
    factory, made = _recording()
    exemplar, extractor = _noise(1, 2, 40, 40), Pyramid(PyramidOptions(size=4, scales=2))
    _run(Term(exemplars=[exemplar], extractor=extractor, loss=factory, guide=_noise(1, 1, 32, 32)), _stage((32, 32)))
    assert torch.equal(made[1].target.points, extractor.extract(exemplar)["1/2"])


def test_the_image_starts_from_the_first_exemplar_without_its_guide():
    param, exemplar = Given(), _noise(1, 3, 8, 8)
    term = Term(exemplars=[exemplar], extractor=_patches(), loss=Keeps, guide=_noise(1, 2, 6, 8))
    _run(term, param=param)
    assert torch.equal(param.started_from, exemplar[:, :1])


# Masks


def test_a_masked_target_holds_the_patches_inside_the_mask():
    factory, made = _recording()
    exemplar, mask = _noise(1, 1, 9, 9), torch.zeros(1, 1, 9, 9)
    mask[..., 2:7, 1:5] = 1
    _run(Term(exemplars=[exemplar], extractor=_patches(), loss=factory, masks=[mask]))
    assert torch.equal(made[0].target.points, _patches().extract(exemplar[..., 2:7, 1:5])["1/1"])


def test_each_exemplar_has_its_own_mask():
    factory, made = _recording()
    exemplars = [_noise(1, 1, 5, 6), _noise(1, 1, 7, 4, seed=1)]
    masks = [torch.zeros(1, 1, 5, 6), torch.ones(1, 1, 7, 4)]
    _run(Term(exemplars=exemplars, extractor=_patches(), loss=factory, masks=masks))
    assert torch.equal(made[0].target.points, _patches().extract(exemplars[1])["1/1"])


def test_a_coarse_patch_counts_if_all_the_pixels_it_sees_do():
    factory, made = _recording()
    mask = torch.ones(1, 1, 20, 20)
    mask[..., 0, 0] = 0  # seen at scale 1 by the first pixel alone, so by the first patch
    extractor = Pyramid(PyramidOptions(size=4, scales=2))
    _run(Term(exemplars=[_noise(1, 1, 20, 20)], extractor=extractor, loss=factory, masks=[mask]), _stage((16, 16)))
    assert [len(loss.target) for loss in made] == [17 * 17 - 1, 6 * 6 - 1]


def test_features_that_are_not_linear_are_masked_by_what_they_depend_on():
    factory, made = _recording()
    exemplar, mask = _noise(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    mask[..., 2:7, 1:5] = 1
    _run(Term(exemplars=[exemplar], extractor=Squares(), loss=factory, masks=[mask]))
    assert torch.equal(made[0].target.points, Squares().extract(exemplar[..., 2:7, 1:5])["squares"])


def test_a_mask_too_small_for_a_patch():
    exemplar, mask = _noise(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    mask[..., :2, :] = 1
    with pytest.raises(UsageError, match="no features of the exemplar at 1/1; use a larger one"):
        _run(Term(exemplars=[exemplar], extractor=_patches(), loss=Keeps, masks=[mask]))


def test_a_coarse_level_of_which_a_mask_leaves_nothing_is_left_out():
    factory, made = _recording()
    mask = torch.zeros(1, 1, 20, 20)
    mask[..., :6, :6] = 1
    extractor = Pyramid(PyramidOptions(size=4, scales=2))
    _run(Term(exemplars=[_noise(1, 1, 20, 20)], extractor=extractor, loss=factory, masks=[mask]), _stage((16, 16)))
    assert [len(loss.target) for loss in made] == [3 * 3]


# Regions and blends


@pytest.mark.parametrize("extractor", [_patches(), Squares()])
def test_of_a_region_only_the_points_that_see_it_are_compared(extractor):
    factory, made = _recording()
    marked = torch.zeros(1, 1, 6, 8)
    marked[..., 2, 5] = 1
    only = Region(marked)
    param = GivenInside()
    _run(Term(exemplars=[_noise(1, 1, 9, 9)], extractor=extractor, loss=factory, only=only), param=param)
    pixels = param.pixels.detach()
    if isinstance(extractor, Squares):
        expected = pixels[..., 2, 5].square().view(1, 1)
    else:
        corners = [(row, column) for row in (0, 1, 2) for column in (3, 4, 5)]
        expected = torch.stack([pixels[0, 0, y : y + 3, x : x + 3].flatten() for y, x in corners])
    for points in made[0].seen:
        assert torch.equal(points, expected)


def test_a_region_is_halved_with_the_image_and_moves_with_it():
    """One pixel marked, patches of one pixel: the one point that is compared is that pixel, wherever the torus is."""
    factory, made = _recording()
    marked = torch.zeros(1, 1, 12, 16)
    marked[..., 5:9, 9:13] = 1  # the halved pixel (3, 5) sees all of it, its neighbours a part
    param = Given()
    term = Term(exemplars=[_noise(1, 1, 16, 16)], extractor=_patches(1), loss=factory, only=Region(marked))
    _run(term, _stage((6, 8), num_steps=4, scale=1, settle=1.0), param=param, max_points=1)
    seen = [set(points.flatten().tolist()) for points in made[0].seen]
    assert len(seen) == 4
    assert all(pixels == seen[0] for pixels in seen)
    assert float(param.pixels.detach()[0, 0, 2, 4]) in seen[0]


def test_a_border_is_seen_at_the_finest_level_by_what_sees_both_its_sides():
    factory, made = _recording()
    side = torch.zeros(1, 1, 16, 16)
    side[..., :4] = 1
    only = Region(torch.cat([side, 1 - side], dim=1), finest=True)
    extractor = Pyramid(PyramidOptions(size=4, scales=2))
    term = Term(exemplars=[_noise(1, 1, 20, 20)], extractor=extractor, loss=factory, only=only)
    other = Term(exemplars=term.exemplars, extractor=_patches(), loss=Keeps)
    _run([term, other], _stage((8, 8), scale=1), _stage((16, 16)), param=GivenInside())
    fine = [loss for loss in made if len(loss.target) == 17 * 17]
    seen = [points.shape for loss in made for points in loss.seen]
    assert [points.shape for points in fine[0].seen] == seen == [(13 * 3, 16)] * 2  # columns 1, 2 and 3


def test_a_thinned_region_keeps_its_points():
    """Thinning counts the points that are compared, not those of the whole image."""
    factory, made = _recording()
    marked = torch.zeros(1, 1, 24, 32)
    marked[..., 10:13, 10:13] = 1
    term = Term(exemplars=[_noise(1, 1, 9, 9)], extractor=_patches(), loss=factory, only=Region(marked))
    _run(term, _stage((24, 32)), param=GivenInside(), max_points=25)
    assert [len(points) for points in made[0].seen] == [25, 25]


def test_a_blend_divides_every_point_between_its_terms():
    share = torch.linspace(0, 1, 64).expand(1, 1, 48, 64)
    factory, made = _recording()
    term = Term(exemplars=[_noise(1, 1, 9, 9)], extractor=_patches(1), loss=factory, only=Blend(share))
    param = Given()
    _run(term, _stage((48, 64), num_steps=200), param=param)
    pixels, counts = param.pixels.detach().flatten(), torch.zeros(48 * 64)
    for points in made[0].seen:
        counts += torch.isin(pixels, points.flatten())
    assert len(pixels.unique()) > 0.99 * len(pixels)
    torch.testing.assert_close(counts.view(48, 64).mean(0) / 200, share[0, 0, 0], atol=0.03, rtol=0)


def test_a_blend_counts_for_the_share_of_the_points_it_stands_for():
    values = []
    for share in (1.0, 0.25):
        only = Blend(torch.full((1, 1, 6, 8), share))
        term = Term(exemplars=[_noise(1, 1, 9, 9)], extractor=_patches(1), loss=Ones, only=only)
        values.append(_run(term).history[0].loss)
    assert values == pytest.approx([1.0, 0.25])


def test_a_blend_wants_linear_features():
    only = Blend(torch.ones(1, 1, 6, 8))
    with pytest.raises(UsageError, match=r"blend across space needs linear features.*'pyramid'"):
        _run(Term(exemplars=[_noise(1, 1, 9, 9)], extractor=Squares(), loss=Keeps, only=only))


def test_a_sliced_loss_gets_the_coordinates_of_the_region_alone():
    factory, made = _recording(KeepsSlices)
    marked = torch.zeros(1, 1, 6, 8)
    marked[..., 2, 5] = 1
    term = Term(exemplars=[_noise(1, 1, 9, 9)], extractor=_patches(), loss=factory, only=Region(marked))
    _run(term, param=GivenInside())
    assert [points.shape for points in made[0].seen] == [(9, 2), (9, 2)]


# Guides


@pytest.mark.parametrize("param", [Given, GivenInside])
@pytest.mark.parametrize("settle", [0.0, 1.0])
def test_the_guide_stays_with_the_image(param, settle):
    """Wherever the torus moves: the guide is the image's own pixels, so every point sees the same value twice."""
    factory, made = _recording()
    guide = _noise(1, 1, 6, 8)
    term = Term(exemplars=[_noise(1, 2, 8, 8)], extractor=_patches(1), loss=factory, guide=guide)
    _run(term, _stage(num_steps=4, settle=settle), param=param(), max_points=1)
    assert len(made[0].seen) == 4
    for points in made[0].seen:
        torch.testing.assert_close(points[:, 0], points[:, 1])


@pytest.mark.parametrize("param", [Given, GivenInside])
def test_the_guide_is_halved_to_the_size_of_every_stage(param):
    factory, made = _recording()
    term = Term(exemplars=[_noise(1, 2, 16, 16)], extractor=_patches(1), loss=factory, guide=_noise(1, 1, 13, 16))
    _run(term, _stage((7, 8), scale=1), _stage((13, 16)), param=param())
    assert [len(points) for loss in made for points in loss.seen] == [56, 56, 208, 208]


# Sliced losses


def test_a_sliced_loss_gets_the_coordinates_of_all_points_along_what_it_drew():
    factory, made = _recording(KeepsSlices)
    _run(Term(exemplars=[_noise(1, 1, 9, 9)], extractor=_patches(), loss=factory), max_points=4)
    (loss,), (first, second) = made, made[0].seen
    assert loss.target.points.shape == (49, 3)
    assert first.shape == (48, 2)
    assert second.shape == (24, 2)  # of the picture: without what wraps round
    first = first.view(6, 8, 2)[:4, :6].flatten(0, 1)
    torch.testing.assert_close(first[:, 0], second[:, 1])  # both along direction number 2
    assert not torch.allclose(first[:, 1], second[:, 0])


def test_a_sliced_loss_that_draws_nothing_gets_every_direction():
    class Whole(Keeps):
        slices = 5

    factory, made = _recording(Whole)
    _run(Term(exemplars=[_noise(1, 1, 9, 9)], extractor=_patches(), loss=functools.partial(factory)))
    assert made[0].target.points.shape == (49, 5)
    assert made[0].seen[0].shape == (48, 5)


def test_image_and_exemplar_are_projected_on_the_same_directions():
    """Here the image is the exemplar."""

    class Whole(Keeps):
        slices = 5

    factory, made = _recording(Whole)
    exemplar = _noise(1, 1, 6, 8)  # what `Given` starts from
    _run(Term(exemplars=[exemplar], extractor=_patches(), loss=factory), param=GivenInside())
    torch.testing.assert_close(made[0].seen[0], made[0].target.points)


@pytest.mark.parametrize("param", [Given, GivenInside])
def test_a_sliced_loss_sees_a_window_of_a_large_image(param):
    factory, made = _recording(KeepsSlices)
    term = Term(exemplars=[_noise(1, 1, 9, 9)], extractor=_patches(), loss=factory)
    _run(term, _stage((520, 530), num_steps=3), param=param())
    assert [points.shape for points in made[0].seen] == [(510 * 510, 2)] * 3
    small, made = _recording(KeepsSlices)
    _run(Term(exemplars=[_noise(1, 1, 9, 9)], extractor=_patches(), loss=small), _stage((512, 512), num_steps=1))
    assert made[0].seen[0].shape == (512 * 512, 2)


def test_a_large_exemplar_is_sampled_for_a_sliced_loss():
    factory, made = _recording(KeepsSlices)
    _run(Term(exemplars=[_noise(1, 1, 260, 260)], extractor=_patches(1), loss=factory))
    assert len(made[0].target) == 2**16


def _weights_of_lines(exemplar, detailed):
    """By how much the lines of each level of a pyramid count more than lines of length 1."""
    loss = functools.partial(SlicedLoss, SlicedOptions())
    extractor = Pyramid(PyramidOptions(size=4, scales=3))
    active = Term(exemplars=[exemplar], extractor=extractor, loss=loss, detailed=detailed).activate(torch.Generator())
    active.enter(0, "periodic")
    lengths = [directions.square().sum(1) for directions in active.directions.values()]
    for length in lengths:
        torch.testing.assert_close(length, length[:1].expand_as(length))
    return [float(length[0]) / 16 for length in lengths]


@pytest.mark.parametrize(("detailed", "weights"), [(False, [1, 1, 1]), (True, [2, 1.5, 1])])
def test_the_finest_levels_lines_count_more(detailed, weights):
    waves = 0.5 + 0.5 * torch.sin(0.2 * torch.arange(64.0)).expand(1, 1, 64, 64)
    assert _weights_of_lines(waves, detailed) == pytest.approx(weights)


def test_lines_count_more_where_points_have_no_near_neighbours():
    fine, half, coarse = _weights_of_lines(_noise(1, 1, 64, 64), True)
    assert (fine, half) == pytest.approx((4, 3))  # twice, the most: 16 independent numbers are 0.7 of the spread away
    assert coarse == pytest.approx(1)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (torch.eye(50), math.sqrt(2 / (1 - 1 / 50))),  # all as far from one another
        (torch.arange(2.0).repeat(50)[:, None], 0),  # each has its like
        (torch.ones(50, 3), 0),
        (torch.rand(3, 2), 0),  # too few to tell
    ],
    ids=["corners", "pairs", "constant", "few"],
)
def test_loneliness(points, expected):
    assert loneliness(points) == pytest.approx(expected, abs=1e-6)
    assert loneliness(7 * points) == pytest.approx(expected, abs=1e-6)


def test_loneliness_does_not_depend_on_how_light_a_faint_image_is():
    """Squared distances far from the origin are of rounding: 48 numbers about ½ that vary by a thousandth."""
    points = _noise(8000, 48)
    assert loneliness(0.5 + 1e-3 * points) == pytest.approx(loneliness(points), rel=0.01)
