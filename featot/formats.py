"""What image files hold: the depth, ICC profile and alpha of a picture, and what each format can keep of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

from featot.errors import unknown_name

Depth = Literal["uint8", "uint16", "half", "float"]
Alpha = Literal["white", "ignore", "keep"]
ALPHAS: tuple[Alpha, ...] = ("white", "ignore", "keep")
"""What becomes of transparency: laid over white, dropped with the colours left as they are, or kept as a channel."""


def check_alpha(name: str) -> None:
    """Raises `featot.UsageError` for an unknown choice."""
    if name not in ALPHAS:
        raise unknown_name("choice for alpha", name, ALPHAS)


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a file keeps its pixels; what `featot.images.read_picture` finds and `write_image` goes by.

    ``depth``: of each value. ``low``, ``range``: the values of a float file are ``low + range * pixel``, so that its
    least and greatest become 0 and 1 where some lie outside [0, 1] (else 0 and 1: as they are). Writing floats maps
    them back, to float32's rounding of a pixel (6e-8 of the range). Alpha is never mapped.
    ``icc``: the colour profile, where it is one for such channels. ``alpha``: whether the last channel is opacity.
    """

    depth: Depth = "uint8"
    low: float = 0.0
    range: float = 1.0
    icc: bytes | None = field(default=None, repr=False)
    alpha: bool = False

    def describe(self) -> dict[str, Any]:
        """For the record of a run: the fields, with the SHA-256 of the profile in its place."""
        digest = None if self.icc is None else hashlib.sha256(self.icc).hexdigest()
        return {"depth": self.depth, "low": self.low, "range": self.range, "alpha": self.alpha, "icc_sha256": digest}


@dataclass(frozen=True)
class Container:
    """A file format: its depths, the last for those that it lacks; its channels (None: any); its longest side."""

    name: str
    depths: tuple[Depth, ...]
    channels: tuple[int, ...] | None = None
    longest: int | None = None

    def depth(self, wanted: Depth) -> Depth:
        """``wanted`` where there is such, or the nearest to it."""
        return wanted if wanted in self.depths else self.depths[-1]


_PNG = Container("PNG", ("uint8", "uint16"), (1, 2, 3, 4))
_JPEG = Container("JPEG", ("uint8",), (1, 3), 65500)
_TIFF = Container("TIFF", ("uint8", "uint16", "half", "float"))
CONTAINERS = {
    ".png": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": Container("WEBP", ("uint8",), (1, 2, 3, 4), 16383),
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".bmp": Container("BMP", ("uint8",), (1, 3)),
    ".exr": Container("EXR", ("half", "float")),
    ".npy": Container("NPY", ("uint8", "uint16", "half", "float")),
}
"""The suffixes that can be written."""


def fitting_profile(icc: bytes | None, channels: int) -> bytes | None:
    """``icc`` where its header says that it is for pixels of so many channels, alpha among them; else None."""
    space = {1: b"GRAY", 2: b"GRAY", 3: b"RGB ", 4: b"RGB "}.get(channels)
    return icc if icc and len(icc) >= 128 and icc[16:20] == space else None
