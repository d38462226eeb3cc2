"""Halving, enlarging and wrapping images."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from featot.errors import UsageError
from featot.resample import enlarge, halve, halved_size, wrap


def _noise(*shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("boundary", ["periodic", "valid"])
def test_halve_keeps_a_constant(boundary):
    halved = halve(torch.full((2, 3, 9, 12), 0.3, dtype=torch.float64), boundary)
    torch.testing.assert_close(halved, torch.full_like(halved, 0.3))


def test_periodic_halve_keeps_the_mean_of_even_sizes():
    image = _noise(1, 3, 10, 6)
    torch.testing.assert_close(halve(image, "periodic").mean((2, 3)), image.mean((2, 3)))


def test_periodic_halve_commutes_with_a_shift_by_two():
    image = _noise(1, 2, 12, 8)
    shifted = halve(image.roll((2, -4), (2, 3)), "periodic")
    torch.testing.assert_close(shifted, halve(image, "periodic").roll((1, -2), (2, 3)))


@pytest.mark.parametrize(
    ("size", "expected"), [((8, 6), (4, 3)), ((7, 5), (4, 3)), ((1, 2), (1, 1)), ((3, 1), (2, 1))]
)
def test_periodic_halve_rounds_up(size, expected):
    assert halve(_noise(1, 1, *size), "periodic").shape[2:] == expected == halved_size(size, 1)


@pytest.mark.parametrize("side", range(4, 12))
def test_valid_halve_keeps_the_windows_that_fit(side):
    assert halve(_noise(1, 1, side, 4), "valid").shape[2:] == ((side - 4) // 2 + 1, 1)


@pytest.mark.parametrize("size", [(3, 9), (9, 3), (1, 1)])
def test_valid_halve_needs_four_pixels(size):
    with pytest.raises(UsageError, match=f"{size[0]}x{size[1]} is too small to be halved"):
        halve(_noise(1, 1, *size), "valid")


def test_halved_size_is_that_of_repeated_halving():
    image = _noise(1, 1, 37, 51)
    for times in range(1, 5):
        image = halve(image, "periodic")
        assert image.shape[2:] == halved_size((37, 51), times)


@pytest.mark.parametrize("size", [(12, 10), (9, 13), (4, 4)])
def test_periodic_halve_is_the_valid_one_where_windows_fit(size):
    image = _noise(2, 3, *size)
    inside = halve(image, "valid")
    torch.testing.assert_close(halve(image, "periodic")[:, :, : inside.shape[2], : inside.shape[3]], inside)


@pytest.mark.parametrize("boundary", ["periodic", "valid"])
def test_halve_weighs_by_a_gaussian(boundary):
    """Each pixel of the result is an average: its weights are those of the 4×4 Gaussian of σ = 1 about its centre."""
    image = _noise(1, 1, 8, 8).requires_grad_()
    (row,) = torch.autograd.grad(halve(image, boundary)[0, 0, 1, 1], image)
    taps = torch.exp(-(torch.tensor([1.5, 0.5, 0.5, 1.5], dtype=torch.float64) ** 2) / 2)
    expected = torch.zeros(8, 8, dtype=torch.float64)
    expected[2:6, 2:6] = torch.outer(taps, taps) / taps.sum() ** 2
    torch.testing.assert_close(row[0, 0], expected)
    assert row.min() >= 0
    assert float(row.sum()) == pytest.approx(1)


@pytest.mark.parametrize("boundary", ["valid", "periodic"])
@pytest.mark.parametrize("size", [(4, 5), (31, 64), (256, 255), (257, 12), (320, 303)])
def test_halve_is_a_convolution_by_the_gaussian(size, boundary):
    """However it is worked out: small sizes and large ones go different ways."""
    image = torch.rand(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    taps = torch.exp(-((torch.arange(4, dtype=torch.float64) - 1.5) ** 2) / 2)
    taps = (taps / taps.sum()).outer(taps / taps.sum()).expand(3, 1, 4, 4)
    margin = [2 + side % 2 if boundary == "periodic" else 0 for side in size]
    continued = F.pad(image, (0, margin[1], 0, margin[0]), mode="circular")
    expected = F.conv2d(continued, taps, stride=2, groups=3)
    torch.testing.assert_close(halve(image, boundary), expected)


def test_what_halving_keeps_for_later_serves_autograd_too():
    with torch.inference_mode():
        halve(torch.rand(1, 1, 22, 26), "periodic")
    image = torch.rand(1, 1, 22, 26, requires_grad=True)
    halve(image, "periodic").sum().backward()
    torch.testing.assert_close(image.grad, torch.full_like(image, 0.25))


def test_halve_keeps_channels_and_images_apart():
    image = _noise(2, 3, 8, 8)
    torch.testing.assert_close(halve(image, "periodic")[1:, 2:], halve(image[1:, 2:], "periodic"))


@pytest.mark.parametrize("boundary", ["periodic", "valid"])
@pytest.mark.parametrize("size", [(11, 20), (5, 3), (31, 7)])
def test_enlarge_keeps_a_constant(boundary, size):
    image = torch.full((1, 3, 5, 7), 0.7, dtype=torch.float64)
    torch.testing.assert_close(enlarge(image, size, boundary), torch.full((1, 3, *size), 0.7, dtype=torch.float64))


@pytest.mark.parametrize("boundary", ["periodic", "valid"])
def test_enlarge_to_the_same_size_is_the_identity(boundary):
    image = _noise(2, 3, 6, 9)
    torch.testing.assert_close(enlarge(image, (6, 9), boundary), image)


@pytest.mark.parametrize("size", [(20, 30), (17, 23), (41, 15)])
def test_valid_enlarge_continues_a_ramp(size):
    """Cubic interpolation is exact for a linear image, but for two old pixels at each border."""
    old = (10, 15)

    def ramp(h, w):
        y, x = ((torch.arange(n, dtype=torch.float64) + 0.5) / n for n in (h, w))
        return (2 * y[:, None] - 3 * x)[None, None]

    error = (enlarge(ramp(*old), size, "valid") - ramp(*size)).abs()[0, 0]
    margins = [-(-2 * new // n) for new, n in zip(size, old, strict=True)]
    inner = error[margins[0] : size[0] - margins[0], margins[1] : size[1] - margins[1]]
    assert inner.numel() > 0
    assert inner.max() < 1e-12


def test_periodic_enlarge_commutes_with_shifts():
    image = _noise(1, 2, 6, 5)
    shifted = enlarge(image.roll((1, -2), (2, 3)), (12, 15), "periodic")
    torch.testing.assert_close(shifted, enlarge(image, (12, 15), "periodic").roll((2, -6), (2, 3)))


def test_periodic_enlarge_keeps_the_mean_of_a_whole_multiple():
    image = _noise(1, 1, 6, 5)
    assert float(enlarge(image, (12, 15), "periodic").mean()) == pytest.approx(float(image.mean()))


def test_enlarge_then_halve_moves_a_smooth_image_by_half_a_pixel():
    """`halve` centres pixel i between 2i + 1 and 2i + 2, `enlarge` between 2i and 2i + 1: one fine pixel less."""
    angle = 2 * torch.pi * (torch.arange(16, dtype=torch.float64) + 0.5) / 16
    image = angle.cos()[None, None, :, None].expand(1, 1, 16, 16)
    back = halve(enlarge(image, (32, 32), "periodic").roll((1, 1), (2, 3)), "periodic")
    scale = float(back.max() / image.max())
    assert 0.9 < scale < 1
    torch.testing.assert_close(back, scale * image)


def test_wrap_continues_the_torus():
    image = _noise(1, 1, 4, 5)
    wrapped = wrap(image, after=(1, 3))
    assert wrapped.shape[2:] == (5, 8)
    for i in range(5):
        for j in range(8):
            assert wrapped[0, 0, i, j] == image[0, 0, i % 4, j % 5]


def test_wrap_by_more_than_the_image():
    image = _noise(1, 2, 2, 3)
    wrapped = wrap(image, after=(7, 8))
    assert wrapped.shape[2:] == (9, 11)
    for i in range(9):
        for j in range(11):
            assert (wrapped[0, :, i, j] == image[0, :, i % 2, j % 3]).all()
