"""What a synthesis is made from: exemplars, and optionally a mask and guides, read, checked and brought together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from featot import provenance
from featot.errors import UsageError, unknown_name
from featot.files import AnyPath
from featot.formats import Alpha, Format, check_alpha
from featot.images import read_picture
from featot.interfaces import Size

AUGMENTATIONS = ("rot90", "flip")
Picture = AnyPath | Tensor | np.ndarray
"""A file, or pixels ``(c, h, w)`` or ``(1, c, h, w)`` in [0, 1], of any number c of channels."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """All images that a run reads.

    ``exemplars``: pooled, grey ones among coloured ones as grey colour, opaque ones among transparent ones with an
    opaque alpha. ``alpha``: what becomes of their transparency, see `featot.images.read_picture`.
    ``mask``: of the one exemplar, not 0 where it may be sampled.
    ``guide``, ``exemplar_guide``: label or progression maps of the result and of the one exemplar, in the same
    colours; the result gets at each place the texture that the exemplar has where its map is alike.
    """

    exemplars: Sequence[Picture]
    mask: Picture | None = None
    guide: Picture | None = None
    exemplar_guide: Picture | None = None
    alpha: Alpha = "white"

    def __post_init__(self) -> None:
        check_alpha(self.alpha)

    def read(self) -> Pictures:
        """What they hold; where three channels are alike in all exemplars, with the one that does.

        Raises `featot.UsageError` where they cannot be read or do not go together.
        """
        if not self.exemplars:
            raise UsageError("expected at least one exemplar")
        found = [_with_format(exemplar, self.alpha) for exemplar in self.exemplars]
        exemplars, format = _together(found)
        exemplars, grey = reduced(exemplars, alpha=format is not None and format.alpha)
        size = (exemplars[0].shape[2], exemplars[0].shape[3])
        if (self.guide is None) != (self.exemplar_guide is None):
            names = ("a guide", "exemplar guide") if self.exemplar_guide is None else ("an exemplar guide", "guide")
            given, other = names
            raise UsageError(f"{given} needs the {other} too: the one says where to put what the other marks")
        if len(exemplars) > 1 and (self.mask is not None or self.guide is not None):
            raise UsageError("expected one exemplar with a mask or a guide, got several")
        mask = None if self.mask is None else (pixels(self.mask).amax(1, keepdim=True) > 0.5).float()
        guides = [None if map_ is None else pixels(map_) for map_ in (self.guide, self.exemplar_guide)]
        for name, image in (("a mask", mask), ("an exemplar guide", guides[1])):
            if image is not None and image.shape[2:] != exemplars[0].shape[2:]:
                h, w = image.shape[2:]
                raise UsageError(f"expected {name} of the exemplar's size {size[0]}x{size[1]}, got {h}x{w}")
        guide, exemplar_guide = guides
        if guide is not None and exemplar_guide is not None and guide.shape[1] != exemplar_guide.shape[1]:
            if sorted([guide.shape[1], exemplar_guide.shape[1]]) != [1, 3]:
                got = f"{guide.shape[1]} and {exemplar_guide.shape[1]}"
                raise UsageError(f"expected a guide and an exemplar guide of as many channels, got {got}")
            guide, exemplar_guide = guide.expand(-1, 3, -1, -1), exemplar_guide.expand(-1, 3, -1, -1)
        described = [describe(given, image) for given, (image, _) in zip(self.exemplars, found, strict=True)]
        record: dict[str, Any] = {"exemplar": described[0], "more_exemplars": described[1:], "alpha": self.alpha}
        record["output"] = None if format is None else format.describe()
        extras = {"mask": mask, "guide": guide, "exemplar_guide": exemplar_guide}
        for name, image in extras.items():
            record[name] = None if image is None else describe(getattr(self, name), image)
        return Pictures(
            exemplars=exemplars,
            mask=mask,
            guide=guide,
            exemplar_guide=exemplar_guide,
            record=record,
            format=format,
            grey=grey,
        )


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The pixels of `Sources`: exemplars ``(1, c, h, w)``; ``record``: where they came from, for the sidecar.

    ``format``: of the first exemplar's file, for the result's (None: it was no file). ``grey``: they were given in
    colour without any, and have one channel in place of three.
    """

    exemplars: list[Float[Tensor, "1 _ _ _"]]
    mask: Float[Tensor, "1 1 _ _"] | None
    guide: Float[Tensor, "1 _ _ _"] | None
    exemplar_guide: Float[Tensor, "1 _ _ _"] | None
    record: dict[str, Any] = field(repr=False)
    format: Format | None = None
    grey: bool = False

    def as_given(self, image: Float[Tensor, "1 _ h w"]) -> Float[Tensor, "1 _ h w"]:
        """A result with as many channels as the exemplars were given with."""
        return torch.cat([image[:, :1].expand(-1, 3, -1, -1), image[:, 1:]], dim=1) if self.grey else image

    @property
    def channels(self) -> int:
        """Of every exemplar, and of the result as long as it is compared with them."""
        return self.exemplars[0].shape[1]

    @property
    def given_channels(self) -> int:
        """Of the exemplars as they were given, and of the result that is handed back."""
        return self.channels + (2 if self.grey else 0)

    @property
    def size(self) -> Size:
        """Of the first exemplar."""
        return self.exemplars[0].shape[2], self.exemplars[0].shape[3]

    @property
    def smallest(self) -> Size:
        """The size of the exemplar with the shortest side."""
        sizes = [(image.shape[2], image.shape[3]) for image in self.exemplars]
        return min(sizes, key=min)

    def varied(self, augment: Sequence[str]) -> tuple[list[Tensor], list[Tensor] | None]:
        """The exemplars with their guide as further channels, and their masks, each also turned and mirrored."""
        images = self.exemplars
        if self.exemplar_guide is not None:
            images = [torch.cat([images[0], self.exemplar_guide.to(images[0])], dim=1)]
        varied = [turned for image in images for turned in turns(image, augment)]
        return varied, None if self.mask is None else turns(self.mask.to(images[0]), augment)


def describe(picture: Picture, image: Float[Tensor, "1 c h w"]) -> dict[str, Any]:
    """What a record says of a picture and the pixels that were read from it."""
    path = None if isinstance(picture, Tensor | np.ndarray) else os.path.abspath(picture)
    return {"path": path, "shape": list(image.shape), "sha256": provenance.fingerprint(image)}


def check_augment(augment: Sequence[str]) -> None:
    """Raises `featot.UsageError` for an unknown augmentation."""
    for name in [augment] if isinstance(augment, str) else augment:
        if name not in AUGMENTATIONS:
            raise unknown_name("augmentation", name, AUGMENTATIONS)


def turns(image: Float[Tensor, "1 c h w"], augment: Sequence[str]) -> list[Tensor]:
    """The image, and what `AUGMENTATIONS` make of it."""
    turned = [image.rot90(quarters, dims=(2, 3)) for quarters in (range(4) if "rot90" in augment else range(1))]
    return turned + [image.flip(3) for image in turned] if "flip" in augment else turned


def pixels(picture: Picture, alpha: Alpha = "white") -> Float[Tensor, "1 c h w"]:
    """The pixels of a file, or of an array after a check. Raises `featot.UsageError`."""
    return _with_format(picture, alpha)[0]


def _with_format(picture: Picture, alpha: Alpha) -> tuple[Float[Tensor, "1 c h w"], Format | None]:
    if not isinstance(picture, Tensor | np.ndarray):
        return read_picture(picture, alpha)
    floating = picture.is_floating_point() if isinstance(picture, Tensor) else picture.dtype.kind == "f"
    *batch, channels, h, w = picture.shape if picture.ndim >= 3 else (0, 0, 0, 0)
    if not (floating and batch in ([], [1]) and channels * h * w > 0) or (w <= 4 and channels > 16):
        got = f"{tuple(picture.shape)} of {picture.dtype}"
        hint = ": channels come first" if channels > 16 else ""
        raise UsageError(f"expected an image (c, h, w) or (1, c, h, w), float, got {got}{hint}")
    if isinstance(picture, np.ndarray):  # torch wants it writable, without negative strides, in native byte order
        picture = torch.from_numpy(picture.astype(np.float32))
    image = picture.detach().float().reshape(1, channels, h, w)
    if not torch.isfinite(image).all():
        raise UsageError("expected an image with finite pixels, got NaN or infinity")
    if image.min() < 0 or image.max() > 1:
        raise UsageError(f"expected pixels in [0, 1], got {float(image.min()):.4g} to {float(image.max()):.4g}")
    return image, None


def _together(found: Sequence[tuple[Tensor, Format | None]]) -> tuple[list[Tensor], Format | None]:
    """Exemplars of as many channels, floats on one scale; and the format of the first, with that scale and alpha."""
    images, formats = [image for image, _ in found], [format or Format() for _, format in found]
    low = min(format.low for format in formats)
    span = max(format.low + format.range for format in formats) - low
    if any((format.low, format.range) != (low, span) for format in formats):
        images = [_rescaled(image, format, low, span) for image, format in zip(images, formats, strict=True)]
    alpha = any(format.alpha for format in formats)
    colours = max(image.shape[1] - format.alpha for image, format in zip(images, formats, strict=True))
    alike = []
    for image, format in zip(images, formats, strict=True):
        color = image[:, : image.shape[1] - format.alpha]
        if color.shape[1] != colours and (color.shape[1], colours) != (1, 3):
            raise UsageError(f"expected exemplars of as many channels, got {color.shape[1]} and {colours}")
        opacity = image[:, color.shape[1] :] if format.alpha else torch.ones_like(image[:, :1])
        color = color.expand(-1, colours, -1, -1)
        alike.append(torch.cat([color, opacity], dim=1) if alpha else color)
    first = found[0][1]
    return alike, first and replace(first, low=low, range=span, alpha=alpha)


def reduced(images: Sequence[Tensor], *, alpha: bool) -> tuple[list[Tensor], bool]:
    """One channel in place of three that are alike in all images, and whether they are.

    Greyscale is often kept so. Compared as colour its patches would be small, and what is made would have tints.
    """
    grey = all(image.shape[1] == 3 + alpha and bool((image[:, :1] == image[:, 1:3]).all()) for image in images)
    return [torch.cat([image[:, :1], image[:, 3:]], dim=1) if grey else image for image in images], grey


def _rescaled(image: Tensor, format: Format, low: float, span: float) -> Tensor:
    """``image`` with colours on the scale ``low``, ``span`` instead of its format's."""
    colours = image[:, : image.shape[1] - format.alpha].double()
    mapped = (format.low + format.range * colours - low) / span
    return torch.cat([mapped.clamp(0, 1).to(image), image[:, colours.shape[1] :]], dim=1)
