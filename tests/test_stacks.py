"""Materials: maps that stay aligned, each in its own form."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from featot.errors import UsageError
from featot.images import read_picture, write_image
from featot.stacks import synthesize_stack
from featot.tasks import synthesize

QUICK = {"quality": "draft", "device": "cpu"}


@pytest.fixture(scope="module")
def pebbles():
    path = Path(__file__).parents[1] / "examples" / "material.py"
    spec = importlib.util.spec_from_file_location("material", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pebbles(side=64, count=14)


def _correlation(maps):
    """Between sand in the albedo's red and the roughness."""
    pair = torch.stack([maps["albedo"].reshape(3, -1)[0], maps["roughness"].flatten()])
    return float(torch.corrcoef(pair)[0, 1])


def test_maps_stay_aligned(pebbles):
    made = synthesize_stack(pebbles, **QUICK).maps
    own = _correlation(pebbles)
    assert own > 0.8
    assert _correlation(made) > 0.9 * own
    alone = {name: synthesize(pebbles[name], seed=seed, **QUICK).image for seed, name in enumerate(pebbles)}
    assert abs(_correlation(alone)) < 0.4 * own  # what the test would see of maps made one by one


def test_normals_have_length_one(pebbles):
    made = synthesize_stack(pebbles, **QUICK).maps["normal"]
    lengths = (2 * made - 1).square().sum(1).sqrt()
    torch.testing.assert_close(lengths, torch.ones_like(lengths), atol=1e-4, rtol=0)
    left = synthesize_stack(pebbles, normals=[], **QUICK).maps["normal"]
    assert float(((2 * left - 1).square().sum(1).sqrt() - 1).abs().mean()) > 0.01


def test_each_map_keeps_its_depth_and_channels(pebbles, tmp_path):
    write_image(pebbles["albedo"], tmp_path / "albedo.png")
    Image.fromarray((pebbles["roughness"][0].numpy() * 65535).astype(np.uint16)).save(tmp_path / "roughness.png")
    np.save(tmp_path / "normal.npy", (2 * pebbles["normal"] - 1).permute(1, 2, 0).numpy())
    maps = {name: tmp_path / file for name, file in
            {"albedo": "albedo.png", "roughness": "roughness.png", "normal": "normal.npy"}.items()}  # fmt: skip
    result = synthesize_stack(maps, size=(48, 48), **QUICK)
    record = result.save(str(tmp_path / "out_{map}.tif"))
    assert record == tmp_path / "out_stack.json"
    kinds = {}
    for name in maps:
        image, format = read_picture(tmp_path / f"out_{name}.tif")
        kinds[name] = image.shape[1], format.depth
        assert image.shape[2:] == (48, 48)
    assert kinds == {"albedo": (3, "uint8"), "roughness": (1, "uint16"), "normal": (3, "float")}
    image, format = read_picture(tmp_path / "out_normal.tif")
    vectors = format.low + format.range * image
    torch.testing.assert_close(vectors.square().sum(1).sqrt(), torch.ones(1, 48, 48), atol=1e-4, rtol=0)


def test_a_weight_scales_the_squared_differences_of_a_map(pebbles):
    result = synthesize_stack(pebbles, weights={"albedo": 4.0, "normal": 1.0}, normals=[], **QUICK)
    albedo, normal, roughness = result.joint.image.split([3, 3, 1], dim=1)
    torch.testing.assert_close(albedo, result.maps["albedo"])  # the largest weight is 1, all others less
    torch.testing.assert_close((2 * normal).clamp(max=1), result.maps["normal"])
    torch.testing.assert_close((2 * roughness).clamp(max=1), result.maps["roughness"])
    assert float(normal.max()) > 0.45


def test_a_grey_map_kept_as_colour_counts_as_three_channels_and_comes_back_as_such(pebbles):
    as_colour = {**pebbles, "roughness": pebbles["roughness"].expand(3, -1, -1)}
    result = synthesize_stack(as_colour, **QUICK)
    assert result.joint.image.shape[1] == 3 + 3 + 1
    assert result.maps["roughness"].shape == (1, 3, 64, 64)
    weighted = synthesize_stack(pebbles, weights={"roughness": 3.0}, **QUICK)
    assert torch.equal(result.maps["albedo"], weighted.maps["albedo"])


def test_linear_light_averages_as_light():
    """With the closed form a pixel is a mean of patches: of black and white in linear light that is brighter."""
    stripes = torch.zeros(3, 24, 24)
    stripes[:, :, ::2] = 1
    options = {"optimizer": "closed-form", "levels": 1, "steps": 1, "features": "patches", **QUICK}
    plain, light = (
        float(synthesize_stack({"a": stripes}, linear=linear, **options).maps["a"].mean()) for linear in ((), ("a",))
    )
    assert light > plain + 0.02


def test_what_is_linear_comes_back_as_it_was():
    flat = torch.tensor([0.02, 0.5, 0.9]).view(3, 1, 1).expand(3, 24, 24).contiguous()
    made = synthesize_stack({"a": flat}, linear=["a"], steps=40, **QUICK).maps["a"]
    torch.testing.assert_close(made.mean((2, 3))[0], flat[:, 0, 0], atol=0.02, rtol=0)


def test_the_record_names_every_map(pebbles):
    record = synthesize_stack(pebbles, weights={"normal": 0.5}, steps=2, **QUICK).joint.record
    assert record["task"] == "stack"
    assert list(record["stack"]) == ["albedo", "normal", "roughness"]
    assert (record["weights"], record["normals"]) == ({"normal": 0.5}, ["normal"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"maps": {}}, "at least one map"),
        ({"maps": {"a": torch.rand(3, 24, 24), "b": torch.rand(1, 24, 20)}}, "of one size, got a 24x24, b 24x20"),
        ({"weights": {"normals": 1.0}}, "unknown map 'normals'.*normal"),
        ({"weights": {"normal": 0.0}}, "weight above 0 for map 'normal'"),
        ({"linear": ["albido"]}, "unknown map 'albido'.*albedo"),
        ({"normals": ["roughness"]}, "three channels in the map of normals"),
        ({"augment": ("rot90",)}, "holds directions"),
    ],
)
def test_bad_input(pebbles, arguments, message):
    with pytest.raises(UsageError, match=message):
        synthesize_stack(arguments.pop("maps", pebbles), **{**QUICK, **arguments})


def test_a_pattern_without_a_place_for_the_name(pebbles):
    result = synthesize_stack({"roughness": pebbles["roughness"]}, steps=2, **QUICK)
    with pytest.raises(UsageError, match=r"expected an output with \{map\}"):
        result.save("out.png")
