"""Transport between distributions on lines, where it is a matter of sorting."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from featot.ot.search import kernels_take
from featot.ot.threads import in_threads

_WORTH_A_THREAD = 2**15  # numbers to sort


def line_costs(
    x: Float[Tensor, "k n"], y: Float[Tensor, "lines m"], chosen: Int[Tensor, " k"], power: int
) -> Float[Tensor, ""]:
    """The mean of ``|x − y_σ|^power``, power 1 or 2, where σ pairs row i of x with row ``chosen[i]`` of y in order.

    The rows of y are ascending. Where they are of another length the ranks of x meet what lies linearly between those
    of y: n points have the ranks (i + ½)/n. Gradients flow to x (Santambrogio 2015, Ch. 2).
    """
    return cast(Tensor, _Costs.apply(x, y, chosen, power))


class _Costs(torch.autograd.Function):
    """One pass finds the costs and their derivatives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, chosen: Tensor, power: int) -> Tensor:
        if kernels_take(x):
            from featot.ot.line_kernel import match_by_radix  # late: llvmlite is optional

            total, apart = match_by_radix(x, y, chosen, power)
        else:
            total, apart = _matched(x, y, chosen, power)
        ctx.save_for_backward(apart)
        ctx.power = power
        return total / x.numel()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (apart,) = ctx.saved_tensors
        return gradient * (ctx.power / apart.numel()) * apart, None, None, None


def _matched(
    x: Float[Tensor, "k n"], y: Float[Tensor, "lines m"], chosen: Int[Tensor, " k"], power: int
) -> tuple[Float[Tensor, ""], Float[Tensor, "k n"]]:
    """The sum of the costs, and for each x its difference from its partner, or with power 1 the sign of that."""
    met = y.index_select(0, chosen)
    if x.shape[1] != y.shape[1]:
        met = F.interpolate(met[None], x.shape[1], mode="linear", align_corners=False)[0]
    order = _order(x)
    apart = x.gather(1, order).sub_(met)
    total = apart.abs().sum() if power == 1 else apart.square().sum()
    return total, torch.empty_like(x).scatter_(1, order, apart.sign_() if power == 1 else apart)


def sorted_rows(rows: Float[Tensor, "k n"]) -> Float[Tensor, "k n"]:
    """The numbers of each row in order. On a CPU by NumPy, which is several times faster."""
    if rows.device.type != "cpu":
        return rows.sort(dim=1).values
    return torch.from_numpy(np.sort(rows.contiguous().numpy(), axis=1))


def _order(rows: Float[Tensor, "k n"]) -> Int[Tensor, "k n"]:
    """What sorts each row, by NumPy as well."""
    if rows.device.type != "cpu":
        return rows.argsort(dim=1)
    numbers, order = rows.numpy(), np.empty(rows.shape, np.int64)

    def sort(row: int) -> None:
        order[row] = np.argsort(numbers[row])

    in_threads(sort, range(len(rows)), rows.numel() // _WORTH_A_THREAD)
    return torch.from_numpy(order)
