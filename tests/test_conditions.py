"""A generator trained on shares of several exemplars, and in bfloat16."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from featot.conditions import Conditions
from featot.errors import UsageError
from featot.exemplars import Sources
from featot.models import load_model
from featot.noise import NoiseField
from featot.render import render
from featot.training import Training
from featot.training_settings import TrainingSettings

OPTIONS = {"param.scales": 3, "width": 4, "targets": 64}
RED, BLUE = (torch.tensor(color)[:, None, None] for color in ([0.8, 0.2, 0.2], [0.1, 0.3, 0.9]))


def _exemplars(count=2):
    drawn = torch.Generator().manual_seed(0)
    colors = [RED, BLUE, torch.tensor([0.2, 0.8, 0.2])[:, None, None]][:count]
    return [(color + 0.1 * torch.rand(3, 32, 32, generator=drawn)).clamp(0, 1) for color in colors]


def _training(count=2, **changes):
    settings = {"size": (32, 32), "steps": 6, "options": OPTIONS, "conditional": True, **changes}
    return Training(Sources(exemplars=_exemplars(count)), TrainingSettings(**settings))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The file of a model that has learnt two colours."""
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    training = _training(steps=250)
    training.run()
    training.save(path)
    return path


def _color(model, *shares):
    frozen = load_model(model).generator.freeze().shared(torch.tensor(shares))
    return render(frozen, NoiseField(0, (64, 64)), range(64), range(64)).mean((0, 2, 3))


def test_corners_are_the_exemplars_and_the_middle_lies_between(model):
    first, second = (exemplar.mean((1, 2)) for exemplar in _exemplars())
    for share in (0.0, 0.5, 0.8, 1.0):
        expected = (1 - share) * first + share * second
        assert (_color(model, 1 - share, share) - expected).abs().max() < 0.08, share


def test_the_file_says_of_what(model):
    with safe_open(str(model), framework="pt") as opened:
        header = json.loads(opened.metadata()["featot"])
    assert header["conditions"] == ["exemplar 1", "exemplar 2"]
    assert load_model(model).generator.conditions == 2
    assert header["record"]["settings"]["conditional"] is True


@pytest.mark.parametrize("conditions", [["one"], "rust", [1, 2]])
def test_damaged_conditions(model, tmp_path, conditions):
    with safe_open(str(model), framework="pt") as opened:
        header = json.loads(opened.metadata()["featot"])
    save_file(
        load_file(model), tmp_path / "m.safetensors", {"featot": json.dumps({**header, "conditions": conditions})}
    )
    with pytest.raises(UsageError, match="damaged at 'conditions'"):
        load_model(tmp_path / "m.safetensors")


def test_a_run_that_was_left_ends_as_an_unbroken_one_bit_for_bit(tmp_path):
    whole, broken, again = (_training(3, steps=10, loss="ot+sliced") for _ in range(3))
    whole.run()
    broken.run(stop=lambda: broken.steps == 5)
    broken.save_checkpoint(tmp_path / "c.safetensors")
    again.load_checkpoint(tmp_path / "c.safetensors")
    again.run()
    assert again.losses == whole.losses
    for training, name in ((whole, "a"), (again, "b")):
        training.save(tmp_path / f"{name}.safetensors")
    models = [load_file(tmp_path / f"{name}.safetensors") for name in "ab"]
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])


def test_shares_are_drawn_with_corners_and_between():
    conditions = _training(3)._conditions
    drawn = torch.stack([conditions.draw(torch.Generator().manual_seed(seed)) for seed in range(600)])
    torch.testing.assert_close(drawn.sum(1), torch.ones(600))
    pure = drawn.amax(1) == 1
    assert 0.43 < float(pure.float().mean()) < 0.57
    assert ((drawn[pure].mean(0) - 1 / 3).abs() < 0.07).all()
    assert ((drawn[~pure].mean(0) - 1 / 3).abs() < 0.05).all()
    assert abs(float(drawn[~pure].var(0).mean()) - 1 / 18) < 0.01, "of Dirichlet(1, 1, 1)"


def test_each_range_of_a_share_has_its_own_psi():
    """A step moves the ψ of the ranges that its shares fall into, and no other; the weights are the shares."""
    training = _training()
    problem, conditions = training._problem, training._conditions
    assert isinstance(conditions, Conditions)

    def potentials():
        return {name: value.clone() for name, value in problem.state_dict().items() if name.endswith(".psi")}

    before = potentials()
    shares = torch.tensor([0.9, 0.1])
    with conditions.weighing(problem, shares):
        chosen = problem.terms
        problem.evaluate(improve=True)
    moved = {int(name.split(".")[0]) for name, value in potentials().items() if (value != before[name]).any()}
    assert len(problem.terms) == len(conditions.terms)
    assert moved == {i for i, term in enumerate(problem.terms) if term in chosen and i % 2 == 0}  # sliced has none
    ots = [term for term in chosen if term.thorough is False and not term.slices]
    assert [round(term.weight, 4) for term in ots] == [0.9, 0.1]
    with conditions.weighing(problem, torch.tensor([1.0, 0.0])):
        assert not set(map(id, problem.terms)) & set(map(id, chosen))
        assert len(problem.terms) == len(chosen) / 2


@pytest.mark.parametrize(
    ("exemplars", "changes", "message"),
    [
        (1, {}, "at least two exemplars for a conditional training, got 1"),
        (2, {"size": 32}, r"\(height, width\) in pixels, each at least 1, got 32"),
        (2, {"precision": "float16"}, "unknown precision 'float16'"),
    ],
)
def test_settings_that_make_no_sense(exemplars, changes, message):
    with pytest.raises(UsageError, match=message):
        _training(exemplars, **changes)


def test_bfloat16_learns_nearly_the_same(tmp_path):
    """Of one texture: the activations are rounded, the weights and the file are not."""
    runs = [_training(conditional=False, precision=name, steps=30) for name in ("float32", "bfloat16", "auto")]
    for training in runs:
        training.run()
    exact, rounded, chosen = ([round(loss, 6) for loss in training.losses] for training in runs)
    assert exact == chosen, "auto is float32 on the CPU"
    assert exact != rounded
    first, second = (torch.tensor(losses) for losses in (exact, rounded))
    assert ((first - second).abs() < 0.05 * first.max()).all()
    runs[1].save(tmp_path / "m.safetensors")
    assert all(
        tensor.dtype in (torch.float32, torch.int64) for tensor in load_file(tmp_path / "m.safetensors").values()
    )
    assert all(theta.dtype == torch.float32 for theta in runs[1].generator.parameters())
