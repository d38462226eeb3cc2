"""The kernel of `texnet_lite` makes what torch's convolutions make."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from featot.noise import Meeting, NoiseField
from featot.ot.search import llvm_is_usable

pytestmark = pytest.mark.skipif(not llvm_is_usable(), reason="no llvmlite, or a CPU without AVX2")


@pytest.mark.parametrize(("lanes", "vectors"), [(16, 2), (8, 1)], ids=["AVX-512", "AVX2"])
@pytest.mark.parametrize(("h", "w"), [(3, 3), (37, 83), (200, 34), (5, 66)])
@pytest.mark.parametrize("colors", [1, 3])
def test_it_is_enlarging_noise_and_two_convolutions(lanes, vectors, h, w, colors, monkeypatch):
    from featot_plugins import texnet_kernels

    for name, value in {"_LANES": lanes, "_VECTORS": vectors, "_WORK": 100}.items():
        monkeypatch.setattr(texnet_kernels, name, value)
    torch.manual_seed(h)
    x, strengths = torch.randn(1, 8, h // 2 + 1, w // 2 + 1), torch.randn(8, 3)
    conv, last = (nn.Conv2d(8, out, side).requires_grad_(False) for out, side in ((8, 3), (colors, 1)))
    rows, columns = (torch.randint(side // 2 + 1, (side,)).sort().values for side in (h, w))
    noise, window = NoiseField(5), (0, 3, range(-7, h - 7), range(w))
    met = Meeting(rows, columns, *noise.hashes(*window))
    found = texnet_kernels.finest(x, met, strengths, conv, last, 0.25)
    mixed = torch.einsum("ck,bkhw->bchw", strengths, noise.uniform(*window))
    seen = F.leaky_relu(x[:, :, rows][..., columns] + mixed, 0.25)
    expected = last(F.leaky_relu(conv(seen), 0.25))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
