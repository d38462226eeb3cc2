"""What the checks of every kind share."""

from __future__ import annotations

import torch
from torch import Tensor

from featot.interfaces import Size


def require(condition: object, sentence: str) -> None:
    """Raises AssertionError with the sentence unless the condition holds."""
    if not condition:
        raise AssertionError(sentence)


def require_average(row: Tensor, what: str) -> None:
    """Weights of at least 0 that sum to 1."""
    require(row.min() > -1e-6, f"{what} has a negative weight ({float(row.min()):.3g})")
    require(abs(float(row.sum()) - 1) < 1e-4, f"{what} has weights that sum to {float(row.sum()):.4g}, not 1")


def gradient(value: Tensor, inputs: Tensor, what: str) -> Tensor:
    """As `gradients`, in one tensor."""
    return gradients(value, [inputs], what)[0]


def gradients(value: Tensor, inputs: list[Tensor], what: str) -> list[Tensor]:
    """Those of a scalar, which must exist and be finite; 0 for what it does not depend on."""
    require(value.requires_grad, f"{what} must be differentiable")
    found = torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
    require(all(part.isfinite().all() for part in found), f"{what} must have a finite gradient")
    return list(found)


def striped(channels: int, size: Size) -> Tensor:
    """Slanted stripes with a little noise, in [0, 1]."""
    rows, columns = torch.arange(size[0])[:, None], torch.arange(size[1])
    stripes = torch.stack([((columns + (c + 1) * rows) % 8 < 4).float() for c in range(channels)])
    return (0.15 + 0.6 * stripes + 0.2 * torch.rand(stripes.shape, generator=torch.Generator().manual_seed(0)))[None]


def devices() -> list[torch.device]:
    """Those that a plugin must work on: the CPU first, and a GPU where there is one."""
    gpu = [torch.device("cuda", torch.cuda.current_device())] if torch.cuda.is_available() else []
    return [torch.device("cpu"), *gpu]
