"""Patches: the windows of an image."""

from __future__ import annotations

import itertools

import pytest
import torch

from featot_plugins.options import PatchesOptions
from featot_plugins.patches import Patches, windows


def _noise(*shape, dtype=torch.float32):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def _naive(image, size, stride, boundary):
    """Window after window; inside a border the last of each row and column ends at it."""
    b, _, h, w = image.shape
    if boundary == "periodic":
        starts = [list(range(0, side, stride)) for side in (h, w)]
    else:
        starts = [sorted({*range(0, side - size + 1, stride), side - size}) for side in (h, w)]
    points = []
    for k, top, left in itertools.product(range(b), *starts):
        rows = [(top + i) % h for i in range(size)]
        columns = [(left + j) % w for j in range(size)]
        points.append([float(image[k, c, i, j]) for i in rows for j in columns for c in range(image.shape[1])])
    return torch.tensor(points, dtype=image.dtype)


@pytest.mark.parametrize("boundary", ["periodic", "valid"])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (4, 2), (4, 3), (3, 5)])
@pytest.mark.parametrize("shape", [(1, 1, 7, 9), (2, 3, 8, 6)])
def test_windows_are_those_of_a_naive_loop(shape, size, stride, boundary):
    image = _noise(*shape)
    torch.testing.assert_close(windows(image, size, stride, boundary, None), _naive(image, size, stride, boundary))


def test_a_torus_smaller_than_the_patch_wraps_more_than_once():
    image = _noise(1, 1, 2, 3)
    torch.testing.assert_close(windows(image, 5, 1, "periodic", None), _naive(image, 5, 1, "periodic"))


def test_no_window_fits_inside_a_border():
    assert windows(_noise(1, 3, 6, 3), 4, 1, "valid", None) is None
    assert len(windows(_noise(1, 3, 4, 4), 4, 1, "valid", None)) == 1


@pytest.mark.parametrize("boundary", ["periodic", "valid"])
@pytest.mark.parametrize("size", [2, 3, 4, 7])
@pytest.mark.parametrize("shape", [(20, 23), (16, 32), (9, 8)])
@pytest.mark.parametrize("max_points", [1, 30, 100])
def test_thinned_windows_still_cover_every_pixel(shape, size, boundary, max_points):
    image = _noise(1, 2, *shape).requires_grad_()
    points = windows(image, size, 1, boundary, max_points)
    assert len(points) <= len(windows(image, size, 1, boundary, None))
    (covered,) = torch.autograd.grad(points.sum(), image)
    assert covered.min() >= 1


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8])
def test_thinning_goes_no_further_than_three_quarters_of_a_patch(size):
    image = _noise(1, 1, 48, 48)
    most = max(1, 3 * size // 4)
    torch.testing.assert_close(
        windows(image, size, 1, "periodic", 1), windows(image, size, most, "periodic", None), rtol=0, atol=0
    )


def test_thinning_stops_as_soon_as_there_are_few_enough():
    image = _noise(1, 1, 24, 24)
    assert len(windows(image, 7, 1, "periodic", 24 * 24)) == 24 * 24
    assert len(windows(image, 7, 1, "periodic", 24 * 24 - 1)) == 12 * 12
    assert len(windows(image, 7, 1, "periodic", 100)) == 8 * 8
    assert len(windows(torch.cat([image, image]), 7, 1, "periodic", 24 * 24)) == 2 * 12 * 12


def test_thinning_never_makes_a_wider_stride_narrower():
    image = _noise(1, 1, 24, 24)
    assert len(windows(image, 4, 6, "periodic", 1)) == 4 * 4


@pytest.mark.parametrize("boundary", ["periodic", "valid"])
@pytest.mark.parametrize("max_points", [None, 9])
def test_gradient(boundary, max_points):
    image = _noise(1, 2, 5, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: windows(x, 3, 1, boundary, max_points).square(), image)


def test_extract_has_one_level_named_by_absolute_scale():
    extractor, image = Patches(PatchesOptions(size=3, stride=2)), _noise(1, 3, 9, 9)
    (points,) = extractor.extract(image, boundary="periodic").values()
    torch.testing.assert_close(points, windows(image, 3, 2, "periodic", None))
    assert list(extractor.extract(image)) == ["1/1"]
    assert list(extractor.extract(image, scale=2)) == ["1/4"]
    assert extractor.extract(image[:, :, :2]) == {}
    assert len(extractor.extract(image, max_points=1)["1/1"]) == 16  # the stride of 2 is already 3/4 of 3
