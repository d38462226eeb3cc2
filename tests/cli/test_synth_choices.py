"""`featot synth`: several images, several exemplars, masks and guides, presets, tiling."""

from __future__ import annotations

import json
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from featot_cli.main import main

FAST = ("--levels", "1", "--steps", "2", "--max-points", "100", "-o", "targets=50")


@pytest.fixture
def synth(capsys, monkeypatch, tmp_path):
    """Runs ``featot synth`` in this process, in a directory with a.png, b.png and maps: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(draw.integers(0, 256, (24, 28, 3), dtype=np.uint8)).save(f"{name}.png")
    half = np.zeros((24, 28), dtype=np.uint8)
    half[:, 14:] = 255
    Image.fromarray(half).save("half.png")
    Image.fromarray(half[:20, :22].copy()).save("map.png")

    def run(*arguments, fast=True):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["synth", *map(str, arguments), *(FAST if fast else ())])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def _pixels(path):
    return np.asarray(Image.open(path))


def test_seeds_and_count_make_the_images_of_single_runs(synth):
    assert synth("a.png", "-o", "s.png", "--seeds", "3,4")[0] == 0
    assert synth("a.png", "-o", "c.png", "--seed", 3, "--count", 2)[0] == 0
    for seed in (3, 4):
        assert synth("a.png", "-o", f"{seed}.png", "--seed", seed)[0] == 0
        single = Path(f"{seed}.png").read_bytes()
        assert Path(f"s_seed{seed}.png").read_bytes() == Path(f"c_seed{seed}.png").read_bytes() == single
        assert json.loads(Path(f"s_seed{seed}.json").read_text())["settings"]["seed"] == seed
    assert Path("3.png").read_bytes() != Path("4.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "2", "--seeds", "1"], "expected --count or --seeds, got both"),
        (["--seed", "2", "--seeds", "1"], "expected --seed or --seeds, got both"),
        (["--seeds", "1,1"], "the same seed gives the same image"),
        (["--seeds", "one"], "bad seeds 'one'"),
        (["--count", "0"], "--count of at least 1, got 0"),
        (["--tile", "bth"], "did you mean 'both'?"),
        (["--quality", "hgh"], "did you mean 'high'?"),
        (["--augment", "flop"], "did you mean 'flip'?"),
        (["--loss", "ot+-1*sliced"], "with weights > 0"),
        (["--guide", "map.png"], "a guide needs the exemplar guide too"),
        (["--exemplar-mask", "map.png"], "a mask of the exemplar's size 24x28, got 20x22"),
        (
            ["--guide", "map.png", "--exemplar-guide", "half.png", "--size", "9"],
            "the size of the guide, 20x22, got 9x9",
        ),
        (["b.png", "--exemplar-mask", "half.png"], "one exemplar with a mask or a guide"),
        (["--starts", "0"], "starts of at least 1, got 0"),
    ],
)
def test_refused_in_one_line(synth, arguments, message, tmp_path):
    before = sorted(tmp_path.iterdir())
    code, _, err = synth("a.png", *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_show_tiled_repeats_the_image(synth):
    assert synth("a.png", "-o", "o.png", "--show-tiled")[0] == 0
    assert (_pixels("o_tiled.png") == np.tile(_pixels("o.png"), (2, 2, 1))).all()


@pytest.mark.parametrize("tile", ["x", "y", "none"])
def test_the_size_is_that_asked_for_however_it_tiles(synth, tile):
    assert synth("a.png", "-o", "o.png", "--tile", tile, "--size", "16x20")[0] == 0
    assert _pixels("o.png").shape == (16, 20, 3)


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.png", "b.png", "--augment", "rot90,flip"],
        ["a.png", "--exemplar-mask", "half.png", "--guide", "map.png", "--exemplar-guide", "half.png"],
    ],
    ids=["pooled", "guided"],
)
def test_from_json_repeats_whatever_was_read(synth, arguments):
    assert synth(*arguments, "-o", "o.png")[0] == 0
    code, _, err = synth("--from-json", "o.json", "-o", "again.png", fast=False)
    assert (code, err) == (0, "")
    assert Path("again.png").read_bytes() == Path("o.png").read_bytes()


def test_from_json_warns_of_a_mask_that_changed(synth):
    assert synth("a.png", "--exemplar-mask", "half.png", "-o", "o.png")[0] == 0
    Image.fromarray(255 - _pixels("half.png")).save("half.png")
    code, _, err = synth("--from-json", "o.json", "-o", "again.png", fast=False)
    assert code == 0
    assert "half.png has changed since the run" in err


def test_from_json_goes_with_no_count(synth):
    assert synth("a.png", "-o", "o.png")[0] == 0
    code, _, err = synth("--from-json", "o.json", "--count", 2, fast=False)
    assert code == 2
    assert "it cannot go with --count" in err


def _clear(path, dtype=np.uint8, alike=False):
    """An exemplar of two colours, or of ``alike`` channels, every second column half transparent."""
    values = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (24, 28, 4), dtype=dtype)
    if alike:
        values[:, :, 1:3] = values[:, :, :1]
    values[:, ::2, 3] = np.iinfo(dtype).max // 2
    Path(path).write_bytes(imagecodecs.png_encode(values))


@pytest.mark.parametrize(("alpha", "channels"), [("white", 3), ("ignore", 3), ("keep", 4)])
def test_alpha_by_choice_and_again_bit_for_bit(synth, alpha, channels):
    _clear("clear.png", np.uint16)
    code, _, err = synth("clear.png", "-o", "x.png", "--alpha", alpha, "--show-tiled")
    assert (code, "laid over white" in err) == (0, alpha == "white")
    record = json.loads(Path("x.json").read_text())
    assert (record["alpha"], record["output"]["depth"]) == (alpha, "uint16")
    assert record["output"]["alpha"] == (alpha == "keep")
    pixels = imagecodecs.png_decode(Path("x.png").read_bytes())
    assert (pixels.shape, pixels.dtype) == ((24, 28, channels), np.uint16)
    assert imagecodecs.png_decode(Path("x_tiled.png").read_bytes()).dtype == np.uint16
    code, _, err = synth("--from-json", "x.json", "-o", "y.png", fast=False)
    assert (code, "has changed" in err) == (0, False)
    assert Path("x.png").read_bytes() == Path("y.png").read_bytes()


def test_alpha_that_the_output_cannot_hold_is_refused_before_the_run(synth, tmp_path):
    _clear("clear.png")
    before = sorted(tmp_path.iterdir())
    code, out, err = synth("clear.png", "-o", "x.jpg", "--alpha", "keep")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "JPEG holds 1 or 3 channels, not 4 (choose from: .png" in err
    _clear("grey.png", alike=True)  # it is compared as one channel, but comes back as three
    assert "not 4 (" in synth("grey.png", "-o", "x.jpg", "--alpha", "keep")[2]
    Path("grey.png").unlink()
    code, _, err = synth("clear.png", "-o", "x.png", "--alpha", "kep")
    assert (code, "did you mean 'keep'?" in err) == (2, True)
    assert sorted(tmp_path.iterdir()) == before


def test_from_json_after_the_exemplar_got_or_lost_its_alpha(synth):
    _clear("clear.png")
    assert synth("clear.png", "-o", "x.png", "--alpha", "keep")[0] == 0
    Path("clear.png").write_bytes(Path("a.png").read_bytes())
    code, _, err = synth("--from-json", "x.json", "-o", "y.png", fast=False)
    assert (code, "clear.png has changed" in err) == (0, True)
    code, _, err = synth("--from-json", "x.json", "--alpha", "white", fast=False)
    assert (code, "cannot go with --alpha" in err) == (2, True)
