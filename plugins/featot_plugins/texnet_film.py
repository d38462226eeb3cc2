"""A normalisation between several: what makes a generator network conditional."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from featot.parallel import BatchNorm2d


class Film(nn.Module):
    """BatchNorm whose scales, shifts and statistics depend on the shares (conditional normalisation, Dumoulin 2017).

    A share as a further channel of the noise would do nothing: where it is the same everywhere, so is what a
    convolution makes of it, and the normalisation takes that away.
    Scales and shifts are linear in the shares. The statistics are taken at `knots`, and quadratic between them.
    """

    means: Float[Tensor, "q c"]
    logs: Float[Tensor, "q c"]

    def __init__(self, width: int, *, conditions: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.norm = BatchNorm2d(width, affine=False)
        self.weight = nn.Parameter(torch.ones(conditions, width))
        self.bias = nn.Parameter(torch.zeros(conditions, width))
        for name in ("means", "logs"):
            self.register_buffer(name, torch.zeros(len(knots(conditions)), width))

    def forward(self, x: Float[Tensor, "b c h w"], shares: Float[Tensor, "1 k h2 w2"]) -> Float[Tensor, "b c h w"]:
        """``shares``: for all of x, or a map that is larger by the same at either end."""
        if self.training:
            return torch.addcmul(_mixed(self.bias, shares), self.norm(x), _mixed(self.weight, shares))
        if shares.shape[2:] != (1, 1):  # convolutions have used up as much on either side
            down, across = (
                (before - after) // 2 for before, after in zip(shares.shape[2:], x.shape[2:], strict=True)
            )
            shares = shares[:, :, down : down + x.shape[2], across : across + x.shape[3]]
        scale, shift = self.affine(shares)
        return torch.addcmul(shift, x, scale)

    def affine(self, shares: Float[Tensor, "1 k h w"]) -> tuple[Float[Tensor, "1 c h w"], Float[Tensor, "1 c h w"]]:
        """What it multiplies by, and what it adds, once the statistics are fixed."""
        between = _quadratic(shares)
        scale = _mixed(self.weight, shares) * (_mixed(self.logs, between) / -2).exp()
        return scale, _mixed(self.bias, shares) - scale * _mixed(self.means, between)

    def keep(self, knot: int) -> None:
        """Takes the statistics at hand as those of a knot."""
        assert self.norm.running_mean is not None
        assert self.norm.running_var is not None
        self.means[knot] = self.norm.running_mean
        self.logs[knot] = (self.norm.running_var + self.norm.eps).log()

    def plain(self, shares: Float[Tensor, " k"]) -> nn.BatchNorm2d:
        """The normalisation that it is for these shares."""
        norm = nn.BatchNorm2d(self.weight.shape[1]).to(shares.device)
        scale, shift = (part.flatten() for part in self.affine(shares[None, :, None, None]))
        assert norm.running_var is not None
        norm.running_var.fill_(1 - norm.eps)
        norm.weight, norm.bias = nn.Parameter(scale), nn.Parameter(shift)
        return norm.eval()


def knots(conditions: int) -> Float[Tensor, "q k"]:
    """The shares at which statistics are taken: all of one exemplar, then half of one and half of another."""
    corners = torch.eye(conditions)
    first, second = torch.triu_indices(conditions, conditions, 1)
    return torch.cat([corners, (corners[first] + corners[second]) / 2])


def _quadratic(shares: Float[Tensor, "1 k h w"]) -> Float[Tensor, "1 q h w"]:
    """The quadratic polynomials of the shares of which each is 1 at one of the knots and 0 at the others."""
    first, second = torch.triu_indices(shares.shape[1], shares.shape[1], 1)
    return torch.cat([shares * (2 * shares - 1), 4 * shares[:, first] * shares[:, second]], 1)


def _mixed(rows: Float[Tensor, "n c"], amounts: Float[Tensor, "1 n h w"]) -> Float[Tensor, "1 c h w"]:
    mixed: Tensor = F.conv2d(amounts, rows.t()[:, :, None, None])
    return mixed
