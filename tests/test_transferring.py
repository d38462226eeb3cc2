"""Transfer: an image near its content, with the style's patches and somebody's colours."""

from __future__ import annotations

import ot
import pytest
import torch
import torch.nn.functional as F

from featot.anchor import Anchor
from featot.errors import UsageError
from featot.ot.gaussian import gaussian_map
from featot.problem import Problem, Stage
from featot.resample import halve
from featot.transferring import transfer
from featot.updates import UPDATES
from featot_plugins.image import Image
from featot_plugins.options import ImageOptions

QUICK = {"quality": "draft", "device": "cpu"}


def _noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def _halves(h=48, w=48):
    """A dark half and a light one."""
    image = torch.full((3, h, w), 0.2)
    image[:, :, w // 2 :] = 0.8
    return image


def _style():
    """Rough, half dark and half light, reddish."""
    image = F.interpolate(_noise(1, 1, 10, 10), (40, 40), mode="nearest")[0].round() * 0.6 + 0.2
    return (image + 0.1 * (_noise(1, 40, 40, seed=2) - 0.5)) * torch.tensor([1.0, 0.7, 0.5]).view(3, 1, 1)


def _coarse(image):
    return _coarse_channels(image).mean(1, keepdim=True)


def _coarse_channels(image):
    return F.avg_pool2d(image, 8)


def test_the_more_content_weight_the_nearer_to_the_content():
    distances = []
    for weight in (0.0, 0.3, 10.0):
        made = transfer(_halves(), _style(), content_weight=weight, **QUICK).image
        coarse = _coarse(made)
        target = _coarse(_halves()[None])
        found = torch.corrcoef(torch.stack([coarse.flatten(), target.flatten()]))[0, 1]
        distances.append(1 - float(found))
    assert distances[2] < distances[1] < distances[0]
    assert distances[2] < 0.02


def test_the_colours_are_the_styles_or_the_contents():
    content, style = _halves() * torch.tensor([0.5, 0.7, 1.0]).view(3, 1, 1), _style()
    for colors, palette in (("style", style), ("keep", content)):
        made = transfer(content, style, colors=colors, **QUICK).image[0]
        torch.testing.assert_close(made.mean((1, 2)), palette.mean((1, 2)), atol=0.05, rtol=0)


def test_the_detail_is_the_styles():
    made = transfer(_halves(), _style(), content_weight=0.3, **QUICK).image
    detail = float((made - F.avg_pool2d(made, 3, 1, 1)).square().mean().sqrt())
    expected = _style()[None]
    expected = float((expected - F.avg_pool2d(expected, 3, 1, 1)).square().mean().sqrt())
    assert detail > 0.5 * expected  # the content has none but at its one edge


def test_the_detail_of_a_faded_style_is_kept(faded, detail):
    """With steps of one length for all styles it was 0.87."""
    made = [transfer(_halves(96, 96), faded[0], seed=seed, device="cpu").image for seed in (0, 1)]
    shares = [detail(image) / detail(faded) for image in made]
    assert 0.94 < sum(shares) / 2 < 1.05


def test_size_seed_and_record():
    results = [transfer(_halves(), _style(), size=(32, 40), seed=3, **QUICK) for _ in range(2)]
    assert results[0].image.shape == (1, 3, 32, 40)
    assert torch.equal(results[0].image, results[1].image)
    record = results[0].record
    assert (record["task"], record["content_weight"], record["colors"]) == ("transfer", 1.0, "style")
    assert record["settings"]["tile"] == "none"
    assert len(record["more_exemplars"]) == 1
    assert transfer(_halves(), _style(), **QUICK).image.shape == (1, 3, 48, 48)


def test_grey_content_among_colours():
    assert transfer(_halves()[:1], _style(), **QUICK).image.shape == (1, 3, 48, 48)
    assert transfer(_halves()[:1], _style()[:1], **QUICK).image.shape == (1, 1, 48, 48)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"content_weight": -1.0}, "content weight of at least 0, got -1"),
        ({"content_weight": float("inf")}, "content weight of at least 0"),
        ({"colors": "kept"}, "unknown colors 'kept'.*keep"),
        ({"param": "texnet"}, "cannot start from an image"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(UsageError, match=message):
        transfer(_halves(), _style(), **{**QUICK, **arguments})


# The anchor


@pytest.mark.parametrize("optimizer", ["adam", "closed-form"])
@pytest.mark.parametrize("halvings", [0, 1])
def test_an_anchor_alone_leads_to_its_target(optimizer, halvings):
    target = 0.5 + 0.2 * (_noise(1, 1, 16, 16) - 0.5)
    anchor = Anchor(target=target, channels=torch.ones(1, 1), weight=1.0, halvings=halvings)
    param = Image(ImageOptions())
    param.initialize(torch.full((1, 1, 4, 4), 0.5), (16, 16), torch.Generator())
    problem = Problem(param, [anchor], None, torch.Generator())
    problem.enter(Stage(scale=0, size=(16, 16), num_steps=60, rate=1.0))
    update = UPDATES[optimizer](param, problem)
    losses = [update(0.05 * 0.9**step if optimizer == "adam" else 1.0) for step in range(60)]
    assert losses[-1] < (0.05 if halvings else 3e-3) * losses[0]  # halved, it is of another phase each time


def test_an_anchor_holds_at_every_phase_of_its_grid():
    """Held at one phase only, what lies between the samples of the coarse grid would be free."""
    target = _noise(1, 1, 32, 32)
    anchor = Anchor(target=target, channels=torch.ones(1, 1), weight=1.0, halvings=2)
    param = Image(ImageOptions())
    param.initialize(torch.full((1, 1, 4, 4), 0.5), (32, 32), torch.Generator())
    problem = Problem(param, [anchor], None, torch.Generator())
    problem.enter(Stage(scale=0, size=(32, 32), num_steps=60, rate=1.0))
    update = UPDATES["adam"](param, problem)
    for step in range(60):
        update(0.02 * 0.95**step)
    apart = (param((32, 32), torch.Generator()) - target).detach()
    left = [
        float(halve(halve(apart.roll((y, x), (2, 3)), "periodic"), "periodic").square().mean())
        for y in range(4)
        for x in range(4)
    ]
    assert max(left) < 3 * min(left)


def test_what_is_darkened_keeps_its_hue():
    """A grey style, a content that is dark where the style is light: the mean moves, not the balance of channels."""
    grey = _style()[:1].expand(3, -1, -1)
    made = _coarse_channels(transfer(_halves() * 0.5, grey, content_weight=4.0, **QUICK).image)
    assert float((made.amax(1) - made.amin(1)).max()) < 0.06


# Transport between Gaussians


def test_the_gaussian_map_is_pots():
    x, y = _noise(200, 3).double(), _noise(150, 3, seed=1).double() @ _noise(3, 3, seed=2).double()
    matrix, shift = ot.gaussian.empirical_bures_wasserstein_mapping(x.numpy(), y.numpy(), reg=1e-8)
    expected = x @ torch.from_numpy(matrix) + torch.from_numpy(shift)
    torch.testing.assert_close(gaussian_map(x, y)(x), expected, atol=1e-4, rtol=1e-3)


def test_the_gaussian_map_gives_the_moments():
    x, y = _noise(300, 3), _noise(200, 3, seed=1) ** 2
    mapped = gaussian_map(x, y)(x)
    torch.testing.assert_close(mapped.mean(0), y.mean(0))
    torch.testing.assert_close(mapped.t().cov(correction=0), y.t().cov(correction=0), atol=1e-5, rtol=1e-3)


def test_a_flat_palette_can_be_mapped():
    flat = torch.full((10, 3), 0.5)
    assert torch.isfinite(gaussian_map(flat, _noise(20, 3))(flat)).all()
    torch.testing.assert_close(gaussian_map(_noise(20, 3), flat)(flat), flat, atol=1e-3, rtol=0)
