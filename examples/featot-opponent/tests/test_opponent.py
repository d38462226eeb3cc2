"""Opponent colours: the contract of featot's extractors, and the geometry of the colours."""

import pytest
import torch
from featot_opponent import OpponentOptions
from featot_opponent_colours import Opponent, opponent, windows

import featot
from featot.testing import check_extractor


@pytest.mark.parametrize(
    "options",
    [OpponentOptions(), OpponentOptions(size=1), OpponentOptions(size=7, luminance=0.5), OpponentOptions(colour=5.0)],
    ids=str,
)
def test_it_keeps_the_contract(options):
    check_extractor(Opponent(options))


def test_with_weights_of_one_distances_stay():
    image = torch.rand(1, 3, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turned = opponent(image, 1.0, 1.0)
    colours, seen = (x.flatten(2)[0].t() for x in (image, turned))
    assert torch.allclose(torch.cdist(colours, colours), torch.cdist(seen, seen), atol=1e-5)


def test_grey_has_no_colour_and_is_as_bright_as_three_equal_channels():
    grey = torch.rand(1, 1, 9, 9)
    seen = opponent(grey.expand(-1, 3, -1, -1), 0.7, 3.0)
    assert seen[:, 1:].abs().max() < 1e-6
    assert torch.allclose(seen[:, :1], opponent(grey, 0.7, 3.0), atol=1e-6)


def test_the_weights_scale_their_axes():
    image = torch.rand(1, 3, 9, 9)
    once, thrice = opponent(image, 1.0, 1.0), opponent(image, 0.0, 3.0)
    assert thrice[:, 0].abs().max() == 0
    assert torch.allclose(thrice[:, 1:], 3 * once[:, 1:], atol=1e-6)


@pytest.mark.parametrize("boundary", ["valid", "periodic"])
def test_thinned_windows_still_see_every_pixel(boundary):
    image = torch.rand(1, 3, 31, 26, requires_grad=True)
    points = windows(image, 5, boundary, 60)
    assert len(points) < len(windows(image, 5, boundary, None)) / 4
    assert (torch.autograd.grad(points.sum(), image)[0] > 0).all()


def test_what_it_cannot_do():
    with pytest.raises(featot.UsageError, match="need images of 1 or 3 channels, got 4"):
        Opponent(OpponentOptions()).extract(torch.rand(1, 4, 32, 32))
    with pytest.raises(ValueError, match="a weight above 0"):
        OpponentOptions(luminance=0, colour=0)
