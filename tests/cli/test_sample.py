"""`featot sample` and `featot export` as a user meets them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from featot.models import load_model, save_model
from featot.noise import NoiseField
from featot.plugins import load_registry
from featot.render import render
from featot.strips import write_strips
from featot_cli.main import main

COMMAND = [sys.executable, "-m", "featot_cli"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "150"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A colour and a grey model, with random weights."""
    folder = tmp_path_factory.mktemp("models")
    plugin = load_registry().get("param", "texnet_lite")
    for name, channels in (("moss", 3), ("grey", 1)):
        generator = plugin.create(plugin.build_options({"width": 4, "scales": 3}))
        generator.initialize(torch.rand(1, channels, 32, 32), (32, 32), torch.Generator().manual_seed(0))
        generator.calibrate((32, 32), torch.Generator().manual_seed(0))
        save_model(folder / f"{name}.safetensors", generator, plugin, {})
    return folder


@pytest.fixture
def run(capsys, monkeypatch, tmp_path, models):
    """Runs featot in this process, in an empty directory: its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(command, model, *arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([command, str(models / model) if model else "", *map(str, arguments)])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def expected(models, size, seed, period=(None, None), name="moss"):
    frozen = load_model(models / f"{name}.safetensors").generator.freeze()
    image = render(frozen, NoiseField(seed, period), range(size[0]), range(size[1]))[0]
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "bmp"])
@pytest.mark.parametrize(("name", "size"), [("moss", (530, 70)), ("moss", (5, 3)), ("grey", (40, 513))])
def test_the_file_holds_the_plane(run, models, tmp_path, suffix, name, size):
    """Pillow reads, from every format without loss, what `featot.render.render` makes; several strips, odd sizes."""
    text = f"{size[0]}x{size[1]}"
    code, out, err = run(
        "sample", f"{name}.safetensors", "-o", f"a.{suffix}", "--size", text, "--seed", 7, "--tile", "none"
    )
    assert (code, err) == (0, "")
    assert out.startswith(f"a.{suffix}  {text}, seed 7, ")
    picture = Image.open(tmp_path / f"a.{suffix}")
    grey = name == "grey" and suffix != "webp"
    assert picture.mode == ("L" if grey else "RGB")
    found = np.asarray(picture).reshape(*size, -1)
    assert (found == expected(models, size, 7, name=name)).all()
    assert os.listdir(tmp_path) == [f"a.{suffix}"]


@pytest.mark.parametrize(("tile", "period"), [("both", (70, 90)), ("x", (None, 90)), ("y", (70, None))])
def test_tile(run, models, tmp_path, tile, period):
    assert run("sample", "moss.safetensors", "-o", "a.png", "--size", "70x90", "--tile", tile)[0] == 0
    assert (np.asarray(Image.open(tmp_path / "a.png")) == expected(models, (70, 90), 0, period)).all()


def test_defaults(run, models, tmp_path):
    code, out, _ = run("sample", "moss.safetensors")
    assert code == 0
    assert os.listdir(tmp_path) == ["moss.png"]
    assert (np.asarray(Image.open("moss.png")) == expected(models, (1024, 1024), 0, (1024, 1024))).all()
    assert "Mpixel/s" in out


def test_a_larger_one_goes_on_where_a_smaller_one_ends(run, tmp_path):
    for size in ("100x120", "300x580"):
        assert run("sample", "moss.safetensors", "-o", f"{size}.png", "--size", size, "--tile", "none")[0] == 0
    small, large = (np.asarray(Image.open(tmp_path / f"{size}.png")) for size in ("100x120", "300x580"))
    assert (large[:100, :120] == small).all()


def test_count(run, models, tmp_path):
    code, out, err = run("sample", "moss.safetensors", "--size", "40", "--count", 2, "--seed", 4, "--json")
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["image"], line["seed"], line["size"]) for line in lines] == [
        ("moss_seed4.png", 4, [40, 40]),
        ("moss_seed5.png", 5, [40, 40]),
    ]
    assert lines[0]["header"]["param"] == "texnet_lite"
    assert sorted(os.listdir(tmp_path)) == ["moss_seed4.png", "moss_seed5.png"]
    assert (np.asarray(Image.open("moss_seed5.png")) == expected(models, (40, 40), 5, (40, 40))).all()


def test_quiet(run):
    assert run("sample", "moss.safetensors", "--size", "9", "-q") == (0, "", "")


REFUSED = {
    "size": (["--size", "0x9"], "bad size '0x9'"),
    "tile": (["--tile", "bot"], "unknown tile 'bot'; did you mean 'both'"),
    "seed": (["--seed", "-1"], "expected a seed of at least 0"),
    "count": (["--count", "0"], "expected --count of at least 1"),
    "suffix": (["-o", "a.gif"], "'.gif' is not a known image format"),
    "folder": (["-o", "no/a.png"], "there is no directory 'no'"),
    "side": (["-o", "a.webp", "--size", "9x20000"], "is more than the 16383 that WEBP can hold"),
    "device": (["--device", "tpu"], "unknown device 'tpu'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(run, tmp_path, case):
    arguments, message = REFUSED[case]
    code, out, err = run("sample", "moss.safetensors", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_the_model_is_not_overwritten(run, models):
    (models / "moss.png").symlink_to(models / "moss.safetensors")
    before = (models / "moss.safetensors").read_bytes()
    for command, option, name in (("sample", "-o", "moss.png"), ("export", "--onnx", "moss.safetensors")):
        code, _, err = run(command, "moss.safetensors", option, models / name)
        assert code == 2
        assert "it is the model; choose another name" in err
    assert (models / "moss.safetensors").read_bytes() == before


def test_a_missing_model(run):
    code, _, err = run("sample", "mos.safetensors")
    assert code == 2
    assert "did you mean" in err


def test_ctrl_c_leaves_nothing(models, tmp_path):
    """Interrupted while it writes: exit code 130, one line, no file and no part of one."""
    process = subprocess.Popen(
        [*COMMAND, "sample", models / "moss.safetensors", "-o", "a.tif", "--size", "40000x4000"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    end = time.monotonic() + 60
    while time.monotonic() < end and not any(file.stat().st_size > 10**6 for file in tmp_path.iterdir()):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "featot: interrupted"
    assert os.listdir(tmp_path) == []


def test_a_failure_on_the_way_leaves_the_old_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"old")

    def strips():
        yield torch.zeros(1, 3, 4, 8)
        raise MemoryError

    with pytest.raises(MemoryError):
        write_strips(tmp_path / "a.png", strips(), (8, 8), 3)
    assert (tmp_path / "a.png").read_bytes() == b"old"


def test_strips_are_written_as_they_come(tmp_path):
    """When the last strip is made, the first ones are on the disk already."""
    for suffix in ("tif", "png"):
        sizes = []

        def strips(sizes=sizes):
            for _ in range(8):
                sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
                yield torch.rand(1, 3, 256, 1024)

        write_strips(tmp_path / f"a.{suffix}", strips(), (2048, 1024), 3)
        assert sizes[-1] > 0.5 * (tmp_path / f"a.{suffix}").stat().st_size
        (tmp_path / f"a.{suffix}").unlink()


def test_large_tiffs_are_big_tiffs(monkeypatch, tmp_path):
    monkeypatch.setattr("featot.strips._CLASSIC_TIFF", 1000)
    for name, size in (("small", (10, 10)), ("big", (20, 20))):
        image = torch.rand(1, 3, *size)
        write_strips(
            tmp_path / f"{name}.tif",
            iter([image[:, :, :8], image[:, :, 8:16], image[:, :, 16:]][: 2 + (size[0] > 16)]),
            size,
            3,
        )
        with tifffile.TiffFile(tmp_path / f"{name}.tif") as file:
            assert file.is_bigtiff == (name == "big")
            assert (file.asarray() == (image[0] * 255).round().permute(1, 2, 0).numpy()).all()


# ---- export ----


@pytest.mark.parametrize("name", ["texnet", "texnet_lite"])
def test_onnx_makes_the_same_image(run, models, tmp_path, name):
    """Another size than the export saw, the same noise: onnxruntime's image is ours."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    plugin = load_registry().get("param", name)
    generator = plugin.create(plugin.build_options({"scales": 3}))
    generator.initialize(torch.rand(1, 3, 32, 32), (32, 32), torch.Generator().manual_seed(0))
    generator.calibrate((32, 32), torch.Generator().manual_seed(0))
    save_model(tmp_path / "m.safetensors", generator, plugin, {})
    code, out, err = run("export", tmp_path / "m.safetensors", "--onnx", "m.onnx")
    assert (code, err) == (0, "")
    assert out.startswith("m.onnx  image of h x w, multiples of 4, from noise0: ")
    session = onnxruntime.InferenceSession("m.onnx", providers=["CPUExecutionProvider"])
    frozen, noise, (h, w) = generator.freeze(), NoiseField(3), (56, 40)
    inputs = {
        f"noise{s}": noise.uniform(s, c, range(-m, h // 2**s + m), range(-m, w // 2**s + m)).numpy()
        for s, (c, m) in enumerate(frozen.margins())
    }
    assert [given.name for given in session.get_inputs()] == list(inputs)
    (image,) = session.run(["image"], inputs)
    found = torch.from_numpy(image)
    torch.testing.assert_close(found, render(frozen, noise, range(h), range(w)), rtol=0, atol=1e-4)


def test_export_names_its_extra(run, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = run("export", "moss.safetensors", "--onnx", "m.onnx")
    assert code == 1
    assert err == "featot: export to ONNX needs onnx and onnxscript: pip install 'featot[onnx]'\n"
    assert os.listdir(tmp_path) == []


def test_help_loads_no_torch():
    script = "import sys; from featot_cli.sample import sample; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT).returncode == 0
