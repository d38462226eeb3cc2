"""Generator networks: a pyramid of noise goes in, a texture comes out."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from featot.errors import UsageError
from featot.interfaces import FrozenGenerator, Generator, Size
from featot.parallel import BatchNorm2d, average, world
from featot.resample import halved_size
from featot_plugins.options import TexnetLiteOptions, TexnetOptions
from featot_plugins.texnet_film import Film, knots
from featot_plugins.texnet_layers import (
    SLOPE,
    Block,
    Drawn,
    Frozen,
    Network,
    Space,
    Torus,
    fold_after,
    fold_before,
    normalised,
    norms_of,
)

_DRAWS = 8  # images whose statistics `calibrate` averages
_LITE_NOISE, _LITE_FINEST = 3, 8  # channels: of the noise at a fine scale, of what the last convolution sees
_LITE_DEEPEST = 4  # convolutions at the coarsest scale, where they cost least and shape most
_LITE_COARSER = 3  # scales, beside the finest, at which it learns


class Pyramid(Network):
    """At each scale a block of its noise joins what comes from below, normalised, and a block mixes them."""

    def __init__(self, channels: int, options: TexnetOptions, conditions: int = 0) -> None:
        scales, step = options.scales, options.step
        coarsest = [0] * (scales - 1) + [1]
        super().__init__([channels] * scales, [2] * scales, [2 * (1 - last) for last in coarsest], conditions)
        widths = [step * (scales - scale) for scale in range(scales)]
        norms = [norms_of(conditions, scale) for scale in range(scales)]
        self.blocks = nn.ModuleList(Block([channels, step, step, step], [3, 3, 1], norm) for norm in norms)
        met = list(zip(widths, norms, strict=True))[:-1]
        self.norms = nn.ModuleList(norm(width) for width, norm in met)  # each channel on its own
        self.joins = nn.ModuleList(Block([width] * 4, [3, 3, 1], norm) for width, norm in met)
        self.colors, self.heads = nn.Conv2d(widths[0], channels, 1), nn.ModuleList()

    def forward(self, space: Space) -> Float[Tensor, "b c h w"]:
        last = len(self.noise) - 1
        x: Tensor = self.blocks[last](space.noise(last), space)
        for scale in reversed(range(last)):
            met = torch.cat([self.blocks[scale](space.noise(scale), space), space.enlarged(x, scale)], 1)
            x = self.joins[scale](normalised(self.norms[scale], met, space), space)
        return self.colors(x)  # type: ignore[no-any-return]

    def fold(self) -> None:
        super().fold()
        for i, (norm, join) in enumerate(zip(self.norms, self.joins, strict=True)):
            if isinstance(norm, nn.BatchNorm2d) and isinstance(join, Block):
                fold_before(norm, join.first())
                self.norms[i] = nn.Identity()


class Lite(Network):
    """Most work at coarse scales; noise is added, each channel with strengths of its own.

    At full resolution there is but one 3×3 convolution, on few channels. The coarser scales have colours of their
    own, so that they can learn before the finer ones, from small images.
    """

    def __init__(self, channels: int, options: TexnetLiteOptions, conditions: int = 0) -> None:
        scales, width = options.scales, options.width
        before, after = [0] * (scales - 1) + [_LITE_DEEPEST], [1] + [2] * (scales - 2) + [0]
        noise = [_LITE_NOISE * (1 if scale < 2 else 2) for scale in range(scales - 1)] + [width]
        super().__init__(noise, before, after, conditions)
        norms = [norms_of(conditions, scale) for scale in range(scales)]
        widths = [_LITE_FINEST, width, 2 * width, *[3 * width] * scales][:scales]
        below = [*widths[2:], width]  # channels that come into the block of each scale, from 1 on
        depths = [2] * (scales - 2) + [_LITE_DEEPEST]
        self.blocks = nn.ModuleList(
            Block([come] + [go] * depth, [3] * depth, norm)
            for come, go, depth, norm in zip(below, widths[1:], depths, norms[1:], strict=True)
        )
        met = [_LITE_FINEST, *below[:-1]]
        self.strengths = nn.ModuleList(
            nn.Conv2d(own, wide, 1, bias=False) for own, wide in zip(noise[:-1], met, strict=True)
        )
        self.narrow = nn.Conv2d(width, _LITE_FINEST, 1)
        self.norm = norms[0](_LITE_FINEST)
        self.finest = Block([_LITE_FINEST, _LITE_FINEST], [3], norms[0])
        self.colors = nn.Conv2d(_LITE_FINEST, channels, 1)
        self.heads = nn.ModuleList(nn.Conv2d(wide, channels, 1) for wide in widths[1:-1][:_LITE_COARSER])

    def forward(self, space: Space) -> Float[Tensor, "b c h w"]:
        last = len(self.noise) - 1
        x: Tensor = self.blocks[-1](space.noise(last), space)
        for scale in reversed(range(max(1, space.first), last)):
            x = self.blocks[scale - 1](space.joined(x, scale, self.strengths[scale]), space)  # type: ignore[arg-type]
        if space.first:
            return self.heads[space.first - 1](x)  # type: ignore[no-any-return]
        return self._colored(self.narrow(x), space)

    def _colored(self, x: Float[Tensor, "b c h w"], space: Space) -> Float[Tensor, "b c2 h2 w2"]:
        """What is made at full resolution of what comes from below."""
        strengths = self.strengths[0]
        assert isinstance(strengths, nn.Conv2d)
        if isinstance(space, Drawn) and space.field.compiled and isinstance(self.norm, nn.Identity):
            from featot_plugins.texnet_kernels import finest  # late: llvmlite is optional

            mixing = strengths.weight[:, :, 0, 0]
            return finest(x, space.met(x, 0), mixing, self.finest.first(), self.colors, SLOPE)
        x = space.joined(x, 0, strengths)
        x = F.leaky_relu_(normalised(self.norm, x, space), SLOPE)
        return self.colors(self.finest(x, space))  # type: ignore[no-any-return]

    def fold(self) -> None:
        super().fold()
        added = self.strengths[0]
        if isinstance(self.norm, nn.BatchNorm2d) and isinstance(added, nn.Conv2d):
            fold_after(self.norm, self.narrow, added)
            self.norm = nn.Identity()


class _Texnet(Generator):
    """What the networks have in common: they learn on a torus, with fresh noise for every image."""

    boundary = "periodic"
    conditionable = True
    follows = True
    most_coarser: ClassVar[int] = 0

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.net: Network | None = None
        self.coarser = min(self.most_coarser, max(0, options.scales - 2))

    def initialize(self, exemplar: Float[Tensor, "1 c h w"], size: Size, generator: torch.Generator) -> None:
        self._check(size)
        self.net = net = self._network(exemplar.shape[1])
        with torch.no_grad():
            for module in net.modules():
                if isinstance(module, nn.Conv2d):
                    fan_in = math.prod(module.weight.shape[1:])
                    module.weight.normal_(std=math.sqrt(2 / fan_in), generator=generator)
                    if module.bias is not None:
                        module.bias.zero_()
        self._settle(net, exemplar.device)
        for scale, last in reversed(list(enumerate([net.colors, *net.heads]))):
            self.scale = scale
            self._color(last, exemplar, size, generator)

    @torch.no_grad()
    def _color(self, last: nn.Module, exemplar: Tensor, size: Size, generator: torch.Generator) -> None:
        """At this scale it starts with the exemplar's mean colour and contrast."""
        made = self(halved_size(size, self.scale), generator).transpose(0, 1).flatten(1)
        colors = exemplar[0].flatten(1)
        mean = average(made.mean(1))
        spread = (average((made - mean[:, None]).square().mean(1))).sqrt()
        gain = colors.std(1, correction=0) / spread.clamp(min=1e-6)
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        last.weight.mul_(gain[:, None, None, None])
        last.bias.copy_(colors.mean(1) - gain * mean)

    def parameters(self) -> list[Tensor]:
        return list(self._made().parameters())

    def __call__(self, size: Size, generator: torch.Generator) -> Float[Tensor, "b c h w"]:
        self._check(size)
        net = self._made()
        for norm in _norms(net):
            norm.steady = self.steady
        device = net.colors.weight.device
        channels = net.noise[self.scale :]
        sizes = [halved_size(size, scale) for scale in range(len(channels))]
        drawn = zip(channels, sizes, strict=True)
        (rank, processes), batch = world(), self.options.batch
        mine = slice(rank * batch, (rank + 1) * batch)  # of the batch that all processes make
        noise = [torch.rand(processes * batch, c, *cells, generator=generator)[mine].to(device) for c, cells in drawn]
        image: Tensor = net(Torus(size, noise, self._shares(), self.scale))
        return image

    @torch.no_grad()
    def calibrate(self, size: Size, generator: torch.Generator) -> None:
        if not self.conditions:
            self._track(size, generator)
            return
        before, films = self.shares, [module for module in self._made().modules() if isinstance(module, Film)]
        for knot, shares in enumerate(knots(self.conditions)):
            self.shares = shares
            self._track(size, generator)
            for film in films:
                film.keep(knot)
        self.shares = before

    def _track(self, size: Size, generator: torch.Generator) -> None:
        """Takes the statistics of some images of the present shares."""
        norms = _norms(self._made())
        for norm in norms:
            norm.track_running_stats = True
            norm.reset_running_stats()  # which does nothing to a norm that tracks none
        for _ in range(_DRAWS):
            self(size, generator)
        for norm in norms:
            norm.track_running_stats = False

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._made().state_dict())

    def load_state_dict(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        if "colors.weight" not in tensors or tensors["colors.weight"].ndim != 4:
            raise UsageError("the weights do not fit the options: found no 'colors.weight' of a convolution")
        net = self._network(len(tensors["colors.weight"]))
        try:
            net.load_state_dict(dict(tensors))
        except RuntimeError as error:
            what = " ".join(str(error).split()[:30])
            raise UsageError(f"the weights do not fit the options: {what}") from None
        if self.net is None or self.net.colors.weight.shape != net.colors.weight.shape:
            self.net = net
            self._settle(net, device)
        else:
            self.net.load_state_dict(dict(tensors))
            self._settle(self.net, device)

    def freeze(self) -> FrozenGenerator:
        net = self._made()
        if any(norm.num_batches_tracked == 0 for norm in _norms(net)):
            raise UsageError("this generator has no statistics to sample with; call calibrate first")
        return Frozen(copy.deepcopy(net).eval())

    @abstractmethod
    def _network(self, channels: int) -> Network:
        """A network of random weights for images of so many channels."""

    def _shares(self) -> list[Tensor]:
        """The present shares, for each scale of the network; nothing without conditions."""
        if not self.conditions:
            return []
        net, alike = self._made(), torch.full((self.conditions,), 1 / self.conditions)
        shares = alike if self.shares is None else self.shares
        return [shares.to(net.colors.weight)[None, :, None, None]] * len(net.noise)

    def _settle(self, net: Network, device: torch.device) -> None:
        net.to(device).train()
        for norm in _norms(net):
            norm.track_running_stats = False  # only `calibrate` looks
            norm.momentum = None  # and takes the mean of what it sees

    def _made(self) -> Network:
        if self.net is None:
            raise UsageError("this generator has no weights yet; call initialize or load_state_dict first")
        return self.net

    def _check(self, size: Size) -> None:
        cell = 2 ** (self.options.scales - 1 - self.scale)
        if max(size) <= cell and self.options.batch == 1:
            why = f"its coarsest noise would be one cell of {cell} pixels"
            raise UsageError(f"{size[0]}x{size[1]} is too small to learn at: {why}; expected more, or fewer scales")


class Texnet(_Texnet):
    """Ulyanov et al. 2016, as Houdard et al. 2021 (Alg. 2) use it: what learns in one go and then makes any size."""

    def _network(self, channels: int) -> Network:
        return Pyramid(channels, self.options, self.conditions)


class TexnetLite(_Texnet):
    """A network of our own that learns from coarse to fine, of fewer operations than `Texnet`."""

    most_coarser = _LITE_COARSER

    def _network(self, channels: int) -> Network:
        return Lite(channels, self.options, self.conditions)


def _norms(net: nn.Module) -> list[BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, BatchNorm2d)]
