"""Reading and writing images.

An image is a float tensor ``(1, c, h, w)`` with pixels in [0, 1]; c is 1 for greyscale and 3 for colour.
"""

from __future__ import annotations

import io
import os
import re
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from featot.errors import FeatotError, UsageError
from featot.files import AnyPath, atomic_write, kind_of, what_is_missing

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
"""The suffixes that can be written, and Pillow's names for their formats."""

_LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383}
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},  # 0 is 4:4:4: colour at full resolution
    "WEBP": {"lossless": True},
}


def read_image(path: AnyPath, device: str | torch.device = "cpu") -> Float[Tensor, "1 c h w"]:
    """The image in ``path`` as float32 ``(1, c, h, w)`` in [0, 1]: c is 1 for greyscale, 3 for anything else.

    The camera's rotation is applied; of an animation the first frame is read. 16-bit greyscale keeps its
    16 bits. Real transparency is laid over white, with a warning that says how much there was.
    Raises `UsageError` where there is no such file, or where it is not a whole, readable image.
    """
    pixels, alpha = _pixels(_decode(_read_bytes(path), path), path)
    if alpha is not None and (alpha < 1).any():
        share = f"{100 * (alpha < 1).mean():.3g} % of the pixels are transparent, wholly or partly"
        warnings.warn(f"{path}: {share}; they are laid over white", UserWarning, stacklevel=2)
        pixels = pixels * alpha + (1 - alpha)
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32))
    return image[None].to(device)


def write_image(image: Tensor, path: AnyPath) -> None:
    """Writes a float image, ``(1, c, h, w)`` or ``(c, h, w)``, clipped to [0, 1] and rounded to 8 bits.

    The suffix of ``path`` picks the format (see `FORMATS`); one channel is written as greyscale.
    Raises `UsageError` for another suffix or shape, `FeatotError` for pixels that are NaN or infinite,
    for a size that the format cannot hold, and where `atomic_write` does.
    """
    file_format = check_image_suffix(path)
    image = _one_image(image.detach())[0].float().cpu()
    bad = int((~image.isfinite()).sum())
    if bad:
        raise FeatotError(f"cannot write {path}: {bad} of {image.numel()} pixel values are NaN or infinite")
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    encoded = io.BytesIO()
    try:
        picture.save(encoded, file_format, **_SAVE_OPTIONS.get(file_format, {}))
    except (OSError, ValueError) as error:
        size = f"{picture.height}x{picture.width}"
        raise FeatotError(f"cannot write {path}: no {file_format} of {size} pixels ({error})") from error
    with atomic_write(path) as file:
        file.write(encoded.getbuffer())


def check_image_suffix(path: AnyPath, size: tuple[int, int] | None = None) -> str:
    """Pillow's name of the format that the suffix of ``path`` asks for; `UsageError` unless in `FORMATS`.

    With a ``size``, height and width, also `UsageError` where the format cannot hold as much.
    """
    suffix = Path(path).suffix
    if suffix.lower() not in FORMATS:
        why = f"{suffix!r} is not a known image format" if suffix else "the name has no suffix"
        raise UsageError(f"cannot write {path}: {why} (choose from: {', '.join(FORMATS)})")
    file_format = FORMATS[suffix.lower()]
    most = _LONGEST_SIDE.get(file_format)
    if size and most and max(size) > most:
        why = f"a side of {max(size)} pixels is more than the {most} that {file_format} can hold"
        raise UsageError(f"cannot write {path}: {why}; expected another format, such as .png")
    return file_format


def side_by_side(images: Sequence[Tensor], gap: int = 8) -> Float[Tensor, "1 c h w"]:
    """The images in one row, top-aligned on white, ``gap`` pixels apart; in colour if any of them is.

    Each is ``(1, c, h, w)`` or ``(c, h, w)``; the row has the dtype and device of the first.
    Raises `UsageError` for other shapes, for no image at all, or for a negative gap.
    """
    if not images or gap < 0:
        raise UsageError(f"expected at least one image and a gap of at least 0; got {len(images)} and {gap}")
    images = [_one_image(image) for image in images]
    channels, height = (max(image.shape[axis] for image in images) for axis in (1, 2))
    width = sum(image.shape[3] for image in images) + gap * (len(images) - 1)
    row = images[0].new_ones(1, channels, height, width)
    left = 0
    for image in images:
        h, w = image.shape[2:]
        row[:, :, :h, left : left + w] = image  # one channel broadcasts to three
        left += w + gap
    return row


def parse_size(text: str) -> tuple[int, int]:
    """Height and width in pixels: "256x384" is (256, 384), "256" is (256, 256); else raises `UsageError`."""
    match = re.fullmatch(r"([0-9]{1,9})(?:[xX×]([0-9]{1,9}))?", text.strip())
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(size) < 1:
        raise UsageError(f"bad size {text!r}: sizes are HxW in pixels, each at least 1 (as 256x384, or 256)")
    return size


def _one_image(image: Tensor) -> Float[Tensor, "1 c h w"]:
    """``image`` with its batch axis; `UsageError` unless it is one float image of 1 or 3 channels."""
    batch = image[None] if image.ndim == 3 else image
    fits = batch.ndim == 4 and batch.shape[0] == 1 and batch.shape[1] in (1, 3) and batch.numel() > 0
    if not (fits and batch.is_floating_point()):
        got = f"{tuple(image.shape)} of {image.dtype}"
        raise UsageError(f"expected one float image, (1, c, h, w) or (c, h, w) with c 1 or 3; got {got}")
    return batch


def _unreadable(path: AnyPath, why: str) -> UsageError:
    return UsageError(f"cannot read {path}: {why}")


def _read_bytes(path: AnyPath) -> bytes:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise _unreadable(path, f"{kind_of(mode)}; expected an image file")
        return Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise _unreadable(path, what_is_missing(Path(path))) from None
    except OSError as error:
        raise _unreadable(path, f"{error.strerror}; expected a readable image file") from error


def _decode(data: bytes, path: AnyPath) -> Image.Image:
    """The first frame, loaded and upright."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large, but within the limit
            picture = Image.open(io.BytesIO(data))
            picture.load()
            return ImageOps.exif_transpose(picture)
    except UnidentifiedImageError as error:
        what = "no known image format, or cut off in its header" if data else "the file is empty"
        raise _unreadable(path, f"{what} ({len(data)} bytes); expected an image such as PNG or JPEG") from error
    except Image.DecompressionBombError as error:
        reason = str(error).split(",")[0]
        raise _unreadable(path, f"{reason}; expected a smaller image") from error
    except MemoryError:
        raise
    except Exception as error:  # a decoder that meets damaged data may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _unreadable(path, f"truncated or damaged ({reason}); expected a whole image") from error


def _pixels(picture: Image.Image, path: AnyPath) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels ``(h, w, c)`` and opacity ``(h, w, 1)`` (None: opaque throughout), both in [0, 1]."""
    if picture.mode == "F" or picture.mode.startswith("I"):  # float, or integers of more than 8 bits
        values = np.asarray(picture)[:, :, None]
        top = 1 if picture.mode == "F" else 65535
        nans = int(np.isnan(values).sum())
        if nans:
            raise _unreadable(path, f"{nans} of {values.size} pixels are NaN; expected all within [0, {top}]")
        low, high = values.min(), values.max()
        if low < 0 or high > top:
            raise _unreadable(path, f"its pixels go from {low} to {high}; expected all within [0, {top}]")
        invisible = picture.info.get("transparency")  # PNG: the one grey level that is transparent
        return values / np.float32(top), None if invisible is None else values != invisible
    mode = "L" if picture.mode in ("1", "L", "LA", "La") else "RGB"
    transparent = picture.has_transparency_data
    values = np.asarray(picture.convert(mode + "A" if transparent else mode), dtype=np.float32) / 255
    values = values.reshape(picture.height, picture.width, -1)
    return (values[:, :, :-1], values[:, :, -1:]) if transparent else (values, None)
