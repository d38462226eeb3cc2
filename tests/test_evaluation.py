"""`featot.evaluate`: which metrics run, on what, and what is kept of it."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import featot
from featot.errors import FeatotError, UsageError
from featot.interfaces import Metric, Score
from featot.options import NoOptions, option
from featot.plugins import Plugin, Registered, Registry


@dataclass(frozen=True)
class Scale:
    scale: float = option(1.0, "of the score")


class Difference(Metric):
    """Of the means; lower is better."""

    def __call__(self, image, exemplar):
        return self.score(image, exemplar).value

    def score(self, image, exemplar):
        value = float((image.mean() - exemplar.mean()).abs())
        return Score(self.options.scale * value, {"channels": image.shape[1]})


class Brightness(Metric):
    lower_is_better = False

    def __call__(self, image, exemplar):
        return float(image.mean())


class Ratio(Metric):
    ideal = 1.0

    def __call__(self, image, exemplar):
        return float(image.mean() / exemplar.mean())


class Weightless(Metric):
    def __call__(self, image, exemplar):
        raise FeatotError("no weights here")


class Bad(Metric):
    def __call__(self, image, exemplar):
        return float("nan")


def _registry(*plugins):
    registry = Registry()
    for name, target, options in plugins:
        plugin = Plugin(name, target, "a toy", options)
        registry.plugins["metric"][name] = Registered("metric", plugin, "toys", "1")
    return registry


TOYS = _registry(("difference", Difference, Scale), ("bright", Brightness, NoOptions), ("ratio", Ratio, NoOptions))


def _flat(value, channels=3):
    return torch.full((1, channels, 4, 4), value)


def test_every_image_by_every_metric_and_the_exemplar_itself():
    found = featot.evaluate([_flat(0.25), _flat(0.75)], _flat(0.5), registry=TOYS)
    assert [row.name for row in found.images] == ["image 1", "image 2"]
    values = [{name: score.value for name, score in row.scores.items()} for row in (*found.images, found.exemplar)]
    assert values == [
        {"bright": 0.25, "difference": 0.25, "ratio": 0.5},
        {"bright": 0.75, "difference": 0.25, "ratio": 1.5},
        {"bright": 0.5, "difference": 0, "ratio": 1},
    ]
    assert found.skipped == {}


def test_the_best_is_by_the_direction_of_the_metric():
    found = featot.evaluate([_flat(0.25), _flat(0.625), _flat(1.0)], _flat(0.5), registry=TOYS)
    assert {name: found.best(name) for name in found.metrics} == {"bright": 1, "difference": 0.125, "ratio": 1.25}


def test_metrics_are_chosen_and_take_options():
    found = featot.evaluate([_flat(0.0)], _flat(0.5), metrics=["difference"], options={"scale": "4"}, registry=TOYS)
    assert list(found.metrics) == ["difference"]
    assert found.images[0].scores["difference"] == Score(2.0, {"channels": 3})
    with pytest.raises(UsageError, match="unknown metric plugin 'brigth'; did you mean 'bright'"):
        featot.evaluate([_flat(0.0)], _flat(0.5), metrics=["brigth"], registry=TOYS)
    with pytest.raises(
        UsageError, match=r"unknown plugin in option 'diference'; .* \(choose from: bright, difference,"
    ):
        featot.evaluate([_flat(0.0)], _flat(0.5), options={"diference.scale": 2}, registry=TOYS)


def test_a_metric_that_cannot_run_is_skipped_unless_it_was_asked_for():
    registry = _registry(("bright", Brightness, NoOptions), ("heavy", Weightless, Scale))
    images = [_flat(0.25)]
    found = featot.evaluate(images, _flat(0.5), registry=registry)
    assert found.skipped == {"heavy": "no weights here"}
    assert list(found.metrics) == list(found.images[0].scores) == ["bright"]
    for asked in ({"metrics": ["bright", "heavy"]}, {"options": {"heavy.scale": 2}}):
        with pytest.raises(FeatotError, match="no weights here"):
            featot.evaluate(images, _flat(0.5), **asked, registry=registry)
    with pytest.raises(FeatotError, match="'bad' gave nan for image 1"):
        featot.evaluate(images, _flat(0.5), metrics=["bad"], registry=_registry(("bad", Bad, NoOptions)))


def test_grey_among_colour_counts_as_colour():
    for image, exemplar in ((1, 3), (3, 1), (3, 3)):
        found = featot.evaluate([_flat(0.0, image)], _flat(0.0, exemplar), metrics=["difference"], registry=TOYS)
        assert found.images[0].scores["difference"].details == {"channels": 3}
    found = featot.evaluate([_flat(0.0, 1)], _flat(0.0, 1), metrics=["difference"], registry=TOYS)
    assert found.images[0].scores["difference"].details == {"channels": 1}


def test_files_and_arrays(tmp_path):
    featot.write_image(_flat(1.0), tmp_path / "white.png")
    found = featot.evaluate([tmp_path / "white.png", np.ones((3, 5, 5))], tmp_path / "white.png", registry=TOYS)
    assert [row.name for row in (*found.images, found.exemplar)] == [
        str(tmp_path / "white.png"), "image 2", str(tmp_path / "white.png")
    ]  # fmt: skip
    assert {row.scores["bright"].value for row in found.images} == {1}
    with pytest.raises(UsageError, match=r"there is no file 'whit.png'"):
        featot.evaluate([tmp_path / "whit.png"], _flat(0.5), registry=TOYS)
    with pytest.raises(UsageError, match="at least one image and one metric, got 0 and 3"):
        featot.evaluate([], _flat(0.5), registry=TOYS)


def test_json_and_csv_hold_everything():
    found = featot.evaluate([_flat(0.25)], _flat(0.5), options={"scale": 2}, registry=TOYS)
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["images"][0]["scores"]["difference"] == {"value": 0.5, "channels": 3}
    assert told["exemplar"]["scores"]["bright"] == {"value": 0.5}
    assert told["metrics"] == {
        "bright": {"better": "higher", "ideal": None, "options": {}},
        "difference": {"better": "lower", "ideal": None, "options": {"scale": 2.0}},
        "ratio": {"better": "1", "ideal": 1.0, "options": {}},
    }
    assert found.to_csv() == "image,bright,difference,ratio\nimage 1,0.25,0.5,0.5\nexemplar,0.5,0.0,1.0\n"


def test_progress_is_told_before_each_score():
    told = []
    featot.evaluate([_flat(0.25)], _flat(0.5), callback=lambda *now: told.append(now), registry=TOYS)
    assert told[0] == (0, 6, "bright of image 1")
    assert [done for done, *_ in told] == list(range(6))
    assert told[-1] == (5, 6, "ratio of exemplar")
