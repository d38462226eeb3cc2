"""Encoding pixels into image files, each format by the library that knows it."""

from __future__ import annotations

import errno
import io
import os
import struct
import zlib
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from featot.formats import fitting_profile

_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},  # 0 is 4:4:4: colour at full resolution
    "WEBP": {"lossless": True},
}
_IHDR_END = 33  # of a PNG: signature and first chunk


class EncodeError(Exception):
    """The format cannot hold these pixels, or its library failed."""


def encode(file: BinaryIO, values: np.ndarray, container: str, *, alpha: bool, icc: bytes | None) -> None:
    """Writes ``values`` ``(h, w, c)``, of a dtype that the container holds, to a real file.

    ``alpha``: whether the last channel is opacity. ``icc``: left out where it is for other channels, or where the
    format has no place for one (BMP, EXR, NPY). Raises `EncodeError`, and OSError where writing fails.
    """
    icc = fitting_profile(icc, values.shape[2])
    values = np.ascontiguousarray(values)
    try:
        if container == "TIFF":
            _encode_tiff(file, values, alpha, icc)
        elif container == "EXR":
            _encode_exr(file, values, alpha)
        elif container == "NPY":
            np.save(file, values[:, :, 0] if values.shape[2] == 1 else values, allow_pickle=False)
        elif values.dtype == np.uint16:
            file.write(_deep_png(values, icc))
        else:
            file.write(_pillow(values, container, icc))
    except OSError as error:
        if error.errno is None:  # numpy's word for a write that fell short
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise


def _pillow(values: np.ndarray, container: str, icc: bytes | None) -> bytes:
    picture = Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)
    encoded = io.BytesIO()
    try:
        picture.save(encoded, container, icc_profile=icc, **_SAVE_OPTIONS.get(container, {}))
    except (OSError, ValueError) as error:
        raise EncodeError(str(error)) from error
    return encoded.getvalue()


def _deep_png(values: np.ndarray, icc: bytes | None) -> bytes:
    import imagecodecs

    try:
        encoded = bytes(imagecodecs.png_encode(values[:, :, 0] if values.shape[2] == 1 else values))
    except (RuntimeError, ValueError) as error:
        raise EncodeError(str(error)) from error
    if icc is None:
        return encoded
    chunk = b"iCCPICC profile\0\0" + zlib.compress(icc)
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return encoded[:_IHDR_END] + chunk + encoded[_IHDR_END:]


def _encode_tiff(file: BinaryIO, values: np.ndarray, alpha: bool, icc: bytes | None) -> None:
    """Uncompressed: every reader opens it. BigTIFF where it is larger than 4 GB."""
    import tifffile

    channels = values.shape[2]
    colours = 3 if channels in (3, 4) else 1
    extra = ["unassalpha" if alpha else "unspecified"] * (channels - colours)
    layout: dict[str, Any] = {"planarconfig": "contig", "extrasamples": extra} if channels > 1 else {}
    try:
        tifffile.imwrite(
            file,
            values if channels > 1 else values[:, :, 0],
            photometric="rgb" if colours == 3 else "minisblack",
            iccprofile=icc,
            metadata=None,
            **layout,
        )
    except ValueError as error:
        raise EncodeError(str(error)) from error


def _encode_exr(file: BinaryIO, values: np.ndarray, alpha: bool) -> None:
    """Colours multiplied by alpha, as the format wants them; channels that are no colours are c0000 and so on."""
    import OpenEXR

    channels = values.shape[2]
    alpha = alpha and channels in (2, 4)
    if alpha:
        values = np.concatenate([values[:, :, :-1] * values[:, :, -1:], values[:, :, -1:]], axis=2)
    colours = {1: "Y", 3: "RGB"}.get(channels - alpha)
    names = [*colours, *("A" * alpha)] if colours else [f"c{number:04}" for number in range(channels)]
    planes = {name: np.ascontiguousarray(values[:, :, number]) for number, name in enumerate(names)}
    try:
        OpenEXR.File({}, planes).write(file.name)
    except (RuntimeError, ValueError) as error:
        raise EncodeError(str(error)) from error
