import math

import pytest
import torch

from featot.tasks import synthesize
from featot.testing import check_extractor
from featot_plugins.options import SteerableOptions
from featot_plugins.steerable import Steerable


def _image(h=40, w=44, c=3):
    return torch.rand(1, c, h, w, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scales", [None, 1, 2])
def test_contract(scales):
    check_extractor(Steerable(SteerableOptions(scales=scales)))


@pytest.mark.parametrize("boundary", ["valid", "periodic"])
def test_coordinates_are_products_with_the_points(boundary):
    extractor, image = Steerable(SteerableOptions()), _image()
    levels = extractor.extract(image, boundary=boundary)
    directions = {name: torch.randn(5, points.shape[1]) for name, points in levels.items()}
    projected = extractor.project(image, directions, boundary=boundary)
    assert projected.keys() == levels.keys() == {"1/1", "1/2"}
    for name, points in levels.items():
        torch.testing.assert_close(projected[name], points @ directions[name].t())


def test_eight_values_a_channel_the_mean_first():
    flat = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(-1, -1, 16, 16)
    (points,) = Steerable(SteerableOptions(scales=1)).extract(flat).values()
    torch.testing.assert_close(points[:, ::8], torch.tensor([0.2, 0.5, 0.9]).expand(100, 3))
    assert points.view(-1, 3, 8)[:, :, 1:].abs().max() < 1e-6


def test_no_direction_is_preferred():
    """A ridge that turns keeps the energy of its responses, as far as filters of equal norm let it."""
    y, x = torch.meshgrid(torch.arange(-8.0, 9), torch.arange(-8.0, 9), indexing="ij")
    energies = []
    for degrees in range(0, 180, 15):
        across = x * math.cos(math.radians(degrees)) + y * math.sin(math.radians(degrees))
        ridge = torch.exp(-((across / 1.5) ** 2))[None, None]
        (points,) = Steerable(SteerableOptions(scales=1)).extract(ridge).values()
        responses = points.view(11, 11, 8)[5, 5, 1:4]
        energies.append(float(responses.square().sum()))
    assert max(energies) < 1.5 * min(energies)


def test_a_ridge_turned_by_a_right_angle_swaps_its_responses():
    ridge = torch.exp(-(((torch.arange(17.0) - 8) / 1.5) ** 2)).expand(17, 17)
    points = [
        next(iter(Steerable(SteerableOptions(scales=1)).extract(image[None, None]).values())).view(11, 11, 8)[5, 5]
        for image in (ridge, ridge.t())
    ]
    torch.testing.assert_close(points[0][1], points[1][3])
    assert points[0][1].abs() > 5 * points[0][3].abs()


def test_a_synthesis_comes_closer():
    rows = torch.arange(32)[:, None]
    stripes = ((rows + torch.arange(32)) % 8 < 4).float().expand(3, 32, 32)
    history = synthesize(stripes, features="steerable", loss="ot", levels=1, steps=80).history
    assert history[-1].loss < 0.3 * history[0].loss
