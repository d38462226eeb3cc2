"""From coarse to fine: when a generator learns at which scale."""

from itertools import pairwise

import pytest

from featot.training_plan import TrainingPlan


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100, 6000])
@pytest.mark.parametrize(("side", "coarser"), [(512, 3), (128, 3), (512, 1), (512, 0), (40, 3)])
def test_time_passes_with_the_steps(side, coarser, steps):
    plan = TrainingPlan((side, 2 * side), coarser, steps)
    fractions = [plan.fraction(step) for step in range(steps + 2)]
    assert fractions[0] == 0
    assert fractions[-2:] == [1, 1]
    assert all(before < after for before, after in pairwise(fractions[:-1]))
    at = [plan.at(fraction) for fraction in fractions[:-2]]
    assert [scale for scale, _ in at] == sorted((scale for scale, _ in at), reverse=True)
    assert all(0 <= passed < 1 for _, passed in at)


@pytest.mark.parametrize(
    ("side", "coarser", "scales"),
    [(512, 3, [3, 2, 1, 0]), (255, 3, [2, 1, 0]), (64, 3, [1, 0]), (63, 3, [0]), (512, 1, [1, 0]), (512, 0, [0])],
)
def test_coarse_images_are_not_too_small(side, coarser, scales):
    assert TrainingPlan((side, 600), coarser, 10).scales == scales


def test_what_is_fine_learns_from_images_of_half_the_size():
    plan = TrainingPlan((512, 384), 3, 10)
    for passed in (0, 0.7):
        assert [plan.size(scale, passed) for scale in (3, 2, 1, 0)] == [(64, 48), (128, 96), (256, 192), (256, 192)]
    assert TrainingPlan((512, 384), 0, 10).size(0, 0) == (512, 384)


def test_in_the_end_the_finest_are_whole():
    plan = TrainingPlan((512, 384), 3, 10)
    assert [plan.size(scale, 0.8) for scale in (3, 2, 1, 0)] == [(64, 48), (128, 96), (256, 192), (512, 384)]


def test_a_step_takes_half_the_time_at_half_the_size():
    plan = TrainingPlan((512, 512), 3, 6000)
    took = {}
    for step in range(6000):
        scale, _ = plan.at(plan.fraction(step))
        took.setdefault(scale, []).append(plan.fraction(step + 1) - plan.fraction(step))
    inside = {scale: sorted(times)[len(times) // 2] for scale, times in took.items()}
    assert inside[0] == pytest.approx(inside[1])
    for scale in (2, 3):
        assert inside[scale - 1] == pytest.approx(2 * inside[scale])
    assert sum(took[3]) == pytest.approx(0.28, abs=0.01)


def test_without_coarse_images_every_step_counts_alike():
    plan = TrainingPlan((256, 256), 0, 8)
    assert [plan.fraction(step) for step in range(9)] == [step / 8 for step in range(9)]
    assert plan.at(0.25) == (0, 0.25)
