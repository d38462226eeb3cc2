"""Reading and writing images.

An image is a float tensor ``(1, c, h, w)`` with pixels in [0, 1]; c is 1 for greyscale, 3 for colour, one more with
alpha, and any number for arrays.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from featot.decode import decode, unreadable
from featot.encode import EncodeError, encode
from featot.errors import FeatotError, UsageError
from featot.files import AnyPath, atomic_write
from featot.formats import CONTAINERS, Alpha, Depth, Format, check_alpha, fitting_profile

if TYPE_CHECKING:
    import PIL.Image

_FRAME_SIDE = 512  # of an animation
_TOPS = {"uint8": 255, "uint16": 65535}
_FLOATS: dict[Depth, type[np.floating]] = {"half": np.float16, "float": np.float32}


def read_image(path: AnyPath, device: str | torch.device = "cpu") -> Float[Tensor, "1 c h w"]:
    """The image in ``path`` as float32 ``(1, c, h, w)`` in [0, 1], as `read_picture` gives it, alpha laid over white.

    Raises `UsageError` where there is no such file, or where it is not a whole, readable image.
    """
    return _read(path, "white")[0].to(device)


def read_picture(path: AnyPath, alpha: Alpha = "white") -> tuple[Float[Tensor, "1 c h w"], Format]:
    """The image in ``path`` as float32 ``(1, c, h, w)`` in [0, 1], and how the file keeps it, to write its like.

    PNG, JPEG, WebP, BMP, TIFF, OpenEXR, ``.npy`` arrays ``(h, w)`` or ``(h, w, c)``, and what else Pillow reads; of
    an animation the first frame, of a TIFF the first page, of an OpenEXR with colours these and alpha; a warning
    says what other pages and channels there are. The camera's rotation is applied. Integers are divided by 255 or
    65535; floats are taken as they are, but mapped to [0, 1] as `Format` says where some lie outside. No transfer
    function is applied.
    ``alpha``: "white" lays real transparency over white, with a warning that says how much there was, "ignore"
    drops it and leaves the colours, "keep" gives it as the last channel.
    Raises `UsageError` as `read_image` does.
    """
    return _read(path, alpha)


def write_image(image: Tensor, path: AnyPath, format: Format | None = None) -> None:
    """Writes a float image, ``(1, c, h, w)`` or ``(c, h, w)``, clipped to [0, 1], whole or not at all.

    The suffix of ``path`` picks the kind of file (see `featot.formats.CONTAINERS`); two channels are grey with alpha,
    four colour with alpha where the kind has alpha at all. ``format``: its depth, or the nearest that the file can
    hold, and the ICC profile where it can hold one (None: 8 bits, or floats in .exr and .npy).
    Raises `UsageError` for another suffix or shape, `FeatotError` for pixels that are NaN or infinite,
    for a size that the format cannot hold, and where `atomic_write` does.
    """
    image = _one_image(image.detach())[0].float().cpu()
    check_image_suffix(path, channels=len(image))
    container = CONTAINERS[Path(path).suffix.lower()]
    bad = int((~image.isfinite()).sum())
    if bad:
        raise FeatotError(f"cannot write {path}: {bad} of {image.numel()} pixel values are NaN or infinite")
    if format is None:
        format = Format(depth="float" if container.name in ("EXR", "NPY") else "uint8")
    values = _stored(image.clamp(0, 1).permute(1, 2, 0).numpy(), container.depth(format.depth), format)
    with atomic_write(path) as file:
        try:
            encode(file, values, container.name, alpha=format.alpha, icc=format.icc)
        except EncodeError as error:
            size = "x".join(map(str, image.shape[1:]))
            raise FeatotError(f"cannot write {path}: no {container.name} of {size} pixels ({error})") from error


def write_animation(images: Sequence[Tensor], path: AnyPath, *, seconds: float) -> None:
    """Writes an animated WebP that shows the images, ``(1, c, h, w)``, to and fro, each for so many ``seconds``.

    It is for looking at: 8 bits, the first three channels, at most 512 pixels a side.
    Raises `UsageError` for no image, `FeatotError` where `atomic_write` does.
    """
    if not images:
        raise UsageError("expected at least one image to animate")
    frames = [for_looking(image, _FRAME_SIDE) for image in images]
    frames += frames[-2:0:-1]
    with atomic_write(path) as file:
        frames[0].save(
            file, "WEBP", save_all=True, append_images=frames[1:], duration=round(1000 * seconds), loop=0, quality=90
        )


def for_looking(image: Tensor, longest: int = 1024) -> PIL.Image.Image:
    """A float image, ``(1, c, h, w)`` or ``(c, h, w)``, for the eye: 8 bits, at most so many pixels a side.

    Three channels: the first three, or the first as grey.
    """
    from PIL import Image

    colors = _one_image(image.detach())[0, :3].float().cpu().clamp(0, 1)
    colors = colors if len(colors) == 3 else colors[:1].expand(3, -1, -1)
    picture = Image.fromarray((colors.permute(1, 2, 0) * 255).round().byte().contiguous().numpy())
    picture.thumbnail((longest, longest))
    return picture


def png_of(image: Tensor) -> bytes:
    """`for_looking` as a PNG: what Jupyter shows."""
    encoded = io.BytesIO()
    for_looking(image).save(encoded, "PNG")
    return encoded.getvalue()


def check_image_suffix(path: AnyPath, size: tuple[int, int] | None = None, channels: int | None = None) -> str:
    """The name of the format that the suffix of ``path`` asks for; `UsageError` unless in `CONTAINERS`.

    With a ``size``, height and width, or a number of ``channels``, also `UsageError` where it cannot hold as much.
    """
    suffix = Path(path).suffix
    if suffix.lower() not in CONTAINERS:
        why = f"{suffix!r} is not a known image format" if suffix else "the name has no suffix"
        raise UsageError(f"cannot write {path}: {why} (choose from: {', '.join(CONTAINERS)})")
    container = CONTAINERS[suffix.lower()]
    if size and container.longest and max(size) > container.longest:
        why = f"a side of {max(size)} pixels is more than the {container.longest} that {container.name} can hold"
        raise UsageError(f"cannot write {path}: {why}; expected another format, such as .png")
    if channels and container.channels and channels not in container.channels:
        why = f"{container.name} holds {' or '.join(map(str, container.channels))} channels, not {channels}"
        others = [s for s, other in CONTAINERS.items() if other.channels is None or channels in other.channels]
        raise UsageError(f"cannot write {path}: {why} (choose from: {', '.join(others)})")
    return container.name


def side_by_side(images: Sequence[Tensor], gap: int = 8) -> Float[Tensor, "1 c h w"]:
    """The images in one row, top-aligned on white, ``gap`` pixels apart; in colour if any of them is.

    Each is ``(1, c, h, w)`` or ``(c, h, w)``; the row has the dtype and device of the first.
    Raises `UsageError` for other shapes, for no image at all, or for a negative gap.
    """
    if not images or gap < 0:
        raise UsageError(f"expected at least one image and a gap of at least 0; got {len(images)} and {gap}")
    images = [_one_image(image) for image in images]
    channels, height = (max(image.shape[axis] for image in images) for axis in (1, 2))
    if any(image.shape[1] not in (1, channels) for image in images):
        raise UsageError(f"expected images of as many channels, got {[image.shape[1] for image in images]}")
    width = sum(image.shape[3] for image in images) + gap * (len(images) - 1)
    row = images[0].new_ones(1, channels, height, width)
    left = 0
    for image in images:
        h, w = image.shape[2:]
        row[:, :, :h, left : left + w] = image  # one channel broadcasts to all
        left += w + gap
    return row


def parse_size(text: str) -> tuple[int, int]:
    """Height and width in pixels: "256x384" is (256, 384), "256" is (256, 256); else raises `UsageError`."""
    match = re.fullmatch(r"([0-9]{1,9})(?:[xX×]([0-9]{1,9}))?", text.strip())
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(size) < 1:
        raise UsageError(f"bad size {text!r}: sizes are HxW in pixels, each at least 1 (as 256x384, or 256)")
    return size


def check_size(size: object) -> None:
    """Raises `UsageError` unless it is (height, width) in pixels, each at least 1."""
    sides = list(size) if isinstance(size, tuple | list) else []
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise UsageError(f"expected a size (height, width) in pixels, each at least 1, got {size!r}")


def _one_image(image: Tensor) -> Float[Tensor, "1 c h w"]:
    """``image`` with its batch axis; `UsageError` unless it is one float image."""
    batch = image[None] if image.ndim == 3 else image
    fits = batch.ndim == 4 and batch.shape[0] == 1 and batch.numel() > 0
    if not (fits and batch.is_floating_point()):
        got = f"{tuple(image.shape)} of {image.dtype}"
        raise UsageError(f"expected one float image, (1, c, h, w) or (c, h, w); got {got}")
    return batch


def _read(path: AnyPath, alpha: Alpha) -> tuple[Float[Tensor, "1 c h w"], Format]:
    check_alpha(alpha)
    decoded = decode(path)
    if decoded.left_out is not None:
        warnings.warn(f"{path}: left out: {decoded.left_out}", UserWarning, stacklevel=3)
    colours, depth = _values(decoded.values, path)
    opacity = None
    if decoded.alpha is not None:
        colours, opacity = colours[:, :, :-1], colours[:, :, -1:].clip(0, 1)
        if decoded.alpha == "multiplied" and alpha != "white":
            colours = np.divide(colours, opacity, out=colours.copy(), where=opacity > 0)
        if alpha == "white" and (opacity < 1).any():
            share = f"{100 * (opacity < 1).mean():.3g} % of the pixels are transparent, wholly or partly"
            warnings.warn(f"{path}: {share}; they are laid over white", UserWarning, stacklevel=3)
            colours = (colours * opacity if decoded.alpha == "straight" else colours) + (1 - opacity)
    low, span = _range(colours) if depth in _FLOATS else (0.0, 1.0)
    if (low, span) != (0, 1):
        colours = ((colours.astype(np.float64) - low) / span).astype(np.float32)
    kept = alpha == "keep" and opacity is not None
    pixels = np.concatenate([colours, opacity], axis=2) if kept and opacity is not None else colours
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32))
    icc = fitting_profile(decoded.icc, pixels.shape[2])
    return image[None], Format(depth=depth, low=low, range=span, icc=icc, alpha=kept)


def _values(values: np.ndarray, path: AnyPath) -> tuple[np.ndarray, Depth]:
    """As float32, integers divided by the greatest of their kind; and the depth that holds them."""
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            floats = values.astype(np.float32)
        bad = floats.size - int(np.isfinite(floats).sum())
        if bad:
            what = f"{bad} of {floats.size} values are NaN, or beyond what float32 can hold"
            raise unreadable(path, f"{what}; expected finite ones")
        return floats, "half" if values.dtype.itemsize == 2 else "float"
    if values.dtype.kind == "b":
        return values.astype(np.float32), "uint8"
    if values.dtype == np.uint8:
        return values / np.float32(255), "uint8"
    low, high = values.min(), values.max()
    if low < 0 or high > 65535:
        raise unreadable(path, f"its pixels go from {low} to {high}; expected integers within [0, 65535], or floats")
    return values.astype(np.float32) / np.float32(65535), "uint16"


def _range(values: np.ndarray) -> tuple[float, float]:
    """The least value and how far the greatest is above it; (0, 1) where none leaves [0, 1]."""
    low, high = float(values.min()), float(values.max())
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high - low or 1.0)


def _stored(values: np.ndarray, depth: Depth, format: Format) -> np.ndarray:
    """Pixels ``(h, w, c)`` in [0, 1] as a file of this depth stores them."""
    if depth in _TOPS:
        return (values * np.float32(_TOPS[depth])).round().astype(depth)
    if (format.low, format.range) != (0, 1):
        colours = values[:, :, : values.shape[2] - format.alpha]
        mapped = format.low + format.range * colours.astype(np.float64)
        values = np.concatenate([mapped, values[:, :, colours.shape[2] :]], axis=2)
    return values.astype(_FLOATS[depth])
