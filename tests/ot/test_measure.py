"""A measure: what it holds, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from featot.errors import UsageError
from featot.ot import Measure

POINTS = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0], [2.0, 4.0]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_weights_where_none_are_given(dtype, device):
    measure = Measure(POINTS.to(device, dtype))
    assert measure.weights.tolist() == [0.25] * 4
    assert (measure.weights.dtype, measure.weights.device) == (dtype, measure.points.device)
    assert (len(measure), measure.dim) == (4, 2)


def test_spread_is_the_mean_squared_distance_to_the_mean():
    assert Measure(POINTS).spread() == pytest.approx(5)
    assert Measure(POINTS + 100).spread() == pytest.approx(5)
    # All mass on the first two points, 2 apart: each is 1 from their mean.
    assert Measure(POINTS, torch.tensor([0.5, 0.5, 0, 0])).spread() == pytest.approx(1)


def test_subset_draws_distinct_points_and_renormalises():
    points = torch.arange(10.0)[:, None]
    weights = (points[:, 0] + 1) / 55
    subset = Measure(points, weights).subset(4, torch.Generator().manual_seed(0))
    chosen = subset.points[:, 0].long()
    assert len(set(chosen.tolist())) == 4
    torch.testing.assert_close(subset.weights, weights[chosen] / weights[chosen].sum())


def test_subset_of_everything_is_the_measure_itself():
    measure = Measure(POINTS)
    assert measure.subset(4) is measure
    assert measure.subset(9) is measure


def test_subset_follows_its_generator():
    measure = Measure(torch.arange(1000.0)[:, None])

    def drawn(seed):
        return measure.subset(10, torch.Generator().manual_seed(seed)).points

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_merged_has_every_point_once_with_all_its_weight(dtype, device):
    generator = torch.Generator().manual_seed(0)
    points = torch.randint(0, 3, (200, 4), generator=generator).to(device, dtype)  # 3⁴ = 81 distinct at most
    weights = torch.rand(200, generator=generator).to(device, dtype)
    measure = Measure(points, weights / weights.sum())
    merged, group = measure.merged()
    distinct, inverse = points.unique(dim=0, return_inverse=True)
    assert len(merged) == len(distinct) < 82
    assert torch.equal(merged.points.unique(dim=0), distinct)
    assert torch.equal(merged.points[group], points)
    masses = measure.weights.new_zeros(len(distinct)).index_add(0, inverse, measure.weights)
    torch.testing.assert_close(merged.weights[group], masses[inverse])
    assert (merged.weights.dtype, merged.points.dtype) == (dtype, dtype)


def test_merged_compares_points_exactly():
    close = torch.tensor([[1.0, 2.0], [1.0, 2.0 + 2**-22], [1.0, 2.0], [-0.0, 0.0], [0.0, -0.0]])
    merged, group = Measure(close).merged()
    assert len(merged) == 3
    assert group[0] == group[2] != group[1]
    assert group[3] == group[4]
    torch.testing.assert_close(merged.weights[group], torch.tensor([0.4, 0.2, 0.4, 0.4, 0.4]))


def test_merged_without_repetitions_is_the_measure_itself():
    measure = Measure(POINTS.flip(0))
    merged, group = measure.merged()
    assert merged is measure
    assert group.tolist() == [0, 1, 2, 3]


def test_merged_of_one_point_many_times():
    merged, group = Measure(torch.ones(7, 2), torch.tensor([0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])).merged()
    assert merged.points.tolist() == [[1, 1]]
    assert merged.weights.tolist() == [1]
    assert group.tolist() == [0] * 7


@pytest.mark.parametrize(
    ("points", "says"),
    [
        pytest.param(torch.zeros(0, 2), "(0, 2)", id="no points"),
        pytest.param(torch.zeros(3, 0), "(3, 0)", id="no dimension"),
        pytest.param(torch.zeros(3), "(3,)", id="one axis"),
        pytest.param(torch.zeros(3, 2, 2), "(3, 2, 2)", id="three axes"),
        pytest.param(torch.zeros(3, 2, dtype=torch.long), "torch.int64", id="integers"),
        pytest.param(torch.tensor([[0.0], [math.nan]]), "NaN", id="NaN"),
        pytest.param(torch.tensor([[0.0], [math.inf]]), "infinity", id="infinity"),
    ],
)
def test_bad_points_are_refused_in_one_line(points, says):
    with pytest.raises(UsageError) as caught:
        Measure(points)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        pytest.param(torch.full((3,), 1 / 3), "(3,)", id="too few"),
        pytest.param(torch.full((4, 1), 0.25), "(4, 1)", id="two axes"),
        pytest.param(torch.tensor([1.5, -0.5, 0, 0]), "at least 0", id="negative"),
        pytest.param(torch.tensor([1.0, math.nan, 0, 0]), "finite", id="NaN"),
        pytest.param(torch.tensor([math.inf, 0, 0, 0]), "finite", id="infinity"),
        pytest.param(torch.full((4,), 0.5), "sum to 1, got 2", id="sum of 2"),
        pytest.param(torch.zeros(4), "sum to 1, got 0", id="no mass"),
        pytest.param(torch.full((4,), 0.25, dtype=torch.float64), "torch.float64", id="another dtype"),
        pytest.param(torch.tensor([1, 0, 0, 0]), "torch.int64", id="integers"),
    ],
)
def test_bad_weights_are_refused_in_one_line(weights, says):
    with pytest.raises(UsageError) as caught:
        Measure(POINTS, weights)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_measures_compare_by_identity():
    # Elementwise equality of tensors has no truth value: the dataclass's own comparison would raise.
    measure = Measure(POINTS)
    assert measure == measure
    assert measure != Measure(POINTS)
