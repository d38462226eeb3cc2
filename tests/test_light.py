"""Gradual light: that it is found, that it is exact where it can be, and that nothing else is taken for it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from featot.light import gradual_light

H, W = 120, 160


def _texture(h=H, w=W, cell=4, seed=0):
    """Squares of random colours."""
    colours = 0.5 + 0.4 * torch.rand(1, 3, h // cell, w // cell, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(colours, scale_factor=float(cell))


def _places(h=H, w=W):
    return torch.meshgrid(torch.linspace(0, 1, h), torch.linspace(0, 1, w), indexing="ij")


Y, X = _places()
LIGHTS = {
    "from the side": 0.4 + 0.6 * X,
    "from a corner": 1 - 0.3 * X - 0.3 * Y,
    "vignette": 1 - 1.4 * ((X - 0.5) ** 2 + (Y - 0.5) ** 2),
}


@pytest.mark.parametrize("name", LIGHTS)
def test_light_is_found(name):
    light = LIGHTS[name]
    found = gradual_light(light * _texture(), torch.ones(1, 1, H, W))
    assert found.min() == 1
    error = (found / found.mean((2, 3), keepdim=True)) / (light / light.mean()) - 1
    assert float(error.abs().mean()) < 0.03  # the means of blocks are 0.03 off
    assert float(error.abs().max()) < 0.2  # in a dark corner


def test_light_of_one_colour_alone():
    """An evening sky: red from above, and as much blue everywhere."""
    light = torch.stack([1 - 0.7 * Y, torch.ones_like(X), torch.ones_like(X)])
    found = gradual_light(0.8 * light[None], torch.ones(1, 1, H, W))
    torch.testing.assert_close(found, (light / light.amin((1, 2), keepdim=True))[None], rtol=1e-4, atol=1e-4)


def test_what_is_not_known_does_not_count():
    known = torch.ones(1, 1, H, W)
    known[:, :, 30:90, 50:100] = 0
    image, light = _texture(), LIGHTS["from the side"]
    found = gradual_light(light * image * known, known)
    assert torch.equal(found, gradual_light(torch.where(known > 0, light * image, 1), known))
    error = (found / found.mean((2, 3), keepdim=True)) / (light / light.mean()) - 1
    assert float(error.abs().mean()) < 0.03


def test_there_is_never_more_than_four_times_as_much_light():
    found = gradual_light((X**2)[None, None] * _texture(), torch.ones(1, 1, H, W))
    assert (found.amin((0, 2, 3)) == 1).all()
    torch.testing.assert_close(found.amax((0, 2, 3)), torch.full((3,), 4.0))


NONE = {
    "a texture": _texture(),
    "large forms": _texture(cell=40),
    "flat": torch.full((1, 3, H, W), 0.3),
    "black": torch.zeros(1, 3, H, W),
    "two regions": torch.where(X > 0.4, 1, 0.5) * _texture(),
    "land and sky": torch.cat([_texture()[:, :, :70], 0.1 * _texture()[:, :, 70:]], dim=2),
}


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_light(name):
    assert gradual_light(NONE[name], torch.ones(1, 1, H, W)) is None


def test_no_two_blocks_that_are_known_lie_side_by_side():
    rows, columns = torch.meshgrid(torch.arange(160) // 20, torch.arange(160) // 20, indexing="ij")
    known = ((rows + columns) % 2).float()[None, None]
    assert gradual_light(_places(160, 160)[1] * _texture(160, 160), known) is None


def test_too_little_is_known():
    known = torch.zeros(1, 1, H, W)
    known[:, :, :40, :100] = 1
    assert gradual_light(LIGHTS["from the side"] * _texture(), known) is None
