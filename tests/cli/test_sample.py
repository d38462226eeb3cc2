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
from featot.render import render, sample
from featot.strips import write_strips
from featot_cli.main import main
from featot_plugins.texnet_film import Film

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
    os.link(models / "moss.safetensors", models / "moss.png")
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


@pytest.mark.parametrize(
    ("name", "channels", "grey"), [("texnet", 3, False), ("texnet_lite", 3, False), ("texnet_lite", 1, True)]
)
def test_onnx_makes_the_same_image(run, models, tmp_path, name, channels, grey):
    """Another size than the export saw, the same noise: onnxruntime's image is ours; in three channels of one too."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    plugin = load_registry().get("param", name)
    generator = plugin.create(plugin.build_options({"scales": 3}))
    generator.initialize(torch.rand(1, channels, 32, 32), (32, 32), torch.Generator().manual_seed(0))
    generator.calibrate((32, 32), torch.Generator().manual_seed(0))
    save_model(tmp_path / "m.safetensors", generator, plugin, {}, grey=grey)
    code, out, err = run("export", tmp_path / "m.safetensors", "--json")  # to a file of the model's name
    told = json.loads(out)
    assert (code, err, told["onnx"], told["stride"], len(told["noise"])) == (0, "", "m.onnx", 4, 3)
    assert told["channels"] == 3
    session = onnxruntime.InferenceSession("m.onnx", providers=["CPUExecutionProvider"])
    frozen, noise, (h, w) = load_model(tmp_path / "m.safetensors").freeze(), NoiseField(3), (56, 40)
    inputs = {
        f"noise{s}": noise.uniform(s, c, range(-m, h // 2**s + m), range(-m, w // 2**s + m)).numpy()
        for s, (c, m) in enumerate(frozen.margins())
    }
    assert [given.name for given in session.get_inputs()] == list(inputs)
    (image,) = session.run(["image"], inputs)
    found = torch.from_numpy(image)
    torch.testing.assert_close(found, render(frozen, noise, range(h), range(w)), rtol=0, atol=1e-4)


@pytest.fixture
def between(tmp_path):
    """A model of two exemplars, with random weights and a colour of its own for each."""
    plugin = load_registry().get("param", "texnet_lite")
    generator = plugin.create(plugin.build_options({"width": 4, "scales": 3}))
    generator.conditions = 2
    generator.initialize(torch.rand(1, 3, 32, 32), (32, 32), torch.Generator().manual_seed(0))
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for film in (module for module in generator.net.modules() if isinstance(module, Film)):
            film.bias.normal_(generator=drawn)
    generator.calibrate((32, 32), torch.Generator().manual_seed(0))
    record = {"exemplar": {"path": "/a/rust.png", "sha256": "x"}, "more_exemplars": [{"path": "moss.jpg"}]}
    save_model(tmp_path / "two.safetensors", generator, plugin, record)
    return generator


def _pixels(image):
    return (image[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def _shared(generator, *shares, seed=0, size=(40, 56)):
    return torch.cat(list(sample(generator.freeze().shared(torch.tensor(shares)), size, seed=seed)), 2)


def test_weights(run, between, tmp_path):
    two = tmp_path / "two.safetensors"
    assert load_model(two).header["conditions"] == ["rust", "moss"]
    code, out, err = run("sample", two, "--size", "40x56", "--weights", "1,3", "--seed", 5, "--count", 2)
    assert (code, err) == (0, "")
    assert out.startswith("two_seed5.png  40x56, seed 5, weights 0.25,0.75, ")
    for seed in (5, 6):
        expected = _pixels(_shared(between, 0.25, 0.75, seed=seed))
        assert (np.asarray(Image.open(f"two_seed{seed}.png")) == expected).all()
    code, out, _ = run("sample", two, "--size", "40x56", "--json")
    assert (code, json.loads(out)["weights"]) == (0, [0.5, 0.5])


def test_a_path_of_weights(run, between, tmp_path):
    assert run("sample", tmp_path / "two.safetensors", "--size", "40x56", "--path", 3, "-o", "p.png", "-q")[0] == 0
    assert sorted(os.listdir(tmp_path)) == ["p_0.png", "p_1.png", "p_2.png", "two.safetensors"]
    for step, shares in enumerate([(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]):
        assert (np.asarray(Image.open(f"p_{step}.png")) == _pixels(_shared(between, *shares))).all()


def test_a_map_of_weights(run, between, tmp_path):
    """Far from the step of the map the image is that of one exemplar."""
    Image.fromarray(np.uint8([[0, 0, 255, 255]]).repeat(2, 0)).save("map.png")
    arguments = ("--weight-map", "map.png", "--size", "64x256", "--tile", "none", "-o", "m.png")
    assert run("sample", tmp_path / "two.safetensors", *arguments)[0] == 0
    found = np.asarray(Image.open("m.png")).astype(int)
    frozen, noise = between.freeze(), NoiseField(0)
    for shares, columns in (((1.0, 0.0), slice(0, 64)), ((0.0, 1.0), slice(192, 256))):
        image = render(frozen.shared(torch.tensor(shares)), noise, range(64), range(256))
        assert np.abs(found[:, columns] - _pixels(image)[:, columns]).max() <= 1
    code, _, err = run("sample", tmp_path / "two.safetensors", "--weight-map", "map.png", "-o", "map.png")
    assert (code, "it is the weight map; choose another name" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--weights", "1,2,3"), "a weight for each of the 2 exemplars, got 3"),
        (("--weights", "1,x"), "bad weights '1,x': expected numbers"),
        (("--weights", "0,0"), "weights of at least 0, one of them above"),
        (("--weights", "-1,2"), "weights of at least 0, one of them above"),
        (("--path", "1"), "a path of at least 2 steps, got 1"),
        (("--path", "3", "--weights", "1,1"), "one of --path, --weights and --weight-map"),
        (("--path", "3", "--count", "2"), "--count or --path, got both"),
    ],
)
def test_weights_that_make_no_sense(run, between, tmp_path, arguments, message):
    code, _, err = run("sample", tmp_path / "two.safetensors", *arguments)
    assert (code, message in err) == (2, True), err
    assert os.listdir(tmp_path) == ["two.safetensors"]


@pytest.mark.parametrize("arguments", [("--weights", ".3,.7"), ("--path", "3"), ("--weight-map", "map.png")])
def test_weights_for_a_model_of_one_texture(run, arguments):
    code, _, err = run("sample", "moss.safetensors", *arguments)
    assert code == 2
    assert "moss.safetensors has learnt one texture; weights are for one of featot train A B --conditional" in err


@pytest.mark.parametrize("size", [(40, 56), (530, 70)])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_show_tiled_repeats_the_image(run, size, suffix):
    text = f"{size[0]}x{size[1]}"
    assert run("sample", "moss.safetensors", "-o", f"o.{suffix}", "--size", text, "--show-tiled")[0] == 0
    whole, tiled = (np.asarray(Image.open(f"{name}.{suffix}")) for name in ("o", "o_tiled"))
    assert (tiled == np.tile(whole, (2, 2, 1))).all()


def test_onnx_takes_the_weights(run, between, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    code, out, err = run("export", tmp_path / "two.safetensors", "--onnx", "m.onnx")
    assert (code, err) == (0, "")
    assert out.startswith("m.onnx  image of h x w, multiples of 4, from noise0: ")
    assert out.endswith(", weights: 2\n")
    session = onnxruntime.InferenceSession("m.onnx", providers=["CPUExecutionProvider"])
    frozen, noise, (h, w) = between.freeze(), NoiseField(3), (56, 40)
    inputs = {
        f"noise{s}": noise.uniform(s, c, range(-m, h // 2**s + m), range(-m, w // 2**s + m)).numpy()
        for s, (c, m) in enumerate(frozen.margins())
    }
    for shares in ([1.0, 0.0], [0.3, 0.7]):
        (image,) = session.run(["image"], {**inputs, "weights": np.float32(shares)})
        expected = render(frozen.shared(torch.tensor(shares)), noise, range(h), range(w))
        torch.testing.assert_close(torch.from_numpy(image), expected, rtol=0, atol=1e-4)


def test_export_names_its_extra(run, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = run("export", "moss.safetensors", "--onnx", "m.onnx")
    assert code == 1
    assert err == "featot: export to ONNX needs onnx and onnxscript: pip install 'featot[onnx]'\n"
    assert os.listdir(tmp_path) == []


def test_help_loads_no_torch():
    script = "import sys; from featot_cli.sample import sample; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT).returncode == 0
