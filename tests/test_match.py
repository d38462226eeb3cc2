"""The one loop: every optimizer, what it does at each stage, and how it can end."""

from __future__ import annotations

import functools
import itertools

import jaxtyping
import pytest
import torch

from featot.errors import FeatotError, UsageError
from featot.interfaces import FeatureExtractor, Loss, LossValue, Parametrization
from featot.match import match
from featot.ot import c_transform
from featot.problem import Stage
from featot.resample import enlarge
from featot.schedule import coarse_to_fine, find_quality
from featot.terms import Term
from featot.updates import Adam
from featot_plugins.image import Image
from featot_plugins.options import ImageOptions, OTLossOptions, PatchesOptions, PyramidOptions
from featot_plugins.ot import OTLoss
from featot_plugins.patches import Patches
from featot_plugins.pyramid import Pyramid


def _exemplar(channels=1, side=32, period=8):
    """Blurred slanted stripes: correlated, and far from noise."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    phase = 2 * torch.pi * (x + y) / period
    return torch.stack([0.5 + 0.4 * (phase + c).sin() for c in range(channels)])[None]


class Given(Parametrization):
    """Pixels that start as given, of any batch size; cannot be resized."""

    boundary = "periodic"
    linear = True

    def __init__(self, start):
        super().__init__()
        self.start, self.pixels = start, start

    def initialize(self, exemplar, size, generator):
        self.pixels = self.start.clone().requires_grad_()

    def parameters(self):
        return [self.pixels]

    def __call__(self, size, generator):
        return self.pixels


class GivenInside(Given):
    boundary = "valid"


class OneColor(Parametrization):
    """One value per channel: neither resizable nor an average of pixels."""

    boundary = "valid"

    def initialize(self, exemplar, size, generator):
        self.color = torch.rand(exemplar.shape[1], generator=generator).requires_grad_()

    def parameters(self):
        return [self.color]

    def __call__(self, size, generator):
        return self.color[None, :, None, None].expand(1, -1, *size)


class Squares(FeatureExtractor):
    """Pixels squared: not linear."""

    def extract(self, image, *, scale=0, boundary="valid", max_points=None):
        return {"squares": image.square().movedim(1, -1).flatten(0, 2)}


class Watched(FeatureExtractor):
    """Pixels as points; keeps what it was asked."""

    linear = True

    def __init__(self):
        super().__init__()
        self.calls = []

    def extract(self, image, *, scale=0, boundary="valid", max_points=None):
        self.calls.append((image.detach().clone(), scale, boundary, max_points))
        return {"1/1": image.movedim(1, -1).flatten(0, 2)}


class Pull(Loss):
    """``Σ w_i ‖x_i − t_i‖²`` with random, fixed w and t: its curvature is w, exactly."""

    def __call__(self, points, *, improve=True):
        generator = torch.Generator().manual_seed(5)
        weights = torch.rand(len(points), generator=generator) + 0.01
        targets = torch.rand(points.shape, generator=generator)
        return LossValue(weights @ (points - targets).square().sum(1), weights)


class Improves(Loss):
    """Keeps of each call ``improve``, the number of points and the value."""

    def __init__(self, options, target, generator):
        super().__init__(options, target, generator)
        self.improved, self.counts, self.values = [], [], []

    def __call__(self, points, *, improve=True):
        value = (points - self.target.points.mean(0)).square().sum(1).mean().sqrt()
        self.improved.append(improve)
        self.counts.append(len(points))
        self.values.append(float(value.detach()))
        return LossValue(value)


class NaNAfter(Loss):
    """Becomes NaN at its call number ``options``."""

    def __call__(self, points, *, improve=True):
        self.options -= 1
        return LossValue(points.square().mean() * (torch.nan if self.options < 0 else 1))


def _ot(**options):
    return functools.partial(OTLoss, OTLossOptions(**options))


def _term(exemplar=None, extractor=None, loss=None, weight=1.0):
    return Term(
        exemplars=[_exemplar() if exemplar is None else exemplar],
        extractor=extractor or Patches(PatchesOptions(size=4)),
        loss=loss or _ot(),
        weight=weight,
    )


def _stage(size=(16, 16), num_steps=4, rate=0.02, scale=0, **changes):
    return Stage(scale=scale, size=size, num_steps=num_steps, rate=rate, **changes)


def _run(param=None, terms=None, stages=None, *, seed=0, **arguments):
    return match(
        param or Image(ImageOptions()),
        terms or [_term()],
        stages or [_stage()],
        generator=torch.Generator().manual_seed(seed),
        **arguments,
    )


def _grown(image, size):
    """As `Image.resize` carries it to the next stage."""
    return enlarge(image, size, "periodic").roll((1, 1), dims=(2, 3))


def _recording(factory):
    """``factory``, and the list of all that it makes."""
    made = []

    def make(target, generator):
        made.append(factory(target, generator))
        return made[-1]

    return make, made


@pytest.fixture
def untyped(monkeypatch):
    """Lets a wrong argument reach the engine's own check, past the types that tests check."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


# Optimizers


@pytest.mark.parametrize(
    ("optimizer", "steps", "rate"), [("adam", 60, 0.03), ("lbfgs", 8, 1.0), ("closed-form", 10, 1.0)]
)
@pytest.mark.parametrize("exponent", [1.0, 2.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_loss_decreases(optimizer, steps, rate, exponent, channels):
    term = _term(_exemplar(channels), Pyramid(PyramidOptions(size=4, scales=2)), _ot(exponent=exponent))
    result = _run(terms=[term], stages=[_stage(num_steps=steps, rate=rate)], optimizer=optimizer)
    assert [record.step for record in result.history] == list(range(steps))
    assert result.history[-1].loss < 0.6 * result.history[0].loss
    assert result.image.shape == (1, channels, 16, 16)
    assert not result.image.requires_grad
    assert 0 <= result.image.min() < result.image.max() <= 1
    assert result.interrupted is False


def _paper_v(theta, y, psi, size):
    """Alg. 1, line 7: each pixel averages what the exemplar patches assigned to the patches over it say of it."""
    _, channels, h, w = theta.shape
    v, corners = torch.zeros_like(theta), [(i, j) for i in range(h) for j in range(w)]
    offsets = [(i, j) for i in range(size) for j in range(size)]
    for top, left in corners:
        at = [((top + i) % h, (left + j) % w) for i, j in offsets]
        patch = torch.stack([theta[0, c, i, j] for i, j in at for c in range(channels)])
        assigned = y[((patch - y).square().sum(1) - psi).argmin()].view(len(offsets), channels)
        for (i, j), color in zip(at, assigned, strict=True):
            v[0, :, i, j] += color / len(offsets)
    return v


@pytest.mark.parametrize(("rate", "channels"), [(1.0, 1), (0.3, 3)])
def test_closed_form_is_the_papers_update(rate, channels):
    """θ ← (1 − λ) θ + λ v, with ψ = 0 at first and then as the ascent has left it."""
    start = torch.rand(1, channels, 9, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exemplar = _exemplar(channels, side=12).double()
    factory, made = _recording(_ot(exponent=2, psi_steps=1, psi_rate=0.5))
    states = [(start, torch.zeros(100, dtype=torch.float64))]
    param = Given(start)

    def callback(state):
        states.append((state.image().clone(), made[0].psi.clone()))

    term = _term(exemplar, Patches(PatchesOptions(size=3)), factory)
    _run(param, [term], [_stage((9, 8), 3, rate, cut=1)], optimizer="closed-form", callback=callback)
    y = made[0].target.points
    assert len(y) == 100
    assert states[1][1].abs().max() > 0
    for (theta, psi), (after, _) in itertools.pairwise(states):
        expected = (1 - rate) * theta + rate * _paper_v(theta, y, psi, 3)
        torch.testing.assert_close(after, expected)


@pytest.mark.parametrize("rate", [0.3, 1.0])
@pytest.mark.parametrize("loss", [Pull, OTLoss])
@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_closed_form_never_raises_the_loss(rate, loss, exponent):
    """With ψ at rest and the torus as such, over several scales; a new assignment only lowers the loss further."""
    factory = functools.partial(loss, OTLossOptions(exponent=exponent, psi_steps=0))
    term = _term(_exemplar(3), Pyramid(PyramidOptions(size=3, scales=3)), factory)
    stage = _stage((18, 21), 12, rate, cut=1)
    losses = [record.loss for record in _run(terms=[term], stages=[stage], optimizer="closed-form").history]
    assert all(after <= before * (1 + 1e-5) for before, after in itertools.pairwise(losses))
    assert losses[-1] < 0.95 * losses[0]


def test_closed_form_does_not_depend_on_the_scale_of_the_weights():
    stages = [_stage(num_steps=2, rate=1.0)]
    images = [_run(None, [_term(weight=w)], stages, optimizer="closed-form").image for w in (1.0, 8.0)]
    torch.testing.assert_close(*images, rtol=0, atol=1e-5)


def test_closed_form_needs_linear_features_and_parametrization():
    for arguments in ({"terms": [_term(extractor=Squares())]}, {"param": OneColor()}):
        with pytest.raises(UsageError, match=r"closed-form.*linear"):
            _run(**arguments, optimizer="closed-form")


def test_closed_form_needs_a_curvature():
    loss = functools.partial(Improves, None)
    with pytest.raises(UsageError, match="quadratic bound"):
        _run(terms=[_term(loss=loss)], optimizer="closed-form")


@pytest.mark.parametrize(("optimizer", "several"), [("adam", False), ("lbfgs", True)])
def test_psi_improves_once_a_step(optimizer, several):
    factory, made = _recording(functools.partial(Improves, None))
    _run(terms=[_term(loss=factory)], stages=[_stage(num_steps=3)], optimizer=optimizer)
    assert made[0].improved.count(True) == 3
    assert made[0].improved[0] is True
    assert (False in made[0].improved) == several


@pytest.mark.usefixtures("untyped")
def test_unknown_optimizer():
    with pytest.raises(UsageError, match=r"unknown optimizer 'adm'; did you mean 'adam'\?.*closed-form"):
        _run(optimizer="adm")


def test_adam_is_torchs():
    """With its state kept and taken up on the way; a parameter without a gradient stays."""
    generator = torch.Generator().manual_seed(0)
    start = [
        torch.rand(3, 4, generator=generator),
        torch.rand(5, generator=generator),
        torch.rand(2, generator=generator),
    ]
    ours, theirs = ([theta.clone().requires_grad_() for theta in start] for _ in range(2))

    def loss(parameters):
        return (parameters[0] ** 3).sum() + parameters[1].sin().sum() * parameters[0].mean()

    class Problem:
        def afford(self, work):
            return work()

        def evaluate(self, *, improve):
            return loss(ours), []

    class Param:
        def parameters(self):
            return ours

    update, optimizer = Adam(Param(), Problem()), torch.optim.Adam(theirs, betas=(0.9, 0.99))
    for step in range(6):
        optimizer.param_groups[0]["lr"] = rate = 0.1 / (1 + step)
        optimizer.zero_grad()
        expected = loss(theirs)
        expected.backward()
        optimizer.step()
        if step == 3:
            state = update.state()
            update = Adam(Param(), Problem())
            update.load_state(state)
        assert update(rate) == pytest.approx(float(expected.detach()), rel=1e-6)
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("averaged", [1, 3, 5])
def test_what_comes_out_is_the_mean_of_the_last_steps(averaged):
    seen = []
    found = _run(
        stages=[_stage(num_steps=5, averaged=averaged)], callback=lambda state: seen.append(state.image().clone())
    )
    torch.testing.assert_close(found.image, torch.stack(seen[-averaged:]).mean(0).clamp(0, 1))
    assert not any(torch.equal(one, other) for one, other in itertools.pairwise(seen))


@pytest.mark.parametrize(("calm", "last"), [(1.0, 0.03), (0.5, 0.015)])
def test_adam_moves_by_its_rate_at_every_step(calm, last):
    """Where the gradient never changes its sign."""
    start = torch.full((1, 1, 4, 4), 0.5)
    moves, before = [], start

    def callback(state):
        nonlocal before
        moves.append(float((state.image() - before).abs().mean()))
        before = state.image().clone()

    exemplar = torch.full((1, 1, 8, 8), 1.0)
    term = _term(exemplar, Watched(), functools.partial(Improves, None))
    _run(Given(start), [term], [_stage(size=(4, 4), num_steps=6, rate=0.03, calm=calm)], callback=callback)
    assert moves == pytest.approx([*3 * [0.03], *3 * [last]], rel=0.02)


# Terms


def test_the_loss_is_the_weighted_sum_over_the_terms():
    start = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    first = functools.partial(_term, _exemplar(period=8))
    second = functools.partial(_term, _exemplar(period=5), Pyramid(PyramidOptions(size=4, scales=2)))
    alone = [_run(Given(start), [term()]).history[0].loss for term in (first, second)]
    both = _run(Given(start), [first(weight=2.0), second(weight=3.0)]).history[0].loss
    assert both == pytest.approx(2 * alone[0] + 3 * alone[1], rel=1e-5)


def test_a_term_of_weight_zero_changes_nothing():
    images = [_run(terms=terms).image for terms in ([_term()], [_term(), _term(_exemplar(period=5), weight=0.0)])]
    torch.testing.assert_close(*images)
    other = _run(terms=[_term(), _term(_exemplar(period=5), weight=2.0)]).image
    assert not torch.allclose(images[0], other, atol=1e-3)


def test_two_exemplars_of_different_sizes_are_mixed():
    """A flat black and a flat white exemplar, squared cost: the image ends between them by their weights."""
    terms = [
        _term(torch.zeros(1, 1, 8, 8), loss=_ot(exponent=2), weight=1.0),
        _term(torch.ones(1, 1, 11, 9), loss=_ot(exponent=2), weight=3.0),
    ]
    image = _run(terms=terms, stages=[_stage(num_steps=2, rate=1.0)], optimizer="closed-form").image
    torch.testing.assert_close(image, torch.full_like(image, 0.75))


# Stages


def test_levels_keep_their_loss_from_stage_to_stage():
    factory, made = _recording(functools.partial(Improves, None))
    term = _term(extractor=Pyramid(PyramidOptions(size=4, scales=3)), loss=factory)
    steps = {2: 5, 1: 3, 0: 2}
    _run(terms=[term], stages=[_stage((32 >> s, 32 >> s), steps[s], scale=s) for s in steps])
    # The exemplar's valid sides are 32, 15, 6; the levels come into play from the coarsest on.
    assert [len(loss.target) for loss in made] == [3 * 3, 12 * 12, 29 * 29]
    assert [len(loss.improved) for loss in made] == [5 + 3 + 2, 3 + 2, 2]


def test_a_sparing_stage_compares_what_has_come_to_rest_at_every_second_step_only():
    """As torus and as picture, and the loss is that of all levels at every step."""
    factory, made = _recording(functools.partial(Improves, None))
    term = _term(extractor=Pyramid(PyramidOptions(size=4, scales=3)), loss=factory)
    stages = [_stage((32 >> s, 32 >> s), 8, 0.0, s, sparing=True, cut=0) for s in (2, 1, 0)]
    losses = [record.loss for record in _run(terms=[term], stages=stages).history][-8:]
    assert [len(loss.improved) for loss in made] == [8 + 8 + 4, 8 + 8, 8]  # the second level is still new
    assert made[0].counts[-4:] == [8 * 8, 3 * 3, 8 * 8, 3 * 3]
    (old_torus, old_picture, *_), newer = made[0].values[-4:], made[1:]
    torus, picture = (sum(loss.values[-8 + step] for loss in newer) for step in (0, 3))
    expected = [torus + old_torus, picture + old_torus, torus + old_torus, picture + old_picture]
    assert losses == pytest.approx(2 * expected, rel=1e-5)


def test_psi_survives_the_change_of_stage():
    """A ψ that no ascent would find, set at the end of a stage, is where the next stage goes on."""
    factory, made = _recording(_ot(psi_steps=1))
    wild = 1000 * torch.rand(12 * 12, generator=torch.Generator().manual_seed(0))

    def callback(state):
        if state.stage == 0:
            made[0].psi = wild

    term = _term(extractor=Pyramid(PyramidOptions(size=4, scales=2)), loss=factory)
    _run(terms=[term], stages=[_stage((16, 16), 2, scale=1), _stage((32, 32), 1)], callback=callback)
    assert 0 < (made[0].psi - wild).norm() < 1


def test_the_image_carries_over_to_the_next_stage():
    images = []
    stages = [_stage((8, 10), 3, scale=1), _stage((16, 20), 1, rate=0.0)]
    term = _term(extractor=Pyramid(PyramidOptions(size=4, scales=2)))
    _run(terms=[term], stages=stages, callback=lambda state: images.append(state.image().clone()))
    torch.testing.assert_close(images[3], _grown(images[2], (16, 20)))


def test_the_exemplar_never_wraps_and_the_image_does_as_it_says():
    for param, boundary in ((Given, "periodic"), (GivenInside, "valid")):
        extractor, start = Watched(), torch.rand(1, 1, 6, 7, generator=torch.Generator().manual_seed(0))
        _run(param(start), [_term(extractor=extractor)], [_stage((6, 7), 5, 0.0, settle=0, cut=0)], max_points=11)
        (seen, *_), *calls = extractor.calls
        torch.testing.assert_close(seen, _exemplar())
        assert extractor.calls[0][1:] == (0, "valid", None)
        assert [call[1:] for call in calls[::2]] == [(0, boundary, 11)] * 3
        assert [call[1:] for call in calls[1::2]] == [(0, "valid", 11)] * 2
        if boundary == "valid":
            assert all(torch.equal(image, start) for image, *_ in calls)


@pytest.mark.parametrize(("max_points", "first"), [(None, 3), (40, 7)])
def test_a_torus_at_rest_is_seen_as_a_picture_too(max_points, first):
    """One that is thinned rests from half of the stage on, another from the start: but first it is a torus only."""
    extractor = Watched()
    stages = [_stage((6, 7), 12, 0.0, settle=0.5)]
    _run(Given(torch.rand(1, 1, 6, 7)), [_term(extractor=extractor)], stages, max_points=max_points)
    seen = [boundary for _, _, boundary, _ in extractor.calls[1:]]
    assert [step for step, boundary in enumerate(seen) if boundary == "valid"] == list(range(first, 12, 2))


def test_a_torus_smaller_than_its_features_is_seen_as_a_torus_only():
    term = _term(extractor=Patches(PatchesOptions(size=6)))
    history = _run(terms=[term], stages=[_stage((4, 4), 6, cut=0)]).history
    assert len(history) == 6


def _offsets(max_points):
    extractor, start = Watched(), torch.zeros(1, 1, 16, 16)
    start[..., 0, 0] = 1
    stages = [_stage((16, 16), 12, 0.0, settle=0.5)]
    _run(Given(start), [_term(extractor=extractor)], stages, max_points=max_points)
    return [int(image.argmax()) for image, *_ in extractor.calls[1:]]


def test_a_thinned_torus_moves_until_it_settles():
    offsets = _offsets(max_points=255)
    assert len(offsets) == 12
    assert len(set(offsets[:6])) >= 5
    assert set(offsets[6:]) == {0}


def test_a_thinned_image_with_borders_loses_a_few_pixels_until_it_settles():
    extractor, start = Watched(), torch.rand(1, 1, 40, 48, generator=torch.Generator().manual_seed(0))
    _run(GivenInside(start), [_term(extractor=extractor)], [_stage((40, 48), 12, 0.0)], max_points=255)
    images = [image for image, *_ in extractor.calls[1:]]
    for image in images:
        h, w = image.shape[2:]
        assert 40 - h < 8
        assert 48 - w < 8
        assert torch.equal(image, start[:, :, 40 - h :, 48 - w :])
    assert len({image.shape for image in images[:6]}) >= 4
    assert {image.shape for image in images[6:]} == {start.shape}


@pytest.mark.parametrize("max_points", [None, 256])
def test_a_torus_of_which_all_points_count_stays(max_points):
    assert _offsets(max_points) == [0] * 12


def test_a_parametrization_that_cannot_be_resized():
    exemplar = torch.full((1, 3, 16, 16), 0.25)
    result = _run(OneColor(), [_term(exemplar)], [_stage((10, 14), 80, 0.03)])
    assert result.image.shape == (1, 3, 10, 14)
    torch.testing.assert_close(result.image, torch.full_like(result.image, 0.25), atol=0.03, rtol=0)


def test_a_parametrization_inside_a_border_reaches_its_edges():
    """At rest the thinned windows of a "valid" image cover the last row and column."""
    start = torch.rand(1, 1, 17, 18, generator=torch.Generator().manual_seed(0))
    term = _term(torch.full((1, 1, 9, 9), 0.5), Patches(PatchesOptions(size=4)), _ot(exponent=2))
    stages = [_stage((17, 18), 1, 1.0, settle=0.0)]
    image = _run(GivenInside(start), [term], stages, optimizer="closed-form", max_points=1).image
    torch.testing.assert_close(image, torch.full_like(image, 0.5))


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", "closed-form"])
def test_a_batch_is_one_cloud(optimizer):
    start = torch.rand(2, 1, 12, 10, generator=torch.Generator().manual_seed(0))
    term = _term(extractor=Pyramid(PyramidOptions(size=4, scales=2)))
    rate = 1.0 if optimizer == "closed-form" else 0.03
    result = _run(Given(start), [term], [_stage((12, 10), 6, rate)], optimizer=optimizer)
    assert result.image.shape == (2, 1, 12, 10)
    assert result.history[-1].loss < result.history[0].loss
    assert (result.image != start).any(3).any(2).all()


# Ends


def test_callback_sees_consistent_states():
    states, images = [], []

    def callback(state):
        states.append(state)
        images.append(state.image())

    stages = [_stage((8, 8), 3, scale=1), _stage((16, 16), 2)]
    term = _term(extractor=Pyramid(PyramidOptions(size=4, scales=2)))
    result = _run(terms=[term], stages=stages, callback=callback)
    assert [state.stage for state in states] == [0, 0, 0, 1, 1]
    assert [state.size for state in states] == [(8, 8)] * 3 + [(16, 16)] * 2
    assert [state.record for state in states] == result.history
    assert [record.step for record in result.history] == list(range(5))
    assert [record.scale for record in result.history] == [1, 1, 1, 0, 0]
    assert {(state.num_stages, state.num_steps) for state in states} == {(2, 5)}
    seconds = [record.seconds for record in result.history]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    assert [image.shape[2:] for image in images] == [state.size for state in states]
    assert not any(image.requires_grad for image in images)
    torch.testing.assert_close(images[-1].clamp(0, 1), result.image, rtol=0, atol=0)


@pytest.mark.parametrize("last", [1, 4])
def test_interrupted(last):
    """Ctrl-C at a coarse stage or at the finest: the image so far, at full size."""
    images = []

    def callback(state):
        images.append(state.image().clone())
        if state.record.step == last:
            raise KeyboardInterrupt

    stages = [_stage((8, 10), 3, scale=1), _stage((16, 20), 5)]
    term = _term(extractor=Pyramid(PyramidOptions(size=4, scales=2)))
    result = _run(terms=[term], stages=stages, callback=callback)
    assert result.interrupted is True
    assert len(result.history) == last + 1
    expected = images[-1] if last == 4 else _grown(images[-1], (16, 20))
    torch.testing.assert_close(result.image, expected.clamp(0, 1))


def test_interrupted_where_nothing_can_be_resized():
    def callback(state):
        raise KeyboardInterrupt

    result = _run(OneColor(), stages=[_stage((9, 8))], callback=callback)
    assert (result.interrupted, len(result.history), result.image.shape) == (True, 1, (1, 1, 9, 8))


def test_other_errors_of_a_callback_come_through():
    def callback(state):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _run(callback=callback)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_loss_that_is_not_finite(optimizer):
    factory = functools.partial(NaNAfter, 0)
    with pytest.raises(FeatotError, match="the loss became nan at step 0; try a smaller rate"):
        _run(terms=[_term(loss=factory)], optimizer=optimizer)
    with pytest.raises(FeatotError, match="the loss became nan at step 3"):
        _run(terms=[_term(loss=functools.partial(NaNAfter, 3))], optimizer="adam")


def test_an_exemplar_too_small_for_its_features():
    with pytest.raises(UsageError, match=r"exemplar is too small for its features.*3x7"):
        _run(terms=[_term(torch.rand(1, 1, 3, 7))])
    with pytest.raises(UsageError, match=r"exemplar is too small for its features.*3x4"):  # 3x4: 8x10, halved
        _run(terms=[_term(torch.rand(1, 1, 8, 10))], stages=[_stage(scale=1)])
    with pytest.raises(UsageError, match="3x4 is too small to be halved"):
        _run(terms=[_term(torch.rand(1, 1, 8, 10))], stages=[_stage(scale=2)])


def test_an_image_too_small_for_its_features():
    with pytest.raises(UsageError, match="an image of 3x9 is too small"):
        _run(terms=[_term(extractor=Pyramid(PyramidOptions(size=4)))], stages=[_stage((3, 9))])


# Repetition


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", "closed-form"])
def test_equal_seeds_give_equal_images(optimizer):
    def image(seed):
        # Few targets and points: their draws must come from the seed as well.
        term = _term(extractor=Pyramid(PyramidOptions(size=4, scales=2)), loss=_ot(targets=50))
        stages = coarse_to_fine(
            (16, 18), (32, 32), quality=find_quality("draft"), levels=2, steps=2, optimizer=optimizer
        )
        return _run(terms=[term], stages=stages, optimizer=optimizer, max_points=60, seed=seed).image

    torch.manual_seed(1)
    first = image(3)
    torch.manual_seed(2)  # the global generator must not matter
    assert torch.equal(image(3), first)
    assert not torch.allclose(image(4), first, atol=1e-2)


def test_the_assignment_is_that_of_the_semidual():
    """After one step of Adam on the squared cost, pixels have moved towards their v: against the gradient's sign."""
    start = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    factory, made = _recording(_ot(exponent=2, psi_steps=0))
    term = _term(extractor=Patches(PatchesOptions(size=1)), loss=factory)
    moved = _run(Given(start), [term], [_stage((8, 8), 1, 0.01)]).image - start
    y = made[0].target.points
    assigned = y[c_transform(start.view(-1, 1), y, made[0].psi)[1]].view_as(start)
    clear = (assigned - start).abs() > 1e-4
    assert clear.sum() > 40
    torch.testing.assert_close(moved[clear], 0.01 * (assigned - start).sign()[clear], rtol=0, atol=1e-3)
