"""Shares of exemplars, as numbers and as maps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from featot.noise import NoiseField
from featot.shares import ShareMap, path_of, shares_of


def _map(*size):
    drawn = torch.rand(1, 2, *size, generator=torch.Generator().manual_seed(0))
    return drawn / drawn.sum(1, keepdim=True)


@pytest.mark.parametrize("size", [(24, 40), (9, 7)])
def test_a_map_is_enlarged_as_torch_does(size):
    """Bilinear, pixels being squares, beyond the border as at it."""
    found = ShareMap(_map(4, 5), size).at(NoiseField(0), 0, range(size[0]), range(size[1]))
    expected = F.interpolate(_map(4, 5), size, mode="bilinear")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_cell_of_a_coarse_scale_has_the_shares_of_its_centre():
    found = ShareMap(_map(32, 32), (32, 32)).at(NoiseField(0), 2, range(8), range(8))
    centres = F.avg_pool2d(_map(32, 32)[:, :, 1:, 1:], 2, 4)  # between four pixels
    torch.testing.assert_close(found, centres, rtol=0, atol=1e-6)


def test_a_map_repeats_where_the_noise_does():
    map_, noise = ShareMap(_map(4, 4), (32, 32)), NoiseField(0, (32, None))
    once = map_.at(noise, 0, range(32), range(32))
    wrapped = F.pad(_map(4, 4), (0, 0, 1, 1), mode="circular")
    expected = F.interpolate(wrapped, (48, 32), mode="bilinear")[:, :, 8:40]
    torch.testing.assert_close(once, expected, rtol=0, atol=1e-6)
    for rows in (range(-32, 0), range(32, 64)):
        assert torch.equal(map_.at(noise, 0, rows, range(32)), once)
    beyond = map_.at(noise, 0, range(32), range(32, 40))
    assert torch.equal(beyond, once[..., -1:].expand_as(beyond))


def test_shares_sum_to_one():
    assert shares_of([1, 3], 2) == [0.25, 0.75]
    assert shares_of(None, 4) == [0.25] * 4
    assert path_of(2, 3) == [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
