"""Generator networks with conditions: what their shares do, as a whole and at each place."""

from __future__ import annotations

import pytest
import torch

from featot.errors import UsageError
from featot.noise import NoiseField
from featot.render import render
from featot.shares import ShareMap
from featot.testing import check_generator
from featot_plugins.options import TexnetLiteOptions, TexnetOptions
from featot_plugins.texnet import Texnet, TexnetLite
from featot_plugins.texnet_film import Film, knots

MID = torch.tensor([0.5, 0.2, 0.3])


@pytest.fixture(params=[(Texnet, TexnetOptions), (TexnetLite, TexnetLiteOptions)], ids=["texnet", "texnet_lite"])
def generator(request):
    """One of three exemplars, with random weights that make the three differ."""
    kind, options = request.param
    made = kind(options(scales=3))
    made.conditions = 3
    drawn = torch.Generator().manual_seed(0)
    made.initialize(torch.rand(1, 3, 40, 40, generator=drawn), (64, 64), drawn)
    with torch.no_grad():
        for film in (module for module in made.net.modules() if isinstance(module, Film)):
            film.weight.add_(0.3 * torch.randn(film.weight.shape, generator=drawn))
            film.bias.add_(0.5 * torch.randn(film.bias.shape, generator=drawn))
    made.calibrate((64, 64), drawn)
    return made


def _gap(a, b):
    return float((a - b).abs().mean())


def test_contract(generator):
    check_generator(generator)


def test_shares_change_the_image(generator):
    """While it learns and when it samples; what is sampled for given shares is what was learnt for them."""
    frozen, noise = generator.freeze(), NoiseField(0, (128, 128))
    colors = []
    for shares in (*torch.eye(3), MID):
        generator.shares = shares
        learnt = generator((128, 128), torch.Generator().manual_seed(1)).detach()
        sampled = render(frozen.shared(shares), noise, range(128), range(128))
        torch.testing.assert_close(sampled.mean((2, 3)), learnt.mean((2, 3)), rtol=0, atol=0.02)
        torch.testing.assert_close(sampled.std((2, 3)), learnt.std((2, 3)), rtol=0.15, atol=0.002)
        colors.append(sampled)
    assert min(_gap(colors[i], colors[j]) for i in range(4) for j in range(i)) > 0.02


def test_a_map_of_equal_shares_is_no_map(generator):
    """Folded into the convolutions, or multiplied at each place: the same network."""
    frozen, noise = generator.freeze(), NoiseField(2, (50, 70))
    map_ = ShareMap(MID[None, :, None, None].expand(1, 3, 4, 5), (50, 70))
    found, expected = (frozen.shared(shares).render(noise, range(50), range(70)) for shares in (map_, MID))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("period", [(None, None), (128, 192), (101, 77)])
@pytest.mark.parametrize("mapped", [True, False])
def test_a_tile_equals_the_region_of_the_whole(generator, period, mapped):
    drawn = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(3))
    shares = ShareMap(drawn / drawn.sum(1, keepdim=True), (150, 130)) if mapped else MID
    frozen, noise = generator.freeze().shared(shares), NoiseField(3, period)
    whole = render(frozen, noise, range(-20, 130), range(-30, 100), block=64)
    for rows, columns in ((range(0, 64), range(64, 100)), (range(-19, 1), range(9, 70))):
        part = render(frozen, noise, rows, columns, block=64)
        inside = whole[:, :, rows.start + 20 : rows.stop + 20, columns.start + 30 : columns.stop + 30]
        assert torch.equal(part, inside)


def test_a_block_with_a_map_does_not_depend_on_its_extent(generator):
    """Margins, enlarging and the crops of the map fit together at every scale, also at odd places."""
    drawn = torch.rand(1, 3, 3, 3, generator=torch.Generator().manual_seed(3))
    frozen = generator.freeze().shared(ShareMap(drawn / drawn.sum(1, keepdim=True), (60, 60)))
    noise = NoiseField(4)
    whole = frozen.render(noise, range(60), range(60))
    part = frozen.render(noise, range(7, 30), range(13, 44))
    torch.testing.assert_close(part, whole[:, :, 7:30, 13:44], rtol=0, atol=1e-4)


def test_statistics_are_those_of_the_knots(generator):
    """What the folded network multiplies by at a knot is what its statistics there say."""
    for film in (module for module in generator.net.modules() if isinstance(module, Film)):
        for knot, shares in enumerate(knots(3)):
            norm = film.plain(shares)
            expected = (shares @ film.weight) * (-film.logs[knot] / 2).exp()
            torch.testing.assert_close(norm.weight, expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(
                norm.bias, shares @ film.bias - expected * film.means[knot], rtol=1e-4, atol=1e-4
            )


def test_one_texture_takes_no_shares():
    plain = TexnetLite(TexnetLiteOptions(scales=2))
    plain.initialize(torch.rand(1, 3, 40, 40), (64, 64), torch.Generator())
    plain.calibrate((64, 64), torch.Generator())
    frozen = plain.freeze()
    assert frozen.conditions == 0
    with pytest.raises(UsageError, match="has learnt one texture"):
        frozen.shared(torch.ones(1))
