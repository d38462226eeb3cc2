"""The multiscale optimal transport distance."""

from __future__ import annotations

import numpy as np
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


def test_draws_are_averaged():
    """More of them scatter less about the mean; where every patch is drawn there is one, whatever is asked for."""
    image, exemplar = _noise(1, 1, 24, 24), _stripes(24, 4)
    options = {draws: MSOTOptions(points=60, scales=1, draws=draws) for draws in (1, 4, 60)}
    one, four, sixty = (MSOT(chosen)(image, exemplar) for chosen in options.values())
    assert one != four != sixty
    assert four == pytest.approx(sixty, rel=0.1)
    all_points = [MSOT(MSOTOptions(scales=1, draws=draws))(image, exemplar) for draws in (1, 7)]
    assert all_points[0] == all_points[1]


def test_details_certify_the_score():
    image, exemplar = _noise(1, 1, 24, 24), _stripes(24, 4)
    score = MSOT(_FAST).score(image, exemplar)
    assert score.value == MSOT(_FAST)(image, exemplar)
    assert list(score.details["scales"]) == ["1/1", "1/2"]
    assert score.value == pytest.approx(sum(score.details["scales"].values()) / 2)
    assert 0 < score.details["gap"] < 0.01
    assert score.value <= score.details["upper"] <= score.value / (1 - score.details["gap"])


def test_the_referee_agrees_on_all_patches(referee, textures):
    """Crops with fewer patches than either draws: the same points, and the defaults of both."""
    image, exemplar = (referee.load(textures / name)[:, :, :52, :54] for name in ("bricks.png", "dots.png"))
    score, scales = MSOT(MSOTOptions()).score(image, exemplar), []
    for _ in range(4):
        scales.append(referee.w2(image, exemplar, 4, np.random.default_rng(0)))
        image, exemplar = referee.down(image), referee.down(exemplar)
    assert list(score.details["scales"].values()) == pytest.approx(scales, rel=0.01)
    assert score.value == pytest.approx(sum(scales) / 4, rel=0.01)


def test_the_referee_agrees_on_random_patches(referee, monkeypatch):
    """Their distance depends on how many are drawn; on noise it scatters little."""
    image, exemplar = _noise(1, 3, 60, 60), 0.8 * _noise(1, 3, 60, 60, seed=1)
    monkeypatch.setattr(referee, "N", 200)
    monkeypatch.setattr(referee, "DRAWS", 8)
    expected = referee.w2(image, exemplar, 4, np.random.default_rng(0))
    assert MSOT(MSOTOptions(points=200, draws=8, scales=1))(image, exemplar) == pytest.approx(expected, rel=0.02)


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
