"""Inpainting: what is kept, what is filled, and that no seam shows."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F

from featot.errors import UsageError
from featot.images import read_image, read_picture, write_image
from featot.inpainting import _fringe, inpaint

QUICK = {"quality": "draft", "steps": 4, "device": "cpu"}


def _noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def _stripes(h=64, w=64):
    columns = 0.5 + 0.4 * torch.sin(torch.arange(w) * (2 * torch.pi / 8))
    return columns.expand(3, h, w).contiguous()


def _hole(h=64, w=64, rows=(24, 40), columns=(20, 36)):
    mask = torch.zeros(1, h, w)
    mask[:, rows[0] : rows[1], columns[0] : columns[1]] = 1
    return mask


def test_what_is_known_stays_bit_for_bit():
    image, mask = _noise(3, 48, 56), _hole(48, 56)
    made = inpaint(image, mask, **QUICK).image[0]
    assert torch.equal(torch.where(mask > 0, 0, made), torch.where(mask > 0, 0, image))
    assert not torch.equal(made, image)


def test_what_is_in_the_hole_is_never_looked_at():
    image, mask = _stripes(), _hole()
    results = [inpaint(torch.where(mask > 0, fill, image), mask, **QUICK).image for fill in (0.0, 1.0)]
    assert torch.equal(*results)


def test_a_hole_in_stripes_is_filled_with_stripes():
    image, mask = _stripes(), _hole()
    made = inpaint(image, mask, seed=1).image[0]
    error = (made - image)[:, 24:40, 20:36]
    assert float(error.square().mean().sqrt()) < 0.05  # the stripes vary by 0.28


def _jumps(image, mask):
    """Root mean square of the differences across the mask's border, and inside the hole."""
    across, inside = [], []
    for axis in (1, 2):
        change = image.diff(dim=axis).square().mean(0)
        crosses = mask[0].diff(dim=axis - 1) != 0
        within = mask[0].narrow(axis - 1, 1, mask.shape[axis] - 1) * mask[0].narrow(axis - 1, 0, mask.shape[axis] - 1)
        across.append(change[crosses])
        inside.append(change[within > 0])
    return [float(torch.cat(parts).mean().sqrt()) for parts in (across, inside)]


@pytest.mark.parametrize(
    ("name", "masked", "options"),
    [
        ("bark_damaged.jpg", "bark_mask.jpg", {"invert_mask": True, "grow": 2}),
        ("bricks_hole.png", None, {"grow": 3}),
    ],
)
def test_no_seam_shows(textures, name, masked, options):
    path, mask = textures / name, None if masked is None else textures / masked
    result = inpaint(path, mask, quality="draft", **options)
    known, _ = read_picture(path, "ignore")
    filled = (result.image != known).any(1).float()
    across, inside = _jumps(result.image[0], filled)
    assert 0.8 < across / inside < 1.6  # 1.2 at standard quality
    _, outside = _jumps(known[0], 1 - filled)
    assert 0.7 < inside / outside < 1.3


def test_a_seam_would_be_seen_by_the_test_above():
    image, mask = _stripes(), _hole()
    across, inside = _jumps(torch.where(mask > 0, 0.5 * image, image), mask)
    assert across / inside > 1.6


def test_without_a_mask_what_is_transparent_is_filled(tmp_path):
    image, mask = _stripes(), _hole()
    opacity = 1 - mask
    opacity[:, 30, 18] = 0.5  # half transparent is not known either
    write_image(torch.cat([image, opacity]), tmp_path / "holed.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = inpaint(tmp_path / "holed.png", **QUICK)
    assert result.image.shape == (1, 3, 64, 64)
    assert result.format is not None
    assert not result.format.alpha
    changed = (result.image[0] - image).abs().amax(0, keepdim=True) > 0.51 / 255
    assert not changed[opacity == 1].any()
    pixels, _ = read_picture(tmp_path / "holed.png", "keep")
    assert torch.equal(inpaint(pixels, **QUICK).image, result.image)


def test_a_mask_can_be_inverted_and_grown():
    image, mask = _stripes(), _hole()
    plain = inpaint(image, mask, **QUICK).image
    assert torch.equal(inpaint(image, 1 - mask, invert_mask=True, **QUICK).image, plain)
    larger = _hole(rows=(22, 42), columns=(18, 38))
    assert torch.equal(inpaint(image, mask, grow=2, **QUICK).image, inpaint(image, larger, **QUICK).image)


def test_a_mask_of_most_of_the_image_is_asked_about():
    with pytest.warns(UserWarning, match=r"the mask marks 93.75 % of the image to be filled; is it inverted\?"):
        inpaint(_stripes(), 1 - _hole(), levels=1, **{**QUICK, "steps": 1})


@pytest.mark.parametrize("width", [1, 3])
def test_a_fringe_of_what_was_cut_out_is_told_and_can_be_filled(width):
    """Light of what was there on the pixels around the hole: they are known, and would stay as a line."""
    mask = _hole()
    rim = F.max_pool2d(mask, 2 * width + 1, 1, width) - mask
    image = torch.where(rim > 0, 0.6 * _noise(3, 64, 64) + 0.4, _noise(3, 64, 64))
    with pytest.warns(UserWarning, match=f"a fringe of {width} pixels?.* stays; --grow {width} fills it too"):
        inpaint(image, mask, levels=1, **{**QUICK, "steps": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inpaint(image, mask, grow=width, levels=1, **{**QUICK, "steps": 1})


def test_the_fringe_of_a_photograph_is_told(textures):
    image, _ = read_picture(textures / "bricks_hole.png", "keep")
    assert _fringe(image[:, :3], image[:, 3:] < 1) == 1
    bark, mask = read_image(textures / "bark_damaged.jpg"), read_image(textures / "bark_mask.jpg")
    assert _fringe(bark, mask.amax(1, keepdim=True) < 0.9) == 0


@pytest.mark.parametrize("features", ["patches", "random_conv"])
def test_with_other_features(features):
    made = inpaint(_stripes(), _hole(), features=features, quality="draft", levels=1, steps=20).image
    assert torch.isfinite(made).all()
    assert not torch.equal(made[0], _stripes())


def test_holes_far_apart_are_filled_each_in_its_own_surroundings():
    """Nothing is computed elsewhere: no image that the loop makes is nearly as large as the whole."""
    image = _stripes(400, 640)
    mask = _hole(400, 640, (10, 18), (10, 18)) + _hole(400, 640, (380, 390), (620, 640))
    sizes = []
    result = inpaint(image, mask, callback=lambda state: sizes.append(state.size), **QUICK)
    assert max(h * w for h, w in sizes) < 400 * 640 / 20
    assert [line.step for line in result.history] == list(range(len(result.history)))
    seconds = [line.seconds for line in result.history]
    assert seconds == sorted(seconds)
    for rows, columns in (((10, 18), (10, 18)), ((380, 390), (620, 640))):
        here = (slice(None), slice(*rows), slice(*columns))
        assert not torch.equal(result.image[0][here], image[here])


def test_a_hole_at_the_border_and_grey_images():
    image = _stripes()[:1]
    made = inpaint(image, _hole(rows=(0, 20), columns=(50, 64)), steps=32).image[0]
    assert float((made - image).square().mean().sqrt()) < 0.05


def test_grey_kept_as_colour_is_filled_without_tints():
    image, hole = _stripes()[:1].expand(3, -1, -1), _hole(rows=(0, 20), columns=(50, 64))
    made = inpaint(image, hole, steps=4).image
    assert torch.equal(made, inpaint(image[:1], hole, steps=4).image.expand(-1, 3, -1, -1))


def test_in_gradual_light_a_hole_is_no_brighter_and_no_darker_than_what_is_around_it():
    """It was 0.12 too bright at its bright side, and too dark at the other: a blob. Now both are right to 0.01."""
    columns, mask = torch.linspace(0.4, 1, 96), _hole(96, 96, (28, 68), (28, 68))
    cells = 0.6 + 0.4 * torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    image = columns * F.interpolate(cells, scale_factor=4.0)[0]
    made = inpaint(image, mask, quality="draft", device="cpu").image[0]
    assert torch.equal(torch.where(mask > 0, 0, made), torch.where(mask > 0, 0, image))
    sides = made[:, 28:68, 28:68].mean((0, 1)).view(4, 10).mean(1)  # from left to right
    expected = (0.8 * columns)[28:68].view(4, 10).mean(1)
    assert float((sides - expected).abs().max()) < 0.03


def test_a_hole_in_a_faded_image_is_not_blurred(faded, detail):
    """With steps of one length for all images 0.94 of the detail was there."""
    mask, shares = _hole(96, 96, (28, 68), (28, 68)), []
    for seed in (0, 1):
        filled = inpaint(faded[0], mask, seed=seed, device="cpu").image
        shares.append(detail(filled[:, :, 30:66, 30:66]) / detail(faded))
    assert 0.95 < sum(shares) / 2 < 1.05


def test_the_same_seed_gives_the_same_image_and_another_another():
    image, mask = _noise(3, 48, 48), _hole(48, 48)
    first, again, other = (inpaint(image, mask, seed=seed, **QUICK).image for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_ctrl_c_keeps_what_is_known():
    image, mask = _noise(3, 48, 56), _hole(48, 56)

    def interrupt(state):
        if state.record.step == 2:
            raise KeyboardInterrupt

    result = inpaint(image, mask, callback=interrupt, **QUICK)
    assert result.interrupted
    assert torch.equal(torch.where(mask > 0, 0, result.image[0]), torch.where(mask > 0, 0, image))


def test_the_record_says_what_was_filled():
    record = inpaint(_stripes(), _hole(), grow=1, **QUICK).record
    assert (record["task"], record["grow"], record["invert_mask"]) == ("inpaint", 1, False)
    assert record["mask"]["shape"] == [1, 1, 64, 64]
    assert record["settings"]["size"] == (64, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": None}, "what is to be filled"),
        ({"mask": torch.zeros(1, 64, 64)}, "marks nothing to fill; is it inverted"),
        ({"mask": torch.ones(1, 64, 64)}, "marks the whole image to be filled"),
        ({"mask": torch.ones(1, 32, 64)}, "of the image's size 64x64, got 32x64"),
        ({"mask": _hole(), "grow": -1}, "grow of at least 0"),
        ({"mask": _hole(), "grow": 64}, "the hole is the whole image"),
        ({"mask": _hole(), "grow": 10**9}, "the hole is the whole image"),  # and at once
        ({"mask": _hole(rows=(2, 62), columns=(2, 62))}, "too little to learn from.* 32 windows of 5x5 known pixels"),
        ({"mask": _hole(), "param": "texnet"}, "cannot start from an image|resiz"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(UsageError, match=message):
        inpaint(_stripes(), **{**QUICK, **arguments})
