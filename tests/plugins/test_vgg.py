import pytest
import torch

from featot.errors import FeatotError, UsageError
from featot.tasks import synthesize
from featot.testing import check_extractor
from featot_plugins.options import VGGOptions
from featot_plugins.vgg import VGG
from featot_plugins.vgg_network import VGGNetwork


def _image(h=64, w=48, c=3):
    return torch.rand(1, c, h, w, generator=torch.Generator().manual_seed(0))


def _vgg(file, layers=("relu1_1", "relu2_1")):
    return VGG(VGGOptions(layers=layers, weights=file))


def test_contract(vgg19_file):
    check_extractor(_vgg(vgg19_file))


def test_a_level_for_each_layer_at_this_scale(vgg19_file):
    levels = _vgg(vgg19_file, ("relu1_1", "relu2_1", "relu3_1")).extract(_image(), scale=1)
    shapes = {name: tuple(points.shape) for name, points in levels.items()}
    assert shapes == {"relu1_1 1/2": (62 * 46, 64), "relu2_1 1/2": (28 * 20, 128), "relu3_1 1/2": (11 * 7, 256)}


def test_a_point_is_what_the_network_says_at_one_position(vgg19_file):
    (points,) = _vgg(vgg19_file, ("relu2_1",)).extract(_image(), boundary="periodic").values()
    responses = VGGNetwork(["relu2_1"], weights=vgg19_file)(_image(), "periodic")["relu2_1"]
    assert torch.equal(points.view(32, 24, 128)[5, 7], responses[0, :, 5, 7])


def test_thinned_levels_are_every_second_or_third_position(vgg19_file):
    extractor = _vgg(vgg19_file, ("relu1_1",))
    (whole,) = extractor.extract(_image(), boundary="periodic").values()
    for most, stride in ((3072, 1), (3071, 2), (768, 2), (767, 3), (1, 3)):
        (points,) = extractor.extract(_image(), boundary="periodic", max_points=most).values()
        assert torch.equal(points, whole.view(64, 48, 64)[::stride, ::stride].flatten(0, 1)), most


def test_one_pass_for_several_losses_but_never_an_old_one(vgg19_file, monkeypatch):
    extractor, image, calls = _vgg(vgg19_file), _image(), []
    monkeypatch.setattr(VGGNetwork, "forward", lambda self, *a, f=VGGNetwork.forward: calls.append(a) or f(self, *a))
    first = extractor.extract(image)
    extractor.extract(image, max_points=10)
    assert len(calls) == 1
    extractor.extract(image, boundary="periodic")
    extractor.extract(image.clone(), boundary="periodic")
    with torch.no_grad():
        image += 0.1
    changed = extractor.extract(image)
    assert len(calls) == 4
    assert not torch.equal(first["relu1_1 1/1"], changed["relu1_1 1/1"])


@pytest.mark.parametrize(("loss", "most"), [("ot", 0.9), ("gram", 0.3), ("moments", 0.5), ("ot+sliced", 0.9)])
def test_a_synthesis_comes_closer(vgg19_file, loss, most):
    rows = torch.arange(32)[:, None]
    stripes = ((rows + torch.arange(32)) % 8 < 4).float().expand(3, 32, 32)
    options = {"vgg.weights": vgg19_file, "vgg.layers": "relu1_1,relu2_1"}
    history = synthesize(stripes, features="vgg", loss=loss, options=options, levels=1, steps=40).history
    assert history[-1].loss < most * history[0].loss


def test_from_coarse_to_fine_together_with_patches(vgg19_file):
    options = {"vgg.weights": vgg19_file, "vgg.layers": "relu1_1"}
    result = synthesize(_image(40, 48)[0], features="pyramid+vgg:0.2", loss="vgg=gram", options=options, steps=2)
    assert result.record["settings"]["features"] == "pyramid+0.2*vgg"
    assert result.image.shape == (1, 3, 40, 48)
    assert len({line.scale for line in result.history}) == 2


def test_grey_images(vgg19_file):
    grey = _image(c=1)
    levels = (_vgg(vgg19_file).extract(image) for image in (grey, grey.expand(-1, 3, -1, -1)))
    assert torch.equal(*(points["relu1_1 1/1"] for points in levels))


def test_an_unknown_layer_is_named_before_the_run(vgg19_file):
    with pytest.raises(UsageError, match=r"unknown layer of vgg19 'relu1_3'; did you mean 'relu\d_3'"):
        synthesize(_image()[0], features="vgg", options={"vgg.weights": vgg19_file, "vgg.layers": "relu1_3"})


def test_without_weights_it_says_what_to_do(monkeypatch):
    def no_network(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("featot_plugins.weights.urlopen", no_network)
    with pytest.raises(FeatotError, match=r"no weights of vgg19 here .* -o vgg\.weights=FILE"):
        synthesize(_image()[0], features="vgg")


def test_real_weights_make_bricks(real_vgg19_file, textures):
    """The judge is Gram's distance: ot brings it down although it never sees a Gram matrix."""
    from featot.images import read_image
    from featot.plugins import load_registry

    exemplar = read_image(textures / "bricks.png")[:, :, :96, :96]
    result = synthesize(exemplar, features="vgg", options={"vgg.weights": real_vgg19_file}, steps=8)
    metric = load_registry().get("metric", "vgg")
    distance = metric.create(metric.build_options({"weights": real_vgg19_file}))
    assert distance(result.image, exemplar) < 0.1
    assert distance(torch.rand(exemplar.shape), exemplar) > 1
