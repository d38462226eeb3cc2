"""Noise by coordinates: uniform, independent, the same from wherever it is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

import featot
from featot.noise import NoiseField, _mix


def _field(seed=0, period=(None, None), scale=0, rows=range(256), columns=range(256), channels=2):
    return NoiseField(seed, period).uniform(scale, channels, rows, columns)


def test_the_hash_is_lowbias32():
    """Against the same hash of unsigned words in Python's integers."""
    words = [0, 1, 2, 12345, 2**31 - 1, 2**31, 2**32 - 1, 0xDEADBEEF]

    def plain(x):
        x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
        x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
        return x ^ (x >> 16)

    found = _mix(torch.tensor(words).to(torch.int32))
    assert [int(word) % 2**32 for word in found] == [plain(word) for word in words]


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_it_is_uniform(seed):
    values = _field(seed).flatten().double().numpy()
    assert values.min() >= 0
    assert values.max() < 1
    assert scipy.stats.kstest(values, "uniform").pvalue > 1e-4


def test_it_is_white():
    """Neighbours, channels, scales and seeds are uncorrelated: each within five standard errors."""
    values = _field(channels=3)[0].double() - 0.5
    others = [
        _field(seed=1, channels=3)[0],
        _field(scale=1, channels=3)[0],
        _field(channels=3)[0].roll(1, 0),
        *(_field(channels=3)[0].roll(shift, (1, 2)) for shift in ((0, 1), (1, 0), (1, 1), (2, -1), (0, 128))),
        _field(channels=3)[0].transpose(1, 2),
    ]
    for other in others:
        correlation = float((values * (other.double() - 0.5)).mean()) * 12
        assert abs(correlation) < 5 / values.numel() ** 0.5


def test_no_row_is_like_another():
    """The spectrum is flat: no frequency stands out from what 65 536 exponential variables reach."""
    values = _field(channels=1)[0, 0].double().numpy() - 0.5
    power = np.abs(np.fft.fft2(values)) ** 2 / values.size * 12
    assert power.max() < 25


def test_a_window_is_a_part_of_the_plane():
    plane = _field(7, rows=range(-300, 300), columns=range(-10, 90))
    assert torch.equal(plane[:, :, 250:310, 5:25], _field(7, rows=range(-50, 10), columns=range(-5, 15)))
    far = _field(7, rows=range(10**9, 10**9 + 5), columns=range(-(10**9), 5 - 10**9))
    assert len(far.unique()) == far.numel()


@pytest.mark.parametrize(("period", "cells"), [((8, 12), (4, 6)), ((9, 13), (5, 7))])
def test_it_repeats(period, cells):
    twice = _field(3, period, 1, range(-cells[0], cells[0]), range(2 * cells[1]))
    assert torch.equal(twice[:, :, : cells[0]], twice[:, :, cells[0] :])
    assert torch.equal(twice[..., : cells[1]], twice[..., cells[1] :])
    endless = _field(3, (None, None), 1, range(cells[0]), range(cells[1]))
    assert torch.equal(twice[:, :, cells[0] :, : cells[1]], endless)


def test_one_axis_repeats_alone():
    both = _field(3, (8, None), 0, range(16), range(64))
    assert torch.equal(both[:, :, :8], both[:, :, 8:])
    assert len(both[0, 0, 0].unique()) == 64


def test_it_is_the_same_on_every_device(device):
    found = NoiseField(5, (31, None), device).uniform(2, 3, range(-9, 20), range(1000, 1040))
    assert found.device.type == device.type
    assert torch.equal(found.cpu(), NoiseField(5, (31, None)).uniform(2, 3, range(-9, 20), range(1000, 1040)))


def test_the_values_are_for_ever():
    """A model's samples are known by their seed: these must not change from version to version."""
    found = NoiseField(11).uniform(1, 1, range(-1, 1), range(2))
    torch.testing.assert_close(
        found.flatten(),
        torch.tensor([0.5667001008987427, 0.546920895576477, 0.4714154005050659, 0.738064169883728]),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("period", [None, 64, 45, 37, 1, 3])
def test_parents(period):
    """Cell by cell: which half of which cell of the next scale, counted through all periods."""
    noise, scale, cells = NoiseField(0, (period, None)), 1, range(-50, 60)
    found, inside = noise.parents(scale, 0, cells)
    halves = torch.arange(2 * found.start, 2 * found.stop)[inside]
    count, coarse = (10**6, 10**6 // 2) if period is None else (-(-period // 2), -(-period // 4))
    expected = [2 * (cell // count * coarse) + cell % count for cell in cells]
    assert halves.tolist() == expected
    assert found == range(expected[0] // 2, expected[-1] // 2 + 1)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_bad_seeds(seed):
    with pytest.raises(featot.UsageError, match="expected a seed of at least 0"):
        NoiseField(seed)


def test_bad_periods():
    with pytest.raises(featot.UsageError, match="periods of at least 1"):
        NoiseField(0, (0, 3))
