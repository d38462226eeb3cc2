"""Model files: what is saved is what is loaded, and every wrong file is one clear line."""

from __future__ import annotations

import json
import os
import stat
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import featot
from featot.models import FORMAT, load_model, save_model
from featot.noise import NoiseField
from featot.plugins import load_registry
from featot.render import render
from featot_plugins.texnet import TexnetLite

RECORD = {"exemplar": {"path": "moss.png", "sha256": "abc"}, "steps": 3}


@pytest.fixture(scope="module")
def registry():
    return load_registry()


def trained(registry, name="texnet_lite", seed=0, calibrated=True, **options):
    plugin = registry.get("param", name)
    generator = plugin.create(plugin.build_options(options))
    exemplar = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    generator.initialize(exemplar, (64, 64), torch.Generator().manual_seed(seed))
    if calibrated:
        generator.calibrate((64, 64), torch.Generator().manual_seed(seed))
    return generator, plugin


@pytest.fixture
def path(registry, tmp_path):
    path = tmp_path / "moss.safetensors"
    save_model(path, *trained(registry), RECORD)
    return path


def rewrite(path, change):
    """The same tensors with another header, or other tensors with the same header."""
    with safe_open(str(path), framework="pt") as opened:
        header = json.loads(opened.metadata()["featot"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    change(header, tensors)
    save_file(tensors, str(path), {"featot": json.dumps(header)})


@pytest.mark.parametrize(("name", "options"), [("texnet", {"step": 1, "scales": 2}), ("texnet_lite", {"width": 5})])
def test_what_is_loaded_makes_the_same_image(registry, tmp_path, name, options):
    generator, plugin = trained(registry, name, **options)
    save_model(tmp_path / "m.safetensors", generator, plugin, RECORD)
    model = load_model(tmp_path / "m.safetensors", registry=registry)
    window = NoiseField(3), range(-20, 50), range(300, 340)
    assert torch.equal(render(model.generator.freeze(), *window), render(generator.freeze(), *window))
    assert model.generator.options == generator.options
    header = model.header
    assert (header["format"], header["param"], header["owner"], header["channels"]) == (FORMAT, name, "featot", 3)
    assert (header["exemplar"], header["record"]) == ("abc", RECORD)
    assert header["options"] | options == header["options"]
    assert {"python", "torch", "featot"} <= header["versions"].keys()


def test_training_may_go_on(path, registry):
    model = load_model(path, registry=registry)
    image = model.generator((40, 44), torch.Generator())
    image.square().sum().backward()
    parameters = dict(model.generator._made().named_parameters())
    unmoved = {name for name, theta in parameters.items() if theta.grad is None}
    assert unmoved == {name for name in parameters if name.startswith("heads.")}, "those of coarse images alone"
    assert any(theta.grad.any() for name, theta in parameters.items() if name not in unmoved)


def test_loading_works_on_every_device(path, registry, device):
    frozen = load_model(path, device, registry).generator.freeze()
    found = render(frozen, NoiseField(0, device=device), range(40), range(50))
    assert found.device.type == device.type


def test_saving_is_atomic(path, registry):
    before = path.read_bytes()
    generator, plugin = trained(registry, calibrated=False)
    with pytest.raises(featot.UsageError, match="call calibrate first"):
        save_model(path, generator, plugin, RECORD)
    with pytest.raises(TypeError):
        save_model(path, *trained(registry), {"no": object()})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_header_whose_length_starts_like_a_pickle(path, registry):
    def pad(header, tensors):
        header["record"]["padding"] = header["record"].get("padding", "") + 8 * "x"

    while path.read_bytes()[0] != 0x80:
        rewrite(path, pad)
    assert load_model(path, registry=registry).header["param"] == "texnet_lite"


def test_the_file_is_like_any_other(path):
    path.with_name("plain").write_bytes(b"")
    modes = {stat.S_IMODE(os.stat(file).st_mode) for file in (path, path.with_name("plain"))}
    assert len(modes) == 1


# ---- what is refused ----


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("new_zip", [True, False])
def test_a_pickle_is_never_loaded(path, tmp_path, new_zip):
    torch.save({"weights": Bomb(tmp_path / "boom")}, path, _use_new_zipfile_serialization=new_zip)
    with pytest.raises(
        featot.UsageError, match=r"it is a pickle .* never loaded; expected a model that featot has trained"
    ):
        load_model(path)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_truncated_file(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(featot.UsageError, match=r"cannot read .*truncated, damaged or no safetensors"):
        load_model(path)


def test_a_header_of_absurd_length(path):
    path.write_bytes(struct.pack("<Q", 2**60) + path.read_bytes()[8:])
    with pytest.raises(featot.UsageError, match="truncated, damaged"):
        load_model(path)


def test_a_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(featot.UsageError, match="no safetensors file"):
        load_model(tmp_path / "a.png")


def test_safetensors_of_something_else(path):
    save_file({"a": torch.zeros(3)}, str(path))
    with pytest.raises(featot.UsageError, match="a safetensors file of something else"):
        load_model(path)


def test_a_header_that_is_no_json(path):
    save_file({"a": torch.zeros(3)}, str(path), metadata={"featot": "{"})
    with pytest.raises(featot.UsageError, match="its header is damaged: format None, expected 1"):
        load_model(path)


def test_no_file(path, tmp_path):
    with pytest.raises(featot.UsageError, match=r"no file 'mos.safetensors'.*did you mean .*moss.safetensors"):
        load_model(path.with_name("mos.safetensors"))
    with pytest.raises(featot.UsageError, match=r"cannot read .*directory"):
        load_model(tmp_path)


def _set(**values):
    return lambda header, tensors: header.update(values)


def _drop(key):
    return lambda header, tensors: header.pop(key)


def _without(name):
    return lambda header, tensors: tensors.pop(name)


def _nan(header, tensors):
    tensors["colors.bias"][0] = torch.nan


REFUSED = {
    "newer": (_set(format=FORMAT + 1, versions={"featot": "9.1"}), "its format is 2, made by featot 9.1; .*newer"),
    "odd format": (_set(format="1"), "its header is damaged: format '1', expected 1"),
    "no format": (_drop("format"), "its header is damaged: format None"),
    "no options": (_drop("options"), "its header is damaged at 'options'"),
    "bad options": (_set(options=[]), "its header is damaged at 'options'"),
    "newer and odd": (_set(format=7, versions=3), "its format is 7, made by featot \\?"),
    "no plugin": (
        _set(param="moss", owner="mosses"),
        "needs the parametrization 'moss' of 'mosses', which is not inst",
    ),
    "other owner": (_set(owner="mosses"), "not installed; the 'texnet_lite' that is installed is featot's"),
    "no generator": (_set(param="image", options={}), "'image' of 'featot' is no generator"),
    "other plugin": (_set(param="texnet", options={}), "the weights do not fit the options"),
    "other options": (_set(options={"scales": 4}), "the weights do not fit the options"),
    "unknown options": (_set(options={"widht": 4}), "unknown option 'widht'; did you mean 'width'"),
    "impossible options": (_set(options={"width": 0}), "expected int of at least 1, got 0"),
    "missing tensor": (_without("narrow.weight"), "do not fit the options: .*narrow.weight"),
    "no colours": (_without("colors.weight"), "found no 'colors.weight'"),
    "channels": (_set(channels=1), "its header says 1 channels, its weights make 3"),
    "grey": (_set(grey="yes"), "its header is damaged at 'grey'"),
    "nan": (_nan, "'colors.bias' has values that are NaN"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_files(path, registry, case):
    change, message = REFUSED[case]
    rewrite(path, change)
    with pytest.raises(featot.FeatotError, match=message) as refused:
        load_model(path, registry=registry)
    assert str(refused.value).startswith(f"cannot read {path}: ")
    assert "\n" not in str(refused.value)


def test_the_right_shape_of_the_wrong_kind(path, registry):
    def flatten(header, tensors):
        tensors["colors.weight"] = torch.tensor(1.0)

    rewrite(path, flatten)
    with pytest.raises(featot.UsageError, match="cannot read"):
        load_model(path, registry=registry)


def test_a_grey_model(registry, tmp_path):
    generator, plugin = (
        TexnetLite(registry.get("param", "texnet_lite").build_options({})),
        registry.get("param", "texnet_lite"),
    )
    generator.initialize(torch.rand(1, 1, 32, 32), (64, 64), torch.Generator())
    generator.calibrate((64, 64), torch.Generator())
    save_model(tmp_path / "grey.safetensors", generator, plugin, {})
    model = load_model(tmp_path / "grey.safetensors", registry=registry)
    assert model.header["channels"] == 1
    assert model.header["exemplar"] is None
