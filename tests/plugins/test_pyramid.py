"""The pyramid of patches: levels by absolute scale, linear in the pixels."""

from __future__ import annotations

import pytest
import torch

from featot.resample import halve
from featot_plugins.options import PyramidOptions
from featot_plugins.patches import windows
from featot_plugins.pyramid import Pyramid


def _noise(*shape, dtype=torch.float32):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("boundary", ["periodic", "valid"])
def test_levels_are_the_patches_of_successive_halvings(boundary):
    image = _noise(1, 3, 60, 49)
    levels = Pyramid(PyramidOptions(size=3)).extract(image, boundary=boundary)
    assert list(levels) == (["1/1", "1/2", "1/4"] if boundary == "periodic" else ["1/1", "1/2"])
    for points in levels.values():
        torch.testing.assert_close(points, windows(image, 3, 1, boundary, None))
        image = halve(image, boundary)


@pytest.mark.parametrize("boundary", ["periodic", "valid"])
@pytest.mark.parametrize("scales", [None, 3])
def test_level_names_are_absolute(boundary, scales):
    """A level keeps its name and points from stage to stage."""
    extractor, image = Pyramid(PyramidOptions(size=4, scales=scales)), _noise(1, 3, 64, 50)
    whole = extractor.extract(image, boundary=boundary)
    halved = extractor.extract(halve(image, boundary), scale=1, boundary=boundary)
    assert list(halved) == list(whole)[1:]
    assert len(halved) >= 1
    for name, points in halved.items():
        torch.testing.assert_close(points, whole[name], rtol=0, atol=0)


def test_automatic_scales_keep_12_pixels_a_side():
    extractor = Pyramid(PyramidOptions(size=4))
    assert list(extractor.extract(_noise(1, 1, 24, 300), boundary="periodic")) == ["1/1", "1/2"]
    assert list(extractor.extract(_noise(1, 1, 22, 300), boundary="periodic")) == ["1/1"]


def test_scales_asked_for():
    image = _noise(1, 1, 64, 64)
    assert list(Pyramid(PyramidOptions(size=4, scales=1)).extract(image)) == ["1/1"]
    assert list(Pyramid(PyramidOptions(size=4, scales=4)).extract(image)) == ["1/1", "1/2", "1/4", "1/8"]
    assert list(Pyramid(PyramidOptions(size=4, scales=9)).extract(image)) == [
        "1/1",
        "1/2",
        "1/4",
        "1/8",
    ]  # 64, 31, 14, 6; 2
    # A stage coarser than all of them still has something to match.
    assert list(Pyramid(PyramidOptions(size=4, scales=2)).extract(image, scale=3)) == ["1/8"]


def test_small_images():
    extractor = Pyramid(PyramidOptions(size=4))
    assert extractor.extract(_noise(1, 3, 3, 50)) == {}
    assert extractor.extract(_noise(1, 3, 3, 50), boundary="periodic") == {}
    assert {name: len(points) for name, points in extractor.extract(_noise(1, 3, 4, 4)).items()} == {"1/1": 1}
    assert list(Pyramid(PyramidOptions(size=2, scales=5)).extract(_noise(1, 1, 3, 3))) == ["1/1"]


def test_max_points_thins_only_the_levels_with_more():
    extractor, image = Pyramid(PyramidOptions(size=4)), _noise(1, 1, 64, 64)
    counts = {name: len(points) for name, points in extractor.extract(image, boundary="periodic").items()}
    assert counts == {"1/1": 4096, "1/2": 1024, "1/4": 256}
    thinned = extractor.extract(image, boundary="periodic", max_points=1024)
    assert {name: len(points) for name, points in thinned.items()} == {"1/1": 1024, "1/2": 1024, "1/4": 256}


@pytest.mark.parametrize("boundary", ["periodic", "valid"])
def test_points_are_averages_of_pixels(boundary):
    """What ``linear = True`` promises: linear, and the Jacobian's rows are non-negative and sum to 1."""
    assert Pyramid.linear

    def points(image):
        return torch.cat(list(Pyramid(PyramidOptions(size=2, scales=3)).extract(image, boundary=boundary).values()))

    image = _noise(1, 2, 16, 16, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(points, image).flatten(0, 1).flatten(1)
    torch.testing.assert_close(jacobian @ image.flatten(), points(image).flatten())
    assert jacobian.min() >= 0
    torch.testing.assert_close(jacobian.sum(1), torch.ones(len(jacobian), dtype=torch.float64))


@pytest.mark.parametrize("boundary", ["periodic", "valid"])
def test_gradient(boundary):
    extractor = Pyramid(PyramidOptions(size=2, scales=3))

    def points(image):
        levels = extractor.extract(image, boundary=boundary, max_points=20)
        assert len(levels) >= 2
        return tuple(cloud.square() for cloud in levels.values())

    assert torch.autograd.gradcheck(points, _noise(1, 1, 12, 11, dtype=torch.float64).requires_grad_())


@pytest.mark.parametrize(("channels", "sizes"), [(1, [7, 6, 4, 5, 5]), (3, [4, 4, 3, 4, 4])])
def test_patches_have_some_48_values_in_grey_as_in_colour_and_are_smaller_where_they_would_be_copied(channels, sizes):
    extractor = Pyramid(PyramidOptions())
    levels = extractor.extract(torch.rand(1, channels, 256, 256))
    assert [points.shape[1] for points in levels.values()] == [channels * size**2 for size in sizes]
    coarser = extractor.extract(torch.rand(1, channels, 64, 64), scale=2)
    assert [points.shape[1] for points in coarser.values()] == [channels * size**2 for size in sizes[2:]]
    chosen = Pyramid(PyramidOptions(size=3)).extract(torch.rand(1, channels, 256, 256))
    assert {points.shape[1] for points in chosen.values()} == {9 * channels}


@pytest.mark.parametrize(("given", "sizes"), [((5, 3), [5, 3, 3]), ((), [4, 4, 3])])
def test_sizes_from_fine_to_coarse(given, sizes):
    levels = Pyramid(PyramidOptions(size=given)).extract(torch.rand(1, 3, 64, 64))
    assert [points.shape[1] for points in levels.values()] == [3 * size**2 for size in sizes]
