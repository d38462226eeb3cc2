"""Mixing: the barycenter of several exemplars, the path between two, and weights that vary across the image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from featot.errors import UsageError
from featot.mixing import mix, mix_path
from featot.tasks import synthesize

QUICK = {"quality": "draft", "steps": 20, "device": "cpu", "size": (32, 32)}


def _flat(value, h=32, w=32):
    return torch.tensor(value).view(3, 1, 1).expand(3, h, w).contiguous()


def _noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def _spread(image):
    return float(image.flatten(2).std(2).mean())


def test_between_two_colours_lies_their_weighted_mean():
    """The barycenter of two points for the squared cost."""
    a, b = _flat((0.2, 0.8, 0.4)), _flat((0.6, 0.0, 0.4), 40, 24)
    made = mix([a, b], (3, 1), optimizer="closed-form", **QUICK).image
    torch.testing.assert_close(made, _flat((0.3, 0.6, 0.4))[None], atol=2e-3, rtol=0)
    equal = mix([a, b], **QUICK).image
    torch.testing.assert_close(equal.mean((2, 3))[0], torch.tensor((0.4, 0.4, 0.4)), atol=0.03, rtol=0)


def test_the_contrast_of_the_mixture_lies_between():
    """On a line the barycenter's quantiles, so its standard deviation, are the means of the others'."""
    a, b = 0.5 + 0.1 * (_noise(1, 48, 48) - 0.5), _noise(1, 40, 40, seed=1)
    low, high = (float(image.std()) for image in (a, b))
    made = mix([a, b], loss="sliced", features="patches", options={"patches.size": 1}, levels=1, **QUICK).image
    assert float(made.std()) == pytest.approx((low + high) / 2, rel=0.1)


def test_all_the_weight_on_one_is_its_synthesis():
    a, b = _noise(3, 24, 24), _noise(3, 30, 20, seed=1)
    options = {"sliced.power": 2}
    alone = synthesize(b, options=options, levels=1, **QUICK).image
    assert torch.equal(mix([a, b], (0, 2), levels=1, **QUICK).image, alone)


def test_smooth_and_faded_exemplars_make_no_grain(detail):
    """With steps of one length for all mixtures there was a quarter too much (now a tenth): pixels tremble."""
    smooth = torch.randn(1, 3, 104, 104, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        smooth = F.avg_pool2d(smooth, 5, 1)
    faded = 0.5 + 0.1 * smooth
    shares = [detail(mix([faded, faded.flip(3)], seed=seed, device="cpu").image) / detail(faded) for seed in (0, 1)]
    assert 0.9 < sum(shares) / 2 < 1.18


def test_three_exemplars():
    exemplars = [_flat((0.9, 0.0, 0.0)), _flat((0.0, 0.9, 0.0)), _flat((0.0, 0.0, 0.9))]
    made = mix(exemplars, optimizer="closed-form", **QUICK).image
    torch.testing.assert_close(made, _flat((0.3, 0.3, 0.3))[None], atol=2e-3, rtol=0)
    # Adam's steps have the same length whatever is amiss: it ends within a few of its last ones.
    near = mix(exemplars, **(QUICK | {"steps": 40})).image
    torch.testing.assert_close(near.mean((2, 3))[0], torch.full((3,), 0.3), atol=0.03, rtol=0)


def test_a_path_leads_from_one_to_the_other():
    a, b = _flat((0.1, 0.1, 0.1)), _flat((0.9, 0.9, 0.9))
    results = list(mix_path([a, b], 3, **QUICK))
    means = [float(result.image.mean()) for result in results]
    assert means == pytest.approx([0.1, 0.5, 0.9], abs=0.03)
    assert [result.record["weights"] for result in results] == [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    assert {result.record["task"] for result in results} == {"mix"}


def test_a_path_ends_when_it_is_interrupted():
    calls = []

    def interrupt(state):
        calls.append(state)
        raise KeyboardInterrupt

    results = list(mix_path([_noise(3, 24, 24), _noise(3, 24, 24, seed=1)], 3, callback=interrupt, **QUICK))
    assert len(results) == len(calls) == 1
    assert results[0].interrupted


@pytest.mark.parametrize("tile", ["both", "none"])
def test_a_weight_map_says_how_much_of_each_is_where(tile):
    a, b = _flat((0.1, 0.1, 0.1)), _flat((0.9, 0.9, 0.9))
    map_ = torch.zeros(1, 32, 48)
    map_[:, :, 24:] = 1
    result = mix([a, b], weight_map=map_, tile=tile, **{**QUICK, "size": None, "steps": 40})
    assert result.image.shape == (1, 3, 32, 48)
    columns = result.image.mean((0, 1, 2))
    assert float(columns[6:18].mean()) == pytest.approx(0.1, abs=0.05)
    assert float(columns[30:42].mean()) == pytest.approx(0.9, abs=0.05)
    assert result.record["weights"] is None


def test_a_coloured_map_for_three_and_another_size():
    exemplars = [_flat((0.9, 0.0, 0.0)), _flat((0.0, 0.9, 0.0)), _flat((0.0, 0.0, 0.9))]
    map_ = torch.zeros(3, 8, 12)
    for third in range(3):
        map_[third, :, 4 * third : 4 * third + 4] = 0.7
    made = mix(exemplars, weight_map=map_, **{**QUICK, "size": (32, 48), "steps": 40}).image
    for third in range(3):
        found = made[0, :, :, 16 * third + 5 : 16 * third + 11].mean((1, 2))
        assert int(found.argmax()) == third
        assert float(found.max()) > 0.75


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exemplars": [_noise(3, 24, 24)]}, "at least two exemplars"),
        ({"weights": (1,)}, "a weight for each of the 2 exemplars, got 1"),
        ({"weights": (1, -1)}, "weights of at least 0"),
        ({"weights": (0, 0)}, "weights of at least 0, one of them above"),
        ({"weights": (1, float("nan"))}, "weights of at least 0"),
        ({"weights": (1, 1), "weight_map": torch.ones(1, 32, 32)}, "weights or a weight map, got both"),
        ({"weight_map": torch.eye(32).expand(2, 32, 32) * torch.tensor([1.0, 0.5]).view(2, 1, 1)}, "black somewhere"),
        ({"weight_map": torch.rand(3, 32, 32)}, "weight map grey, got one of 3"),
        ({"features": "random_conv", "weight_map": torch.ones(1, 32, 32)}, "needs linear features"),
    ],
)
def test_bad_input(arguments, message):
    exemplars = arguments.pop("exemplars", [_noise(3, 24, 24), _noise(3, 24, 24, seed=1)])
    with pytest.raises(UsageError, match=message):
        mix(exemplars, arguments.pop("weights", None), **{**QUICK, **arguments})


@pytest.mark.parametrize(("count", "steps"), [(3, 4), (2, 1)])
def test_a_bad_path(count, steps):
    with pytest.raises(UsageError, match="expected"):
        mix_path([_noise(3, 24, 24, seed=seed) for seed in range(count)], steps)
