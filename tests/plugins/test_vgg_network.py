"""VGG's layers against torchvision's own network, and every way in which its weights can be wrong."""

from __future__ import annotations

import io
import pickle
from email.message import Message
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from featot.errors import FeatotError, UsageError
from featot_plugins.vgg_network import VGGNetwork
from featot_plugins.weights import Weights

LAYERS = ("relu1_1", "relu1_2", "relu2_1", "relu2_2", "relu3_1")
_INDEX = {"relu1_1": 1, "relu1_2": 3, "relu2_1": 6, "relu2_2": 8, "relu3_1": 11}  # in torchvision's features


@pytest.fixture(scope="module")
def vgg19(vgg19_file):
    """torchvision's own layers with the same weights."""
    with torch.device("meta"):
        features = torchvision.models.vgg19(init_weights=False).features[:12].eval()
    tensors = {name.removeprefix("features."): tensor for name, tensor in load_file(vgg19_file).items()}
    features.load_state_dict(tensors, assign=True)
    return features.requires_grad_(False)


def _image(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def _theirs(features, image, pooling=None):
    """torchvision's responses: zeros beyond the border; ``pooling`` in place of its max-pooling."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (image - mean[:, None, None]) / std[:, None, None]
    responses = {}
    for index, layer in enumerate(features):
        x = pooling(x) if pooling and isinstance(layer, torch.nn.MaxPool2d) else layer(x)
        responses |= {name: x for name, at in _INDEX.items() if at == index}
    return responses


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_valid_responses_are_torchvisions_away_from_the_border(vgg19, vgg19_file, pooling):
    image = _image(2, 3, 48, 60)
    ours = VGGNetwork(LAYERS, pooling=pooling, weights=vgg19_file)(image, "valid")
    theirs = _theirs(vgg19, image, torch.nn.AvgPool2d(2) if pooling == "average" else None)
    assert list(ours) == list(LAYERS)
    # Pixels lost at the left in the layer's own pixels: 1 a convolution, halved by each pooling.
    for name, lost in (("relu1_1", 1), ("relu1_2", 2), ("relu2_1", 2), ("relu2_2", 3)):
        h, w = ours[name].shape[2:]
        torch.testing.assert_close(ours[name], theirs[name][:, :, lost : lost + h, lost : lost + w])
    # An odd number is lost: the second pooling pairs up other pixels, those of an image one pool further on.
    shifted = _theirs(vgg19, image[:, :, 2:, 2:], torch.nn.AvgPool2d(2) if pooling == "average" else None)["relu3_1"]
    h, w = ours["relu3_1"].shape[2:]
    torch.testing.assert_close(ours["relu3_1"][:, :, 1:, 1:], shifted[:, :, 3 : h + 2, 3 : w + 2])


def test_the_referee_agrees_on_the_real_weights(referee, real_vgg19_file):
    image, layers = _image(1, 3, 50, 61), ("relu1_1", "relu2_1", "relu3_1")
    ours = VGGNetwork(layers, weights=real_vgg19_file)(image, "valid")
    theirs = referee.vgg_feats(image, load_file(real_vgg19_file))
    for name, expected in zip(layers, theirs, strict=True):
        torch.testing.assert_close(ours[name], expected)


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_periodic_responses_turn_with_the_torus(vgg19_file, pooling):
    network, image = VGGNetwork(LAYERS, pooling=pooling, weights=vgg19_file), _image(1, 3, 32, 44)
    plain, rolled = network(image, "periodic"), network(image.roll((8, -4), dims=(2, 3)), "periodic")
    for name, responses in plain.items():
        step = 2 ** (int(name[4]) - 1)
        assert responses.shape[2:] == (32 // step, 44 // step)
        torch.testing.assert_close(rolled[name], responses.roll((8 // step, -4 // step), dims=(2, 3)))


def test_periodic_responses_inside_are_the_valid_ones(vgg19_file):
    network, image = VGGNetwork(("relu1_2",), weights=vgg19_file), _image(1, 3, 20, 23)
    periodic, valid = (network(image, boundary)["relu1_2"] for boundary in ("periodic", "valid"))
    torch.testing.assert_close(periodic[:, :, 2:-2, 2:-2], valid)


def test_layers_that_do_not_fit_are_left_out(vgg19_file):
    network = VGGNetwork(LAYERS, weights=vgg19_file)
    sides = {
        1: [],
        2: [],
        3: ["relu1_1"],
        5: ["relu1_1", "relu1_2"],
        10: list(LAYERS[:3]),
        23: list(LAYERS[:4]),
        24: list(LAYERS),
    }
    for side, expected in sides.items():
        assert list(network(_image(1, 3, side, 30), "valid")) == expected
    sides = {1: ["relu1_1", "relu1_2"], 2: list(LAYERS[:4]), 3: list(LAYERS[:4]), 4: list(LAYERS), 7: list(LAYERS)}
    for side, expected in sides.items():
        assert list(network(_image(1, 3, 30, side), "periodic")) == expected


def test_grey_is_three_equal_channels(vgg19_file):
    network, grey = VGGNetwork(LAYERS[:1], weights=vgg19_file), _image(1, 1, 9, 9)
    assert torch.equal(network(grey, "valid")["relu1_1"], network(grey.expand(-1, 3, -1, -1), "valid")["relu1_1"])
    with pytest.raises(UsageError, match="1 or 3 channels, got 4"):
        network(_image(1, 4, 9, 9), "valid")


def test_the_network_is_frozen_ends_at_the_deepest_layer_and_draws_nothing(vgg19_file):
    state = torch.get_rng_state()
    network = VGGNetwork(("relu2_1", "relu1_1"), weights=vgg19_file)
    assert torch.equal(torch.get_rng_state(), state)
    assert [tuple(kernel.shape) for kernel in network.kernels] == [(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3)]
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert list(network(_image(1, 3, 16, 16), "valid")) == ["relu1_1", "relu2_1"]


@pytest.mark.parametrize("boundary", ["valid", "periodic"])
def test_gradient(vgg19_file, boundary):
    network = VGGNetwork(("relu1_1", "relu2_1"), weights=vgg19_file).double()
    image = torch.rand(1, 3, 11, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    direction = torch.randn(image.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def along(step):
        return sum(x.square().mean() for x in network(image + step * direction, boundary).values())

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(along, step)


@pytest.mark.parametrize(("network", "last", "count"), [("vgg16", "relu5_3", 13), ("vgg19", "relu5_4", 16)])
def test_every_layer_has_torchvisions_weights(network, last, count, monkeypatch):
    """torchvision's own network, without its weights: names and shapes are all that is asked."""
    with torch.device("meta"):
        theirs = getattr(torchvision.models, network)(init_weights=False).features.state_dict()
    asked = {}

    def get(self, name, shape):
        asked[name] = shape
        return torch.zeros(())

    weights = Weights({f"features.{name}": tensor for name, tensor in theirs.items()}, "file")
    monkeypatch.setattr("featot_plugins.vgg_network.load_weights", lambda *_, **__: weights)
    monkeypatch.setattr(Weights, "get", get)
    assert len(VGGNetwork((last,), network=network).kernels) == count
    assert asked == {name: tuple(tensor.shape) for name, tensor in weights.tensors.items()}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"layers": ("relu3_5",)}, "unknown layer of vgg19 'relu3_5'; did you mean 'relu3_4'"),
        ({"layers": ()}, "expected at least one layer of vgg19: relu1_1, relu1_2"),
        ({"network": "vgg11"}, "unknown network 'vgg11'"),
        ({"pooling": "min"}, "unknown pooling 'min'"),
        (
            {"layers": ("relu1_1", "relu4_1")},
            r"lacks relu3_2 of vgg19 .* covers the layers up to relu3_1; .* to relu4_1",
        ),
        ({"layers": ("relu3_2",), "network": "vgg16"}, r"lacks relu3_2 of vgg16 \(features.12\)"),
    ],
)
def test_bad_choices(vgg19_file, changes, sentence):
    with pytest.raises(UsageError, match=sentence):
        VGGNetwork(**{"layers": LAYERS, "weights": vgg19_file, **changes})


# Files of weights


def test_a_pth_file_is_the_same(vgg19_file, tmp_path):
    image = _image(1, 3, 9, 9)
    for legacy in (True, False):
        torch.save(load_file(vgg19_file), tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
        same = [VGGNetwork(LAYERS[:2], weights=file)(image, "valid") for file in (vgg19_file, tmp_path / "w.pth")]
        assert torch.equal(same[0]["relu1_2"], same[1]["relu1_2"])


def test_a_file_that_ends_with_the_layers(vgg19_file, tmp_path):
    wanted = {name: tensor for name, tensor in load_file(vgg19_file).items() if name.startswith("features.0.")}
    save_file(wanted, tmp_path / "first.safetensors")
    assert len(VGGNetwork(("relu1_1",), weights=tmp_path / "first.safetensors").kernels) == 1
    with pytest.raises(UsageError, match=r"lacks relu1_2 .* up to relu1_1; .* up to relu2_1"):
        VGGNetwork(("relu1_1", "relu2_1"), weights=tmp_path / "first.safetensors")
    save_file({"classifier": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match=r"lacks relu1_1 .* it covers nothing of it"):
        VGGNetwork(("relu1_1",), weights=tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda tensor: tensor[:, :2], r"a features.0.weight of shape \(64, 2, 3, 3\), expected \(64, 3, 3, 3\)"),
        (lambda tensor: tensor / 0, "NaN or infinity in features.0.weight"),
    ],
)
def test_wrong_tensors(vgg19_file, tmp_path, change, sentence):
    tensors = load_file(vgg19_file)
    tensors["features.0.weight"] = change(tensors["features.0.weight"]).contiguous()
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=sentence):
        VGGNetwork(("relu1_1",), weights=tmp_path / "w.safetensors")


class Evil:
    ran = False

    def __reduce__(self):
        return setattr, (Evil, "ran", True)


def _half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _torch_save(what, half=False, **how):
    def write(path):
        torch.save(what, path, **how)
        if half:
            _half(path)

    return write


def _half_safetensors(path):
    save_file({"a": torch.zeros(1000)}, path)
    _half(path)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors", ".SAFETENSORS"])
@pytest.mark.parametrize("text", [b"", b"hello world, this is no file of weights"])
def test_files_of_something_else(tmp_path, suffix, text):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(text)
    _expect_refusal(path, r"truncated or damaged \(.+\); expected a whole file")


@pytest.mark.parametrize(
    ("name", "write", "sentence"),
    [
        ("w.pth", _torch_save({"a": torch.zeros(1000)}, half=True), "truncated or damaged"),
        (
            "w.pth",
            _torch_save({"a": torch.zeros(1000)}, half=True, _use_new_zipfile_serialization=False),
            "truncated or damaged",
        ),
        ("w.safetensors", _half_safetensors, "truncated or damaged"),
        ("w.pth", lambda path: path.write_bytes(pickle.dumps({"a": Evil()})), "pickled code is never run"),
        ("w.pth", _torch_save({"a": Evil()}), "pickled code is never run"),
        ("w.pth", _torch_save([torch.zeros(3)]), "expected a plain state dict, names to tensors"),
        ("w.pth", _torch_save({"a": 3}), "expected a plain state dict, names to tensors"),
        ("w.pth", lambda path: path.mkdir(), "it is a directory; expected a file"),
        (
            "w.pth",
            lambda path: path.with_name("v.pth").touch(),
            r"there is no file 'w.pth' in .*; did you mean .*v.pth",
        ),
        ("w.ckpt", lambda path: path.touch(), "expected a file that ends in .pth, .pt, .safetensors"),
    ],
)
def test_bad_files(tmp_path, name, write, sentence):
    write(tmp_path / name)
    _expect_refusal(tmp_path / name, sentence)
    assert not Evil.ran


def _expect_refusal(path, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        VGGNetwork(("relu1_1",), weights=path)
    assert str(caught.value).startswith(f"cannot read weights {path}: ")
    assert "\n" not in str(caught.value)


# No file


def test_the_environment_names_a_file(vgg19_file, monkeypatch):
    monkeypatch.setenv("FEATOT_VGG19_WEIGHTS", str(vgg19_file))
    assert len(VGGNetwork(("relu1_1",)).kernels) == 1
    monkeypatch.setenv("FEATOT_VGG16_WEIGHTS", "gone.pth")
    with pytest.raises(UsageError, match=r"there is no file 'gone.pth'"):
        VGGNetwork(("relu1_1",), network="vgg16")


def test_offline(monkeypatch, capfd):
    def refuse(*_, **__):
        raise URLError(OSError("Name or service not known"))

    monkeypatch.setattr("featot_plugins.weights.urlopen", refuse)
    with pytest.raises(FeatotError) as caught:
        VGGNetwork(("relu1_1",), network="vgg16")
    assert not isinstance(caught.value, UsageError)
    assert str(caught.value) == (
        "no weights of vgg16 here and no way to fetch them (Name or service not known): give a file with "
        "-o vgg.weights=FILE, or in the environment variable FEATOT_VGG16_WEIGHTS; "
        "download it from https://download.pytorch.org/models/vgg16-397923af.pth"
    )
    assert capfd.readouterr().err == ""


def test_torchvision_downloads_once_and_checks_the_hash(vgg19_file, monkeypatch, capfd):
    """A server that has something else under that name; then a download of an earlier day."""
    sent = io.BytesIO()
    torch.save(load_file(vgg19_file), sent)

    def send(*_, **__):
        response = io.BytesIO(sent.getvalue())
        response.info = Message
        return response

    monkeypatch.setattr("featot_plugins.weights.urlopen", send)
    monkeypatch.setattr("torch.hub.urlopen", send)
    with pytest.raises(FeatotError, match="invalid hash value"):
        VGGNetwork(("relu1_1",))
    cached = Path(torch.hub.get_dir(), "checkpoints", "vgg19-dcbb9e9d.pth")
    assert not cached.exists()
    assert capfd.readouterr().out == "", "standard output is the user's"
    cached.write_bytes(sent.getvalue())
    try:
        assert len(VGGNetwork(("relu1_1",)).kernels) == 1
        cached.write_bytes(sent.getvalue()[:1000])
        with pytest.raises(UsageError, match=r"cannot read weights .*vgg19-dcbb9e9d.pth: truncated"):
            VGGNetwork(("relu1_1",))
    finally:
        cached.unlink()
