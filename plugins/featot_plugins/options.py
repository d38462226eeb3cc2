"""The options of the built-in plugins. Imports no torch, so that listing them is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featot.options import option


@dataclass(frozen=True)
class PatchesOptions:
    size: int = option(7, "side of a patch, in pixels", min=1)
    stride: int = option(1, "distance between neighbouring patches, in pixels", min=1)


@dataclass(frozen=True)
class PyramidOptions:
    size: int | tuple[int, ...] | None = option(
        None,
        "side of a patch, in pixels, or sides by scale, the last for all coarser; none: 4,4,3,4, in grey 7,6,4,5",
        min=1,
    )
    stride: int = option(1, "distance between neighbouring patches, in pixels", min=1)
    scales: int | None = option(None, "scales, each half the one before; none: down to 12 pixels a side", min=1)


@dataclass(frozen=True)
class VGGOptions:
    layers: tuple[str, ...] = option(("relu1_1", "relu2_1", "relu3_1"), "layers, each a level")
    network: str = option("vgg19", "which of the two networks", choices=("vgg19", "vgg16"))
    pooling: str = option("average", "how it halves; Gatys prefers the average", choices=("average", "max"))
    weights: Path | None = option(None, "file of weights, .pth or .safetensors; none: torchvision's, downloaded once")


@dataclass(frozen=True)
class RandomConvOptions:
    filters: int = option(64, "random filters at each scale", min=1)
    size: int = option(7, "side of a filter, in pixels", min=1)
    scales: int | None = option(None, "scales, each half the one before; none: down to 12 pixels a side", min=1)
    seed: int = option(0, "which filters are drawn", min=0)


@dataclass(frozen=True)
class SteerableOptions:
    scales: int | None = option(None, "scales, each half the one before; none: down to 12 pixels a side", min=1)


@dataclass(frozen=True)
class ImageOptions:
    noise: float = option(1.0, "contrast of the initial noise, 1 being the exemplar's", min=0.0)


@dataclass(frozen=True)
class TexnetOptions:
    scales: int = option(5, "scales of noise, each half the one before", min=1, max=8)
    step: int = option(2, "channels that each scale adds, from coarse to fine", min=1)
    batch: int = option(1, "images made at once while learning", min=1)


@dataclass(frozen=True)
class TexnetLiteOptions:
    scales: int = option(5, "scales of noise, each half the one before", min=2, max=8)
    width: int = option(10, "channels at half the resolution; up to three times as many at coarser scales", min=1)
    batch: int = option(1, "images made at once while learning", min=1)


@dataclass(frozen=True)
class OTLossOptions:
    exponent: float = option(2.0, "p of the pull ‖x − y‖^p on the image; 2 is the paper's", min=0.5, max=2.0)
    targets: int = option(4096, "exemplar points kept a level, drawn at random", min=1)
    psi_steps: int = option(10, "ascent steps of ψ per step of the image", min=0)
    psi_pairs: int = option(15_000_000, "fewer ψ steps (but one) where they would search more pairs (x, y)", min=0)
    psi_rate: float = option(0.001, "step of ψ, in units of min(n, m) · spread of the target", min=0.0)
    backend: str = option("auto", "search of the c-transform", choices=("auto", "torch", "llvm", "faiss", "keops"))


@dataclass(frozen=True)
class SlicedOptions:
    directions: int = option(24, "directions drawn a step, of 128 that are fixed for a level", min=1, max=128)
    power: int = option(1, "1 for W1, which pulls no less where little is amiss; 2 for W2², to mix", min=1, max=2)


@dataclass(frozen=True)
class MSOTOptions:
    size: int = option(4, "side of a patch, in pixels", min=1)
    scales: int = option(4, "scales of the pyramid", min=1)
    points: int = option(3000, "random patches of each image and scale", min=1)
    draws: int = option(2, "times that they are drawn; the score is the mean", min=1)


@dataclass(frozen=True)
class VGGMetricOptions:
    layers: tuple[str, ...] = option(("relu1_1", "relu2_1", "relu3_1"), "layers whose Gram matrices are compared")
    network: str = option("vgg19", "which of the two networks", choices=("vgg19", "vgg16"))
    weights: Path | None = option(None, "file of weights, .pth or .safetensors; none: torchvision's, downloaded once")


@dataclass(frozen=True)
class SIFIDOptions:
    weights: Path | None = option(None, "file of weights, .pth or .safetensors; none: torchvision's, downloaded once")


@dataclass(frozen=True)
class SWDOptions:
    size: int = option(7, "side of a patch, in pixels", min=1)
    scales: int = option(4, "scales of the pyramid", min=1)
    directions: int = option(128, "lines on which the patches are compared", min=1)


@dataclass(frozen=True)
class CopyingOptions:
    size: int = option(15, "side of a patch, in pixels", min=1)
    stride: int = option(4, "distance between the patches of the image, in pixels", min=1)
