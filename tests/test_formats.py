"""Depths, profiles, alpha and channels through every file format, there and back; and damaged files of each."""

from __future__ import annotations

import warnings
import zlib
from dataclasses import replace

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

from featot.errors import UsageError
from featot.exemplars import Sources
from featot.formats import CONTAINERS, Format
from featot.images import check_image_suffix, read_image, read_picture, write_image
from featot.plugins import load_registry
from featot.tasks import synthesize

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
    with pytest.warns(UserWarning, match=r"left out: the channels Z"):
        image, format = read_picture(tmp_path / "x.exr")
    assert image.shape == (1, 3, 3, 4)
    assert (image[0, :, 0, 0].tolist(), format.depth, format.range) == ([1, 0, 0.5], "half", 1)


def test_channels_that_a_format_lacks_are_refused_before_anything_is_written(tmp_path):
    assert "JPEG holds 1 or 3 channels, not 4 (choose from: .png, .webp, .tif" in failure(
        check_image_suffix, "x.jpg", channels=4
    )
    message = failure(write_image, noise(6, "uint8"), tmp_path / "x.png")
    assert message.endswith("PNG holds 1 or 2 or 3 or 4 channels, not 6 (choose from: .tif, .tiff, .exr, .npy)")
    assert not list(tmp_path.iterdir())


# The record


def test_formats_describe_themselves_for_the_record():
    described = Format(depth="uint16", icc=SRGB).describe()
    assert described == {**Format(depth="uint16").describe(), "icc_sha256": described["icc_sha256"]}
    assert len(described["icc_sha256"]) == 64
    assert replace(Format(), icc=GREY).describe()["icc_sha256"] != described["icc_sha256"]


# Into a synthesis, and out of it


def quick(exemplar, **changes):
    fast = {"device": "cpu", "size": (20, 24), "steps": 2, "levels": 2, "starts": 1}
    return synthesize(exemplar, **{**fast, **changes})


@pytest.mark.parametrize("features", ["patches", "pyramid"])
@pytest.mark.parametrize("channels", [2, 4, 6])
def test_any_number_of_channels_is_synthesised(channels, features):
    exemplar = noise(channels, "float", (28, 32)) * torch.linspace(0.2, 1, channels)[:, None, None]
    result = quick(exemplar, features=features, steps=30)
    assert result.image.shape == (1, channels, 20, 24)
    for statistic in (torch.mean, torch.std):  # each channel is like its own
        torch.testing.assert_close(
            statistic(result.image, (0, 2, 3)), statistic(exemplar, (0, 2, 3)), rtol=0.1, atol=0.02
        )
    score = load_registry().get("metric", "msot").create()
    assert score(exemplar, exemplar) < score(result.image, exemplar) < score(1 - exemplar, exemplar)


@pytest.mark.parametrize(("suffix", "depth", "dtype"), [(".png", "uint16", np.uint16), (".tif", "half", np.float16)])
def test_the_result_has_the_depth_and_profile_of_the_exemplar(tmp_path, suffix, depth, dtype):
    write_image(noise(3, depth, (28, 32)), tmp_path / f"a{suffix}", Format(depth=depth, icc=SRGB))
    result = quick(tmp_path / f"a{suffix}")
    result.save(tmp_path / f"b{suffix}")
    back, format = read(tmp_path / f"b{suffix}")
    assert format == result.format == Format(depth=depth, icc=SRGB)
    assert result.record["output"] == format.describe()
    torch.testing.assert_close(back, result.image, rtol=0, atol=1e-5 if dtype == np.uint16 else 3e-4)
    result.save(tmp_path / "b.jpg")
    assert read(tmp_path / "b.jpg")[1] == Format(icc=SRGB)


def test_high_range_comes_out_in_its_own_units(tmp_path):
    np.save(tmp_path / "a.npy", noise(3, "float", (28, 32))[0].permute(1, 2, 0).numpy() * 40 - 10)
    result = quick(tmp_path / "a.npy", steps=30)
    assert (float(result.image.min()) >= 0, float(result.image.max()) <= 1) == (True, True)
    result.save(tmp_path / "b.npy")
    assert np.load(tmp_path / "b.npy").mean() == pytest.approx(np.load(tmp_path / "a.npy").mean(), abs=0.6)
    assert np.load(tmp_path / "b.npy").min() >= np.load(tmp_path / "a.npy").min()


def test_exemplars_of_several_ranges_are_put_on_one_scale(tmp_path):
    for name, top in (("a", 1.0), ("b", 4.0)):
        np.save(tmp_path / f"{name}.npy", np.tile([0.0, top], (12, 6)))
    pictures = Sources(exemplars=[tmp_path / "a.npy", tmp_path / "b.npy"]).read()
    assert [float(image.max()) for image in pictures.exemplars] == [0.25, 1]
    assert (pictures.format.low, pictures.format.range) == (0, 4)


def test_an_opaque_exemplar_among_transparent_ones(tmp_path):
    paths = [tmp_path / "grey.png", transparent(tmp_path / "clear.png")]
    write_image(torch.full((1, 1, 8, 8), 0.2), paths[0], Format())
    pictures = Sources(exemplars=paths, alpha="keep").read()
    assert pictures.channels == 4
    assert pictures.exemplars[0][0, :, 0, 0].tolist() == pytest.approx([0.2, 0.2, 0.2, 1])
    assert pictures.format.alpha
    assert pictures.record["alpha"] == "keep"
    with pytest.raises(UsageError, match="unknown choice for alpha 'keeep'; did you mean 'keep'"):
        Sources(exemplars=paths, alpha="keeep")


def test_exemplars_that_differ_in_depth_the_first_decides(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, depth in zip(paths, ("uint16", "uint8"), strict=True):
        write_image(noise(3, depth), path, Format(depth=depth))
    assert Sources(exemplars=paths).read().format.depth == "uint16"
    assert Sources(exemplars=paths[::-1]).read().format.depth == "uint8"
    assert Sources(exemplars=[noise(3, "float"), paths[0]]).read().format is None


def test_what_else_a_file_holds_is_told(tmp_path):
    planes = {name: np.full((4, 5), 0.5, np.float32) for name in ("R", "G", "B", "Z", "id")}
    OpenEXR.File({}, planes).write(str(tmp_path / "x.exr"))
    with pytest.warns(UserWarning, match=r"x\.exr: left out: the channels Z, id"):
        assert read_image(tmp_path / "x.exr").shape == (1, 3, 4, 5)
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        for value in (10, 20, 30):
            writer.write(np.full((4, 5), value, np.uint8), photometric="minisblack")
    with pytest.warns(UserWarning, match=r"x\.tif: left out: 2 more pages"):
        assert float(read_image(tmp_path / "x.tif").mean()) == pytest.approx(10 / 255)
