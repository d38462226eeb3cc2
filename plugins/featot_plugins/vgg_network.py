"""VGG-16 and VGG-19 as feature extractors: torchvision's weights, with pooling and borders of our own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from featot.errors import UsageError, unknown_name
from featot.interfaces import Boundary
from featot_plugins.weights import Weights, load_weights

_CHANNELS = (64, 128, 256, 512, 512)  # of the convolutions of each block; a pooling lies between two blocks
_CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}  # in each block (Simonyan and Zisserman 2015)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels


class VGGNetwork(nn.Module):
    """The frozen network up to the deepest of ``layers``: "relu1_1", "relu1_2", "relu2_1" … "relu5_4".

    ``pooling``: "average" or "max", as it was trained. ``weights``: see `featot_plugins.weights.load_weights`; a file
    may end where the layers do.
    Raises `featot.UsageError` for unknown names or a file without these layers, `featot.FeatotError` without weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        layers: Sequence[str],
        *,
        network: str = "vgg19",
        pooling: str = "average",
        weights: Path | None = None,
    ) -> None:
        super().__init__()
        if network not in _CONVOLUTIONS:
            raise unknown_name("network", network, _CONVOLUTIONS)
        if pooling not in ("average", "max"):
            raise unknown_name("pooling", pooling, ("average", "max"))
        plan = list(_plan(network))
        known = [name for name, *_ in plan]
        if not layers:
            raise UsageError(f"expected at least one layer of {network}: {', '.join(known)}")
        for layer in layers:
            if layer not in known:
                raise unknown_name(f"layer of {network}", layer, known)
        self._layers = frozenset(layers)
        self._pool = F.avg_pool2d if pooling == "average" else F.max_pool2d
        self._plan = plan[: max(map(known.index, layers)) + 1]
        found = load_weights(weights, network=network, plugin="vgg")
        _check_covered(found, self._plan, network)
        self.kernels, self.biases = nn.ParameterList(), nn.ParameterList()
        before = 3
        for _, index, channels in self._plan:
            kernel = found.get(f"features.{index}.weight", (channels, before, 3, 3))
            bias = found.get(f"features.{index}.bias", (channels,))
            self.kernels.append(nn.Parameter(kernel, requires_grad=False))
            self.biases.append(nn.Parameter(bias, requires_grad=False))
            before = channels
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1))
        self.eval()

    def forward(
        self, image: Float[Tensor, "b c h w"], boundary: Boundary
    ) -> dict[str, Float[Tensor, "b channels rows columns"]]:
        """The responses of the layers, finest first, for pixels in [0, 1]; grey ones count as three equal channels.

        ``boundary``: "periodic" pads every convolution on the torus, "valid" none, so that no response sees a border.
        Layers for which the image is too small are left out.
        Raises `featot.UsageError` for another number of channels.
        """
        if image.shape[1] not in (1, 3):
            raise UsageError(f"VGG sees images of 1 or 3 channels, got {image.shape[1]}")
        responses = {}
        x = (image - self.mean) / self.std
        for (name, *_), kernel, bias in zip(self._plan, self.kernels, self.biases, strict=True):
            if name.endswith("_1") and name != "relu1_1":
                if min(x.shape[2:]) < 2:
                    break
                x = self._pool(x, 2)
            if boundary == "periodic":
                x = _wrap_around(x)
            elif min(x.shape[2:]) < 3:
                break
            x = F.relu(F.conv2d(x, kernel, bias))
            if name in self._layers:
                responses[name] = x
        return responses


def _plan(network: str) -> Iterator[tuple[str, int, int]]:
    """Every rectified convolution: its name, torchvision's index of the convolution, and its channels."""
    index = 0
    for block, count in enumerate(_CONVOLUTIONS[network]):
        for number in range(count):
            yield f"relu{block + 1}_{number + 1}", index, _CHANNELS[block]
            index += 2  # torchvision counts the rectifiers
        index += 1  # and the poolings


def _check_covered(weights: Weights, plan: Sequence[tuple[str, int, int]], network: str) -> None:
    covered = "nothing of it"
    for name, index, _ in plan:
        if f"features.{index}.weight" not in weights.tensors or f"features.{index}.bias" not in weights.tensors:
            why = f"{weights.origin} lacks {name} of {network} (features.{index}); it covers {covered}"
            raise UsageError(f"{why}; expected torchvision's weights up to {plan[-1][0]}")
        covered = f"the layers up to {name}"


def _wrap_around(x: Tensor) -> Tensor:
    """One pixel more on every side of a torus; `F.pad`'s circular mode takes a fifth longer to differentiate."""
    x = torch.cat([x[:, :, -1:], x, x[:, :, :1]], dim=2)
    return torch.cat([x[..., -1:], x, x[..., :1]], dim=3)
