"""The coarse-to-fine schedule."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from featot.errors import UsageError
from featot.resample import halve, halved_size
from featot.schedule import QUALITIES, coarse_to_fine, count_levels, find_quality, paced

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


# Rates by what pixels have to travel


def _rates(*exemplars, levels=3):
    size = (exemplars[0].shape[2], exemplars[0].shape[3])
    return [stage.rate for stage in paced(coarse_to_fine(size, size, quality=STANDARD, levels=levels), exemplars)]


def _pixels(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_a_faded_exemplar_has_rates_as_faded():
    exemplar = _pixels(1, 3, 48, 40)
    assert _rates(0.5 + 0.2 * (exemplar - 0.5)) == pytest.approx([0.2 * rate for rate in _rates(exemplar)], rel=1e-4)


def test_each_level_goes_by_the_exemplar_at_its_resolution():
    exemplar = _pixels(1, 3, 48, 40)
    coarser = halve(exemplar, "valid")
    rates = _rates(exemplar)
    assert rates[1] == pytest.approx(_rates(coarser, levels=1)[0])
    assert rates[0] == pytest.approx(_rates(halve(coarser, "valid"), levels=1)[0])
    assert rates == sorted(rates)  # halving noise takes its contrast away


def test_what_is_smooth_goes_by_its_spread_and_what_is_sparse_by_its_detail():
    smooth = torch.linspace(0, 1, 40).expand(1, 1, 40, 40)
    assert _rates(smooth, levels=1) == pytest.approx([0.3 * float(smooth.std())], rel=0.02)
    sparse = torch.zeros(1, 1, 40, 40)
    sparse[0, 0, 4::8, 4::8] = 1
    # of one white pixel 8/9, of the eight around it 1/9: the sum of their squares over that of them
    assert _rates(sparse, levels=1) == pytest.approx([0.63 * (72 / 81) / (16 / 9)], rel=0.02)


def test_several_exemplars_are_pooled():
    dark, light = torch.zeros(1, 3, 48, 40), torch.full((1, 3, 40, 48), 0.5)
    assert _rates(dark, light) == pytest.approx(3 * [0.3 * 0.25])  # half of the pixels are 0, half 0.5
    noise = _pixels(1, 3, 48, 40)
    assert _rates(noise, noise) == pytest.approx(_rates(noise))


def test_what_a_mask_leaves_out_does_not_count():
    one, other = _pixels(1, 3, 48, 40), _pixels(1, 3, 48, 40)
    other[:, :, :20] *= 0.1
    mask = torch.ones(1, 1, 48, 40)
    mask[:, :, :20] = 0
    stages = coarse_to_fine((48, 40), (48, 40), quality=STANDARD, levels=3)
    assert paced(stages, [one], mask) == paced(stages, [other], mask)
    assert paced(stages, [one]) != paced(stages, [other])


def test_a_constant_exemplar_has_hardly_any_rate():
    assert 0 < max(_rates(torch.full((1, 3, 48, 40), 0.3))) < 1 / 255


def test_the_finest_level_of_more_than_a_draft_goes_more_slowly():
    exemplar = _pixels(1, 3, 48, 48)
    stages = coarse_to_fine((48, 48), (48, 48), quality=STANDARD)
    *coarser, last = (stage.rate for stage in paced(stages, [exemplar], finest=0.5))
    *alike, whole = (stage.rate for stage in paced(stages, [exemplar]))
    assert coarser == alike
    assert last == pytest.approx(whole / 2)
    finest = [quality.finest for quality in QUALITIES.values()]
    assert 1 > finest[0] > finest[1] == finest[2] > 0


def test_exemplars_that_are_mixed_have_the_mean_of_their_rates():
    """Pooled, a dark and a bright one would have that of the distance between them, at the end too."""
    stages, noise = coarse_to_fine((48, 48), (48, 48), quality=STANDARD), _pixels(1, 3, 48, 48)
    strong, faint = 0.5 + 0.8 * (noise - 0.5), 0.5 + 0.2 * (noise - 0.5)

    def rates(exemplars, weights):
        return [stage.rate for stage in paced(stages, exemplars, weights=weights)]

    alone = [[stage.rate for stage in paced(stages, [image])] for image in (strong, faint)]
    expected = [0.25 * a + 0.75 * b for a, b in zip(*alone, strict=True)]
    assert rates([strong, faint], (0.25, 0.75)) == pytest.approx(expected)
    assert rates([strong, faint], (0, 1)) == alone[1]
    flat = [torch.full_like(noise, colour) for colour in (0.1, 0.9)]
    pool = [stage.rate for stage in paced(stages, flat)]
    assert rates(flat, (0.5, 0.5)) == pytest.approx([rate / 4 for rate in pool])


def test_pacing_changes_only_the_rates():
    stages = coarse_to_fine((64, 64), (64, 64), quality=STANDARD)
    made = paced(stages, [_pixels(1, 3, 64, 64)])
    assert [dataclasses.replace(stage, rate=0.0) for stage in made] == [
        dataclasses.replace(stage, rate=0.0) for stage in stages
    ]
