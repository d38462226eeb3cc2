"""What the generator networks are made of: one definition that learns on a torus and samples windows of a plane."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from featot.interfaces import FrozenGenerator, Size
from featot.noise import Meeting, NoiseField
from featot.parallel import BatchNorm2d
from featot.resample import halved_size
from featot.shares import ShareMap
from featot_plugins.texnet_film import Film

Index = slice | Tensor
SLOPE = 0.01  # of LeakyReLU below 0


class Space(ABC):
    """What a network sees, and how it meets the border of it.

    ``noise``: at each scale from ``first`` on, the finest that is made. ``shares``: of a network with conditions, at
    each scale: for the whole, or for the largest window there.
    """

    def __init__(
        self, noise: Sequence[Float[Tensor, "b _ _ _"]], shares: Sequence[Float[Tensor, "1 k _ _"]], first: int = 0
    ) -> None:
        self._noise, self.shares, self.first = noise, shares, first

    def noise(self, scale: int) -> Float[Tensor, "b c h w"]:
        """What is drawn at this scale."""
        return self._noise[scale - self.first]

    def enlarged(self, x: Float[Tensor, "b c h w"], scale: int) -> Float[Tensor, "b c h2 w2"]:
        """What comes from the next coarser scale, twice as large, where it meets the noise of ``scale``."""
        return self.crop(F.interpolate(x, scale_factor=2.0, mode="nearest"), scale)

    def joined(self, x: Float[Tensor, "b c h w"], scale: int, strengths: nn.Conv2d) -> Float[Tensor, "b c h2 w2"]:
        """The same and the noise there, mixed by a 1×1 convolution."""
        return self.enlarged(x, scale).add_(strengths(self.noise(scale)))

    @abstractmethod
    def pad(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """What a 3×3 convolution is given."""

    @abstractmethod
    def crop(self, x: Float[Tensor, "b c h w"], scale: int) -> Float[Tensor, "b c h2 w2"]:
        """The cells of ``scale`` among those that the next coarser one was enlarged to."""


class Torus(Space):
    """The whole of a periodic image, of this size at ``first``."""

    def __init__(
        self,
        size: Size,
        noise: Sequence[Float[Tensor, "b _ _ _"]],
        shares: Sequence[Float[Tensor, "1 k _ _"]] = (),
        first: int = 0,
    ) -> None:
        super().__init__(noise, shares, first)
        self.size = size

    def pad(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return F.pad(x, (1, 1, 1, 1), mode="circular")

    def crop(self, x: Float[Tensor, "b c h w"], scale: int) -> Float[Tensor, "b c h2 w2"]:
        h, w = halved_size(self.size, scale - self.first)
        return x[:, :, :h, :w]


class Plane(Space):
    """A window, with the margins that convolutions use up."""

    def __init__(
        self,
        noise: Sequence[Float[Tensor, "b _ _ _"]],
        rows: Sequence[Index],
        columns: Sequence[Index],
        shares: Sequence[Float[Tensor, "1 k _ _"]] = (),
    ) -> None:
        super().__init__(noise, shares)
        self.rows, self.columns = rows, columns

    def pad(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return x

    def crop(self, x: Float[Tensor, "b c h w"], scale: int) -> Float[Tensor, "b c h2 w2"]:
        return x[:, :, self.rows[scale]][:, :, :, self.columns[scale]]


class Drawn(Plane):
    """A window whose noise is drawn when it is met: these channels, rows and columns at every scale."""

    def __init__(
        self,
        field: NoiseField,
        windows: Sequence[tuple[int, range, range]],
        rows: Sequence[Index],
        columns: Sequence[Index],
        shares: Sequence[Float[Tensor, "1 k _ _"]] = (),
    ) -> None:
        super().__init__((), rows, columns, shares)
        self.field, self.windows = field, windows

    def noise(self, scale: int) -> Float[Tensor, "1 c h w"]:
        """What the field has there; see `NoiseField.uniform`."""
        return self.field.uniform(scale, *self.windows[scale]).contiguous(memory_format=torch.channels_last)

    def joined(self, x: Float[Tensor, "1 c h w"], scale: int, strengths: nn.Conv2d) -> Float[Tensor, "1 c h2 w2"]:
        if not self.field.compiled:
            return super().joined(x, scale, strengths)
        from featot.noise_kernels import joined  # late: llvmlite is optional

        return joined(x, self.met(x, scale), strengths.weight[:, :, 0, 0])

    def met(self, x: Float[Tensor, "1 c h w"], scale: int) -> Meeting:
        """Where the noise of ``scale`` meets x."""
        rows, columns = (
            torch.arange(2 * side)[index[scale]] >> 1
            for side, index in zip(x.shape[2:], (self.rows, self.columns), strict=True)
        )
        return Meeting(rows, columns, *self.field.hashes(scale, *self.windows[scale]))


def norms_of(conditions: int, scale: int) -> Callable[[int], nn.Module]:
    """What makes the normalisation of so many channels at ``scale``."""
    return partial(Film, conditions=conditions, scale=scale) if conditions else BatchNorm2d


def normalised(norm: nn.Module, x: Float[Tensor, "b c h w"], space: Space) -> Float[Tensor, "b c h w"]:
    """What the normalisation, with conditions or without, makes of x."""
    made: Tensor = norm(x, space.shares[norm.scale]) if isinstance(norm, Film) else norm(x)
    return made


class Unit(nn.Module):
    """Convolution, BatchNorm, LeakyReLU. The normalisation takes the place of a bias."""

    def __init__(self, before: int, after: int, side: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, side, bias=False)
        self.norm = norm(after)

    def forward(self, x: Float[Tensor, "b c h w"], space: Space) -> Float[Tensor, "b c2 h2 w2"]:
        if self.conv.kernel_size[0] == 3:
            x = space.pad(x)
        return F.leaky_relu_(normalised(self.norm, self.conv(x), space), SLOPE)

    def fold(self) -> None:
        """Makes one convolution of convolution and normalisation, with the statistics as they are."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = nn.utils.fusion.fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = nn.Identity()


def fold_before(norm: nn.BatchNorm2d, conv: nn.Conv2d) -> None:
    """Makes a normalisation part of the convolution that follows it, which has a bias."""
    assert conv.bias is not None
    scale, shift = _affine(norm)
    conv.bias = nn.Parameter(conv.bias + conv.weight.sum((2, 3)) @ shift)
    conv.weight = nn.Parameter(conv.weight * scale[:, None, None])


def fold_after(norm: nn.BatchNorm2d, conv: nn.Conv2d, added: nn.Conv2d) -> None:
    """Makes a normalisation part of the two convolutions, the first with a bias, whose sum it normalises."""
    assert conv.bias is not None
    scale, shift = _affine(norm)
    conv.bias = nn.Parameter(scale * conv.bias + shift)
    for summand in (conv, added):
        summand.weight = nn.Parameter(summand.weight * scale[:, None, None, None])


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - scale * norm.running_mean


class Block(nn.Module):
    """So many units one after the other."""

    def __init__(self, widths: Sequence[int], sides: Sequence[int], norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.units = nn.ModuleList(Unit(widths[i], widths[i + 1], side, norm) for i, side in enumerate(sides))

    def first(self) -> nn.Conv2d:
        """The convolution that sees what comes in."""
        unit = self.units[0]
        assert isinstance(unit, Unit)
        return unit.conv

    def forward(self, x: Float[Tensor, "b c h w"], space: Space) -> Float[Tensor, "b c2 h2 w2"]:
        for unit in self.units:
            x = unit(x, space)
        return x


class Network(nn.Module, ABC):
    """From noise at every scale, finest first, to colours.

    ``noise``: channels at each scale; ``before``, ``after``: 3×3 convolutions that noise alone goes through at each
    scale, and those that follow once it has met what comes from below. ``conditions``: exemplars that it is for.
    ``heads``: what makes colours of scale 1, 2, …: an image that is halved so often, to learn from.
    """

    colors: nn.Conv2d
    heads: nn.ModuleList

    def __init__(
        self, noise: Sequence[int], before: Sequence[int], after: Sequence[int], conditions: int = 0
    ) -> None:
        super().__init__()
        self.noise, self.before, self.after, self.conditions = noise, before, after, conditions

    @abstractmethod
    def forward(self, space: Space) -> Float[Tensor, "b c h w"]:
        """The image, at the finest scale that there is noise of."""

    def fold(self) -> None:
        """Makes the normalisations part of the convolutions."""
        for module in self.modules():
            if isinstance(module, Unit):
                module.fold()

    def settle(self, shares: Float[Tensor, " k"]) -> None:
        """Makes a network without conditions of one with them, for these shares."""
        self.conditions = 0
        for parent in list(self.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, Film):
                    setattr(parent, name, child.plain(shares))


class Frozen(FrozenGenerator):
    """A network whose normalisations are part of its convolutions; with conditions, only once it is `shared`."""

    def __init__(self, network: Network, shares: ShareMap | None = None) -> None:
        super().__init__()
        if not network.conditions:
            network.fold()
        # Channels last: the 3×3 convolutions of few channels are up to twice as fast on CPUs.
        self.network = network.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        self.channels = network.colors.out_channels
        self.stride = 2 ** (len(network.noise) - 1)
        self.conditions, self.shares = network.conditions, shares

    @torch.no_grad()
    def shared(self, shares: Float[Tensor, " k"] | ShareMap) -> FrozenGenerator:
        if not self.conditions:
            return super().shared(shares)
        network = copy.deepcopy(self.network)
        if isinstance(shares, ShareMap):
            return Frozen(network, shares)
        network.settle(shares.to(network.colors.weight))
        return Frozen(network)

    @torch.no_grad()
    def render(self, noise: NoiseField, rows: range, columns: range) -> Float[Tensor, "1 c h w"]:
        needed_rows, row_index = self._reach(noise, 0, rows)
        needed_columns, column_index = self._reach(noise, 1, columns)
        windows = list(zip(self.network.noise, needed_rows, needed_columns, strict=True))
        shares = self._alike()
        if self.shares is not None:
            shares = [self.shares.at(noise, scale, *window) for scale, (_, *window) in enumerate(windows)]
        image: Tensor = self.network(Drawn(noise, windows, row_index, column_index, shares))
        return image

    def margins(self) -> list[tuple[int, int]]:
        needed, _ = self._reach(NoiseField(0), 0, range(self.stride))
        return [(channels, -cells.start) for channels, cells in zip(self.network.noise, needed, strict=True)]

    def forward(self, *noise: Tensor) -> Tensor:
        _, index = self._reach(NoiseField(0), 0, range(self.stride))
        # The margins are the same at both ends.
        same = [slice(part.start, -part.start or None) for part in index if isinstance(part, slice)]
        shares = self._alike()
        if self.conditions:
            noise, given = noise[:-1], noise[-1]
            shares = [given[None, :, None, None]] * len(noise)
        image: Tensor = self.network(Plane(noise, same, same, shares))
        return image

    def _alike(self) -> list[Tensor]:
        """As much of each exemplar at every scale; nothing without conditions."""
        if not self.conditions:
            return []
        weight = self.network.colors.weight
        return [weight.new_full((1, self.conditions, 1, 1), 1 / self.conditions)] * len(self.network.noise)

    def _reach(self, noise: NoiseField, axis: int, cells: range) -> tuple[list[range], list[Index]]:
        """The noise that pixels depend on, at each scale, and where its cells lie in the next one enlarged."""
        needed, index = [], []
        last = len(self.network.noise) - 1
        for scale, (before, after) in enumerate(zip(self.network.before, self.network.after, strict=True)):
            grown = range(cells.start - after, cells.stop + after)
            needed.append(range(grown.start - before, grown.stop + before))
            if scale < last:
                cells, inside = noise.parents(scale, axis, grown)
                index.append(inside)
        return needed, index
