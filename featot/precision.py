"""Mixed precision: the network in bfloat16, the features, the transport and the weights in float32."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from featot.errors import unknown_name
from featot.interfaces import Parametrization, Size

Precision = Literal["auto", "float32", "bfloat16"]


def check_precision(name: str) -> None:
    """Raises `featot.UsageError` for another name."""
    if name not in get_args(Precision):
        raise unknown_name("precision", name, get_args(Precision))


def find_precision(name: str, device: torch.device) -> torch.dtype:
    """The type of a network's activations; "auto": bfloat16 on GPUs that compute in it, else float32."""
    check_precision(name)
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return torch.bfloat16 if name == "bfloat16" else torch.float32


class Mixed(Parametrization):
    """A parametrization whose image is made in bfloat16 where torch thinks that safe; the rest is float32."""

    def __init__(self, inner: Parametrization, device: torch.device) -> None:
        super().__init__(inner.options)
        self.inner, self.device = inner, device

    def initialize(self, exemplar: Float[Tensor, "1 c h w"], size: Size, generator: torch.Generator) -> None:
        self.inner.initialize(exemplar, size, generator)

    def parameters(self) -> list[Tensor]:
        return self.inner.parameters()

    def __call__(self, size: Size, generator: torch.Generator) -> Float[Tensor, "b c h w"]:
        with torch.autocast(self.device.type, torch.bfloat16):
            image = self.inner(size, generator)
        return image.float()
