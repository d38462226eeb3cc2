"""Several starts: the small stages are tried from each, the best goes on."""

from __future__ import annotations

import pytest
import torch

from featot.interfaces import Loss, LossValue, Parametrization
from featot.match import match
from featot.problem import Stage
from featot.tasks import synthesize
from featot.terms import Term
from featot_plugins.options import PatchesOptions
from featot_plugins.patches import Patches


class Flat(Parametrization):
    """One grey for all pixels; each start has another."""

    boundary = "periodic"
    resizable = True

    def __init__(self, *greys):
        super().__init__()
        self.greys = list(greys)

    def initialize(self, exemplar, size, generator):
        self.grey = torch.tensor(self.greys.pop(0)).requires_grad_()

    def resize(self, size):
        self.grey = self.grey.detach().clone().requires_grad_()

    def parameters(self):
        return [self.grey]

    def __call__(self, size, generator):
        return self.grey.expand(1, 1, *size)


class Brightness(Loss):
    """Keeps how often it was called."""

    def __init__(self, target, generator):
        super().__init__(None, target, generator)
        self.calls = 0

    def __call__(self, points, *, improve=True):
        self.calls += 1
        return LossValue(points.mean())


def _stage(side, num_steps, scale=0):
    return Stage(scale=scale, size=(side, side), num_steps=num_steps, rate=0.0)


SMALL_AND_LARGE = [_stage(8, 3, scale=1), _stage(1024, 2)]


def _run(param, starts, stages=SMALL_AND_LARGE, callback=None):
    term = Term(exemplars=[torch.rand(1, 1, 12, 12)], extractor=Patches(PatchesOptions(size=1)), loss=Brightness)
    generator = torch.Generator().manual_seed(0)
    return match(param, [term], stages, max_points=64, generator=generator, starts=starts, callback=callback)


@pytest.mark.parametrize(("greys", "kept"), [((0.5, 0.1, 0.9), 0.1), ((0.2, 0.4, 0.3), 0.2), ((0.9, 0.8, 0.7), 0.7)])
@pytest.mark.parametrize("stages", [SMALL_AND_LARGE, SMALL_AND_LARGE[:1]])
def test_the_start_with_the_smallest_loss_goes_on(greys, kept, stages):
    result = _run(Flat(*greys), 3, stages)
    torch.testing.assert_close(result.image, torch.full_like(result.image, kept))
    assert result.image.shape[2] == stages[-1].size[0]


def test_every_start_is_in_the_history_and_only_the_small_stages_are_tried():
    states = []
    result = _run(Flat(0.5, 0.1, 0.9), 3, callback=states.append)
    assert [record.scale for record in result.history] == [1] * 9 + [0] * 2
    assert [record.step for record in result.history] == list(range(11))
    assert {state.num_steps for state in states} == {11}
    assert [state.stage for state in states] == [0] * 9 + [1] * 2


def test_stages_that_are_all_large_are_gone_through_once():
    assert len(_run(Flat(0.5), 3, [_stage(1024, 2)]).history) == 2


@pytest.mark.parametrize("at", [4, 7])
def test_after_an_interruption_the_best_start_counts(at):
    """Ctrl-C within the second or the third start: the first, already whole, was better."""

    def callback(state):
        if state.record.step == at:
            raise KeyboardInterrupt

    result = _run(Flat(0.1, 0.5, 0.9), 3, SMALL_AND_LARGE[:1], callback)
    assert result.interrupted
    torch.testing.assert_close(result.image, torch.full_like(result.image, 0.1))


def test_more_starts_take_more_steps_and_are_recorded():
    exemplar = torch.rand(1, 24, 24, generator=torch.Generator().manual_seed(0))

    def run(starts):
        return synthesize(exemplar, size=(16, 16), levels=2, steps=2, starts=starts, device="cpu")

    one, two, again = run(1), run(2), run(2)
    assert [result.record["settings"]["starts"] for result in (one, two)] == [1, 2]
    assert len(two.history) == 2 * len(one.history)
    assert torch.equal(two.image, again.image)
