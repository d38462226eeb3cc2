"""The generator networks: their contracts, how they start, and that they learn on a torus."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import featot
from featot.noise import NoiseField
from featot.resample import halved_size
from featot.testing import check_generator
from featot_plugins.options import TexnetLiteOptions, TexnetOptions
from featot_plugins.texnet import Texnet, TexnetLite

KINDS = [(Texnet, TexnetOptions), (TexnetLite, TexnetLiteOptions)]


@pytest.fixture(params=KINDS, ids=["texnet", "texnet_lite"])
def make(request):
    kind, options = request.param
    return lambda **given: kind(options(**given))


def _exemplar(channels=3):
    noise = torch.rand(1, channels, 40, 40, generator=torch.Generator().manual_seed(7))
    return torch.tensor([0.3, 0.5, 0.8])[:channels, None, None] + 0.2 * (noise - 0.5)


def _started(generator, size=(64, 64), seed=0, exemplar=None):
    generator.initialize(_exemplar() if exemplar is None else exemplar, size, torch.Generator().manual_seed(seed))
    return generator


def _image(generator, size=(64, 64), seed=1):
    return generator(size, torch.Generator().manual_seed(seed)).detach()


@pytest.mark.parametrize("options", [{}, {"batch": 2}, {"scales": 2}])
def test_contract(make, options):
    check_generator(make(**options))


def test_it_starts_with_the_colors_of_the_exemplar(make):
    image = _image(_started(make(batch=4), (128, 128)), (128, 128))
    found, expected = image.transpose(0, 1).flatten(1), _exemplar()[0].flatten(1)
    assert ((found.mean(1) - expected.mean(1)).abs() < 0.02).all()
    assert ((found.std(1) / expected.std(1) - 1).abs() < 0.2).all()


def test_fresh_noise_at_each_call(make):
    generator, source = _started(make()), torch.Generator().manual_seed(0)
    first, second = (generator((64, 64), source).detach() for _ in range(2))
    assert (first - second).abs().mean() > 0.01


def test_looking_changes_nothing(make):
    """A preview between two steps must not change the run."""
    generator = _started(make())
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    _image(generator)
    generator((64, 64), torch.Generator())
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_a_steady_one_makes_what_the_fixed_one_would(make):
    generator = _started(make())
    generator.calibrate((64, 64), torch.Generator())
    generator.steady = True
    with torch.no_grad():
        steady = _image(generator)
        generator.net.eval()
        torch.testing.assert_close(steady, _image(generator), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 48), (45, 71), (33, 34)])
def test_sampling_is_the_network_on_its_torus(make, size):
    """With the statistics fixed, the folded network on windows is the one that learnt, for odd sizes too."""
    generator = _started(make())
    generator.calibrate((64, 64), torch.Generator())
    noise = NoiseField(4, size)
    found = generator.freeze().render(noise, range(size[0]), range(size[1]))
    net = generator.net.eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = True
    from featot_plugins.texnet_layers import Torus

    sizes = [halved_size(size, scale) for scale in range(len(net.noise))]
    cells = [
        noise.uniform(s, c, range(h), range(w)) for s, (c, (h, w)) in enumerate(zip(net.noise, sizes, strict=True))
    ]
    with torch.no_grad():
        expected = net(Torus(size, cells))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_the_torus_closes(make):
    """Noise turned by a whole cell of the coarsest scale turns the image by as many pixels."""
    generator = _started(make())
    from featot_plugins.texnet_layers import Torus

    net, size = generator.net, (64, 96)
    cells = [
        torch.rand(1, c, 64 // 2**s, 96 // 2**s, generator=torch.Generator().manual_seed(s))
        for s, c in enumerate(net.noise)
    ]
    turned = [z.roll((16 // 2**s, 32 // 2**s), (2, 3)) for s, z in enumerate(cells)]
    with torch.no_grad():
        torch.testing.assert_close(
            net(Torus(size, turned)), net(Torus(size, cells)).roll((16, 32), (2, 3)), rtol=0, atol=1e-4
        )


def test_calibrated_statistics_give_what_was_learnt(make):
    """The frozen network's images have the mean and contrast of those it made while it learnt."""
    generator = _started(make())
    generator.calibrate((128, 128), torch.Generator().manual_seed(2))
    frozen = generator.freeze().render(NoiseField(0), range(256), range(256))
    learnt = _image(generator, (256, 256))
    torch.testing.assert_close(frozen.mean((2, 3)), learnt.mean((2, 3)), rtol=0, atol=0.01)
    torch.testing.assert_close(frozen.std((2, 3)), learnt.std((2, 3)), rtol=0.1, atol=0)


def test_statistics_are_those_of_the_last_calibration(make):
    """Nothing is left of one with other weights."""
    twice, once = _started(make()), _started(make())
    twice.calibrate((32, 32), torch.Generator())
    for generator in (twice, once):
        with torch.no_grad():
            for weight in generator.parameters():
                weight.mul_(1.5)
        generator.calibrate((32, 32), torch.Generator().manual_seed(1))
    found, expected = twice.state_dict(), once.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_step_of_the_loop_learns():
    """Colours alone: the network follows an exemplar that it did not start with."""
    red = torch.tensor([0.9, 0.1, 0.2])[:, None, None].expand(1, 3, 32, 32).contiguous()
    generator = _started(TexnetLite(TexnetLiteOptions(scales=3)))
    optimizer = torch.optim.Adam(generator.parameters(), lr=0.02)
    source = torch.Generator().manual_seed(0)
    for _ in range(60):
        optimizer.zero_grad()
        F.mse_loss(generator((32, 32), source), red).backward()
        optimizer.step()
    generator.calibrate((32, 32), source)
    image = generator.freeze().render(NoiseField(1), range(50), range(50))
    assert (image - red[..., :1, :1]).abs().mean() < 0.05


def test_synthesize_takes_it_by_name():
    result = featot.synthesize(_exemplar(), param="texnet_lite", size=(40, 44), steps=2, levels=1, seed=1)
    again = featot.synthesize(_exemplar(), param="texnet_lite", size=(40, 44), steps=2, levels=1, seed=1)
    assert result.image.shape == (1, 3, 40, 44)
    assert torch.equal(result.image, again.image)


def test_the_paper_counts():
    """The weights of the 3-3-1 blocks, from their definition, with BatchNorm's two a channel in place of biases."""
    scales, step = 5, 2
    expected = 0
    for k in range(1, scales + 1):
        expected += 9 * 3 * step + 10 * step**2 + 6 * step
        width = k * step
        expected += (19 * width**2 + 6 * width + 2 * width) if k > 1 else 0
    expected += 3 * step * scales + 3
    generator = _started(Texnet(TexnetOptions(scales=scales, step=step)))
    assert sum(theta.numel() for theta in generator.parameters()) == expected


def test_the_lite_network_multiplies_less():
    def multiplications(generator):
        """A pixel."""
        made = []

        def note(module, _, image):
            made.append(module.weight.numel() * image[0, 0].numel())

        for module in _started(generator)._made().modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(note)
        _image(generator)
        return sum(made) / 64**2

    assert multiplications(TexnetLite(TexnetLiteOptions())) < multiplications(Texnet(TexnetOptions()))


def test_loading_keeps_the_leaves_where_they_fit(make):
    generator, other = _started(make()), _started(make(), seed=9)
    leaves = [id(theta) for theta in generator.parameters()]
    generator.load_state_dict(other.state_dict(), torch.device("cpu"))
    assert [id(theta) for theta in generator.parameters()] == leaves
    assert torch.equal(_image(generator), _image(other))


def test_errors(make):
    generator = make()
    with pytest.raises(featot.UsageError, match="no weights yet"):
        generator.freeze()
    _started(generator)
    with pytest.raises(featot.UsageError, match="call calibrate first"):
        generator.freeze()
    with pytest.raises(featot.UsageError, match=r"16x12 is too small to learn at.*one cell of 16 pixels"):
        generator((16, 12), torch.Generator())
    with pytest.raises(featot.UsageError, match="do not fit the options"):
        make(scales=3).load_state_dict(generator.state_dict(), torch.device("cpu"))
