"""Writing an image that comes strip by strip, in the memory of one strip where the format allows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from featot.files import AnyPath, atomic_write
from featot.images import check_image_suffix, write_image
from featot.interfaces import Size

_CLASSIC_TIFF = 2**32 - 2**24  # bytes of pixels; beyond that BigTIFF, with room for the tables
_PNG_EFFORT = 1  # of zlib, 0 to 9: higher costs a multiple of the sampling for a few percent


def write_strips(path: AnyPath, strips: Iterable[Float[Tensor, "1 c _ w"]], size: Size, channels: int) -> None:
    """Writes float pixels in [0, 1], clipped, as 8 bits; the suffix of ``path`` picks the format.

    ``strips``: from top to bottom, ``size`` in all; equally high but for the last. TIFF (BigTIFF where it must be)
    and PNG are written as they come; any other format needs memory for the whole image.
    The file is whole or untouched. Raises what `featot.images.write_image` raises.
    """
    file_format = check_image_suffix(path, size)
    writers: dict[str, Callable[..., None]] = {"TIFF": _write_tiff, "PNG": _write_png}
    if file_format not in writers:
        write_image(torch.cat(list(strips), 2), path)
        return
    with atomic_write(path) as file:
        writers[file_format](file, (_bytes(strip) for strip in strips), size, channels)


def repeated(
    strips: Callable[[], Iterable[Float[Tensor, "1 c _ w"]]],
) -> Iterator[Float[Tensor, "1 c _ w2"]]:
    """An image 2×2, again in strips equally high but for the last; ``strips()``: those of the image."""
    held: list[Tensor] = []
    height = 0
    for _ in range(2):
        for strip in strips():
            height = height or strip.shape[2]
            held = [torch.cat([*held, torch.cat([strip, strip], 3)], 2)]
            if held[0].shape[2] >= height:
                yield held[0][:, :, :height]
                held = [held[0][:, :, height:]]
    if held[0].shape[2]:
        yield held[0]


def _bytes(strip: Tensor) -> np.ndarray:
    """Pixels ``(h, w, c)`` in 8 bits, rounded as `write_image` does."""
    pixels = strip[0].clamp(0, 1).mul_(255).round_().to(torch.uint8)
    return pixels.permute(1, 2, 0).contiguous().cpu().numpy()


def _write_tiff(file: BinaryIO, strips: Iterator[np.ndarray], size: Size, channels: int) -> None:
    import tifffile

    first = next(strips)

    def segments() -> Iterator[np.ndarray]:
        yield first
        yield from strips

    with tifffile.TiffWriter(file, bigtiff=size[0] * size[1] * channels > _CLASSIC_TIFF) as writer:
        writer.write(
            segments(),
            shape=(*size, channels) if channels > 1 else size,
            dtype=np.uint8,
            photometric="rgb" if channels > 1 else "minisblack",
            rowsperstrip=len(first),
            metadata=None,
        )


def _write_png(file: BinaryIO, strips: Iterator[np.ndarray], size: Size, channels: int) -> None:
    import png

    writer = png.Writer(size[1], size[0], greyscale=channels == 1, compression=_PNG_EFFORT)
    writer.write(file, (row.tobytes() for strip in strips for row in strip))
