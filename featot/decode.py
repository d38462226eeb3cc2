"""Decoding image files: the content, not the suffix, says who reads one (Pillow, tifffile, OpenEXR, imagecodecs)."""

from __future__ import annotations

import io
import logging
import math
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from featot.errors import FeatotError, UsageError
from featot.files import AnyPath, kind_of, what_is_missing

_PNG = b"\x89PNG\r\n\x1a\n"
_NPY = b"\x93NUMPY"
_EXR = b"\x76\x2f\x31\x01"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_UPRIGHT = {  # by EXIF's orientation
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


for _name in ("PIL", "tifffile"):
    logging.getLogger(_name).addHandler(logging.NullHandler())  # they log what they also raise


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What a file holds: ``values`` ``(h, w, c)``, upright, as they are stored.

    ``alpha``: whether the last channel is opacity, and then whether the others are multiplied by it already.
    ``left_out``: what else the file holds.
    """

    values: np.ndarray
    alpha: Literal["straight", "multiplied"] | None = None
    icc: bytes | None = None
    left_out: str | None = None


def decode(path: AnyPath) -> Decoded:
    """The first picture in ``path``. Raises `featot.UsageError` where there is none, or no whole one."""
    data = _read_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large, but within the limit; oddities that do not matter
            decoded = _decode(data, path)
        if decoded.values.shape[2] < (1 if decoded.alpha is None else 2):
            raise ValueError("alpha and no colour")
        return decoded
    except UnidentifiedImageError as error:
        what = "no known image format, or cut off in its header" if data else "the file is empty"
        raise unreadable(path, f"{what} ({len(data)} bytes); expected an image such as PNG or JPEG") from error
    except Image.DecompressionBombError as error:
        raise unreadable(path, f"{str(error).split(',')[0]}; expected a smaller image") from error
    except _NotForUs as error:
        raise unreadable(path, str(error)) from error
    except MemoryError as error:
        raise FeatotError(f"cannot read {path}: not enough memory") from error
    except Exception as error:  # a decoder that meets damaged data may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise unreadable(path, f"truncated or damaged ({reason}); expected a whole image") from error


def _decode(data: bytes, path: AnyPath) -> Decoded:
    if data.startswith(_EXR):
        return _decode_exr(path)
    if data.startswith(_NPY):
        return _decode_npy(data)
    tiff = _decode_tiff(data) if data.startswith(_TIFF) else None
    return tiff or _decode_pillow(data)


def unreadable(path: AnyPath, why: str) -> UsageError:
    """The error for an image that cannot be read."""
    return UsageError(f"cannot read {path}: {why}")


class _NotForUs(Exception):
    """A whole file, of a kind that is not read."""


def _read_bytes(path: AnyPath) -> bytes:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise unreadable(path, f"{kind_of(mode)}; expected an image file")
        return Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise unreadable(path, what_is_missing(Path(path))) from None
    except OSError as error:
        raise unreadable(path, f"{error.strerror}; expected a readable image file") from error


def _check_size(height: int, width: int, channels: int = 1) -> None:
    """Pillow's limit, for every format, before any memory is taken; four channels may be as large as that."""
    most = 2 * (Image.MAX_IMAGE_PIXELS or math.inf)
    pixels = height * width * max(1.0, channels / 4)
    if pixels > most:
        what = f"{channels} channels of {height}x{width} pixels"
        raise Image.DecompressionBombError(f"Image size ({what}) exceeds limit of {most} pixels")
    if min(height, width, channels) < 1:
        raise _NotForUs(f"it has {height}x{width} pixels of {channels} channels; expected at least one of each")


def _decode_pillow(data: bytes) -> Decoded:
    picture: Image.Image = Image.open(io.BytesIO(data))
    picture.load()
    if data.startswith(_PNG) and data[24] == 16:  # Pillow keeps 8 bits of 16 in colour
        return _decode_deep_png(data, picture)
    picture = ImageOps.exif_transpose(picture)
    icc = picture.info.get("icc_profile")
    if picture.mode == "F" or picture.mode.startswith("I"):  # float, or integers of more than 8 bits
        return Decoded(values=np.asarray(picture)[:, :, None], icc=icc)
    mode = "L" if picture.mode in ("1", "L", "LA", "La") else "RGB"
    transparent = picture.has_transparency_data
    values = np.asarray(picture.convert(mode + "A" if transparent else mode))
    values = values.reshape(picture.height, picture.width, -1)
    return Decoded(values=values, alpha="straight" if transparent else None, icc=icc)


def _decode_deep_png(data: bytes, picture: Image.Image) -> Decoded:
    """16 bits a channel. imagecodecs: 0.2 s for 2048² in colour, pypng 2.9 s; it unpacks TIFF's LZW besides."""
    import imagecodecs

    values = imagecodecs.png_decode(data)
    values = values.reshape(picture.height, picture.width, -1)
    values = _UPRIGHT.get(picture.getexif().get(0x0112, 1), np.asarray)(values)
    alpha: Any = "straight" if values.shape[2] in (2, 4) else None
    return Decoded(values=values, alpha=alpha, icc=picture.info.get("icc_profile"))


def _decode_tiff(data: bytes) -> Decoded | None:
    """None for palettes, CMYK, JPEG's colours and single bits: those are left to Pillow, which converts them."""
    import tifffile

    pages = tifffile.TiffFile(io.BytesIO(data)).pages
    page: Any = pages[0]
    bits = page.bitspersample
    if page.photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB) or bits < 8:
        if bits > 8:
            what = f"{bits} bits a channel of kind {getattr(page.photometric, 'name', page.photometric)}"
            raise _NotForUs(f"it has {what}; expected grey or RGB")
        return None
    if page.axes not in ("YX", "YXS", "SYX") or bits not in (8, 16, 32, 64):
        raise _NotForUs(f"it has {bits} bits and axes {page.axes}; expected 8, 16, 32 or 64 bits, and rows of pixels")
    _check_size(page.imagelength, page.imagewidth, page.samplesperpixel)
    _check_size(page.rowsperstrip if not page.is_tiled else page.tilelength, page.tilewidth or page.imagewidth)
    end = max(start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True))
    strips, expected = len(page.dataoffsets), math.prod(page.chunked)
    if end > len(data) or strips != expected or (page.compression == 1 and sum(page.databytecounts) < page.nbytes):
        raise ValueError(f"{strips} of {expected} strips or tiles, to byte {end} of {len(data)}")
    values = page.asarray(maxworkers=1)
    values = values[:, :, None] if page.axes == "YX" else np.moveaxis(values, 0, -1) if page.axes == "SYX" else values
    values = _UPRIGHT.get(page.tags.valueof(274, default=1), np.asarray)(values)
    kinds = {tifffile.EXTRASAMPLE.UNASSALPHA: "straight", tifffile.EXTRASAMPLE.ASSOCALPHA: "multiplied"}
    alpha: Any = kinds.get(page.extrasamples[0]) if len(page.extrasamples) == 1 else None
    others = [other for other in list(pages)[1:] if not getattr(other, "is_reduced", False)]
    left_out = f"{len(others)} more page{'s' * (len(others) > 1)}" if others else None
    return Decoded(values=values, alpha=alpha, icc=page.iccprofile, left_out=left_out)


def _decode_npy(data: bytes) -> Decoded:
    """``(h, w)`` or ``(h, w, c)``; nothing is unpickled."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(stream)
    if dtype.kind not in "buif" or len(shape) not in (2, 3):
        raise _NotForUs(f"an array {shape} of {dtype}; expected (h, w) or (h, w, c), integers or floats")
    height, width, channels = (*shape, 1)[:3]
    if channels > 32 and height < 32:
        raise _NotForUs(f"an array {shape} looks like (c, h, w); expected (h, w) or (h, w, c)")
    _check_size(height, width, channels)
    held, declared = len(data) - stream.tell(), math.prod(shape) * dtype.itemsize
    if held < declared:
        raise ValueError(f"{held} bytes of {declared}")
    flat = np.frombuffer(data, dtype, count=math.prod(shape), offset=stream.tell())
    return Decoded(values=flat.reshape(shape, order="F" if by_columns else "C").reshape(height, width, channels))


def _decode_exr(path: AnyPath) -> Decoded:
    """R, G, B or Y, and A where there is one; else all channels in the order of their names. The data window."""
    import OpenEXR

    with _quiet():
        header = OpenEXR.File(os.fspath(path), separate_channels=True, header_only=True).header()
        if "deep" in str(header["type"]) or any((c.xSampling, c.ySampling) != (1, 1) for c in header["channels"]):
            raise _NotForUs("its pixels are deep or subsampled; expected one value per pixel and channel")
        first, last = (window.astype(int).tolist() for window in header["dataWindow"])
        _check_size(last[1] - first[1] + 1, last[0] - first[0] + 1, len(header["channels"]))
        found = OpenEXR.File(os.fspath(path), separate_channels=True).channels()
    colours = next((names for names in (["R", "G", "B"], ["Y"]) if set(names) <= found.keys()), None)
    names = [*colours, *(["A"] if "A" in found else [])] if colours else sorted(found)
    values = np.stack([found[name].pixels for name in names], axis=2)
    values = values.astype(np.float32) if values.dtype.kind != "f" else values  # object ids
    others = sorted(found.keys() - set(names))
    left_out = f"the channels {', '.join(others)}" if others else None
    return Decoded(values=values, alpha="multiplied" if colours and "A" in found else None, left_out=left_out)


@contextmanager
def _quiet() -> Iterator[None]:
    """OpenEXR's C code prints its own account of a damaged file; the one line that featot says is enough."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
