"""featot.images and featot.files on real files: every kind of image read, every way to fail to read or write."""

import os
import resource
import stat
import struct
import subprocess
import sys
import tempfile
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from featot import files, images
from featot.errors import FeatotError, UsageError

RGB = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
UNIT = (torch.from_numpy(RGB).permute(2, 0, 1) / 255)[None]


def save(path, picture, **options):
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(path, **options)
    return path


def reads(path, expected, atol=0):
    """Checks that reading gives the (h, w, c) array ``expected``, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = images.read_image(path)
    assert (image.dtype, image.shape[0], image.is_contiguous()) == (torch.float32, 1, True)
    pixels = image[0].permute(1, 2, 0).numpy()
    assert pixels.shape == np.shape(expected)
    np.testing.assert_allclose(pixels, expected, rtol=1e-6, atol=atol)


def failure(function, *arguments, kind=UsageError):
    """The one-line message with which the call fails."""
    with pytest.raises(kind) as caught:
        function(*arguments)
    assert caught.type is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


def contents(folder):
    return {path.name: path.read_text("utf-8") for path in folder.iterdir()}


def png(width, height, depth, rows, **chunks):
    """A grey PNG made by hand, for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in {"IHDR": header, **chunks, "IDAT": zlib.compress(rows), "IEND": b""}.items():
        named = name.encode() + body
        data += struct.pack(">I", len(body)) + named + struct.pack(">I", zlib.crc32(named))
    return data


def test_every_kind_of_pixel(tmp_path):
    for suffix in (".png", ".tif", ".bmp"):
        reads(save(tmp_path / f"colour{suffix}", RGB), RGB / 255)
        reads(save(tmp_path / f"grey{suffix}", RGB[..., 0]), RGB[..., :1] / 255)
    reads(save(tmp_path / "equal.png", RGB[..., [0, 0, 0]]), RGB[..., [0, 0, 0]] / 255)
    reads(save(tmp_path / "bits.png", np.array([[False, True]])), [[[0], [1]]])
    palette = Image.fromarray(RGB).quantize(16)
    reads(save(tmp_path / "palette.png", palette), np.asarray(palette.convert("RGB")) / 255)
    for mode, white in {"CMYK": (0, 0, 0, 0), "LAB": (255, 128, 128)}.items():
        path = save(tmp_path / f"{mode}.tif", Image.new(mode, (3, 2), white))
        reads(path, np.ones((2, 3, 3)), atol=2 / 255)


def test_more_than_eight_bits_are_kept(tmp_path):
    deep = np.array([[0, 1, 257, 40000, 65535]])
    for name, dtype in {"16.png": np.uint16, "16.tif": np.uint16, "32.tif": np.int32}.items():
        reads(save(tmp_path / name, deep.astype(dtype)), deep[..., None] / 65535)
    reads(save(tmp_path / "float.tif", np.float32([[0, 0.123456, 1]])), [[[0], [0.123456], [1]]])


@pytest.mark.parametrize(
    ("values", "dtype", "said"),
    [
        (
            [np.nan, 0.5, np.nan],
            np.float32,
            "2 of 3 values are NaN, or beyond what float32 can hold; expected finite",
        ),
        ([0, 0, np.inf], np.float32, "1 of 3 values are NaN, or beyond"),
        ([-1, 5], np.int32, "from -1 to 5; expected integers within [0, 65535], or floats"),
        ([5, 65536], np.int32, "from 5 to 65536; expected integers within [0, 65535], or floats"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path, values, dtype, said):
    assert said in failure(images.read_image, save(tmp_path / "wide.tif", np.array([values], dtype)))


def test_exif_rotation_is_applied(tmp_path):
    ramp = np.add.outer(np.arange(32), 3 * np.arange(48)).astype(np.uint8)  # tells all orientations apart
    upright = {1: ramp, 3: ramp[::-1, ::-1], 6: np.rot90(ramp, -1), 8: np.rot90(ramp)}
    for orientation, expected in upright.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = save(tmp_path / "camera.jpg", ramp, exif=exif, quality=100)
        reads(path, expected[..., None] / 255, atol=3 / 255)


def two_colours(indices):
    picture = Image.fromarray(np.array([indices], np.uint8))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    return picture


def test_opaque_alpha_is_dropped_in_silence(tmp_path):
    rgba = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
    reads(save(tmp_path / "opaque.png", rgba), RGB / 255)
    reads(save(tmp_path / "unused.png", two_colours([0]), transparency=1), [[[1, 0, 0]]])


def test_transparency_is_laid_over_white_with_one_warning(tmp_path):
    path, white = tmp_path / "clear.png", [1, 1, 1]

    def warned(share, expected):
        with pytest.warns(UserWarning, match=f"clear.png: {share} % of the pixels are transparent") as caught:
            image = images.read_image(path)
        assert [warning.filename for warning in caught] == [__file__]
        torch.testing.assert_close(image[0, :, 0].T, torch.tensor(expected, dtype=torch.float32))

    save(path, np.array([[[255, 0, 0, 255], [0, 0, 0, 0], [0, 0, 0, 51], [0, 0, 255, 255]]], np.uint8))
    warned(50, [[1, 0, 0], white, [0.8, 0.8, 0.8], [0, 0, 1]])
    save(path, two_colours([0, 1, 1, 1]), transparency=0)
    warned(25, [white, [0, 0, 1], [0, 0, 1], [0, 0, 1]])
    path.write_bytes(png(4, 1, 8, bytes([0, 9, 10, 0, 255]), tRNS=b"\0\x09"))
    warned(25, [[1], [10 / 255], [0], [1]])
    path.write_bytes(png(4, 1, 16, struct.pack(">x4H", 256, 257, 0, 65535), tRNS=b"\1\1"))  # 256 is opaque
    warned(25, [[256 / 65535], [1], [0], [1]])
    save(tmp_path / "clear.tif", np.array([[[51, 255], [0, 204]]], np.uint8)).rename(path)
    warned(50, [[0.2], [0.2]])


def test_first_frame_of_an_animation(tmp_path):
    red, blue = (Image.new("RGB", (1, 1), colour) for colour in ("red", "blue"))
    for name in ("two.gif", "two.tif", "two.png"):
        path = save(tmp_path / name, red, save_all=True, append_images=[blue])
        if name == "two.tif":
            with pytest.warns(UserWarning, match="left out: 1 more page$"):
                assert images.read_image(path).flatten().tolist() == [1, 0, 0]
        else:
            reads(path, [[[1, 0, 0]]])


@pytest.mark.parametrize("kept", [0.3, 0.95])
@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "cut.tif", "cut.bmp", "cut.webp"])
def test_truncated(tmp_path, name, kept):
    data = save(tmp_path / name, RGB).read_bytes()
    (tmp_path / name).write_bytes(data[: int(kept * len(data))])
    assert f"cannot read {tmp_path / name}: truncated" in failure(images.read_image, tmp_path / name)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty (0 bytes); expected an image"),
        (b"hello, world", "no known image format, or cut off in its header (12 bytes); expected an image"),
        (png(0, 5, 8, b""), "no known image format"),
        (png(60000, 60000, 1, b""), "Image size (3600000000 pixels) exceeds limit of"),
        (png(10000, 10000, 1, b""), "(image file is truncated"),  # so large is allowed, without a warning
    ],
)
def test_not_an_image(tmp_path, data, said):
    (tmp_path / "file.png").write_bytes(data)
    message = failure(images.read_image, tmp_path / "file.png")
    assert message.startswith(f"cannot read {tmp_path / 'file.png'}: ")
    assert said in message


def test_missing_file_suggests_the_near_miss(tmp_path):
    folder = tmp_path / "textures"
    folder.mkdir()
    wall = save(folder / "BRICK_WALL.PNG", RGB)
    message = failure(images.read_image, folder / "brick-wall.png")
    assert message.endswith(f"there is no file 'brick-wall.png' in {folder}; did you mean {wall}?")
    message = failure(images.read_image, tmp_path / "texture" / "BRICK_WALL.PNG")
    assert message.endswith(f"there is no directory 'texture' in {tmp_path}; did you mean {folder}?")
    assert failure(images.read_image, folder / "sky.png").endswith(f"there is no file 'sky.png' in {folder}")
    assert failure(images.read_image, wall / "x.png").endswith(f"no directory 'BRICK_WALL.PNG' in {folder}")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF", ".bmp", ".webp"])
def test_writing_and_reading_is_exact(tmp_path, suffix):
    images.write_image(UNIT.clone().requires_grad_(), tmp_path / f"c{suffix}")
    assert torch.equal(images.read_image(tmp_path / f"c{suffix}"), UNIT)
    images.write_image(UNIT[0, :1].double(), tmp_path / f"g{suffix}")
    channels = 3 if suffix == ".webp" else 1  # WebP has no greyscale
    assert torch.equal(images.read_image(tmp_path / f"g{suffix}"), UNIT[:, :1].expand(1, channels, 32, 48))


def test_how_pixels_are_encoded(tmp_path):
    images.write_image(torch.tensor([[[-1, 2, 100.4 / 255, 100.6 / 255]]]), tmp_path / "x.png")
    picture = Image.open(tmp_path / "x.png")
    assert (picture.mode, np.asarray(picture).tolist()) == ("L", [[0, 255, 100, 101]])
    images.write_image(UNIT, tmp_path / "x.jpeg")
    expected = Image.open(save(tmp_path / "y.jpg", RGB, quality=95, subsampling=0))
    picture = Image.open(tmp_path / "x.jpeg")
    assert (picture.layer, picture.quantization) == (expected.layer, expected.quantization)


@pytest.mark.parametrize(
    ("image", "name", "kind", "said"),
    [
        (UNIT, "x.gif", UsageError, "'.gif' is not a known image format (choose from: .png, .jpg"),
        (UNIT, "x", UsageError, "the name has no suffix (choose from: .png"),
        (UNIT.repeat(2, 1, 1, 1), "x.png", UsageError, "got (2, 3, 32, 48) of torch.float32"),
        (
            UNIT[:, [0, 1, 2, 0, 1]],
            "x.png",
            UsageError,
            "PNG holds 1 or 2 or 3 or 4 channels, not 5 (choose from: .tif",
        ),
        (UNIT[:, :2], "x.jpg", UsageError, "JPEG holds 1 or 3 channels, not 2 (choose from: .png"),
        (UNIT[..., :0], "x.png", UsageError, "got (1, 3, 32, 0)"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), "x.png", UsageError, "of torch.uint8"),
        (torch.tensor([[[0, torch.nan, torch.inf]]]), "x.png", FeatotError, "2 of 3 pixel values are NaN or"),
        (torch.zeros(1, 1, 16384), "x.webp", FeatotError, "no WEBP of 1x16384 pixels"),
    ],
)
def test_what_cannot_be_written_leaves_the_old_file(tmp_path, image, name, kind, said):
    (tmp_path / name).write_text("old")
    assert said in failure(images.write_image, image, tmp_path / name, kind=kind)
    assert contents(tmp_path) == {name: "old"}


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    (tmp_path / "x").write_text("old")

    def write(error):
        with files.atomic_write(tmp_path / "x") as file:
            file.write(b"new")
            assert [path.name for path in tmp_path.glob(".x.*.tmp")] == [Path(file.name).name]
            raise error

    for error in (KeyboardInterrupt, ZeroDivisionError):
        with pytest.raises(error):
            write(error)
        assert contents(tmp_path) == {"x": "old"}
    assert failure(write, OSError("quota"), kind=FeatotError) == f"cannot write {tmp_path / 'x'}: quota"
    assert contents(tmp_path) == {"x": "old"}


def test_modes_and_long_names(tmp_path):
    umask = os.umask(0o027)
    try:
        files.write_text(tmp_path / "new", "ψ")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "new").chmod(0o604)
    with open(tmp_path / "new", encoding="utf-8") as reader:
        for name in ("new", "é" * 127):
            files.write_text(tmp_path / name, f"σ {name}")
        assert reader.read() == "ψ"  # who had the old file open sees it whole
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o604
    assert contents(tmp_path) == {name: f"σ {name}" for name in ("new", "é" * 127)}


@pytest.mark.parametrize("write", [files.check_writable, lambda path: files.write_text(path, "new")])
def test_impossible_destinations(tmp_path, write):
    os.mkfifo(tmp_path / "pipe")
    for name, there in (("link", "real"), ("dangling", "made")):
        (tmp_path / name).symlink_to(there)
    (tmp_path / "real").write_text("old")
    for name, there in (("link", "real"), ("dangling", "made")):
        assert f"it is a symbolic link to {tmp_path.resolve() / there}" in failure(write, tmp_path / name)
    assert (tmp_path / "real").read_text() == "old"
    assert not (tmp_path / "made").exists()
    assert "it is a directory" in failure(write, tmp_path)
    assert "it is not a regular file" in failure(write, "/dev/full")
    assert "it is not a regular file" in failure(write, tmp_path / "pipe")  # and does not wait for a reader
    assert f"there is no directory 'a' in {tmp_path.resolve()}" in failure(write, tmp_path / "a" / "b" / "x")
    assert "File name too long" in failure(write, tmp_path / ("x" * 300))
    for path in (tmp_path, tmp_path / "pipe"):
        assert "expected an image file" in failure(images.read_image, path)


def test_check_writable_leaves_no_trace(tmp_path):
    (tmp_path / "old").write_text("old")
    files.check_writable(tmp_path / "old")
    files.check_writable(tmp_path / "new")
    assert contents(tmp_path) == {"old": "old"}
    if sys.platform == "linux":  # refuses even root
        assert "no file can be made in /proc" in failure(files.check_writable, "/proc/x.png")


@pytest.fixture
def unprivileged():
    """Root, who is above permission bits, becomes nobody for the test."""
    user = os.geteuid()
    try:
        os.seteuid(user or 65534)
    except OSError as error:
        pytest.skip(f"root cannot become another user here: {error}")
    yield
    os.seteuid(user)


def test_permissions(unprivileged):
    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder) / "x.png", RGB)
        files.check_writable(path)
        path.chmod(0o400)
        assert "Permission denied" in failure(files.check_writable, path)
        path.chmod(0)
        assert "Permission denied; expected a readable image file" in failure(images.read_image, path)
        os.chmod(folder, 0o500)
        assert f"no file can be made in {folder}" in failure(files.check_writable, f"{folder}/y.png")
        os.chmod(folder, 0o700)


def test_full_disk(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", tmp_path]
    if os.geteuid() != 0 or subprocess.run(mount).returncode != 0:
        pytest.skip("needs root and mount, to have a small disk to fill")
    try:
        path = tmp_path / "x.png"
        path.write_text("old")
        message = failure(images.write_image, torch.rand(3, 100, 100), path, kind=FeatotError)
        assert message == f"cannot write {path}: No space left on device"
        assert contents(tmp_path) == {"x.png": "old"}
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_file_size_limit(tmp_path):
    (tmp_path / "x").write_text("old")
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # noqa: E731
    code = "import sys; from featot import files; files.write_text(sys.argv[1], 'x' * 100_000)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code, str(tmp_path / "x")]
    done = subprocess.run(command, env=environment, preexec_fn=limit, capture_output=True, text=True)
    assert f"FeatotError: cannot write {tmp_path / 'x'}: File too large" in done.stderr
    assert contents(tmp_path) == {"x": "old"}


def test_side_by_side():
    row = images.side_by_side([torch.zeros(1, 1, 2, 3), torch.full((3, 4, 1), 0.5)], gap=2)
    expected = torch.ones(1, 3, 4, 6)
    expected[..., :2, :3] = 0
    expected[..., 5:] = 0.5
    assert torch.equal(row, expected)
    assert images.side_by_side([torch.zeros(1, 1, 2, 3)] * 2).shape == (1, 1, 2, 14)
    assert "at least one image" in failure(images.side_by_side, [])
    assert "got (2, 3, 4, 4)" in failure(images.side_by_side, [torch.zeros(2, 3, 4, 4)])


def test_sizes():
    assert {images.parse_size(text) for text in ("256x384", "256X384", "256×384", " 256x384\n")} == {(256, 384)}
    assert images.parse_size("256") == (256, 256)


@pytest.mark.parametrize("text", ["0x5", "5x0", "0", "-3", "axb", "5x", "x5", "", "5x5x5", "1.5", "9" * 10])
def test_bad_sizes(text):
    assert f"bad size {text!r}: sizes are HxW in pixels, each at least 1" in failure(images.parse_size, text)
