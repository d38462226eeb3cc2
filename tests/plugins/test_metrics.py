"""The metrics besides msot, each against an oracle: the referee, POT, scipy, or an image made for the purpose."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import scipy.linalg
import torch
import torchvision
from safetensors.torch import load_file

from featot.errors import UsageError
from featot.resample import halve
from featot_plugins.copying import Copying
from featot_plugins.gram_distance import GramDistance
from featot_plugins.options import CopyingOptions, SIFIDOptions, SWDOptions, VGGMetricOptions
from featot_plugins.patches import windows
from featot_plugins.pixel_metrics import Sharpness, Tileability
from featot_plugins.sifid import SIFID, frechet
from featot_plugins.swd import SWD, squared_on_lines


def _noise(*shape, seed=0, dtype=torch.float32):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def pairs(referee, textures):
    """Crops of photographs as image and exemplar: alike, and not."""
    bricks, dots = (referee.load(textures / name) for name in ("bricks.png", "dots.png"))
    return [(bricks[:, :, :70, :90], bricks[:, :, 40:140, 60:150]), (dots[:, :, :64, :64], bricks[:, :, :80, :80])]


# vgg


def test_vgg_agrees_with_the_referee(referee, pairs, real_vgg19_file):
    metric, tensors = GramDistance(VGGMetricOptions(weights=real_vgg19_file)), load_file(real_vgg19_file)
    for image, exemplar in pairs:
        grams = [[referee.gram(f) for f in referee.vgg_feats(x, tensors)] for x in (image, exemplar)]
        layers = [float(((g - h) ** 2).sum() / (h**2).sum()) for g, h in zip(*grams, strict=True)]
        score = metric.score(image, exemplar)
        assert list(score.details["layers"].values()) == pytest.approx(layers, rel=0.001)
        assert score.value == metric(image, exemplar) == pytest.approx(np.mean(layers), rel=0.001)


def test_vgg_does_not_mind_where_things_are(vgg19_file):
    metric = GramDistance(VGGMetricOptions(weights=vgg19_file))
    image = _noise(1, 3, 40, 40)
    assert metric(image, image) == 0
    assert metric(image.flip(2), image) < metric(0.9 * image, image) / 3


def test_vgg_takes_other_layers_and_grey(vgg19_file):
    metric = GramDistance(VGGMetricOptions(weights=vgg19_file, layers=("relu1_2",)))
    grey, other = _noise(1, 1, 20, 20), _noise(1, 1, 20, 25, seed=1)
    assert list(metric.score(grey, other).details["layers"]) == ["relu1_2"]
    assert metric(grey.expand(-1, 3, -1, -1), other) == pytest.approx(metric(grey, other))


def test_vgg_of_an_image_that_is_too_small(vgg19_file):
    metric = GramDistance(VGGMetricOptions(weights=vgg19_file))
    for pair in ((_noise(1, 3, 23, 40), _noise(1, 3, 40, 40)), (_noise(1, 3, 40, 40), _noise(1, 3, 40, 23))):
        with pytest.raises(UsageError, match=r"an image of (23x40|40x23) is too small for relu3_1 of vgg19"):
            metric(*pair)


# sifid


@pytest.mark.parametrize(("n", "m"), [(50, 50), (80, 41), (5, 9)])
def test_frechet_is_that_of_scipys_root(n, m):
    """Also where there are fewer points than dimensions, and the covariances are singular."""
    x, y = _noise(n, 12, dtype=torch.float64), 2 * _noise(m, 12, seed=1, dtype=torch.float64)
    between = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T))
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * between.real)
    assert frechet(x, y) == pytest.approx(float(expected), rel=1e-5)


def test_frechet_of_normals_that_commute():
    """Diagonal covariances: the squared distance of means and of standard deviations."""
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    x, y = signs * torch.tensor([1.0, 2]), signs * torch.tensor([3.0, 1]) + torch.tensor([5.0, 0])
    unbiased = 4 / 3
    assert frechet(x, y) == pytest.approx(25 + unbiased * (4 + 1))
    assert frechet(x, x) == pytest.approx(0, abs=1e-12)


def test_sifid_sees_torchvisions_features(inception_file):
    with torch.device("meta"):
        inception = torchvision.models.inception_v3(weights=None, init_weights=False, aux_logits=False)
    stem = torch.nn.Sequential(inception.Conv2d_1a_3x3, inception.Conv2d_2a_3x3, inception.Conv2d_2b_3x3).eval()
    for module, name in zip(stem, ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"), strict=True):
        tensors = {k.removeprefix(f"{name}."): v for k, v in load_file(inception_file).items() if k.startswith(name)}
        module.load_state_dict({**tensors, "bn.num_batches_tracked": torch.tensor(0)}, assign=True)
    image, exemplar = _noise(1, 3, 40, 50), 0.7 * _noise(1, 3, 45, 44, seed=1)
    clouds = []
    for x in (image, exemplar):
        features = torch.nn.functional.max_pool2d(stem(2 * x - 1), 3, stride=2)  # torchvision's own `maxpool1`
        clouds.append(features[0].flatten(1).t().detach())
    metric = SIFID(SIFIDOptions(weights=inception_file))
    assert metric(image, exemplar) == pytest.approx(frechet(*clouds), rel=1e-4)
    grey = _noise(1, 1, 20, 20)
    assert metric(grey, exemplar) == pytest.approx(metric(grey.expand(-1, 3, -1, -1), exemplar))


def test_sifid_of_an_image_that_is_too_small(inception_file):
    metric = SIFID(SIFIDOptions(weights=inception_file))
    assert math.isfinite(metric(_noise(1, 3, 15, 15), _noise(1, 3, 15, 16)))
    with pytest.raises(UsageError, match="an image of 14x30 is too small for Inception: expected 15 pixels a side"):
        metric(_noise(1, 3, 14, 30), _noise(1, 3, 30, 30))


def test_sifid_says_whose_weights_are_missing(monkeypatch):
    monkeypatch.setenv("FEATOT_INCEPTION_WEIGHTS", "gone.pth")
    with pytest.raises(UsageError, match=r"there is no file 'gone.pth'"):
        SIFID(SIFIDOptions())(_noise(1, 3, 20, 20), _noise(1, 3, 20, 20))


# swd


@pytest.mark.parametrize(("n", "m"), [(7, 7), (30, 20), (13, 29), (1, 5), (2000, 1999)])
def test_lines_agree_with_pot(n, m):
    x, y = _noise(3, n, dtype=torch.float64), 2 * _noise(3, m, seed=1, dtype=torch.float64)
    expected = ot.wasserstein_1d(x.numpy().T, y.numpy().T, p=2)
    np.testing.assert_allclose(squared_on_lines(x, y).numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
def test_swd_agrees_with_pot(channels):
    """POT draws its own lines: as many of them tell the same but for a few per cent."""
    image, exemplar = _noise(1, channels, 24, 30), _noise(1, channels, 28, 26, seed=1) ** 2
    score = SWD(SWDOptions(size=4, scales=2, directions=2000)).score(image, exemplar)
    scales = []
    for _ in range(2):
        x, y = (windows(z, 4, 1, "valid", None).double().numpy() for z in (image, exemplar))
        scales.append(ot.sliced_wasserstein_distance(x, y, n_projections=2000, seed=0))
        image, exemplar = halve(image, "valid"), halve(exemplar, "valid")
    assert list(score.details["scales"].values()) == pytest.approx(scales, rel=0.04)
    assert score.value == pytest.approx(sum(score.details["scales"].values()) / 2)


def test_swd_of_a_brighter_image():
    """Every line is shifted by the step times the sum of its direction, whose mean square is 1."""
    exemplar, directions = 0.5 * _noise(1, 1, 20, 20), 4000
    metric = SWD(SWDOptions(scales=1, directions=directions))
    assert metric(exemplar, exemplar) == 0
    assert metric(exemplar + 0.1, exemplar) == pytest.approx(0.1, rel=4 / math.sqrt(2 * directions))


# copy


def test_copy_agrees_with_the_referee(referee, pairs):
    for image, exemplar in pairs:
        assert Copying(CopyingOptions())(image, exemplar) == pytest.approx(referee.copying(image, exemplar), rel=0.02)
    assert referee.copying(*pairs[0]) > 0.05, "the comparison is not of zeros"


def test_copy_of_a_crop_and_of_pieces():
    exemplar = _noise(1, 3, 40, 50)
    metric = Copying(CopyingOptions(size=6, stride=2))
    assert metric(exemplar[:, :, 3:33, 5:42], exemplar) == 1
    # A patch across the seam is nearest to the piece it has more of: one of the 17 steps in a row leads elsewhere.
    pieces = torch.cat([exemplar[:, :, :30, :20], exemplar[:, :, 5:35, 25:45]], dim=3)
    assert metric(pieces, exemplar) == pytest.approx(16 / 17)
    assert metric(_noise(1, 3, 40, 50, seed=1), exemplar) < 0.2


def test_copy_counts_steps_of_the_nearest_patches():
    """One after the other: the nearest patch, then whether it lies a stride to the right of the one before."""
    exemplar, size, stride = _noise(1, 1, 14, 13), 3, 2
    image = 0.7 * exemplar[:, :, 2:13, 1:13] + 0.3 * _noise(1, 1, 11, 12, seed=1)
    nearest = {}
    for i in range(0, 11 - size + 1, stride):
        for j in range(0, 12 - size + 1, stride):
            patch = image[0, 0, i : i + size, j : j + size]
            places = [(r, c) for r in range(14 - size + 1) for c in range(13 - size + 1)]
            nearest[i, j] = min(places, key=lambda at: _distance(patch, exemplar[0, 0], at, size))
    pairs = [(nearest[i, j - stride], at) for (i, j), at in nearest.items() if j > 0]
    expected = np.mean([(r, c + stride) == at for (r, c), at in pairs])
    assert 0.2 < expected < 0.9
    assert any(r != at[0] and c + stride == at[1] for (r, c), at in pairs), "some move right, but to another row"
    assert Copying(CopyingOptions(size=size, stride=stride))(image, exemplar) == pytest.approx(expected)


def _distance(patch, image, at, size):
    return float((patch - image[at[0] : at[0] + size, at[1] : at[1] + size]).square().sum())


def test_copy_of_a_mirrored_image_is_little():
    exemplar = _noise(1, 1, 40, 40)
    assert Copying(CopyingOptions(size=6, stride=2))(exemplar.flip(3), exemplar) < 0.2


def test_images_that_cannot_be_compared():
    with pytest.raises(UsageError, match="an image of 20x18 has no two patches of 15 pixels side by side"):
        Copying(CopyingOptions())(_noise(1, 1, 20, 18), _noise(1, 1, 30, 30))
    for metric in (Copying(CopyingOptions()), SWD(SWDOptions(size=15))):
        with pytest.raises(UsageError, match="30x14 is smaller than a patch of 15"):
            metric(_noise(1, 1, 30, 30), _noise(1, 1, 30, 14))
        with pytest.raises(UsageError, match="differ in channels: 1 and 3"):
            metric(_noise(1, 1, 30, 30), _noise(1, 3, 30, 30))


# sharp and tileability


def test_sharp_agrees_with_the_referee(referee, pairs):
    for image, exemplar in pairs:
        expected = referee.detail(image) / referee.detail(exemplar)
        assert Sharpness()(image, exemplar) == pytest.approx(expected, rel=0.001)


def test_sharp_is_contrast_of_detail():
    exemplar = _noise(1, 1, 30, 30)
    assert Sharpness()(0.3 * exemplar + 0.5, exemplar) == pytest.approx(0.3)
    assert Sharpness()(torch.nn.functional.avg_pool2d(exemplar, 3), exemplar) < 0.5
    with pytest.raises(UsageError, match="no detail to compare with: it is constant"):
        Sharpness()(exemplar, torch.zeros(1, 1, 9, 9))


def test_tileability_of_a_wave_that_closes_and_one_that_does_not():
    angle = torch.arange(64) * (2 * math.pi / 64)
    closed = (0.5 + 0.4 * torch.sin(4 * angle)).expand(1, 3, 64, 64)
    seam = Tileability().score(closed, closed)
    assert seam.value == pytest.approx(1, abs=0.3)
    assert seam.details["y"] == 1, "the same all along"
    rolled = Tileability().score(closed.roll(9, 3), closed)
    assert rolled.value == pytest.approx(1, abs=0.3)
    broken = Tileability().score(closed[..., :53], closed)
    assert broken.details["x"] > 2
    assert broken.value == (broken.details["x"] + broken.details["y"]) / 2


def test_tileability_is_a_ratio_of_mean_jumps():
    ramp = torch.arange(10.0).expand(1, 1, 6, 10) / 10  # jumps of 0.1 inside, of 0.9 across
    assert Tileability().score(ramp, ramp).details == pytest.approx({"x": 9, "y": 1})
    assert Tileability().score(ramp.transpose(2, 3), ramp).details == pytest.approx({"x": 1, "y": 9})


def test_tileability_of_noise_and_of_one_pixel():
    assert Tileability()(_noise(1, 3, 128, 128), _noise(1, 3, 5, 5)) == pytest.approx(1, abs=0.1)
    assert Tileability()(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)) == 1
