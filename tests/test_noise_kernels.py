"""The compiled kernels of noise make what torch's operations make."""

from __future__ import annotations

import pytest
import torch

from featot.noise import Meeting, NoiseField
from featot.ot.search import llvm_is_usable
from featot.plugins import load_registry
from featot.resample import halved_size

pytestmark = pytest.mark.skipif(not llvm_is_usable(), reason="no llvmlite, or a CPU without AVX2")
WINDOWS = [(range(-5, 70), range(3, 90)), (range(1), range(-3, 0)), (range(10**9, 10**9 + 20), range(517))]


def _fields(seed=3, period=(None, None)):
    compiled, plain = NoiseField(seed, period), NoiseField(seed, period)
    assert compiled.compiled
    plain.compiled = False
    return compiled, plain


@pytest.mark.parametrize(("rows", "columns"), WINDOWS)
@pytest.mark.parametrize("period", [(None, None), (37, 64)])
def test_uniform_is_the_same_bit_for_bit(rows, columns, period, monkeypatch):
    from featot import noise_kernels

    monkeypatch.setattr(noise_kernels, "_WORK", 100)  # on threads
    compiled, plain = _fields(period=period)
    for scale, channels in ((0, 3), (2, 1)):
        window = scale, channels, rows, columns
        assert torch.equal(compiled.uniform(*window), plain.uniform(*window))


def test_no_rows_are_no_noise():
    compiled, plain = _fields()
    assert compiled.uniform(0, 2, range(0), range(9)).shape == plain.uniform(0, 2, range(0), range(9)).shape


@pytest.mark.parametrize("channels", [1, 8, 10, 48])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_joined_is_enlarging_mixing_and_adding(channels, layout, monkeypatch):
    from featot import noise_kernels

    monkeypatch.setattr(noise_kernels, "_WORK", 100)
    compiled, _ = _fields()
    h, w, kinds = 131, 70, 3
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(1, channels, *halved_size((h + 1, w + 1), 1), generator=generator).contiguous(
        memory_format=layout
    )
    strengths = torch.randn(channels, kinds, generator=generator)
    rows, columns = torch.arange(h) // 2, torch.arange(w) // 2
    window = 1, kinds, range(7, 7 + h), range(-9, w - 9)
    found = noise_kernels.joined(x, Meeting(rows, columns, *compiled.hashes(*window)), strengths)
    mixed = torch.einsum("ck,bkhw->bchw", strengths, compiled.uniform(*window))
    torch.testing.assert_close(found, x[:, :, rows][..., columns] + mixed, rtol=0, atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("period", [(None, None), (90, 83)])
def test_a_generator_makes_the_same_with_and_without(period):
    plugin = load_registry().get("param", "texnet_lite")
    generator = plugin.create(plugin.build_options({"scales": 4}))
    generator.initialize(torch.rand(1, 3, 64, 64), (64, 64), torch.Generator().manual_seed(0))
    generator.calibrate((64, 64), torch.Generator().manual_seed(0))
    frozen = generator.freeze()
    one, other = (frozen.render(noise, range(-20, 77), range(50, 100)) for noise in _fields(period=period))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
