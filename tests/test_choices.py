"""What a synthesis can be asked for: along which axes it tiles, its quality, sums of losses, several seeds."""

from __future__ import annotations

import json

import pytest
import torch

from featot.errors import UsageError
from featot.exemplars import Sources
from featot.plugins import load_registry, route_options
from featot.recipe import parse_sum
from featot.resample import halve
from featot.runs import SynthesisSettings
from featot.schedule import QUALITIES
from featot.tasks import synthesize, synthesize_each
from featot_plugins.options import OTLossOptions, SlicedOptions

QUICK = {"device": "cpu", "size": (20, 24), "steps": 2, "levels": 2, "starts": 1}


def _exemplar(h=28, w=32):
    """Blurred noise: as rough everywhere, with no period."""
    noise = torch.rand(1, 1, 2 * h + 2, 2 * w + 2, generator=torch.Generator().manual_seed(0))
    return 0.5 + 2 * (halve(noise, "valid") - 0.5).clamp(-0.25, 0.25)


def _quick(**changes):
    return synthesize(_exemplar(), **{**QUICK, **changes})


# Tiling


@pytest.mark.parametrize("tile", ["both", "x", "y", "none"])
@pytest.mark.parametrize("size", [(20, 24), (17, 31)])
def test_every_tiling_has_the_size_asked_for(tile, size):
    result = _quick(tile=tile, size=size)
    assert result.image.shape == (1, 1, *size)
    assert result.record["settings"]["tile"] == tile
    assert result.record["settings"]["size"] == size


@pytest.mark.parametrize(("tile", "torus"), [("x", (24, 24)), ("y", (20, 28)), ("none", (24, 28))])
def test_an_axis_that_is_not_to_tile_is_cut_from_a_longer_torus(tile, torus):
    """By two pixels of the coarsest level: here four."""
    cut = _quick(tile=tile).image
    assert torch.equal(cut, _quick(size=torus).image[:, :, :20, :24])


def _jumps(image, axis):
    """The mean absolute difference across the wrapped border, and between neighbours inside."""
    across = (image - image.roll(1, axis)).abs()
    return float(across.narrow(axis, 0, 1).mean()), float(across.narrow(axis, 1, across.shape[axis] - 1).mean())


@pytest.mark.parametrize(("tile", "wraps"), [("both", (True, True)), ("x", (False, True)), ("y", (True, False))])
def test_the_border_is_no_rougher_than_the_inside_where_it_tiles(tile, wraps):
    image = _quick(tile=tile, size=(40, 48), steps=15).image
    for axis in (2, 3):
        across, inside = _jumps(image, axis)
        if wraps[axis - 2]:
            assert across <= 1.2 * inside


def test_an_unknown_tiling():
    with pytest.raises(UsageError, match=r"unknown tile 'bot'; did you mean 'both'\?"):
        _quick(tile="bot")


def test_a_guide_is_continued_where_the_result_does_not_tile():
    """A guide of one value all over is the same on the longer torus."""
    maps = {"guide": torch.full((1, 20, 24), 0.5), "exemplar_guide": torch.full((1, 28, 32), 0.5)}
    assert _quick(tile="none", **maps).image.shape == (1, 1, 20, 24)


# Quality


def _options(**changes):
    return _quick(steps=1, **changes).record["settings"]["options"]


@pytest.mark.parametrize("name", QUALITIES)
def test_a_quality_sets_options_and_points(name):
    settings, quality = _quick(quality=name, steps=1, starts=None).record["settings"], QUALITIES[name]
    assert (settings["max_points"], settings["starts"]) == (quality.max_points, quality.starts)
    for plugin, options in quality.options.items():
        for option, value in options.items():
            assert settings["options"][f"{plugin}.{option}"] == value


def test_a_quality_sets_the_number_of_steps():
    result = _quick(quality="draft", steps=None)
    assert result.record["settings"]["steps"] == QUALITIES["draft"].steps
    assert [line.scale for line in result.history].count(0) == QUALITIES["draft"].steps


def test_the_standard_quality_is_every_plugins_own_defaults():
    assert _options(quality="standard") == _options()
    assert _options()["ot.targets"] == OTLossOptions().targets
    assert _options()["sliced.directions"] == SlicedOptions().directions


@pytest.mark.parametrize("key", ["targets", "ot.targets"])
def test_what_is_given_goes_before_the_quality(key):
    settings = _quick(quality="draft", options={key: 100}, steps=3, max_points=77, starts=1).record["settings"]
    assert settings["options"]["ot.targets"] == 100
    assert settings["options"]["sliced.directions"] == QUALITIES["draft"].options["sliced"]["directions"]
    assert (settings["steps"], settings["max_points"], settings["quality"]) == (3, 77, "draft")


def test_an_unknown_quality():
    with pytest.raises(UsageError, match=r"unknown quality 'drfat'; did you mean 'draft'\?"):
        SynthesisSettings(quality="drfat")


def test_presets_of_plugins_that_are_not_chosen_do_not_matter():
    chosen = {"loss": load_registry().get("loss", "sliced")}
    presets = {"sliced": {"directions": 9}, "ot": {"targets": 5}}
    assert route_options(chosen, {}, presets) == {"loss": SlicedOptions(directions=9)}
    assert route_options(chosen, {"directions": "3"}, presets) == {"loss": SlicedOptions(directions=3)}
    assert route_options(chosen, {}) == {"loss": SlicedOptions()}


# Sums of losses


@pytest.mark.parametrize(
    ("text", "losses"),
    [
        ("ot", {"ot": 1.0}),
        ("2*ot", {"ot": 2.0}),
        ("ot+6*sliced", {"ot": 1.0, "sliced": 6.0}),
        (" 0.5 * sliced + ot ", {"sliced": 0.5, "ot": 1.0}),
    ],
)
def test_sums_of_losses(text, losses):
    assert parse_sum(text, "loss") == losses


@pytest.mark.parametrize(
    "text", ["", "+", "ot+", "+ot", "ot+ot", "0*ot", "-1*ot", "nan*ot", "inf*ot", "x*ot", "*ot", "2*", "2*3*ot"]
)
def test_sums_that_make_no_sense(text):
    with pytest.raises(UsageError, match=r"bad loss .* expected a name, or a sum such as ot\+\d\*sliced"):
        parse_sum(text, "loss")


def test_a_sum_with_an_unknown_loss():
    with pytest.raises(UsageError, match=r"unknown loss plugin 'slicde'; did you mean 'sliced'\?"):
        _quick(loss="ot+slicde")


def test_the_loss_is_the_weighted_sum():
    """At the first step, where all have seen the same start; ψ = 0 and all directions, so that no draw differs."""
    options = {"directions": 128, "psi_steps": 0}
    arguments = {"levels": 1, "steps": 1}
    alone = [
        _quick(loss=loss, options={key: options[key]}, **arguments).history[0].loss
        for loss, key in (("ot", "psi_steps"), ("sliced", "directions"))
    ]
    both = _quick(loss="2*ot+3*sliced", options=options, **arguments).history[0].loss
    assert both == pytest.approx(2 * alone[0] + 3 * alone[1], rel=0.02)


def test_options_are_recorded_by_loss_if_there_are_several():
    def keys(loss):
        return {key.partition(".")[0] for key in _options(loss=loss)}

    assert keys("ot+sliced") == {"features", "param", "ot", "sliced"}
    assert keys("2*ot") == keys("ot") == {"features", "param", "loss"}


def test_the_closed_form_does_without_sliced():
    assert _quick(optimizer="closed-form").record["settings"]["loss"] == "ot"
    assert parse_sum(_quick(optimizer="lbfgs").record["settings"]["loss"], "loss").keys() == {"ot", "sliced"}
    with pytest.raises(UsageError, match="quadratic bound"):
        _quick(optimizer="closed-form", loss="ot+sliced")


@pytest.mark.parametrize("loss", ["ot", "3*ot", "ot+6*sliced", "ot+0.123456789*sliced", "1e-3*ot+2000000*sliced"])
def test_a_record_repeats_every_choice(loss):
    choices = {"loss": loss, "quality": "draft", "tile": "y", "augment": ("rot90", "flip"), "seed": 3}
    result = _quick(**choices)
    settings = SynthesisSettings.from_record(json.loads(json.dumps(result.record)))
    assert (settings.quality, settings.tile, settings.augment) == ("draft", "y", ("rot90", "flip"))
    assert parse_sum(settings.loss, "loss") == parse_sum(loss, "loss")
    again = synthesize(_exemplar(), settings)
    assert torch.equal(again.image, result.image)
    assert again.record["settings"] == result.record["settings"]


# Several seeds


def test_seeds_give_the_same_images_as_single_runs():
    made = list(synthesize_each(Sources(exemplars=[_exemplar()]), SynthesisSettings(**QUICK), [4, 5, 4]))
    assert [result.record["settings"]["seed"] for result in made] == [4, 5, 4]
    for result, seed in zip(made, (4, 5, 4), strict=True):
        assert torch.equal(result.image, _quick(seed=seed).image)
    assert not torch.allclose(made[0].image, made[1].image, atol=0.05)


def test_no_seed_is_that_of_the_settings():
    settings = SynthesisSettings(**QUICK, seed=7)
    made = synthesize_each(Sources(exemplars=[_exemplar()]), settings, [None, 5, None])
    assert [result.record["settings"]["seed"] for result in made] == [7, 5, 7]
    assert [
        result.record["settings"]["seed"] for result in synthesize_each(Sources(exemplars=[_exemplar()]), settings)
    ] == [7]


def test_the_next_image_is_made_when_it_is_asked_for():
    seen = []
    made = synthesize_each(Sources(exemplars=[_exemplar()]), None, range(9), callback=seen.append, **QUICK)
    assert seen == []
    next(made)
    steps = len(seen)
    next(made)
    assert 0 < steps < len(seen) == 2 * steps


def test_after_an_interruption_there_are_no_more():
    def callback(state):
        raise KeyboardInterrupt

    made = list(synthesize_each(Sources(exemplars=[_exemplar()]), None, [1, 2], callback=callback, **QUICK))
    assert [result.interrupted for result in made] == [True]


def test_a_bad_seed():
    with pytest.raises(UsageError, match="seed of at least 0, got -1"):
        list(synthesize_each(Sources(exemplars=[_exemplar()]), None, [-1], **QUICK))
