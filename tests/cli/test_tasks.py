"""`featot inpaint`, `mix` and `transfer` as they are typed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from featot.errors import UsageError
from featot.images import read_image, write_image
from featot.runs import Run
from featot_cli.main import cli

QUICK = ["--quality", "draft", "--steps", "3", "--device", "cpu"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a command in a folder with a.png, b.png (other sizes) and mask.png."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    write_image(torch.rand(3, 32, 40, generator=generator), "a.png")
    write_image(torch.rand(3, 36, 28, generator=generator), "b.png")
    mask = torch.zeros(1, 32, 40)
    mask[:, 10:20, 12:24] = 1
    write_image(mask, "mask.png")

    def invoke(*arguments):
        result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    invoke.folder = tmp_path
    return invoke


def test_inpaint_writes_an_image_and_its_record(run):
    result = run("inpaint", "a.png", "--mask", "mask.png", *QUICK)
    assert result.exit_code == 0
    assert "a_inpainted.png  32x40, loss" in result.output
    made, given = (np.asarray(Image.open(name)) for name in ("a_inpainted.png", "a.png"))
    hole = np.asarray(Image.open("mask.png")) > 0
    assert (made[~hole] == given[~hole]).all()
    assert (made[hole] != given[hole]).mean() > 0.9
    assert json.loads((run.folder / "a_inpainted.json").read_text())["task"] == "inpaint"


def test_inpaint_takes_an_inverted_mask_and_other_options(run):
    write_image(1 - read_image("mask.png")[:, :1], "keep.png")
    run("inpaint", "a.png", "--mask", "mask.png", "--grow", 1, "--seed", 2, "-o", "one.png", *QUICK)
    run("inpaint", "a.png", "--mask", "keep.png", "--invert-mask", "--grow", 1, "--seed", 2, "-o", "two.png", *QUICK)
    assert torch.equal(read_image("one.png"), read_image("two.png"))


def test_mix_writes_one_image(run):
    result = run("mix", "a.png", "b.png", "--weights", ".3,.7", *QUICK)
    assert result.exit_code == 0
    assert read_image("a_mix.png").shape == (1, 3, 32, 40)
    assert json.loads((run.folder / "a_mix.json").read_text())["weights"] == pytest.approx([0.3, 0.7])


def test_mix_writes_a_path_and_an_animation_of_it(run):
    result = run("mix", "a.png", "b.png", "--path", 3, "--size", "24", "-o", "out.png", *QUICK)
    assert result.exit_code == 0
    assert [f"out_{i}.png" in result.output for i in range(4)] == [True, True, True, False]
    assert not (run.folder / "out.png").exists()
    images = [read_image(f"out_{i}.png") for i in range(3)]
    with Image.open("out_path.webp") as animation:
        assert (animation.n_frames, animation.size) == (4, (24, 24))  # there and back
        animation.seek(1)
        shown = torch.from_numpy(np.array(animation.convert("RGB"))).permute(2, 0, 1)[None] / 255
    distances = [float((shown - image).square().mean()) for image in images]
    assert int(np.argmin(distances)) == 1


def test_mix_takes_a_map(run):
    write_image(torch.linspace(0, 1, 40).expand(1, 24, 40), "map.png")
    assert run("mix", "a.png", "b.png", "--weight-map", "map.png", *QUICK).exit_code == 0
    assert read_image("a_mix.png").shape == (1, 3, 24, 40)


def test_transfer_writes_an_image_of_the_contents_size(run):
    result = run("transfer", "a.png", "b.png", "--colors", "keep", "--content-weight", 0.5, *QUICK)
    assert result.exit_code == 0
    assert read_image("a_in_b.png").shape == (1, 3, 32, 40)
    record = json.loads((run.folder / "a_in_b.json").read_text())
    assert (record["colors"], record["content_weight"], record["settings"]["tile"]) == ("keep", 0.5, "none")


@pytest.mark.parametrize("command", [["inpaint", "a.png", "--mask", "mask.png"], ["mix", "a.png", "b.png"]])
def test_the_record_can_be_printed(run, command):
    result = run(*command, "--json", *QUICK)
    assert json.loads(result.stdout)["task"] == command[0]


@pytest.mark.parametrize(
    "command",
    ["inpaint a.png --mask mask.png -o out.png", "mix a.png b.png -o out.png", "transfer a.png b.png -o out.png"],
)
def test_a_report_can_be_written(run, command):
    assert run(*command.split(), "--report", *QUICK).exit_code == 0
    page = (run.folder / "out.html").read_text("utf-8")
    assert "data:image/png;base64," in page
    assert command.split()[0] in page


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("inpaint a.png", "what is to be filled"),
        ("inpaint a.png --mask b.png", "of the image's size 32x40, got 36x28"),
        ("inpaint a.png --mask mask.png -o a.png", "it is the exemplar"),
        ("inpaint a.png --mask mask.png -o mask.png", "it is an input"),
        ("inpaint none.png", "cannot read none.png"),
        ("mix a.png", "at least two exemplars"),
        ("mix a.png b.png --weights .3,x", "bad weights '.3,x'"),
        ("mix a.png b.png --weights .3", "a weight for each"),
        ("mix a.png b.png --path 3 --weights 1,1", "expected one of --path, --weights and --weight-map"),
        ("mix a.png b.png --path 1", "--path of at least 2 steps"),
        ("mix a.png b.png a.png --path 3", "expected 2, got 3"),
        ("mix a.png b.png -o b.png", "it is an input"),
        ("transfer a.png b.png --colors mine", "unknown colors 'mine'"),
        ("transfer a.png b.png --content-weight -1", "content weight of at least 0"),
        ("transfer a.png b.png -o out.xyz", "not a known image format"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_made(run, command, message):
    before = set(run.folder.iterdir())
    with pytest.raises(UsageError, match=message):
        run(*command.split(), *QUICK)
    assert set(run.folder.iterdir()) == before


@pytest.mark.parametrize(
    "command",
    [
        "inpaint many.npy --mask mask.png -o out.png",
        "inpaint clear.png --mask mask.png -o out.jpg",
        "mix many.npy many.npy -o out.png",
        "transfer many.npy many.npy -o out.png",
    ],
)
def test_channels_that_the_file_cannot_hold_are_said_at_the_first_step(run, monkeypatch, command):
    np.save("many.npy", np.random.default_rng(0).random((32, 40, 5), np.float32))
    write_image(torch.rand(4, 32, 40), "clear.png")
    monkeypatch.setattr(Run, "result", lambda *_, **__: pytest.fail("the run went to its end"))
    with pytest.raises(UsageError, match=r"cannot write out\.(png|jpg): .* channels, not (5|4) "):
        run(*command.split(), *QUICK)


# Materials


@pytest.fixture
def stack(run):
    generator = torch.Generator().manual_seed(1)
    write_image(torch.rand(1, 32, 40, generator=generator), "rough.png")
    return ["synth", "--stack", "albedo=a.png", "roughness=rough.png"]


def test_a_stack_is_written_map_by_map(run, stack):
    result = run(*stack, "-o", "out/{map}.png", "--map-weight", "roughness=2", "--size", "24", *QUICK)
    assert result.exit_code == 0
    assert "out/albedo.png, out/roughness.png  24x24, loss" in result.output
    assert {file.name for file in (run.folder / "out").iterdir()} == {"albedo.png", "roughness.png", "stack.json"}
    assert json.loads((run.folder / "out" / "stack.json").read_text())["weights"] == {"roughness": 2.0}
    assert [read_image(f"out/{name}.png").shape[1] for name in ("albedo", "roughness")] == [3, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "out.png"], r"expected an output with \{map\}"),
        (["mask.png"], "bad --stack 'mask.png': expected NAME="),
        (["albedo=mask.png"], "--stack albedo is given twice"),
        (["--count", "2"], "--stack cannot go with --count"),
        (["--map-weight", "roughness=x"], "bad --map-weight roughness=x"),
        (["--map-weight", "rough=1"], "unknown map 'rough'"),
        (["normal=b.png"], "expected maps of one size"),
        (["height=none.png", "-o", "out/{map}.png"], "cannot read none.png"),
        (["many=many.npy", "-o", "out/{map}.png"], "PNG holds .* channels, not 5"),
        (["../height=mask.png"], "expected a name such as albedo for a map, got '../height'"),
    ],
)
def test_a_bad_stack(run, stack, arguments, message):
    np.save("many.npy", np.random.default_rng(0).random((32, 40, 5), np.float32))
    before = set(run.folder.iterdir())
    with pytest.raises(UsageError, match=message):
        run(*stack, *arguments, *QUICK)
    assert set(run.folder.iterdir()) == before


def test_each_map_of_a_stack_gets_a_page(run, stack):
    assert run(*stack, "-o", "out/{map}.png", "--report", *QUICK).exit_code == 0
    for name, file in (("albedo", "a.png"), ("roughness", "rough.png")):
        page = (run.folder / "out" / f"{name}.html").read_text("utf-8")
        assert f"<tr><th>exemplar</th><td>{run.folder / file}</td></tr>" in page
        assert "--report" in page


def test_options_of_a_stack_without_one(run):
    with pytest.raises(UsageError, match="are for the maps of a --stack"):
        run("synth", "a.png", "--linear", "albedo", *QUICK)
