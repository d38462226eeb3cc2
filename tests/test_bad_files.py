"""Files that are no pictures, damaged ones of every format, places that cannot be written: refused, nothing lost."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageCms

from featot.errors import FeatotError, UsageError
from featot.formats import CONTAINERS, Format
from featot.images import read_picture, write_image

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
IMAGE = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 20, 24)).astype(np.float32)) / 255


def read(path):
    """Reads without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_picture(path, "keep")


def failure(function, *arguments, kind=UsageError, **options):
    with pytest.raises(kind) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def npy(shape, dtype="<f4", body=b""):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue() + body


def tiff(values, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


def pickled():
    stream = io.BytesIO()
    np.save(stream, np.array([[Path("x")]], dtype=object), allow_pickle=True)
    return stream.getvalue()


REFUSED = {
    "a pickle": (pickled, "of object; expected (h, w) or (h, w, c), integers or floats"),
    "text": (lambda: npy((1, 2), "<U1", bytes(8)), "of <U1; expected (h, w)"),
    "four axes": (lambda: npy((1, 2, 3, 4), body=bytes(96)), "an array (1, 2, 3, 4) of float32; expected"),
    "channels first": (lambda: npy((3, 64, 64), body=bytes(4 * 3 * 64 * 64)), "looks like (c, h, w); expected"),
    "no pixels": (lambda: npy((0, 5)), "it has 0x5 pixels of 1 channels; expected at least one"),
    "a huge array": (lambda: npy((10**6, 10**6)), "exceeds limit of"),
    "many channels": (lambda: npy((10**3, 10**3, 10**6)), "1000000 channels of 1000x1000 pixels) exceeds limit of"),
    "an array cut off": (lambda: npy((9, 9), body=bytes(50)), "truncated or damaged (50 bytes of 324)"),
    "12 bits": (lambda: tiff(np.zeros((8, 8), np.uint16), bitspersample=12, compression="jpeg"), "it has 12 bits"),
    "deep CMYK": (
        lambda: tiff(np.zeros((8, 8, 4), np.uint16), photometric="separated"),
        "16 bits a channel of kind SE",
    ),
    "a volume": (
        lambda: tiff(np.zeros((16,) * 3, np.uint8), volumetric=True, tile=(16,) * 3, photometric="minisblack"),
        "rows of pixels",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_picture_is_refused_in_one_line(tmp_path, what):
    make, said = REFUSED[what]
    (tmp_path / "x").write_bytes(make())
    message = failure(read_picture, tmp_path / "x")
    assert message.startswith(f"cannot read {tmp_path / 'x'}: ")
    assert said in message


def test_a_tiff_that_declares_a_huge_size_takes_no_memory(tmp_path):
    data = bytearray(tiff(np.zeros((8, 8), np.uint8), byteorder="<"))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as opened:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tag = opened.pages[0].tags[name]
            data[tag.valueoffset : tag.valueoffset + 2] = (65000).to_bytes(2, "little")
    (tmp_path / "x.tif").write_bytes(data)
    assert "1 channels of 65000x65000 pixels) exceeds limit of" in failure(read_picture, tmp_path / "x.tif")


def test_a_tiff_with_fewer_strips_than_rows_ask_for_is_no_whole_image(tmp_path):
    data = bytearray(tiff(np.ones((8, 8), np.uint8), byteorder="<"))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as opened:
        at = opened.pages[0].tags["ImageLength"].valueoffset
    data[at : at + 2] = (900).to_bytes(2, "little")
    (tmp_path / "x.tif").write_bytes(data)
    assert "truncated or damaged (1 of 113 strips" in failure(read_picture, tmp_path / "x.tif")


def test_the_content_says_what_it_is_not_the_suffix(tmp_path):
    for suffix in (".png", ".tif", ".exr", ".npy", ".webp", ".bmp"):
        write_image(IMAGE, tmp_path / f"x{suffix}")
        for other in (".jpg", ".npy", ".exr", ""):
            os.replace(tmp_path / f"x{suffix}", tmp_path / f"y{other}")
            back, _ = read(tmp_path / f"y{other}")
            torch.testing.assert_close(back, IMAGE, rtol=0, atol=1e-6)
            os.replace(tmp_path / f"y{other}", tmp_path / f"x{suffix}")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp", ".exr", ".npy"])
def test_links_are_refused_and_failures_leave_what_was_there(tmp_path, suffix):
    (tmp_path / f"real{suffix}").write_text("old")
    (tmp_path / f"link{suffix}").symlink_to(f"real{suffix}")
    bad = torch.full((1, 3, 8, 8), torch.nan)
    assert "NaN" in failure(write_image, bad, tmp_path / f"real{suffix}", kind=FeatotError)
    assert "it is a symbolic link" in failure(write_image, IMAGE, tmp_path / f"link{suffix}")
    assert (tmp_path / f"real{suffix}").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {f"real{suffix}", f"link{suffix}"}
    if sys.platform == "linux":  # where even root may not write
        message = failure(write_image, IMAGE, f"/proc/x{suffix}", kind=FeatotError)
        assert message.startswith(f"cannot write /proc/x{suffix}: ")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".exr", ".npy"])
def test_a_full_disk_leaves_the_old_file(tmp_path, suffix):
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", tmp_path]
    if os.geteuid() != 0 or subprocess.run(mount).returncode != 0:
        pytest.skip("needs root and mount, to have a small disk to fill")
    try:
        path = tmp_path / f"x{suffix}"
        path.write_text("old")
        message = failure(write_image, torch.rand(3, 100, 100), path, Format(depth="uint16"), kind=FeatotError)
        assert message.startswith(f"cannot write {path}: ")
        assert "No space left on device" in message
        assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(path.name, "old")]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


# Damage


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A valid file of each format, depth and packing: its bytes and its pixels."""
    folder, found = tmp_path_factory.mktemp("whole"), {}
    for suffix, container in CONTAINERS.items():
        for depth in container.depths:
            write_image(IMAGE, folder / f"x{suffix}", Format(depth=depth, icc=SRGB))
            found[suffix, depth] = (folder / f"x{suffix}").read_bytes()
    values = (IMAGE[0].permute(1, 2, 0) * 65535).round().numpy().astype(np.uint16)
    for packing in ("lzw", "zlib", "packbits"):
        found[".tif", packing] = tiff(values, photometric="rgb", compression=packing, predictor=packing != "packbits")
    return [(key[0], data) for key, data in found.items()]


def read_or_say(path):
    """The picture and its format, or the error's message."""
    try:
        return read_picture(path)
    except FeatotError as error:
        return str(error)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.data())
def test_a_damaged_file_is_refused_or_read_and_nothing_else(whole, tmp_path_factory, data):
    suffix, good = data.draw(st.sampled_from(whole))
    damaged = bytearray(good)
    for at in data.draw(st.lists(st.integers(0, len(good) - 1), max_size=4)):
        damaged[at] = data.draw(st.integers(0, 255))
    for at in data.draw(st.lists(st.integers(0, min(len(good), 600) - 1), max_size=3)):  # headers
        damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    del damaged[data.draw(st.integers(0, len(good))) if data.draw(st.booleans()) else len(good) :]
    path = tmp_path_factory.mktemp("damaged") / f"x{suffix}"
    path.write_bytes(damaged)
    found = read_or_say(path)
    if isinstance(found, str):
        assert found.startswith(f"cannot read {path}: ")
        assert "\n" not in found
    else:
        image, format = found
        assert bool(torch.isfinite(image).all())
        assert (float(image.min()) >= 0, float(image.max()) <= 1) == (True, True)
        write_image(image, path.with_name("y.tif"), format)  # what was read can be written
    assert path.read_bytes() == damaged


def test_what_is_cut_off_is_never_read_as_another_picture(whole, tmp_path):
    """At every length: refused, or every pixel is there (formats end in bytes that hold no pixel)."""
    for suffix, good in whole:
        path = tmp_path / f"x{suffix}"
        path.write_bytes(good)
        expected = read(path)[0]
        for length in {*range(0, 40), *range(40, len(good), len(good) // 25), *range(len(good) - 20, len(good))}:
            path.write_bytes(good[:length])
            found = read_or_say(path)
            assert isinstance(found, str) or torch.equal(found[0], expected), (suffix, length)


def test_openexr_says_nothing_beside_the_error(tmp_path, capfd):
    write_image(torch.rand(1, 3, 64, 50), tmp_path / "x.exr")
    data = (tmp_path / "x.exr").read_bytes()
    (tmp_path / "x.exr").write_bytes(data[: len(data) // 2])
    assert "truncated or damaged" in failure(read_picture, tmp_path / "x.exr")
    assert capfd.readouterr() == ("", "")
