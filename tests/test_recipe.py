"""Several features at once: how they are named, balanced and recorded."""

import json

import pytest
import torch

from featot.errors import UsageError
from featot.interfaces import FeatureExtractor, Loss, LossValue, Parametrization
from featot.match import match
from featot.plugins import load_registry
from featot.problem import Problem, Stage
from featot.recipe import Recipe, format_sum, parse_losses, parse_sum
from featot.runs import SynthesisSettings
from featot.tasks import synthesize
from featot.terms import Term


def _exemplar():
    return torch.rand(3, 32, 40, generator=torch.Generator().manual_seed(0))


def _quick(**changes):
    return synthesize(_exemplar(), **{"steps": 2, "levels": 2, "options": {"filters": 4}, **changes})


@pytest.mark.parametrize(
    ("text", "weights"),
    [("vgg", {"vgg": 1}), ("pyramid+vgg:0.1", {"pyramid": 1, "vgg": 0.1}), ("2*a+b:1e-3", {"a": 2, "b": 0.001})],
)
def test_sums(text, weights):
    assert parse_sum(text, "features") == weights
    assert parse_sum(format_sum(weights), "features") == weights


@pytest.mark.parametrize("text", ["", "a+a", "a:", ":1", "a:0", "a:-1", "a:x", "2*a:3", "a++b"])
def test_features_that_make_no_sense(text):
    with pytest.raises(UsageError, match=r"bad features .* such as pyramid\+0\.1\*vgg"):
        parse_sum(text, "features")


@pytest.mark.parametrize(
    ("text", "a", "b"),
    [
        ("gram", {"gram": 1}, {"gram": 1}),
        ("b=gram", {"ot": 1}, {"gram": 1}),
        ("b=gram,moments", {"moments": 1}, {"gram": 1}),
        ("a=2*ot+sliced, b = gram", {"ot": 2, "sliced": 1}, {"gram": 1}),
    ],
)
def test_a_loss_for_each(text, a, b):
    assert parse_losses(text, {"a": 1, "b": 1}, "ot") == {"a": a, "b": b}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("c=gram", "unknown features in --loss 'c' .*choose from: a, b"),
        ("a=ot,a=gram", "two of them are for a"),
        ("ot,gram", "two of them are for all features"),
        ("a=", "bad loss ''"),
    ],
)
def test_losses_that_make_no_sense(text, message):
    with pytest.raises(UsageError, match=message):
        parse_losses(text, {"a": 1, "b": 1}, "ot")


def test_a_record_of_several_features_repeats_the_run():
    result = _quick(features="pyramid+random_conv:0.5", loss="random_conv=gram")
    written = json.loads(json.dumps(result.record))["settings"]
    assert written["features"] == "pyramid+0.5*random_conv"
    assert written["loss"] == "pyramid=ot+sliced,random_conv=gram"
    assert written["options"]["random_conv.filters"] == 4
    assert written["options"]["pyramid.size"] is None
    again = synthesize(_exemplar(), SynthesisSettings.from_record({"settings": written}))
    assert torch.equal(again.image, result.image)


def test_options_of_several_features_need_a_name_where_both_have_them():
    with pytest.raises(UsageError, match=r"option 'size' is ambiguous: say pyramid\.size or random_conv\.size"):
        _quick(features="pyramid+random_conv", options={"size": 3})


def test_an_extractor_is_shared_by_its_losses():
    recipe = Recipe.choose(
        load_registry(),
        features="pyramid+2*random_conv",
        param="image",
        loss="ot+3*sliced",
        default_loss="ot",
        options={},
        presets={},
        objects={},
    )
    terms = recipe.terms([torch.zeros(1, 3, 8, 8)], weight=10)
    assert [(term.weight, term.group, term.share) for term in terms] == [
        (10, 0, 1),
        (30, 0, 1),
        (10, 1, 2),
        (30, 1, 2),
    ]
    assert terms[0].extractor is terms[1].extractor is not terms[2].extractor is terms[3].extractor


class Pixels(FeatureExtractor):
    """Each pixel a point; counts how often it is asked."""

    calls = 0

    def extract(self, image, *, scale=0, boundary="valid", max_points=None):
        self.calls += 1
        return {"pixels": self.options * image.flatten(2).transpose(1, 2).flatten(0, 1)}


class Norms(Pixels):
    unitless = True


class Mean(Loss):
    def __call__(self, points, *, improve=True):
        return LossValue((points - self.target.points.mean(0)).square().sum(1).mean())


class Grey(Parametrization):
    def __init__(self):
        super().__init__()
        self.level = torch.tensor([0.125], requires_grad=True)

    def initialize(self, exemplar, size, generator):
        pass

    def parameters(self):
        return [self.level]

    def __call__(self, size, generator):
        return self.level.expand(1, 1, *size)


def _mean(target, generator):
    return Mean(None, target, generator)


def _problem(terms, param=None):
    problem = Problem(param or Grey(), terms, None, torch.Generator().manual_seed(0))
    problem.enter(Stage(scale=0, size=(4, 4), num_steps=1, rate=0.1))
    return problem


def _term(value, extractor=None, **changes):
    return Term(
        exemplars=[torch.full((1, 1, 4, 4), value)], extractor=extractor or Pixels(1.0), loss=_mean, **changes
    )


def test_groups_pull_alike_whatever_their_units():
    """Of two opposed groups, the second a thousand times larger: they pull as their shares say."""
    for share in (1.0, 3.0):
        terms = [_term(0.0), _term(0.2, Pixels(1000.0), group=1, share=share)]
        problem = _problem(terms)
        loss, _ = problem.evaluate(improve=False)
        (gradient,) = torch.autograd.grad(loss, problem.param.parameters())
        assert float(gradient) == pytest.approx(2 * 0.125 * (1 - share), abs=1e-6)


def test_terms_of_one_group_are_added_up_by_their_weights():
    loss, _ = _problem([_term(0.0, weight=2), _term(0.3, weight=5)]).evaluate(improve=False)
    assert float(loss.detach()) == pytest.approx(2 * 0.125**2 + 5 * 0.175**2)


def test_a_group_that_does_not_pull_is_left_as_it_is():
    loss, _ = _problem([_term(0.125), _term(0.375, group=1, share=2)]).evaluate(improve=False)
    assert float(loss.detach()) == pytest.approx(2 * 0.25**2)
    loss, _ = _problem([_term(0.375), _term(0.125, group=1, share=2)]).evaluate(improve=False)
    assert float(loss.detach()) == pytest.approx(0.25**2)


def test_features_of_two_losses_are_extracted_once():
    extractor = Pixels(1.0)
    problem = _problem([_term(0.0, extractor), _term(0.3, extractor)])
    before = extractor.calls
    problem.evaluate(improve=False)
    assert extractor.calls == before + 1


def test_levels_without_a_unit_are_measured_by_their_exemplar():
    values = [float(_problem([_term(0.4, Norms(k))]).evaluate(improve=False)[0].detach()) for k in (1.0, 100.0)]
    assert values == pytest.approx([(0.275 / 0.4) ** 2] * 2)
    black = _problem([_term(0.0, Norms(1.0))]).evaluate(improve=False)[0]
    assert float(black.detach()) == pytest.approx(0.125**2)


def test_a_mixture_ends_between():
    stages = [Stage(scale=0, size=(4, 4), num_steps=300, rate=0.003)]
    terms = [_term(0.2), _term(0.8, Pixels(50.0), group=1)]
    end = match(Grey(), terms, stages, generator=torch.Generator()).image.mean()
    assert 0.25 < float(end) < 0.75
