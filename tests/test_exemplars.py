"""What a synthesis is made from: several exemplars, their turns, a mask, guides, and what does not go together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from featot.errors import UsageError
from featot.exemplars import AUGMENTATIONS, Sources, check_augment
from featot.formats import Format
from featot.images import write_image
from featot.provenance import fingerprint
from featot.tasks import synthesize


def _noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def _halves(first, second, h=24, w=32):
    """Columns of ``first`` on the left, of ``second`` on the right, each in stripes of four pixels."""
    left, right = (torch.tensor(colors).float().view(2, -1).repeat_interleave(4, dim=0) for colors in (first, second))
    row = torch.cat([left.repeat(w // 16, 1), right.repeat(w // 16, 1)])
    return row.t()[None, :, None, :].expand(1, -1, h, -1).contiguous()


def _labels(h, w, *, axis):
    """0 in the first half along ``axis`` (2: rows, 3: columns), 1 in the second."""
    side = torch.arange(h)[:, None] < h // 2 if axis == 2 else torch.arange(w) < w // 2
    return 1 - side.expand(h, w).float()[None, None]


def _quick(exemplar, **changes):
    return synthesize(
        exemplar, **{"device": "cpu", "size": (20, 24), "steps": 2, "levels": 2, "starts": 1, **changes}
    )


# Several exemplars


def test_exemplars_of_several_sizes_are_pooled_by_their_points():
    """Single pixels: 240 black and 720 white ones."""
    exemplars = [torch.zeros(1, 12, 20), torch.ones(1, 36, 20)]
    made = _quick(exemplars, features="patches", loss="sliced", options={"size": 1}, steps=100, levels=1).image
    assert ((made < 0.1) | (made > 0.9)).float().mean() > 0.95
    assert float((made > 0.5).float().mean()) == pytest.approx(0.75, abs=0.05)


def test_a_grey_exemplar_among_coloured_ones_counts_as_grey_colour():
    grey, colored = _noise(1, 24, 20), _noise(3, 20, 28, seed=1)
    pictures = Sources(exemplars=[grey, colored]).read()
    assert [image.shape for image in pictures.exemplars] == [(1, 3, 24, 20), (1, 3, 20, 28)]
    assert all(torch.equal(pictures.exemplars[0][0, channel], grey[0]) for channel in range(3))
    assert _quick([grey, colored]).image.shape == (1, 3, 20, 24)
    assert torch.equal(_quick([grey, colored]).image, _quick([grey.expand(3, -1, -1), colored]).image)


def test_grey_kept_as_colour_is_compared_as_grey_and_comes_back_as_it_was_given(tmp_path):
    """With 7×7 patches, and without the tints that three free channels would get."""
    grey = _noise(1, 24, 20)
    colour = grey.expand(3, -1, -1)
    pictures = Sources(exemplars=[colour]).read()
    assert (pictures.channels, pictures.grey) == (1, True)
    made = _quick(colour)
    assert torch.equal(made.image, _quick(grey).image.expand(-1, 3, -1, -1))
    assert made.record["exemplar"]["shape"] == [1, 3, 24, 20]
    write_image(colour, tmp_path / "grey.png")
    assert _quick(tmp_path / "grey.png").image.shape == (1, 3, 20, 24)


def test_grey_kept_as_colour_with_alpha(tmp_path):
    grey = _noise(2, 24, 20)  # with its alpha
    write_image(grey[[0, 0, 0, 1]], tmp_path / "a.png", Format(alpha=True))
    made = _quick(tmp_path / "a.png", alpha="keep").image
    assert made.shape == (1, 4, 20, 24)
    assert torch.equal(made[:, :1].expand(-1, 3, -1, -1), made[:, :3])
    assert not torch.equal(made[:, 0], made[:, 3])


def test_one_tinted_pixel_is_colour():
    tinted = _noise(1, 24, 20).repeat(3, 1, 1)
    tinted[2, 5, 7] += 1e-3
    grey = _noise(1, 24, 20).expand(3, -1, -1)
    assert Sources(exemplars=[tinted]).read().channels == 3
    assert Sources(exemplars=[grey, tinted]).read().channels == 3
    assert Sources(exemplars=[grey, grey.flip(2)]).read().channels == 1


def test_one_exemplar_in_a_list_is_that_exemplar():
    exemplar = _noise(1, 24, 20)
    assert torch.equal(_quick([exemplar]).image, _quick(exemplar).image)


def test_the_result_has_the_size_of_the_first_and_levels_for_the_smallest():
    pictures = Sources(exemplars=[_noise(1, 60, 50), _noise(1, 70, 28)]).read()
    assert (pictures.size, pictures.smallest) == ((60, 50), (70, 28))
    record = _quick([_noise(1, 60, 50), _noise(1, 70, 28)], size=None, levels=None, steps=1).record
    assert (record["settings"]["size"], record["settings"]["levels"]) == ((60, 50), 2)


def test_every_picture_is_in_the_record(tmp_path):
    path = tmp_path / "second.png"
    write_image(_noise(1, 1, 24, 20), path)
    pictures = [_noise(1, 24, 20), path, _noise(1, 30, 22, seed=2)]
    record = _quick(pictures).record
    assert record["exemplar"] == {"path": None, "shape": [1, 1, 24, 20], "sha256": fingerprint(pictures[0][None])}
    assert [other["path"] for other in record["more_exemplars"]] == [str(path), None]
    assert (record["mask"], record["guide"], record["exemplar_guide"]) == (None, None, None)
    mask, maps = torch.ones(1, 24, 20), [_noise(1, 24, 20, seed=seed) for seed in (3, 4)]
    extras = _quick(pictures[0], mask=mask, guide=maps[0], exemplar_guide=maps[1], size=None).record
    assert extras["more_exemplars"] == []
    assert extras["mask"]["sha256"] == fingerprint(mask[None])
    found = [extras[name]["sha256"] for name in ("guide", "exemplar_guide")]
    assert found == [fingerprint(picture[None]) for picture in maps]


# Turns


@pytest.mark.parametrize(
    ("augment", "number"), [((), 1), (("flip",), 2), (("rot90",), 4), (("rot90", "flip"), 8), (("flip", "rot90"), 8)]
)
def test_turns_and_mirror_images(augment, number):
    image = _noise(3, 5, 7)
    variants, masks = Sources(exemplars=[image]).read().varied(augment)
    assert masks is None
    assert len({fingerprint(variant) for variant in variants}) == len(variants) == number
    assert torch.equal(variants[0], image[None])
    known = {fingerprint(variant) for variant in variants}  # a group: turning any of them gives another
    if "rot90" in augment:
        assert {fingerprint(variant.rot90(1, (2, 3))) for variant in variants} == known
    if "flip" in augment:
        assert {fingerprint(variant.flip(3)) for variant in variants} == known


def test_every_exemplar_is_turned():
    exemplars = [_noise(1, 5, 7), _noise(1, 6, 8, seed=1)]
    variants, _ = Sources(exemplars=exemplars).read().varied(AUGMENTATIONS)
    assert sorted(tuple(v.shape[2:]) for v in variants) == sorted([(5, 7), (7, 5), (6, 8), (8, 6)] * 4)


def test_masks_and_guides_turn_with_their_exemplar():
    exemplar = _noise(3, 9, 11)
    mask = (exemplar[:1] > 0.5).float()
    sources = Sources(exemplars=[exemplar], mask=mask, guide=_noise(1, 4, 4), exemplar_guide=exemplar[1:2])
    variants, masks = sources.read().varied(AUGMENTATIONS)
    assert len(variants) == len(masks) == 8
    for variant, turned in zip(variants, masks, strict=True):
        assert torch.equal(turned, (variant[:, :1] > 0.5).float())
        assert torch.equal(variant[:, 3], variant[:, 1])


def test_a_turned_exemplar_is_sampled():
    """Stripes along one axis; with quarter turns there are edges along both."""
    stripes = _halves((0, 1), (0, 1), h=32)

    def edges(augment):
        """Of five seeds: one alone may have most of its edges along either axis."""
        images = [_quick(stripes, augment=augment, steps=20, size=(48, 48), seed=seed).image for seed in range(5)]
        return [sum((image - image.roll(1, axis)).abs().mean() for image in images) for axis in (2, 3)]

    plain, turned = edges(()), edges(("rot90",))
    assert plain[0] < 0.1 * plain[1]
    assert turned[0] > 0.7 * turned[1]


def test_unknown_augmentations():
    with pytest.raises(UsageError, match=r"unknown augmentation 'rot9'; did you mean 'rot90'\?"):
        check_augment(("flip", "rot9"))
    with pytest.raises(UsageError, match="unknown augmentation 'turn'"):
        _quick(_noise(1, 24, 20), augment=("turn",))


# Masks


@pytest.mark.parametrize(("channels", "features"), [(1, "pyramid"), (3, "patches")])
def test_what_a_mask_leaves_out_is_never_seen(channels, features):
    exemplar = _halves((0.0, 0.2), (0.8, 1.0), w=64).expand(-1, channels, -1, -1)
    left = 1 - _labels(24, 64, axis=3)
    dark, bright = (
        _quick(exemplar, features=features, mask=mask, steps=60, options={"size": 4}).image
        for mask in (left, 1 - left)
    )
    assert dark.shape == (1, channels, 20, 24)
    assert dark.max() < 0.4 < 0.6 < bright.min()
    assert float(dark.mean()) == pytest.approx(0.1, abs=0.03)
    assert float(bright.mean()) == pytest.approx(0.9, abs=0.03)


def test_a_mask_is_what_is_brighter_than_half():
    exemplar = _noise(3, 24, 20)
    mask = torch.zeros(3, 24, 20)
    mask[1, :, :15] = 0.6
    read = Sources(exemplars=[exemplar], mask=mask).read().mask
    assert read.shape == (1, 1, 24, 20)
    assert torch.equal(read, (torch.arange(20) < 15).float().expand(1, 1, 24, 20))


def test_a_mask_of_everything_changes_nothing():
    exemplar = _noise(1, 24, 20)
    assert torch.equal(_quick(exemplar, mask=torch.ones(1, 24, 20)).image, _quick(exemplar).image)


def test_a_mask_that_leaves_nothing():
    exemplar, mask = _noise(1, 24, 20), torch.zeros(1, 24, 20)
    mask[:, :, :6] = 1  # a patch of 7 does not fit
    with pytest.raises(UsageError, match=r"the mask leaves no features of the exemplar at 1/2"):
        _quick(exemplar, mask=mask)


# Guides


@pytest.mark.parametrize("optimizer", ["adam", "closed-form"])
def test_a_guide_puts_each_texture_in_its_place(optimizer):
    """Reddish stripes on the left of the exemplar, bluish ones on the right; asked for below and above."""
    exemplar = _halves((0.9, 0.1, 0.1, 0.7, 0.1, 0.1), (0.1, 0.1, 0.9, 0.1, 0.1, 0.7))
    guide, exemplar_guide = 1 - _labels(32, 24, axis=2), _labels(24, 32, axis=3)
    result = _quick(
        exemplar, guide=guide, exemplar_guide=exemplar_guide, size=None, steps=30, optimizer=optimizer
    ).image
    assert result.shape == (1, 3, 32, 24)
    upper, lower = result[0, :, 3:13].mean((1, 2)), result[0, :, 19:29].mean((1, 2))
    torch.testing.assert_close(upper, torch.tensor([0.1, 0.1, 0.8]), atol=0.1, rtol=0)
    torch.testing.assert_close(lower, torch.tensor([0.8, 0.1, 0.1]), atol=0.1, rtol=0)


def test_a_grey_guide_goes_with_a_coloured_one():
    sources = Sources(exemplars=[_noise(1, 24, 20)], guide=_noise(1, 16, 16), exemplar_guide=_noise(3, 24, 20))
    pictures = sources.read()
    assert pictures.guide.shape == (1, 3, 16, 16)
    assert pictures.exemplar_guide.shape == (1, 3, 24, 20)
    (image,), _ = pictures.varied(())
    assert image.shape == (1, 4, 24, 20)


def test_the_result_has_the_size_of_the_guide():
    guides = {"guide": _noise(1, 18, 26), "exemplar_guide": _noise(1, 24, 20)}
    assert _quick(_noise(1, 24, 20), **guides, size=None).image.shape == (1, 1, 18, 26)
    assert _quick(_noise(1, 24, 20), **guides, size=(18, 26)).image.shape == (1, 1, 18, 26)
    with pytest.raises(UsageError, match="expected the size of the guide, 18x26, got 20x24"):
        _quick(_noise(1, 24, 20), **guides)


# What does not go together


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"exemplars": []}, "expected at least one exemplar"),
        ({"guide": _noise(1, 8, 8)}, "a guide needs the exemplar guide too"),
        ({"exemplar_guide": _noise(1, 24, 20)}, "an exemplar guide needs the guide too"),
        ({"mask": torch.ones(1, 24, 21)}, "a mask of the exemplar's size 24x20, got 24x21"),
        (
            {"guide": _noise(1, 8, 8), "exemplar_guide": _noise(1, 20, 24)},
            "exemplar guide of the exemplar's size 24x20, got 20x24",
        ),
        (
            {"exemplars": [_noise(1, 24, 20)] * 2, "mask": torch.ones(1, 24, 20)},
            "one exemplar with a mask or a guide",
        ),
        (
            {"exemplars": [_noise(1, 24, 20)] * 2, "guide": _noise(1, 8, 8), "exemplar_guide": _noise(1, 24, 20)},
            "one exemplar with a mask or a guide, got several",
        ),
        ({"exemplars": [_noise(1, 24, 20), _noise(2, 24, 20)]}, "as many channels, got 1 and 2"),
        ({"mask": np.ones((1, 24, 20), dtype=bool)}, "bool"),
        ({"guide": _noise(1, 8, 8) * 2, "exemplar_guide": _noise(1, 24, 20)}, r"in \[0, 1\]"),
        ({"mask": "none.png"}, r"cannot read .*none\.png"),
    ],
)
def test_pictures_that_do_not_go_together(sources, message):
    with pytest.raises(UsageError, match=message):
        Sources(**{"exemplars": [_noise(1, 24, 20)], **sources}).read()
