"""Several processes that train one generator, as `torchrun` starts them; alone, everything here changes nothing.

All of them hold the same weights, the same ψ and the same random numbers; each makes its part of every batch.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

_FOLLOW = 0.02  # of the way to a batch's statistics, that the running ones go

_apart = False


def world() -> tuple[int, int]:
    """This process' number, and how many there are."""
    if _apart or not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def average(tensor: Tensor) -> Tensor:
    """The mean of the tensors that all processes give, not differentiable; the same bits in each of them."""
    size = world()[1]
    if size == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / size


def average_gradients(parameters: list[Tensor]) -> None:
    """Gives each parameter the mean of all processes' gradients, in one message."""
    gradients = [theta.grad for theta in parameters if theta.grad is not None]
    if world()[1] == 1 or not gradients:
        return
    mean = average(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, mean.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def in_any(flag: bool) -> bool:
    """Whether it is true in any process."""
    return flag if world()[1] == 1 else bool(average(torch.tensor(float(flag), device=_device())) > 0)


class BatchNorm2d(nn.BatchNorm2d):
    """torch's, with the statistics of all processes' images. (torch's own SyncBatchNorm needs CUDA.)

    ``steady``: while it trains it already normalises by the running statistics, as it will once they are fixed, and
    has the gradient of one that goes by the images at hand: batch renormalisation (Ioffe 2017), with no clipping.
    The running statistics then follow whatever gradients are taken of.
    """

    steady = False

    def forward(self, x: Tensor) -> Tensor:
        several = world()[1] > 1
        if not self.training or not (several or self.steady):
            return super().forward(x)
        mean, variance = _moments(x)
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if self.steady:
            weight, bias = self._corrected(mean.detach(), variance.detach())
            if torch.is_grad_enabled():
                self._follow(mean.detach(), variance.detach(), _FOLLOW)
        elif self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked += 1  # torch's rule without a momentum, and its unbiased variance
            count = world()[1] * x.numel() // x.shape[1]
            unbiased = variance.detach() * (count / (count - 1))
            self._follow(mean.detach(), unbiased, 1 / int(self.num_batches_tracked))
        if not several:
            return F.batch_norm(x, None, None, weight, bias, training=True, eps=self.eps)
        scale = variance.add(self.eps).rsqrt()
        if weight is None:
            return (x - mean[:, None, None]) * scale[:, None, None]
        scale = weight * scale
        return x * scale[:, None, None] + (bias - mean * scale)[:, None, None]

    def _corrected(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias, with which normalising by these statistics is normalising by the running ones."""
        assert self.running_mean is not None
        assert self.running_var is not None
        unit = (self.running_var + self.eps).rsqrt()
        stretch, shift = (variance + self.eps).sqrt() * unit, (mean - self.running_mean) * unit
        if not self.affine:
            return stretch, shift
        return self.weight * stretch, self.bias + self.weight * shift

    def _follow(self, mean: Tensor, variance: Tensor, share: float) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the variance of each channel of all processes' images, at least in float32."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if world()[1] == 1:
        variance, mean = torch.var_mean(x.detach(), (0, 2, 3), correction=0)  # only to be told: torch normalises
        return mean, variance
    shared: Tensor = _Average.apply(torch.cat([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))]))
    mean, square = shared.chunk(2)
    return mean, (square - mean.square()).clamp(min=0)


class _Average(torch.autograd.Function):
    """`average`, differentiable: every process' output depends on every process' input alike."""

    @staticmethod
    def forward(ctx: object, tensor: Tensor) -> Tensor:
        return average(tensor)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return average(gradients[0])


@contextmanager
def apart() -> Iterator[None]:
    """Within it this process is alone: for what only one of them does."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before


@contextmanager
def joined() -> Iterator[None]:
    """Joins the processes that `torchrun` has started; alone where it has not."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Imported later (torch.optim does), it would keep the group as its functions' default argument: gloo's threads
    # would outlive the group and now and then abort the process as the interpreter ends.
    importlib.import_module("torch.distributed.nn")
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def _device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"
