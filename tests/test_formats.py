"""Depths, profiles, alpha and channels through every file format, there and back; and damaged files of each."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import OpenEXR
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageCms

from featot.errors import FeatotError, UsageError
from featot.formats import CONTAINERS, Format
from featot.images import check_image_suffix, read_image, read_picture, write_image

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY = SRGB[:16] + b"GRAY" + SRGB[20:]
TOPS = {"uint8": 255, "uint16": 65535}
many = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def read(path, alpha="keep"):
    """Reads without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_picture(path, alpha)


def noise(channels, depth, size=(7, 9)):
    """Random pixels that ``depth`` holds exactly, ``(1, c, h, w)``."""
    values = np.random.default_rng(0).random((1, channels, *size))
    if depth in TOPS:
        return torch.from_numpy(np.float32((values * TOPS[depth]).round()) / np.float32(TOPS[depth]))
    return torch.from_numpy(values.astype(np.float16 if depth == "half" else np.float32).astype(np.float32))


def failure(function, *arguments, kind=UsageError, **options):
    with pytest.raises(kind) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# There and back

EXACT = [
    (suffix, depth, channels)
    for suffix, container in CONTAINERS.items()
    for depth in container.depths
    for channels in (container.channels or (1, 2, 3, 4, 5, 11))
    if suffix not in (".jpg", ".jpeg", ".tiff") and (suffix, channels) not in ((".webp", 1), (".webp", 2))
]


@pytest.mark.parametrize(("suffix", "depth", "channels"), EXACT)
def test_what_is_written_is_read_to_the_bit(tmp_path, suffix, depth, channels):
    image = noise(channels, depth)
    format = Format(depth=depth, alpha=channels in (2, 4) and suffix not in (".npy", ".exr"))
    write_image(image, tmp_path / f"x{suffix}", format)
    assert [path.name for path in tmp_path.iterdir()] == [f"x{suffix}"]
    back, found = read(tmp_path / f"x{suffix}")
    assert torch.equal(back, image)
    assert found == format


@many
@given(
    st.sampled_from([".png", ".tif", ".npy", ".exr", ".bmp", ".webp"]),
    st.integers(1, 4),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.sampled_from(["uint8", "uint16", "half", "float"]),
)
def test_every_small_shape(tmp_path, suffix, channels, size, depth):
    """A row, a column, one pixel: no library takes a side for channels, or the other way round."""
    if CONTAINERS[suffix].channels and channels not in CONTAINERS[suffix].channels:
        channels = 3
    image = noise(channels, depth, size)
    write_image(image, tmp_path / f"x{suffix}", Format(depth=depth))
    back, found = read(tmp_path / f"x{suffix}")
    stored = CONTAINERS[suffix].depth(depth)
    assert found.depth == stored
    expected = image.expand(-1, 3, -1, -1) if suffix == ".webp" and channels == 1 else image
    if suffix == ".webp" and channels == 2:
        expected = image[:, [0, 0, 0, 1]]
    torch.testing.assert_close(back, expected, rtol=0, atol=0.51 / TOPS[stored] if stored in TOPS else 0)


@pytest.mark.parametrize(
    ("suffix", "wanted", "got"),
    [
        (".png", "half", "uint16"),
        (".png", "float", "uint16"),
        (".jpg", "uint16", "uint8"),
        (".webp", "float", "uint8"),
        (".bmp", "uint16", "uint8"),
        (".exr", "uint8", "float"),
        (".exr", "uint16", "float"),
        (".tif", "uint16", "uint16"),
        (".TIFF", "half", "half"),
    ],
)
def test_the_nearest_depth_that_the_file_can_hold(tmp_path, suffix, wanted, got):
    image = torch.full((1, 3, 8, 8), 0.3)
    write_image(image, tmp_path / f"x{suffix}", Format(depth=wanted))
    back, format = read(tmp_path / f"x{suffix}")
    assert format.depth == got
    torch.testing.assert_close(back, image, rtol=0, atol=0.004 if got == "uint8" else 2e-4)


def test_without_a_format_files_have_8_bits_but_arrays_and_exr_are_floats(tmp_path):
    found = {}
    for suffix in CONTAINERS:
        write_image(torch.rand(1, 3, 8, 8), tmp_path / f"x{suffix}")
        found[suffix] = read(tmp_path / f"x{suffix}")[1].depth
    assert found == {suffix: "float" if suffix in (".exr", ".npy") else "uint8" for suffix in CONTAINERS}


def test_other_programs_read_the_same(tmp_path):
    """Each library's own reading, where featot writes; and the reverse for what featot never writes."""
    values = np.random.default_rng(1).integers(0, 65536, (6, 8, 3), dtype=np.uint16)
    image = torch.from_numpy(values.astype(np.float32) / 65535).permute(2, 0, 1)
    for suffix in (".png", ".tif"):
        write_image(image, tmp_path / f"x{suffix}", Format(depth="uint16"))
    assert (imagecodecs.png_decode((tmp_path / "x.png").read_bytes()) == values).all()
    assert (tifffile.imread(tmp_path / "x.tif") == values).all()
    write_image(image, tmp_path / "x.exr")
    with OpenEXR.File(str(tmp_path / "x.exr")) as opened:
        assert (opened.channels()["RGB"].pixels == image.permute(1, 2, 0).numpy()).all()
    for compression in ("lzw", "zlib", "packbits", None):
        for planes in ("contig", "separate"):
            data = values if planes == "contig" else np.moveaxis(values, 2, 0)
            options = {"photometric": "rgb", "planarconfig": planes, "compression": compression}
            tifffile.imwrite(tmp_path / "y.tif", data, **options, tile=(16, 16), byteorder=">", bigtiff=True)
            assert torch.equal(read(tmp_path / "y.tif")[0][0], image)
    np.save(tmp_path / "y.npy", np.asfortranarray(values.astype(">u2")))
    assert torch.equal(read(tmp_path / "y.npy")[0][0], image)
    np.save(tmp_path / "y.npy", values[:, :, 0].astype(float) / 65535)
    torch.testing.assert_close(read(tmp_path / "y.npy")[0][0], image[:1])
    np.save(tmp_path / "y.npy", values[:, :, 0] > 9)
    assert torch.equal(read(tmp_path / "y.npy")[0][0, 0], torch.from_numpy(np.float32(values[:, :, 0] > 9)))


# Floats outside [0, 1]


@many
@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3)),
        elements=st.floats(-(2.0**99), 2.0**99, width=32),
    ),
    st.sampled_from([".tif", ".npy", ".exr"]),
)
def test_high_range_is_mapped_to_the_unit_interval_and_back(tmp_path, values, suffix):
    np.save(tmp_path / "x.npy", values)
    image, format = read(tmp_path / "x.npy")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        assert (format.low, format.range) == (low, high - low or 1.0)
        assert float(image.min()) == 0
        assert float(image.max()) == (high > low)
    else:
        assert (format.low, format.range) == (0, 1)
    write_image(image, tmp_path / f"y{suffix}", format)
    back, again = read(tmp_path / f"y{suffix}")
    stored = again.low + again.range * back[0].permute(1, 2, 0).double().numpy()
    np.testing.assert_allclose(stored, values, rtol=0, atol=2e-7 * format.range)


def test_the_values_in_between_are_mapped_in_a_line(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[-1.0, 0.0, 3.0]]))
    assert read(tmp_path / "x.npy")[0].flatten().tolist() == [0, 0.25, 1]
    assert read_image(tmp_path / "x.npy").flatten().tolist() == [0, 0.25, 1]
    np.save(tmp_path / "x.npy", np.array([[0.25, 0.5]]))
    assert read(tmp_path / "x.npy")[0].flatten().tolist() == [0.25, 0.5]


def test_half_floats_stay_half_and_infinity_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.array([[0, 1.5, 60000]], np.float16))
    image, format = read(tmp_path / "x.tif")
    assert (format.depth, format.low, format.range) == ("half", 0, 60000)
    write_image(image, tmp_path / "y.exr", format)
    assert OpenEXR.File(str(tmp_path / "y.exr")).channels()["Y"].pixels.tolist() == [[0, 1.5, 60000]]
    np.save(tmp_path / "x.npy", np.array([[0, 1e300]]))
    assert "1 of 2 values are NaN, or beyond what float32" in failure(read_picture, tmp_path / "x.npy")


# Profiles and orientation


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("depth", ["uint8", "uint16"])
def test_the_icc_profile_travels(tmp_path, suffix, depth):
    write_image(noise(3, depth), tmp_path / f"x{suffix}", Format(depth=depth, icc=SRGB))
    with Image.open(tmp_path / f"x{suffix}") as picture:
        assert picture.info["icc_profile"] == SRGB
    assert read(tmp_path / f"x{suffix}")[1].icc == SRGB


def test_a_profile_for_other_channels_is_left_out(tmp_path):
    for channels, given_, kept in (
        (3, GREY, None),
        (1, SRGB, None),
        (1, GREY, GREY),
        (4, SRGB, SRGB),
        (3, b"x", None),
    ):
        write_image(noise(channels, "uint8"), tmp_path / "x.tif", Format(icc=given_, alpha=channels == 4))
        assert read(tmp_path / "x.tif")[1].icc == kept
    write_image(noise(5, "uint8"), tmp_path / "x.tif", Format(icc=SRGB))
    assert read(tmp_path / "x.tif")[1].icc is None
    inks = SRGB[:16] + b"CMYK" + SRGB[20:]
    Image.new("CMYK", (4, 4)).save(tmp_path / "x.jpg", icc_profile=inks)  # converted: it no longer fits
    assert read(tmp_path / "x.jpg")[1].icc is None
    for suffix in (".bmp", ".exr", ".npy"):  # no place for one
        write_image(noise(3, "uint8"), tmp_path / f"x{suffix}", Format(icc=SRGB))
        assert read(tmp_path / f"x{suffix}")[1].icc is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_pillows_at_every_depth(tmp_path, orientation):
    """The oracle is Pillow's own transposition of an 8-bit picture; deep ones are turned by featot."""
    ramp = np.random.default_rng(2).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(ramp).save(tmp_path / "x.png", exif=exif)
    expected = read(tmp_path / "x.png")[0]
    assert (expected.shape == (1, 3, 5, 7)) == (orientation < 5)
    tags = [(274, "H", 1, orientation, True)]
    for dtype in (np.uint8, np.uint16):
        deep = ramp.astype(dtype) * (257 if dtype == np.uint16 else 1)
        tifffile.imwrite(tmp_path / "x.tif", deep.astype(dtype), photometric="rgb", extratags=tags)
        assert torch.equal(read(tmp_path / "x.tif")[0], expected)
    chunk = exif.tobytes()[6:]
    plain = imagecodecs.png_encode(ramp.astype(np.uint16) * 257)
    chunk = len(chunk).to_bytes(4, "big") + b"eXIf" + chunk
    crc = zlib.crc32(chunk[4:]).to_bytes(4, "big")
    (tmp_path / "y.png").write_bytes(plain[:33] + chunk + crc + plain[33:])
    assert torch.equal(read(tmp_path / "y.png")[0], expected)


# Alpha

CLEAR = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], np.uint8)


def transparent(path):
    """The same picture in each format that has alpha."""
    unit = torch.from_numpy(CLEAR / np.float32(255)).permute(2, 0, 1)
    write_image(unit, path, Format(depth="float" if path.suffix == ".exr" else "uint8", alpha=True))
    return path


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".exr"])
def test_the_three_choices_for_alpha(tmp_path, suffix):
    path = transparent(tmp_path / f"x{suffix}")
    with pytest.warns(
        UserWarning, match="66.7 % of the pixels are transparent, wholly or partly; they are laid over"
    ):
        white, format = read_picture(path)
    color = torch.tensor([200, 100, 0]) / 255
    expected = torch.stack([color, torch.ones(3), color / 5 + 0.8])
    torch.testing.assert_close(white[0, :, 0].T, expected)
    assert not format.alpha
    ignored, format = read(path, "ignore")
    seen = [0, 2] if suffix in (".exr", ".webp") else [0, 1, 2]  # multiplied by 0, a colour is gone; WebP drops it
    torch.testing.assert_close(ignored[0, :, 0].T[seen], color.expand(3, 3)[seen])
    assert not format.alpha
    kept, format = read(path, "keep")
    torch.testing.assert_close(kept[0, :, 0].T[seen], torch.from_numpy(CLEAR[0] / np.float32(255))[seen])
    assert format.alpha
    assert failure(read_picture, path, "wite").endswith("did you mean 'white'? (choose from: ignore, keep, white)")


def test_alpha_is_multiplied_in_exr_and_associated_tiff(tmp_path):
    path = transparent(tmp_path / "x.exr")
    pixels = OpenEXR.File(str(path)).channels()["RGBA"].pixels
    torch.testing.assert_close(torch.from_numpy(pixels[0, 2]), torch.tensor([40, 20, 0, 51]) / 255)
    tifffile.imwrite(
        tmp_path / "x.tif", np.uint8([[[40, 20, 0, 51]]]), photometric="rgb", extrasamples=["assocalpha"]
    )
    expected = torch.tensor([200, 100, 0, 51]) / 255
    torch.testing.assert_close(read(tmp_path / "x.tif")[0].flatten(), expected)


def test_deep_alpha_and_grey_alpha(tmp_path):
    values = np.array([[[65535, 0], [300, 40000]]], np.uint16)
    (tmp_path / "x.png").write_bytes(imagecodecs.png_encode(values))
    image, format = read(tmp_path / "x.png")
    assert (image * 65535).round().permute(0, 2, 3, 1)[0].tolist() == values.tolist()
    assert format == Format(depth="uint16", alpha=True)
    assert torch.equal(read(tmp_path / "x.png", "ignore")[0], image[:, :1])


def test_high_range_leaves_alpha_alone(tmp_path):
    planes = {"R": [[0, 8]], "G": [[0, 4]], "B": [[0, -1]], "A": [[1, 0.5]]}
    OpenEXR.File({}, {name: np.array(plane, np.float32) for name, plane in planes.items()}).write(
        str(tmp_path / "x.exr")
    )
    image, format = read(tmp_path / "x.exr")
    assert (format.low, format.range) == (-2, 18)  # divided by alpha: 16, 8, -2
    assert image[0, 3].tolist() == [[1, 0.5]]
    write_image(image, tmp_path / "y.exr", format)
    back = OpenEXR.File(str(tmp_path / "y.exr"), separate_channels=True).channels()
    for name, plane in planes.items():
        np.testing.assert_allclose(back[name].pixels, plane, atol=1e-5)


# Channels


def test_exr_channels_that_are_no_colours_come_in_the_order_of_their_names(tmp_path):
    planes = {name: np.full((2, 3), value, np.float32) for name, value in (("rough", 0.5), ("height", 0.25))}
    OpenEXR.File({}, planes).write(str(tmp_path / "x.exr"))
    image, format = read(tmp_path / "x.exr")
    assert image[0, :, 0, 0].tolist() == [0.25, 0.5]
    assert not format.alpha


def test_exr_gives_its_data_window_and_only_its_picture(tmp_path):
    window = {"dataWindow": (np.array([5, 6], np.int32), np.array([8, 8], np.int32))}
    planes = {name: np.full((3, 4), value, np.float16) for name, value in (("R", 1), ("G", 0), ("B", 0.5), ("Z", 99))}
    OpenEXR.File(window, planes).write(str(tmp_path / "x.exr"))
    image, format = read(tmp_path / "x.exr")
    assert image.shape == (1, 3, 3, 4)
    assert (image[0, :, 0, 0].tolist(), format.depth, format.range) == ([1, 0, 0.5], "half", 1)


def test_channels_that_a_format_lacks_are_refused_before_anything_is_written(tmp_path):
    assert "JPEG holds 1 or 3 channels, not 4 (choose from: .png, .webp, .tif" in failure(
        check_image_suffix, "x.jpg", channels=4
    )
    message = failure(write_image, noise(6, "uint8"), tmp_path / "x.png")
    assert message.endswith("PNG holds 1 or 2 or 3 or 4 channels, not 6 (choose from: .tif, .tiff, .exr, .npy)")
    assert not list(tmp_path.iterdir())


# What is refused


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


def test_the_content_says_what_it_is_not_the_suffix(tmp_path):
    image = noise(3, "uint8")
    for suffix in (".png", ".tif", ".exr", ".npy", ".webp", ".bmp"):
        write_image(image, tmp_path / f"x{suffix}")
        for other in (".jpg", ".npy", ".exr", ""):
            os.replace(tmp_path / f"x{suffix}", tmp_path / f"y{other}")
            back, _ = read(tmp_path / f"y{other}")
            torch.testing.assert_close(back, image, rtol=0, atol=1e-6)
            os.replace(tmp_path / f"y{other}", tmp_path / f"x{suffix}")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp", ".exr", ".npy"])
def test_links_are_followed_and_failures_leave_what_was_there(tmp_path, suffix):
    (tmp_path / "real").write_text("old")
    (tmp_path / f"link{suffix}").symlink_to("real")
    bad = torch.full((1, 3, 8, 8), torch.nan)
    assert "NaN" in failure(write_image, bad, tmp_path / f"link{suffix}", kind=FeatotError)
    assert (tmp_path / "real").read_text() == "old"
    write_image(noise(3, "uint8"), tmp_path / f"link{suffix}")
    assert (tmp_path / f"link{suffix}").is_symlink()
    assert read(tmp_path / "real")[0].shape == (1, 3, 7, 9)
    assert {path.name for path in tmp_path.iterdir()} == {"real", f"link{suffix}"}
    if sys.platform == "linux":  # where even root may not write
        assert "no file can be made" not in failure(write_image, bad.zero_(), f"/proc/x{suffix}", kind=FeatotError)


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
            write_image(noise(3, depth, (20, 24)), folder / f"x{suffix}", Format(depth=depth, icc=SRGB))
            found[suffix, depth] = (folder / f"x{suffix}").read_bytes()
    values = (noise(3, "uint16", (20, 24))[0].permute(1, 2, 0) * 65535).round().numpy().astype(np.uint16)
    for packing in ("lzw", "zlib", "packbits"):
        found[".tif", packing] = tiff(values, photometric="rgb", compression=packing, predictor=packing != "packbits")
    return [(key[0], data) for key, data in found.items()]


def read_or_say(path):
    """The picture and its format, or the error's message."""
    try:
        return read_picture(path)
    except FeatotError as error:
        return str(error)


@settings(many, max_examples=400)
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


def test_formats_describe_themselves_for_the_record():
    described = Format(depth="uint16", icc=SRGB).describe()
    assert described == {**Format(depth="uint16").describe(), "icc_sha256": described["icc_sha256"]}
    assert len(described["icc_sha256"]) == 64
    assert replace(Format(), icc=GREY).describe()["icc_sha256"] != described["icc_sha256"]
