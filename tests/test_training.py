"""Training a generator: what it learns, and that it can be left and taken up again."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from featot.checkpoints import read_checkpoint
from featot.errors import FeatotError, UsageError
from featot.exemplars import Sources
from featot.interfaces import Loss
from featot.models import load_model
from featot.noise import NoiseField
from featot.render import render
from featot.sight import moved
from featot.training import Training, TrainingSettings, recorded_settings

OPTIONS = {"param.scales": 3, "width": 4, "targets": 64}


def _stripes(side=32):
    rows = torch.arange(side)[:, None]
    return 0.2 + 0.6 * ((rows + torch.arange(side)) % 8 < 4).float().expand(3, side, side)


def _training(exemplar=None, **changes):
    settings = {"size": (32, 32), "steps": 6, "options": OPTIONS, **changes}
    return Training(Sources(exemplars=[_stripes() if exemplar is None else exemplar]), TrainingSettings(**settings))


def _weights(training):
    return [theta.detach().clone() for theta in training.generator.parameters()]


def test_it_learns():
    training = _training(steps=150)
    training.run()
    first, last = training.losses[:5], training.losses[-5:]
    assert sum(last) < 0.5 * sum(first)
    assert training.fraction == 1


def test_equal_settings_give_equal_models():
    for seed, same in ((0, True), (1, False)):
        runs = [_training(seed=0), _training(seed=seed)]
        for training in runs:
            training.run()
        equal = all(torch.equal(a, b) for a, b in zip(*map(_weights, runs), strict=True))
        assert equal == same


def test_images_are_compared_wherever_they_may_lie(monkeypatch):
    """At one place only, a network would be right there and nowhere else."""
    offsets = []

    def spy(image, offset, boundary):
        offsets.append(offset)
        return moved(image, offset, boundary)

    monkeypatch.setattr("featot.terms.moved", spy)
    training = _training(steps=20)
    training.run()
    assert len({(top % 8, left % 8) for top, left in offsets}) > 10
    assert all(term.everywhere for term in training._problem.terms)


def test_half_of_a_synthesis_targets_are_enough():
    own = {"param.scales": 3, "width": 4}
    for given, expected in (({}, 2048), ({"targets": 64}, 64)):
        assert _training(options={**own, **given}).config()["settings"]["options"]["ot.targets"] == expected


def test_the_last_quarter_learns_with_the_statistics_of_samples(tmp_path):
    """What a model makes is then what was compared, not what the statistics of each image of its own would make."""
    training, steady = _training(steps=8), []
    training.run(lambda _: steady.append(training.generator.steady))
    assert steady == [False] * 6 + [True] * 2
    learnt = {name: value.clone() for name, value in training.generator.net.named_buffers()}
    training.save(tmp_path / "m.safetensors")
    saved = load_file(tmp_path / "m.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in learnt.items())


def test_a_generator_that_cannot_follow_is_calibrated_at_the_end(tmp_path):
    training, calibrated = _training(steps=8), []
    training._follows = False
    calibrate = training.generator.calibrate
    training.generator.calibrate = lambda *given: calibrated.append(training.steps) or calibrate(*given)
    training.run()
    assert not training.generator.steady
    training.save(tmp_path / "m.safetensors")
    assert calibrated == [8]


@pytest.mark.parametrize(("features", "stop"), [("pyramid", 3), ("pyramid", 7), ("pyramid+0.5*random_conv", 3)])
def test_a_run_that_was_left_ends_as_an_unbroken_one_bit_for_bit(tmp_path, features, stop):
    options = {**OPTIONS, "random_conv.filters": 4} if "+" in features else OPTIONS
    whole, broken = (_training(features=features, options=options, steps=8) for _ in range(2))
    whole.run()
    broken.run(stop=lambda: broken.steps == stop)
    assert broken.steps == stop
    assert broken.generator.steady == (stop == 7)
    broken.save_checkpoint(tmp_path / "c.safetensors")
    again = _training(features=features, options=options, steps=8)
    again.load_checkpoint(tmp_path / "c.safetensors")
    again.run()
    assert again.losses == whole.losses
    assert all(torch.equal(a, b) for a, b in zip(_weights(again), _weights(whole), strict=True))
    for training, name in ((whole, "a"), (again, "b")):
        training.save(tmp_path / f"{name}.safetensors")
    models = [load_file(tmp_path / f"{name}.safetensors") for name in "ab"]
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])


def test_the_checkpoint_holds_psi(tmp_path):
    training = _training()
    training.run(stop=lambda: training.steps == 2)
    training.save_checkpoint(tmp_path / "c.safetensors")
    _, parts = read_checkpoint(tmp_path / "c.safetensors")
    psi = [tensor for name, tensor in parts["losses"].items() if name.endswith("psi")]
    assert psi
    assert all(tensor.abs().max() > 0 for tensor in psi)


def test_settings_come_back_from_the_checkpoint(tmp_path):
    training = _training(augment=("flip",), rate=0.01, minutes=3.0)
    training.save_checkpoint(tmp_path / "c.safetensors")
    header, _ = read_checkpoint(tmp_path / "c.safetensors")
    assert recorded_settings(header) == training.settings


def test_the_model_is_the_mean_of_the_weights(tmp_path):
    training = _training(average=0.9)
    training.run()
    training.save(tmp_path / "m.safetensors")
    saved = load_file(tmp_path / "m.safetensors")
    names = [name for name, _ in training.generator._made().named_parameters()]
    means = dict(zip(names, training._mean, strict=True))
    assert all(torch.equal(saved[name], mean) for name, mean in means.items())
    assert not all(torch.equal(mean, theta) for mean, theta in zip(training._mean, _weights(training), strict=True))


def test_a_saved_model_makes_images(tmp_path):
    training = _training(steps=150)
    training.run()
    training.save(tmp_path / "m.safetensors")
    model = load_model(tmp_path / "m.safetensors")
    record = model.header["record"]
    assert (record["task"], record["steps"], record["finished"]) == ("train", 150, True)
    assert model.header["exemplar"] == record["exemplar"]["sha256"]
    json.dumps(record)
    frozen = model.generator.freeze()
    images = [render(frozen, NoiseField(seed), range(40), range(56)) for seed in (0, 1)]
    assert abs(float(images[0].mean()) - float(_stripes().mean())) < 0.1
    assert (images[0] - images[1]).abs().mean() > 0.05, "two seeds must not give one image"


def test_grey_kept_as_colour_is_learnt_as_the_one_channel_that_it_is(tmp_path):
    """The same as of one channel, bit for bit; but images, before and after, have as many as the exemplar."""
    trainings = [_training(_stripes()[:channels]) for channels in (1, 3)]
    images = []
    for training in trainings:
        training.run()
        training.save(tmp_path / "m.safetensors")
        frozen = load_model(tmp_path / "m.safetensors").freeze()
        images.append(render(frozen, NoiseField(0), range(40), range(56)))
        assert training.image().shape[1] == training.exemplar.shape[1] == frozen.channels == images[-1].shape[1]
    assert [image.shape[1] for image in images] == [1, 3]
    assert all(torch.equal(images[0][:, 0], images[1][:, channel]) for channel in range(3))


@pytest.mark.parametrize("channels", [1, 3])
def test_of_a_grey_exemplar_lines_count_more_at_the_finest_levels(channels):
    """Without, a model of gravel had 0.73 of the fine detail, and ten times the Gram distance."""
    terms = _training(torch.rand(channels, 32, 32))._problem.terms
    assert [term.detailed for term in terms] == [channels == 1] * len(terms)


def test_diversity_tells_a_generator_from_a_memory():
    """Noise without effect makes one image; noise of full effect two that know nothing of one another."""
    training = _training()
    assert training.diversity() > 0.7
    with torch.no_grad():
        for mean in training._mean:
            mean.zero_()  # the same constant image for every seed
    assert training.diversity() == 0
    assert training.record()["diversity"] == 0


def test_looking_at_it_changes_nothing():
    quiet, watched = _training(), _training()
    quiet.run()
    seen = []
    watched.run(lambda state: seen.append((state.step, state.loss, state.image())))
    assert watched.losses == quiet.losses == [loss for _, loss, _ in seen]
    assert [step for step, _, _ in seen] == list(range(1, 7))
    assert seen[0][2].shape == (1, 3, 32, 32)
    assert 0 <= float(seen[0][2].min()) <= float(seen[0][2].max()) <= 1


def test_time_is_a_budget():
    training = _training(steps=10**6, minutes=0.005)
    training.run()
    assert 0.3 <= training.seconds < 5
    assert training.steps < 10**6
    assert training.fraction == 1


def test_minutes_alone_are_the_whole_budget(monkeypatch):
    monkeypatch.setattr("featot.training._STEPS", 2)
    assert _training(steps=None).num_steps == 2
    training = _training(steps=None, minutes=0.005)
    seen = []
    training.run(lambda state: seen.append(state.num_steps))
    assert training.seconds >= 0.3
    assert training.steps > 2
    assert set(seen) == {None}


@pytest.mark.parametrize("param", ["texnet", "texnet_lite"])
@pytest.mark.parametrize("loss", ["gram", "sliced", "moments", "ot"])
def test_any_loss(param, loss):
    training = _training(param=param, loss=loss, options={"param.scales": 3})
    training.run(stop=lambda: training.steps == 2)
    assert len(training.losses) == 2


def test_several_exemplars_with_turns():
    exemplars = [_stripes(), 1 - _stripes(40)]
    training = Training(
        Sources(exemplars=exemplars),
        TrainingSettings(size=(32, 32), steps=1, options=OPTIONS, augment=("rot90", "flip")),
    )
    training.run()
    assert training.steps == 1


@pytest.mark.parametrize(("side", "size"), [(31, 32), (100, 192), (300, 512)])
def test_the_size_it_learns_at(side, size):
    """Twice the exemplar's: what is large needs room to vary. Without coarse images to start with, not more."""
    assert _training(torch.rand(3, side, side), size=None).size == (size, size)
    plain = _training(torch.rand(3, side, side), size=None, param="texnet", options={"param.scales": 3})
    assert plain.size == (min(256, max(32, side // 32 * 32)),) * 2


def _coarse_to_fine(**changes):
    options = {**OPTIONS, "param.scales": 4}
    return _training(_stripes(64), size=(128, 128), options=options, steps=24, **changes)


def test_it_learns_from_coarse_to_fine():
    training = _coarse_to_fine()
    before = _weights(training)
    seen = []
    training.run(lambda state: seen.append((state.scale, state.image().shape[-1], state.fraction)))
    scales = [scale for scale, _, _ in seen]
    assert scales == sorted(scales, reverse=True)
    assert set(scales) == {2, 1, 0}
    assert all(side == 128 >> scale for scale, side, _ in seen if scale)
    finest = [side for scale, side, _ in seen if scale == 0]
    assert finest == sorted(finest)
    assert set(finest) == {64, 128}, "the last of them are whole"
    assert [fraction for _, _, fraction in seen] == sorted(fraction for _, _, fraction in seen)
    moved = [not torch.equal(a, b) for a, b in zip(before, _weights(training), strict=True)]
    assert all(moved), "what makes the colours of coarse images learns too"


def test_coarse_images_move_nothing_that_is_finer():
    training = _coarse_to_fine()
    net = training.generator._made()
    finer = {"colors.weight", "narrow.weight", "strengths.0.weight", "blocks.0.units.0.conv.weight"}
    before = {name: theta.detach().clone() for name, theta in net.named_parameters()}
    training.run(stop=lambda: training.steps == 3)
    moved = {name for name, theta in net.named_parameters() if not torch.equal(theta, before[name])}
    assert training.generator.scale == 2
    assert finer.isdisjoint(moved)
    assert {"heads.1.weight", "blocks.2.units.3.conv.weight"} <= moved


def test_what_coarse_images_have_taught_moves_slowly_at_first():
    """Else it is lost while what is new, and random, learns to do with it."""
    training, seen = _coarse_to_fine(), []
    training.run(lambda _: seen.append(_weights(training)), stop=lambda: training.generator.scale == 1)
    before, after = seen[-2:]
    changes = [float((b - a).abs().max()) for a, b in zip(before, after, strict=True)]
    settled = training._update.settled
    known = [change for i, change in enumerate(changes) if i in settled]
    new = [change for i, change in enumerate(changes) if i not in settled]
    assert max(known) < 0.5 * max(new)
    training.run(stop=lambda: training.generator.scale == 0)
    assert set(settled) < set(training._update.settled)


@pytest.mark.parametrize("features", ["pyramid", "pyramid+0.5*patches"])
@pytest.mark.parametrize(("steps", "scale"), [(2, 2), (7, 1), (18, 0), (23, 0)])
def test_a_run_may_be_left_at_any_scale(tmp_path, features, steps, scale):
    whole, broken, again = (_coarse_to_fine(features=features) for _ in range(3))
    whole.run()
    broken.run(stop=lambda: broken.steps == steps)
    assert broken.generator.scale == scale
    broken.save_checkpoint(tmp_path / "c.safetensors")
    again.load_checkpoint(tmp_path / "c.safetensors")
    again.run()
    assert again.losses == whole.losses
    assert all(torch.equal(a, b) for a, b in zip(_weights(again), _weights(whole), strict=True))


def test_what_is_saved_early_is_of_full_size(tmp_path):
    training = _coarse_to_fine()
    training.run(stop=lambda: training.steps == 2)
    training.save(tmp_path / "m.safetensors")
    assert training.generator.scale == 2, "it can go on"
    model = load_model(tmp_path / "m.safetensors")
    assert model.generator.scale == 0
    assert render(model.freeze(), NoiseField(0), range(40), range(56)).shape == (1, 3, 40, 56)


def test_a_conditional_training_stays_at_the_full_size():
    settings = TrainingSettings(size=(128, 128), steps=1, options=OPTIONS, conditional=True)
    training = Training(Sources(exemplars=[_stripes(64), 1 - _stripes(64)]), settings)
    assert training.generator.scale == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps of at least 1, got 0"),
        ({"minutes": 0.0}, "minutes above 0"),
        ({"rate": -1.0}, "rate above 0"),
        ({"average": 1.0}, "average of at least 0 and below 1"),
        ({"param": "image", "options": {}}, "'image' cannot be trained; expected one such as 'texnet'"),
        ({"param": "texnte"}, "unknown param plugin 'texnte'; did you mean 'texnet'"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(UsageError, match=message):
        _training(**changes)


def test_files_that_are_no_checkpoint(tmp_path):
    training = _training()
    good = tmp_path / "good.safetensors"
    training.save_checkpoint(good)
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:-100])
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    header = {"format": 99, "settings": {}}
    save_file({"x": torch.zeros(1)}, tmp_path / "newer.safetensors", {"featot_training": json.dumps(header)})
    messages = {
        "missing": "there is no file",
        "cut": "truncated, damaged or no checkpoint",
        "other": "no checkpoint of featot train",
        "newer": "of a newer featot",
    }
    for name, message in messages.items():
        with pytest.raises(UsageError, match=message):
            training.load_checkpoint(tmp_path / f"{name}.safetensors")
    with pytest.raises(UsageError, match="does not fit"):
        _training(options={**OPTIONS, "width": 6}).load_checkpoint(good)


def test_a_loss_that_is_no_number_ends_it():
    training = _training(rate=1e30)
    with pytest.raises(FeatotError, match=r"the loss became (nan|inf) at step \d; try a smaller rate"):
        training.run()


def test_a_loss_without_state_takes_none():
    class Plain(Loss):
        def __call__(self, points, *, improve=True):
            raise NotImplementedError

    loss = Plain(None, None, None)
    loss.load_state_dict(loss.state_dict())
    with pytest.raises(KeyError, match="Plain has no state 'psi'"):
        loss.load_state_dict({"psi": torch.zeros(1)})


@pytest.mark.parametrize(("channels", "sizes"), [(1, (7, 6, 5)), (3, 4)])
def test_patches_are_larger_than_those_of_a_synthesis(channels, sizes):
    training = _training(torch.rand(channels, 40, 40))
    assert training.recipe.options["features"].size == sizes
