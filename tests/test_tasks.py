"""The task "synthesize": what it takes, what it makes, and the record with which to repeat it."""

from __future__ import annotations

import functools
import json
import platform

import jaxtyping
import numpy as np
import pytest
import skimage.data
import torch

import featot
from featot.errors import FeatotError, UsageError
from featot.images import read_image, write_image
from featot.interfaces import Parametrization
from featot.provenance import fingerprint, read_record
from featot.recipe import parse_sum
from featot.resample import halve
from featot.runs import SynthesisSettings
from featot.schedule import QUALITIES
from featot.tasks import synthesize
from featot_plugins.image import Image
from featot_plugins.msot import MSOT
from featot_plugins.options import (
    ImageOptions,
    MSOTOptions,
    OTLossOptions,
    PatchesOptions,
    PyramidOptions,
    SlicedOptions,
)
from featot_plugins.ot import OTLoss
from featot_plugins.patches import Patches
from featot_plugins.pyramid import Pyramid


def _exemplar(channels=1, h=28, w=32):
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    phase = 2 * torch.pi * (x + y) / 8
    return torch.stack([0.5 + 0.3 * (phase + c).sin() for c in range(channels)])[None]


def _quick(exemplar=None, **changes):
    arguments = {"steps": 2, "levels": 2, "size": (16, 20), "device": "cpu", **changes}
    return synthesize(_exemplar() if exemplar is None else exemplar, **arguments)


class OneColor(Parametrization):
    """One value per channel; cannot be resized."""

    boundary = "valid"

    def initialize(self, exemplar, size, generator):
        self.color = torch.rand(exemplar.shape[1], generator=generator).to(exemplar).requires_grad_()

    def parameters(self):
        return [self.color]

    def __call__(self, size, generator):
        return self.color[None, :, None, None].expand(1, -1, *size)


class TooLarge(OneColor):
    """Really asks for a petabyte, of torch or of numpy."""

    def __init__(self, allocate):
        super().__init__()
        self.allocate = allocate

    def __call__(self, size, generator):
        self.allocate(10**15)
        return super().__call__(size, generator)


@pytest.fixture
def untyped(monkeypatch):
    """Lets a wrong argument reach the engine's own check, past the types that tests check."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


# Images in and out


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(37, 53), (12, 9), (40, 24), None])
def test_size_and_channels(channels, size):
    result = _quick(_exemplar(channels), size=size, levels=None)
    assert result.image.shape == (1, channels, *(size or (28, 32)))
    assert result.image.dtype == torch.float32
    assert result.image.device.type == "cpu"
    assert not result.image.requires_grad
    assert 0 <= result.image.min() < result.image.max() <= 1
    assert result.interrupted is False


def test_equal_seeds_give_equal_bits():
    first, again, other = (_quick(seed=seed).image for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.05)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, 0.3, 1 / 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_constant_image_gives_its_constant(value, channels):
    result = _quick(torch.full((1, channels, 28, 32), value), steps=20)
    assert (result.image - value).abs().max() < 0.02


def _shapes_and_kinds():
    image = _exemplar(3)
    array = image.numpy()
    read_only = array.copy()
    read_only.flags.writeable = False
    return {
        "tensor (c, h, w)": image[0],
        "array (1, c, h, w)": array,
        "array (c, h, w)": array[0],
        "float64": image.double(),
        "array from (h, w, c)": np.ascontiguousarray(array[0].transpose(1, 2, 0)).transpose(2, 0, 1),
        "read-only array": read_only,
        "big-endian array": array.astype(">f4"),
        "array flipped twice": array[..., ::-1].copy()[..., ::-1],
        "with gradients": image.clone().requires_grad_(),
        "of a computation": image.clone().requires_grad_() * 1,
    }


@pytest.mark.parametrize("kind", _shapes_and_kinds())
@pytest.mark.filterwarnings("error")
def test_every_kind_of_array_gives_the_same(kind):
    torch.testing.assert_close(_quick(_shapes_and_kinds()[kind]).image, _quick(_exemplar(3)).image)


def test_the_exemplar_is_left_alone():
    exemplar = _exemplar(3)
    before = exemplar.clone()
    _quick(exemplar)
    assert torch.equal(exemplar, before)
    assert not exemplar.requires_grad


def test_a_file_gives_the_same_as_its_pixels(tmp_path):
    path = tmp_path / "exemplar.png"
    write_image(_exemplar(3), path)
    pixels = read_image(path)
    result = _quick(path)
    assert torch.equal(result.image, _quick(pixels).image)
    assert result.record["exemplar"] == {
        "path": str(path),
        "shape": [1, 3, 28, 32],
        "sha256": fingerprint(pixels),
    }


@pytest.mark.parametrize(
    ("exemplar", "message"),
    [
        (torch.full((1, 28, 32), torch.nan), "finite pixels, got NaN"),
        (torch.full((1, 28, 32), torch.inf), "finite pixels, got NaN or inf"),
        (torch.full((1, 28, 32), 1.5), r"in \[0, 1\], got 1.5 to 1.5"),
        (torch.full((1, 28, 32), -0.25), r"in \[0, 1\], got -0.25"),
        (torch.zeros(28, 32), r"\(28, 32\)"),
        (torch.zeros(28, 32, 3), r"\(28, 32, 3\) of torch.float32: channels come first"),
        (torch.zeros(2, 3, 28, 32), r"\(2, 3, 28, 32\)"),
        (torch.zeros(1, 1, 3, 28, 32), r"\(1, 1, 3, 28, 32\)"),
        (torch.zeros(0, 28, 32), r"\(0, 28, 32\)"),
        (torch.zeros(3, 0, 32), r"\(3, 0, 32\)"),
        (torch.tensor(0.5), r"\(\) of torch.float32"),
        (torch.zeros(3, 28, 32, dtype=torch.uint8), "uint8"),
        (np.zeros((3, 28, 32), dtype=np.uint8), "uint8"),
        (np.zeros((3, 28, 32), dtype=complex), "complex"),
        (np.full((3, 28, 32), "a"), "<U1"),
    ],
)
def test_pixels_that_make_no_image(exemplar, message):
    with pytest.raises(UsageError, match=message):
        _quick(exemplar)


def test_an_exemplar_too_small():
    with pytest.raises(UsageError, match=r"too small for its features.*3x9"):
        _quick(torch.rand(1, 3, 9), levels=None)


def test_no_such_file(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*none\.png"):
        _quick(tmp_path / "none.png")


# Settings, options and objects


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps of at least 1, got 0"),
        ({"levels": 0}, "levels of at least 1"),
        ({"max_points": 0}, "max_points of at least 1"),
        ({"seed": -1}, "seed of at least 0"),
        ({"seed": 2**70}, "seed"),
        ({"size": (0, 5)}, r"\(height, width\) in pixels, each at least 1, got \(0, 5\)"),
        ({"size": (5, -3)}, r"each at least 1, got \(5, -3\)"),
        ({"size": 64}, r"\(height, width\) in pixels, each at least 1, got 64"),
        ({"size": "64"}, "each at least 1, got '64'"),
        ({"levels": 9}, "levels.*9"),
        ({"features": "pyramyd"}, "features plugin 'pyramyd'; did you mean 'pyramid'"),
        ({"loss": "nothing_like_it"}, "loss plugin 'nothing_like_it' .choose from: .*ot"),
        ({"options": {"noize": 1}}, "option 'noize'; did you mean 'noise'"),
        ({"options": {"pyramid.stried": 1}}, "did you mean 'stride'"),
        ({"options": {"pyramyd.size": 1}}, "did you mean 'pyramid'"),
        ({"options": {"size": "large"}}, "'size' of features plugin 'pyramid': expected int.*'large'"),
        ({"options": {"size": 0}}, "at least 1"),
        ({"options": {"size": 4, "features.size": 5}}, "'size' of features plugin 'pyramid' is given twice"),
        ({"device": "tpu"}, "unknown device 'tpu' .*auto, cpu, cuda"),
        ({"device": "mps"}, "unknown device 'mps'"),
        ({"device": "cuda:99"}, "'cuda:99' is not here: torch sees"),
        ({"device": "cpu:1"}, "unknown device 'cpu:1'"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(UsageError, match=message):
        _quick(**changes)


@pytest.mark.usefixtures("untyped")
def test_unknown_optimizer():
    with pytest.raises(UsageError, match="unknown optimizer 'adamm'; did you mean 'adam'"):
        _quick(optimizer="adamm")


def test_an_unknown_setting_is_a_programming_error():
    with pytest.raises(TypeError, match="no setting 'stepz'"):
        _quick(stepz=3)


def test_an_option_that_two_plugins_have_is_ambiguous():
    from featot.plugins import Plugin, Registered, load_registry

    registry = load_registry()
    twin = Plugin("twin", Image, "has a size too", PatchesOptions)
    registry.plugins["param"]["twin"] = Registered("param", twin, "test", "1")
    with pytest.raises(UsageError, match=r"'size' is ambiguous: say features\.size or param\.size"):
        _quick(param="twin", registry=registry, options={"size": 3})


@pytest.mark.parametrize("key", ["size", "pyramid.size", "features.size"])
def test_options_reach_their_plugin(key):
    result = _quick(loss="ot", options={key: 3, "image.noise": "0.5", "exponent": 1.5})
    options = result.record["settings"]["options"]
    assert (options["features.size"], options["param.noise"], options["loss.exponent"]) == (3, 0.5, 1.5)
    objects = {
        "features": Pyramid(PyramidOptions(size=3)),
        "param": Image(ImageOptions(noise=0.5)),
        "loss": functools.partial(OTLoss, OTLossOptions(exponent=1.5)),
    }
    assert torch.equal(result.image, _quick(**objects).image)
    assert not torch.allclose(result.image, _quick(loss="ot").image, atol=0.05)


def test_max_points_thins():
    assert torch.equal(_quick(max_points=320).image, _quick().image)
    assert not torch.allclose(_quick(max_points=50).image, _quick().image, atol=1e-3)


def test_changes_override_settings():
    settings = SynthesisSettings(size=(16, 20), steps=2, levels=2, seed=4, device="cpu")
    assert torch.equal(synthesize(_exemplar(), settings, seed=5).image, _quick(seed=5).image)
    assert torch.equal(synthesize(_exemplar(), settings).image, _quick(seed=4).image)
    assert settings.seed == 4


def test_objects_stand_for_names():
    extractor = Patches(PatchesOptions(size=3))
    result = _quick(features=extractor, options={"noise": 0.5})
    expected = _quick(features="patches", options={"noise": 0.5, "size": 3})
    assert torch.equal(result.image, expected.image)
    settings = result.record["settings"]
    assert settings["features"] == "featot_plugins.patches:Patches"
    assert not any(key.startswith("features.") for key in settings["options"])
    assert settings["options"]["param.noise"] == 0.5


def test_a_parametrization_that_cannot_be_resized_has_one_level():
    result = _quick(_exemplar(3), param=OneColor(), levels=2, size=(9, 11))
    assert result.image.shape == (1, 3, 9, 11)
    assert result.record["settings"]["levels"] == 1
    assert {line.scale for line in result.history} == {0}


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", "closed-form"])
def test_every_optimizer(optimizer):
    result = _quick(optimizer=optimizer, steps=20, levels=1, starts=1)
    assert result.record["settings"]["optimizer"] == optimizer
    losses = [line.loss for line in result.history]
    assert sum(losses[-5:]) / 5 < losses[0]


def test_callback_and_interruption():
    seen = []

    def callback(state):
        seen.append(state)
        if len(seen) == 2:
            raise KeyboardInterrupt

    result = _quick(callback=callback)
    assert result.interrupted is True
    assert result.record["interrupted"] is True
    assert [state.record for state in seen] == result.history
    assert len(result.record["history"]) == 2
    assert result.image.shape == (1, 1, 16, 20)


# Memory


def test_a_size_far_beyond_memory_is_refused_at_once():
    with pytest.raises(FeatotError, match="not enough memory to make 1000000x2000000 pixels") as caught:
        _quick(size=(10**6, 2 * 10**6))
    assert not isinstance(caught.value, UsageError)


def test_a_size_beyond_the_memory_of_this_machine_is_refused(monkeypatch):
    """40 kB of memory: enough for 16x20 pixels, not for 64x64."""
    monkeypatch.setattr("featot.machine._memory", lambda: (40_000, 40_000))
    assert _quick(size=(16, 20)).image.shape == (1, 1, 16, 20)
    with pytest.raises(FeatotError, match="not enough memory to make 64x64 pixels"):
        _quick(size=(64, 64))


@pytest.mark.filterwarnings("ignore:memory is short")
@pytest.mark.parametrize("allocate", [functools.partial(torch.empty, dtype=torch.uint8), np.zeros])
def test_running_out_of_memory(allocate):
    with pytest.raises(FeatotError, match="not enough memory to make 16x20 pixels"):
        _quick(param=TooLarge(allocate))


def test_other_runtime_errors_come_through():
    def fail(size):
        raise RuntimeError("a shape does not fit")

    with pytest.raises(RuntimeError, match="does not fit"):
        _quick(param=TooLarge(fail))


# The record


def test_record():
    result = _quick(_exemplar(3), options={"size": 3}, seed=7, starts=1)
    record = result.record
    assert (record["format"], record["task"], record["interrupted"]) == (1, "synthesize", False)
    assert record["exemplar"] == {"path": None, "shape": [1, 3, 28, 32], "sha256": fingerprint(_exemplar(3))}
    settings = record["settings"]
    expected = {
        **{f"features.{name}": value for name, value in vars(PyramidOptions(size=3)).items()},
        **{f"param.{name}": value for name, value in vars(ImageOptions()).items()},
        **{f"ot.{name}": value for name, value in vars(OTLossOptions()).items()},
        **{f"sliced.{name}": value for name, value in vars(SlicedOptions()).items()},
    }
    assert settings.pop("options") == expected
    assert parse_sum(settings.pop("loss"), "loss").keys() == {"ot", "sliced"}
    assert settings == {
        "size": (16, 20),
        "features": "pyramid",
        "param": "image",
        "quality": "standard",
        "optimizer": "adam",
        "levels": 2,
        "steps": 2,
        "max_points": QUALITIES["standard"].max_points,
        "starts": 1,
        "augment": (),
        "tile": "both",
        "seed": 7,
        "device": "cpu",
    }
    assert record["versions"]["python"] == platform.python_version()
    assert record["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert record["versions"]["featot"] == featot.__version__
    assert record["versions"]["numpy"] == np.__version__
    assert record["device"]["type"] == "cpu"
    assert record["device"]["threads"] == torch.get_num_threads()
    assert set(record["timings"]["per_level"]) == {"1/2", "1/1"}
    assert 0 < sum(record["timings"]["per_level"].values()) <= record["timings"]["match"] + 1e-3
    assert record["timings"]["setup"] >= 0
    assert len(record["history"]) == len(result.history) == 3 + 2
    assert record["loss"] == result.history[-1].loss
    assert [line["step"] for line in record["history"]] == list(range(5))


def test_fingerprints_tell_pixels_and_shapes_apart():
    image = torch.rand(1, 1, 4, 6)
    assert fingerprint(image) == fingerprint(image.clone().requires_grad_())
    assert len({fingerprint(x) for x in (image, image.reshape(1, 1, 6, 4), image.flip(3), 1 - image)}) == 4


def test_automatic_settings_are_recorded_as_they_came_out():
    record = synthesize(_exemplar(1, 48, 40), steps=1, device="cpu").record
    assert record["settings"]["size"] == (48, 40)
    assert record["settings"]["levels"] == 2
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    assert _quick(device="auto").record["settings"]["device"] == auto


@pytest.mark.parametrize("changes", [{}, {"features": "patches", "optimizer": "closed-form", "options": {"size": 3}}])
def test_a_saved_record_repeats_bit_for_bit(tmp_path, changes):
    path = tmp_path / "made.png"
    result = _quick(_exemplar(3), seed=3, **changes)
    sidecar = result.save(path)
    assert sidecar == tmp_path / "made.json"
    torch.testing.assert_close(read_image(path), result.image, rtol=0, atol=0.5 / 255 + 1e-6)
    record = read_record(sidecar)
    assert record == json.loads(json.dumps(result.record))
    again = synthesize(_exemplar(3), SynthesisSettings.from_record(record))
    assert torch.equal(again.image, result.image)
    for part in ("settings", "exemplar", "versions", "loss"):
        assert again.record[part] == result.record[part]


def test_a_record_with_objects_cannot_be_repeated_by_name(tmp_path):
    result = _quick(param=OneColor())
    settings = SynthesisSettings.from_record(read_record(result.save(tmp_path / "made.png")))
    with pytest.raises(UsageError, match=r"unknown param plugin.*OneColor"):
        synthesize(_exemplar(), settings)


@pytest.fixture(scope="module")
def record():
    """As `read_record` gives it."""
    return json.dumps(_quick().record)


def _without(record, *keys):
    holder = record
    for key in keys[:-1]:
        holder = holder[key]
    del holder[keys[-1]]
    return record


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "", "not JSON"),
        (lambda text: text[: len(text) // 2], "not JSON"),
        (lambda text: "\ud800".encode("utf-16", "surrogatepass"), "not JSON"),
        (lambda text: "[1, 2]", "no record of a synthesis"),
        (lambda text: "3", "no record of a synthesis"),
        (lambda text: '{"task": "train"}', "no record of a synthesis"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "format is 2, expected 1"),
        (lambda text: json.dumps(_without(json.loads(text), "format")), "format is None"),
        (lambda text: json.dumps(_without(json.loads(text), "settings")), "settings"),
        (lambda text: json.dumps(_without(json.loads(text), "exemplar")), "exemplar"),
        (lambda text: json.dumps(_without(json.loads(text), "device")), "device"),
        (lambda text: json.dumps({**json.loads(text), "settings": []}), "settings"),
    ],
)
def test_damaged_records(tmp_path, record, damage, message):
    path = tmp_path / "made.json"
    damaged = damage(record)
    path.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    with pytest.raises(UsageError, match=message) as caught:
        read_record(path)
    assert str(path) in str(caught.value)


def test_records_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read.*No such file"):
        read_record(tmp_path / "none.json")
    with pytest.raises(UsageError, match=r"cannot read.*directory"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        {"steps": "many"},
        {"steps": 0},
        {"size": 64},
        {"size": ["a", "b"]},
        {"size": [64]},
        {"seed": 1.5},
        {"seed": "one"},
        {"optimizer": "adamm"},
        {"features": 5},
        {"options": 3},
        {"options": None},
        {"colour": "red"},
    ],
)
def test_damaged_settings(record, damage):
    whole = json.loads(record)
    assert SynthesisSettings.from_record(whole).steps == 2
    with pytest.raises(UsageError):
        SynthesisSettings.from_record({**whole, "settings": {**whole["settings"], **damage}})


def test_settings_that_are_missing(record):
    with pytest.raises(UsageError, match="damaged"):
        SynthesisSettings.from_record(_without(json.loads(record), "settings", "options"))


def test_save_refuses_an_unknown_suffix(tmp_path):
    result = _quick()
    with pytest.raises(UsageError, match="not a known image format"):
        result.save(tmp_path / "made.gif")
    assert list(tmp_path.iterdir()) == []


# Quality


def _texture(name):
    photograph = torch.as_tensor(getattr(skimage.data, name)()[:256, :256].copy()).float()[None, None] / 255
    return halve(halve(photograph, "valid"), "valid")[..., :64, :64]  # 62x62, with several bricks and stones


@pytest.mark.parametrize("name", ["brick", "gravel"])
def test_a_synthesis_is_far_nearer_to_its_exemplar_than_noise_is(name):
    exemplar = _texture(name)
    initial = Image(ImageOptions())
    initial.initialize(exemplar, (64, 64), torch.Generator().manual_seed(0))
    noise = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    start = initial((64, 64), torch.Generator()).detach()
    made = synthesize(exemplar, size=(64, 64), steps=15, device="cpu").image
    metric = MSOT(MSOTOptions(points=400, scales=3))
    # Draws of the exemplar itself are not at 0: what counts is the distance beyond theirs.
    least, score, of_start, of_noise = (metric(image, exemplar) for image in (exemplar, made, start, noise))
    assert 0 < score - least < (of_start - least) / 4
    assert score - least < (of_noise - least) / 4


def test_weak_grain_between_strong_forms_stays():
    """Its median strength: that of all detail says little, for edges outweigh it."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    exemplar = 0.5 + 0.01 * torch.randn(1, 3, 96, 96, generator=generator)
    for top, left in (96 * torch.rand(12, 2, generator=generator)).tolist():
        disc = (y - top) ** 2 + (x - left) ** 2 < 36
        exemplar = exemplar + 0.3 * disc * torch.rand(1, 3, 1, 1, generator=generator)
    exemplar = exemplar.clamp(0, 1)

    def grain(image):
        image = image.mean(1, keepdim=True)
        return (image - torch.nn.functional.avg_pool2d(image, 3, 1, 1))[..., 2:-2, 2:-2].abs().median()

    strengths = [grain(synthesize(exemplar, seed=seed, device="cpu").image) / grain(exemplar) for seed in (0, 1)]
    assert 0.9 < sum(strengths) / 2 < 1.1


def test_a_faded_exemplar_keeps_its_detail(faded, detail):
    """With steps of one length for all exemplars it was 0.88, for what pixels tremble by was as strong."""
    shares = [detail(synthesize(faded, seed=seed, device="cpu").image) / detail(faded) for seed in (0, 1)]
    assert 0.95 < sum(shares) / 2 < 1.05


def test_white_dots_on_black_are_white(detail):
    """They were grey where steps were too short (detail 0.78), with pixels beyond black and white (0.73), and too few
    while a sliced loss weighed by the standard deviation (0.90)."""
    y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    exemplar = torch.zeros(1, 1, 96, 96)
    scale = torch.tensor([96.0, 96.0, 2.0])
    for top, left, radius in (scale * torch.rand(40, 3, generator=torch.Generator().manual_seed(1))).tolist():
        exemplar[0, 0, (y - top) ** 2 + (x - left) ** 2 <= (radius + 0.6) ** 2] = 1
    images = [synthesize(exemplar, seed=seed, device="cpu").image for seed in (0, 1)]
    assert sum(detail(image) / detail(exemplar) for image in images) / 2 > 0.93
    assert max(float(((image > 0.1) & (image < 0.9)).float().mean()) for image in images) < 0.01


def test_pixels_never_leave_their_range():
    seen = []

    def callback(state):
        image = state.image()
        seen.append((float(image.min()), float(image.max())))

    stripes = (torch.arange(32) // 4 % 2).float().expand(1, 1, 32, 32)
    synthesize(stripes, steps=12, device="cpu", callback=callback)
    assert min(low for low, _ in seen) == 0
    assert max(high for _, high in seen) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_on_a_gpu():
    """The same task there: as near to the exemplar as on the CPU."""
    exemplar = _texture("brick")
    settings = SynthesisSettings(size=(48, 56), steps=8, device="cuda")
    result = synthesize(exemplar, settings)
    assert result.image.device.type == "cpu"
    assert result.record["settings"]["device"].startswith("cuda")
    on_cpu = synthesize(exemplar, settings, device="cpu").image
    metric = MSOT(MSOTOptions(points=300, scales=2))
    assert metric(result.image, exemplar) == pytest.approx(metric(on_cpu, exemplar), rel=0.25)
