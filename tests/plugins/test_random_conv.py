import pytest
import torch

from featot.errors import UsageError
from featot.tasks import synthesize
from featot.testing import check_extractor
from featot_plugins.options import RandomConvOptions
from featot_plugins.random_conv import RandomConv


def _image(h=64, w=48, c=3, seed=0):
    return torch.rand(1, c, h, w, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", [{}, {"filters": 5, "size": 3}, {"scales": 1}, {"size": 1, "scales": 2}])
def test_contract(options):
    check_extractor(RandomConv(RandomConvOptions(**options)))


def test_a_level_for_each_scale():
    levels = RandomConv(RandomConvOptions(size=5)).extract(_image(), boundary="valid")
    assert {name: tuple(points.shape) for name, points in levels.items()} == {
        "1/1": (60 * 44, 64),
        "1/2": (27 * 19, 64),
    }
    assert next(iter(RandomConv(RandomConvOptions()).extract(_image(), scale=3, boundary="periodic"))) == "1/8"


def test_scales_end_where_they_are_asked_to():
    for scales in (1, 2, 3):
        assert len(RandomConv(RandomConvOptions(scales=scales)).extract(_image(96, 96))) == scales


def test_every_second_filter_sees_no_constant():
    flat = torch.full((1, 3, 16, 16), 0.8)
    (points,) = RandomConv(RandomConvOptions(scales=1)).extract(flat).values()
    assert points[:, ::2].abs().max() < 1e-6 < points[:, 1::2].abs().max()


def test_responses_are_rectified_and_turn_with_the_torus():
    extractor, image = RandomConv(RandomConvOptions(scales=1)), _image(16, 20)
    (points,) = extractor.extract(image, boundary="periodic").values()
    (rolled,) = extractor.extract(image.roll((3, 7), dims=(2, 3)), boundary="periodic").values()
    assert points.min() == 0
    expected = points.view(16, 20, -1).roll((3, 7), dims=(0, 1)).flatten(0, 1)
    torch.testing.assert_close(rolled, expected)


def test_the_seed_decides():
    a, same, b = (
        next(iter(RandomConv(RandomConvOptions(seed=seed)).extract(_image()).values())) for seed in (1, 1, 2)
    )
    assert torch.equal(a, same)
    assert not torch.allclose(a, b)


@pytest.mark.parametrize(("loss", "most"), [("gram", 0.1), ("ot", 0.1), ("moments", 0.1), ("sliced", 0.9)])
def test_a_synthesis_comes_closer(loss, most):
    rows = torch.arange(32)[:, None]
    stripes = ((rows + torch.arange(32)) % 8 < 4).float().expand(3, 32, 32)
    history = synthesize(stripes, features="random_conv", loss=loss, levels=1, steps=80).history
    assert sum(line.loss for line in history[-8:]) / 8 < most * history[0].loss


def test_a_mask_leaves_out_what_the_filters_see():
    """What is masked may be anything: the result is the same."""
    exemplar, mask = _image()[0], torch.ones(1, 64, 48)
    mask[:, 40:] = 0
    results = [
        synthesize(torch.where(mask > 0, exemplar, fill), features="random_conv", mask=mask, levels=1, steps=4).image
        for fill in (0.0, 1.0)
    ]
    torch.testing.assert_close(*results)


def test_guides_need_pixels():
    exemplar, map_ = _image()[0], torch.ones(1, 64, 48)
    with pytest.raises(UsageError, match="guide needs linear features"):
        synthesize(exemplar, features="random_conv", guide=map_, exemplar_guide=map_)
