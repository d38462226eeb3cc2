"""The coarse-to-fine schedule."""

from __future__ import annotations

import pytest
import torch

from featot.errors import UsageError
from featot.resample import halve, halved_size
from featot.schedule import QUALITIES, coarse_to_fine, count_levels, find_quality

STANDARD = find_quality("standard")


def test_stages_go_from_coarse_to_fine():
    stages = coarse_to_fine((64, 96), (64, 64), quality=STANDARD)
    assert [stage.scale for stage in stages] == [2, 1, 0]
    assert [stage.size for stage in stages] == [(16, 24), (32, 48), (64, 96)]


def test_sizes_that_halve_unevenly():
    stages = coarse_to_fine((255, 37), (256, 256), quality=STANDARD, levels=4)
    assert [stage.size for stage in stages] == [(32, 5), (64, 10), (128, 19), (255, 37)]
    assert all(stage.size == halved_size((255, 37), stage.scale) for stage in stages)


def test_one_level_is_the_plain_algorithm():
    (stage,) = coarse_to_fine((255, 37), (256, 256), quality=STANDARD, levels=1)
    assert (stage.scale, stage.size, stage.num_steps) == (0, (255, 37), 500)


def test_steps_are_those_of_the_finest_and_grow_as_the_quality_says():
    def steps(*sizes, quality=STANDARD, **settings):
        return [stage.num_steps for stage in coarse_to_fine(*sizes, quality=quality, **settings)]

    small = ((64, 64), (64, 64))
    for quality in QUALITIES.values():
        growth = [quality.growth**2, quality.growth, 1]
        assert steps(*small, quality=quality) == [round(quality.steps * g) for g in growth]
        assert steps(*small, quality=quality, steps=16) == [round(16 * g) for g in growth]
    assert steps(*small, levels=1, steps=3) == [3]
    assert all(number >= 1 for number in steps((256, 256), (256, 256), steps=1))


def test_every_quality_takes_more_steps_than_the_one_before():
    assert list(QUALITIES) == ["draft", "standard", "high"]
    assert QUALITIES["draft"].steps < QUALITIES["standard"].steps < QUALITIES["high"].steps


def test_an_unknown_quality():
    with pytest.raises(UsageError, match=r"unknown quality 'standart'; did you mean 'standard'\?"):
        find_quality("standart")


@pytest.mark.parametrize(("steps", "averaged"), [(1, 1), (2, 1), (10, 8), (32, 10), (500, 10)])
def test_only_at_the_finest_level_the_last_steps_are_averaged(steps, averaged):
    stages = coarse_to_fine((64, 64), (64, 64), quality=STANDARD, steps=steps)
    assert [stage.averaged for stage in stages] == [*(1 for _ in stages[1:]), averaged]


def test_only_adams_finest_level_ends_calmly_and_a_draft_does_not():
    def calm(quality, **settings):
        stages = coarse_to_fine((64, 64), (64, 64), quality=find_quality(quality), **settings)
        return [stage.calm for stage in stages]

    assert calm("standard") == calm("high") == [1, 1, 0.5]
    assert calm("draft") == calm("standard", optimizer="closed-form") == [1, 1, 1]


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", "closed-form"])
def test_only_adam_leaves_out_what_has_come_to_rest(optimizer):
    stages = coarse_to_fine((64, 64), (64, 64), quality=STANDARD, optimizer=optimizer)
    assert {stage.sparing for stage in stages} == {optimizer == "adam"}


def test_closed_form_goes_straight_to_v():
    assert {
        stage.rate for stage in coarse_to_fine((64, 64), (64, 64), quality=STANDARD, optimizer="closed-form")
    } == {1.0}


@pytest.mark.parametrize(
    ("size", "exemplar", "levels"),
    [
        ((1, 1), (4, 4), 1),
        ((12, 12), (12, 12), 1),
        ((23, 512), (512, 512), 2),  # 23 → 12
        ((22, 512), (512, 512), 1),  # 22 → 11
        ((512, 512), (26, 300), 2),  # inside the border 26 → 12
        ((512, 512), (25, 300), 1),  # 25 → 11
        ((64, 64), (64, 64), 3),
        ((255, 37), (256, 256), 2),
        ((256, 256), (256, 256), 5),
    ],
)
def test_count_levels(size, exemplar, levels):
    assert count_levels(size, exemplar) == levels
    assert len(coarse_to_fine(size, exemplar, quality=STANDARD)) == levels


@pytest.mark.parametrize("side", [26, 57, 100, 255])
def test_the_coarsest_exemplar_has_12_pixels_a_side_and_one_level_more_would_not(side):
    exemplar = torch.rand(1, 1, side, side)
    for _ in range(count_levels((1024, 1024), (side, side)) - 1):
        exemplar = halve(exemplar, "valid")
    assert min(exemplar.shape[2:]) >= 12 > min(halve(exemplar, "valid").shape[2:])
