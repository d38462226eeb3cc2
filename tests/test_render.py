"""Regions of the plane: a tile is exactly the same region of the whole, and in bounded memory."""

from __future__ import annotations

import pytest
import torch

import featot
from featot.interfaces import FrozenGenerator
from featot.noise import NoiseField
from featot.render import BLOCK, render, sample, strips
from featot_plugins.options import TexnetLiteOptions, TexnetOptions
from featot_plugins.texnet import Texnet, TexnetLite


def _frozen(kind, options):
    generator = kind(options)
    exemplar = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    generator.initialize(exemplar, (64, 64), torch.Generator().manual_seed(0))
    generator.calibrate((64, 64), torch.Generator().manual_seed(0))
    return generator.freeze()


NETWORKS = [(Texnet, TexnetOptions()), (TexnetLite, TexnetLiteOptions()), (Texnet, TexnetOptions(scales=1))]


@pytest.fixture(scope="module", params=NETWORKS, ids=["texnet", "texnet_lite", "one scale"])
def frozen(request):
    return _frozen(*request.param)


class Spy(FrozenGenerator):
    """Says where its pixels are, and notes which blocks it was asked for."""

    channels, stride = 1, 1

    def __init__(self):
        super().__init__()
        self.asked = []

    def render(self, noise, rows, columns):
        self.asked.append((rows, columns))
        return (torch.arange(rows.start, rows.stop)[:, None] * 1e-4 + torch.arange(columns.start, columns.stop))[
            None, None
        ]

    def margins(self):
        return []

    def forward(self, *noise):
        raise NotImplementedError


@pytest.mark.parametrize("period", [(None, None), (128, 192), (90, None), (101, 77)])
def test_a_tile_equals_the_region_of_the_whole(frozen, period):
    noise = NoiseField(3, period)
    whole = render(frozen, noise, range(-70, 130), range(-30, 170), block=64)
    for rows, columns in (
        (range(0, 64), range(64, 128)),
        (range(-69, 1), range(99, 170)),
        (range(7, 8), range(3, 4)),
    ):
        tile = render(frozen, noise, rows, columns, block=64)
        assert torch.equal(
            tile, whole[:, :, rows.start + 70 : rows.stop + 70, columns.start + 30 : columns.stop + 30]
        )


@pytest.mark.parametrize("period", [(None, None), (128, 192), (101, 77)])
def test_blocks_agree_with_one_big_window(frozen, period):
    noise = NoiseField(3, period)
    blocks = render(frozen, noise, range(-20, 120), range(150), block=32)
    torch.testing.assert_close(blocks, frozen.render(noise, range(-20, 120), range(150)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(96, 64), (101, 77)])
def test_what_tiles_repeats_exactly(frozen, size):
    noise = NoiseField(3, size)
    once = render(frozen, noise, range(size[0]), range(size[1]), block=64)
    twice = render(frozen, noise, range(2 * size[0]), range(-size[1], size[1]), block=64)
    assert torch.equal(twice, once.repeat(1, 1, 2, 2))


def test_the_blocks_are_those_of_the_grid():
    spy = Spy()
    found = render(spy, NoiseField(0, (70, None)), range(60, 80), range(-5, 40), block=32)
    assert spy.asked == [
        (rows, columns)
        for rows in (range(32, 64), range(64, 70), range(32))
        for columns in (range(-32, 0), range(32), range(32, 64))
    ]
    rows = torch.tensor([*range(60, 70), *range(10)])[:, None] * 1e-4
    torch.testing.assert_close(found[0, 0], rows + torch.arange(-5, 40))


def test_strips_come_one_row_of_blocks_at_a_time():
    spy = Spy()
    made = strips(spy, NoiseField(0), range(100), range(64), block=32)
    assert next(made).shape == (1, 1, 32, 64)
    assert len(spy.asked) == 2
    assert [strip.shape[2] for strip in made] == [32, 32, 4]


@pytest.mark.parametrize(
    ("tile", "period"), [("both", (40, 50)), ("x", (None, 50)), ("y", (40, None)), ("none", (None, None))]
)
def test_sample_tiles_as_told(frozen, tile, period):
    found = torch.cat(list(sample(frozen, (40, 50), seed=9, tile=tile)), 2)
    assert torch.equal(found, render(frozen, NoiseField(9, period), range(40), range(50), block=BLOCK))


def test_sample_refuses_an_unknown_tile():
    with pytest.raises(featot.UsageError, match="unknown tile 'bth'; did you mean 'both'"):
        sample(Spy(), (4, 4), tile="bth")
