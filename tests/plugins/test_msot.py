"""The multiscale optimal transport distance."""

from __future__ import annotations

import ot
import pytest
import torch

from featot.errors import UsageError
from featot.resample import halve
from featot_plugins.msot import MSOT
from featot_plugins.options import MSOTOptions
from featot_plugins.patches import windows


def _noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def _stripes(side, period, channels=1):
    line = (torch.arange(side) % period < period // 2).float()
    return 0.9 * line.expand(1, channels, side, side) + 0.1 * _noise(1, channels, side, side, seed=period)


_FAST = MSOTOptions(points=150, scales=2)


def test_the_same_distribution_scores_lower_than_another():
    metric, exemplar = MSOT(_FAST), _stripes(32, 4)
    itself, alike, other = (metric(x, exemplar) for x in (exemplar, exemplar.roll(4, 3), _stripes(32, 8)))
    assert 0 <= itself < other / 3
    assert alike < other / 3
    assert itself < metric(_noise(1, 1, 32, 32), exemplar) / 3


def test_it_is_nearly_symmetric():
    a, b = _stripes(32, 4), _noise(1, 1, 32, 32)
    assert MSOT(_FAST)(a, b) == pytest.approx(MSOT(_FAST)(b, a), rel=0.1)


def test_it_is_deterministic_and_leaves_the_global_generator_alone():
    a, b = _stripes(24, 4), _noise(1, 1, 24, 24)
    state = torch.get_rng_state()
    assert MSOT(_FAST)(a, b) == MSOT(_FAST)(a, b)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scales", [1, 2])
def test_it_agrees_with_pot(channels, scales):
    """With every patch drawn, each scale is the exact OT of POT; the semi-dual ends within 2 % below."""
    image, exemplar = _noise(1, channels, 18, 16), _stripes(17, 6, channels)
    score = MSOT(MSOTOptions(points=10_000, scales=scales))(image, exemplar)
    costs = []
    for _ in range(scales):
        x, y = (windows(z, 4, 1, "valid", None).double().numpy() for z in (image, exemplar))
        costs.append(ot.emd2([], [], ot.dist(x, y)))
        image, exemplar = halve(image, "valid"), halve(exemplar, "valid")
    exact = sum(costs) / scales
    assert score == pytest.approx(exact, rel=0.02)
    assert score <= exact * (1 + 1e-4)


def test_scales_end_where_a_patch_no_longer_fits():
    image, exemplar = _noise(1, 1, 10, 12), _stripes(24, 4)
    all_scales, two = (MSOT(MSOTOptions(points=50, scales=scales))(image, exemplar) for scales in (9, 2))
    assert all_scales == two
    assert two != MSOT(MSOTOptions(points=50, scales=1))(image, exemplar)


def test_an_image_of_one_patch():
    image, exemplar = torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 0.5)
    assert MSOT(_FAST)(image, exemplar) == pytest.approx(16 * 0.25)


def test_channels_must_agree():
    with pytest.raises(UsageError, match="differ in channels: 1 and 3"):
        MSOT(_FAST)(_noise(1, 1, 16, 16), _noise(1, 3, 16, 16))


def test_an_image_smaller_than_a_patch():
    with pytest.raises(UsageError, match="3x20 is smaller than a patch of 4"):
        MSOT(_FAST)(_noise(1, 1, 3, 20), _noise(1, 1, 16, 16))
    with pytest.raises(UsageError, match="16x2 is smaller"):
        MSOT(_FAST)(_noise(1, 1, 16, 16), _noise(1, 1, 16, 2))
