"""`featot synth` as a user meets it: every good and bad input, its files, its messages, its exit codes."""

import json
import os
import pty
import re
import resource
import select
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from featot_cli.main import main

RGB = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
FORCING = ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")  # with these, rich takes anything for a terminal
ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in FORCING}
ENVIRONMENT |= {"OMP_NUM_THREADS": "2", "COLUMNS": "150", "TERM": "xterm"}
COMMAND = [sys.executable, "-m", "featot_cli"]


@pytest.fixture
def synth(capsys, monkeypatch, tmp_path):
    """Runs ``featot synth`` in this process, in an empty directory: its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for variable in FORCING:
        monkeypatch.delenv(variable, raising=False)
    threads = torch.get_num_threads()

    def run(*arguments, steps=2):
        given = [] if steps is None else ["--steps", str(steps)]
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["synth", *map(str, arguments), *given])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    yield run
    torch.set_num_threads(threads)


def save(path, pixels=RGB, **options):
    (Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels).save(path, **options)
    return path


def record_of(image):
    return json.loads(image.with_suffix(".json").read_text("utf-8"))


def contents(folder):
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


def start(*arguments, cwd, **options):
    """``featot synth`` in a process of its own, where Ctrl-C works even if this one was started to ignore it."""
    return subprocess.Popen(
        [*COMMAND, "synth", *map(str, arguments)],
        cwd=cwd,
        env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
        **options,
    )


# ---- what is refused ----


def a_truncated_png(folder):
    path = save(folder / "cut.png")
    path.write_bytes(path.read_bytes()[:-900])
    return path


def a_text(folder):
    path = folder / "notes.png"
    path.write_text("no image at all")
    return path


def a_nan(folder):
    values = np.full((32, 32), 0.5, dtype=np.float32)
    values[3, 4] = np.nan
    return save(folder / "nan.tif", values)


def a_record(folder, **changes):
    """A sidecar that is whole but for ``changes`` of its top level; None takes a key away."""
    record = {
        "format": 1,
        "task": "synthesize",
        "exemplar": {"path": str(save(folder / "a.png")), "shape": [1, 3, 32, 40], "sha256": "0"},
        "settings": {"size": [32, 40], "steps": 2, "options": {}, "device": "cpu"},
        "device": {"type": "cpu", "threads": 1},
        "versions": {},
    } | changes
    path = folder / "run.json"
    path.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))
    return ["--from-json", path]


def a_folder(folder):
    (folder / "folder.png").mkdir()
    return folder / "folder.png"


def a_pipe(folder):
    os.mkfifo(folder / "pipe.png")
    return folder / "pipe.png"


def a_package(folder):
    (folder / "package.json").write_text('{"name": "something of the user\'s"}')
    return folder / "package.png"


def exemplar_and(*arguments):
    return lambda folder: [save(folder / "a.png"), *arguments]


REFUSED = {
    # The exemplar.
    "no exemplar": (lambda folder: [], r"which image\? Expected an EXEMPLAR"),
    "missing file": (lambda folder: [save(folder / "brick.png").with_name("brik.png")], "did you mean .*brick.png"),
    "endless name": (lambda folder: ["x" * 300, "-o", "x.png"], "cannot read xxx.*: File name too long"),
    "empty name": (lambda folder: [""], "cannot read"),
    "directory": (a_folder, "it is a directory; expected an image file"),
    "not an image": (a_text, "no known image format"),
    "truncated image": (a_truncated_png, "truncated or damaged"),
    "smaller than a patch": (lambda folder: save(folder / "tiny.png", RGB[:3, :3]), "too small for its features"),
    "one pixel": (lambda folder: save(folder / "tiny.png", RGB[:1, :1]), "too small for its features"),
    "NaN in a float image": (a_nan, "1 of 1024 values are NaN"),
    # Numbers.
    "empty size": (exemplar_and("--size", "0x5"), "bad size '0x5': sizes are HxW"),
    "negative size": (exemplar_and("--size", "-5x5"), "bad size '-5x5'"),
    "wordy size": (exemplar_and("--size", "large"), "bad size 'large'"),
    "size below a patch": (exemplar_and("--size", "3x9"), "an image of 3x9 is too small"),
    "size of one pixel": (exemplar_and("--size", "1x1"), "an image of 1x1 is too small"),
    "no steps": (exemplar_and("--steps", "0"), "expected steps of at least 1, got 0"),
    "endless steps": (exemplar_and("--steps", "1" + 400 * "0"), "expected steps below 2"),
    "wordy steps": (exemplar_and("--steps", "ten"), "'ten' is not a valid integer"),
    "negative seed": (exemplar_and("--seed", "-1"), "expected seed of at least 0, got -1"),
    "huge seed": (exemplar_and("--seed", 2**64), "expected seed below 2"),
    "no levels": (exemplar_and("--levels", "0"), "expected levels of at least 1, got 0"),
    "too many levels": (
        exemplar_and("--levels", "99"),
        "levels of at most 4 for an exemplar of 32x40 pixels, got 99",
    ),
    "no points": (exemplar_and("--max-points", "0"), "expected max_points of at least 1"),
    # Names.
    "unknown features": (exemplar_and("--features", "pyramd"), "did you mean 'pyramid'"),
    "unknown param": (exemplar_and("--param", "imgae"), "did you mean 'image'"),
    "unknown loss": (exemplar_and("--loss", "oot"), "did you mean 'ot'"),
    "unknown optimizer": (exemplar_and("--optimizer", "adm"), "did you mean 'adam'"),
    "unknown flag": (exemplar_and("--sede", "1"), "'--sede'.*--seed.*See: featot synth --help"),
    "unknown device": (exemplar_and("--device", "tpu"), r"unknown device 'tpu' \(choose from: auto, cpu, cuda"),
    "second cpu": (exemplar_and("--device", "cpu:1"), "unknown device 'cpu:1'"),
    "absent device": (exemplar_and("--device", "cuda:99"), "device 'cuda:99' is not here: torch sees"),
    # Options of plugins.
    "unknown option": (exemplar_and("-o", "strid=2"), "unknown option 'strid'; did you mean 'stride'"),
    "option with a hyphen": (exemplar_and("-o", "psi-steps=2"), "did you mean 'psi_steps'"),
    "option of no plugin in play": (exemplar_and("-o", "patches.size=5"), "unknown plugin in option 'patches'"),
    "option of another plugin": (exemplar_and("-o", "image.size=5"), "unknown option 'size'.*noise"),
    "wordy value": (exemplar_and("-o", "size=big"), "expected int or list of int of at least 1 or none, got 'big'"),
    "value out of range": (exemplar_and("-o", "exponent=3"), "at most 2.0, got '3'"),
    "not a choice": (exemplar_and("-o", "backend=fais"), r"auto\|torch\|llvm\|faiss"),
    "option given twice": (exemplar_and("-o", "size=5", "-o", "size=6"), "'size' is given twice: '5' and '6'"),
    "given twice, spelled apart": (exemplar_and("-o", "size=5", "-o", "pyramid.size=6"), "given twice"),
    "no key": (exemplar_and("-o", "=5"), "bad option '=5': expected KEY=VALUE"),
    "file name with '='": (exemplar_and("-o", "./a=b.png"), "'./a=b.png'.* use --out"),
    "patch larger than exemplar": (exemplar_and("-o", "size=99"), "too small for its features"),
    # The output.
    "two outputs": (exemplar_and("-o", "x.png", "-o", "y.png"), "expected one output, got x.png and y.png"),
    "two outputs, spelled apart": (exemplar_and("--out", "x.png", "-o", "y.png"), "expected one output"),
    "no such format": (exemplar_and("-o", "x.gif"), r"'.gif' is not a known image format \(choose from: .png"),
    "no suffix": (exemplar_and("-o", "x"), "the name has no suffix"),
    "missing directory": (exemplar_and("-o", "gone/x.png"), "there is no directory 'gone'"),
    "output is a directory": (lambda folder: [save(folder / "a.png"), "-o", a_folder(folder)], "it is a directory"),
    "unwritable directory": (exemplar_and("-o", "/proc/x.png"), "writable directory|there is no directory"),
    "output is a pipe": (lambda folder: [save(folder / "a.png"), "-o", a_pipe(folder)], "it is not a regular file"),
    "output is the exemplar": (exemplar_and("-o", "a.png"), "cannot write a.png: it is the exemplar"),
    "sidecar is the exemplar": (
        lambda folder: [save(folder / "a.json", format="png"), "-o", "a.png"],
        "cannot write a.json: it is the exemplar",
    ),
    "preview is the exemplar": (
        lambda folder: [save(folder / "a.preview.png"), "-o", "a.png", "--preview"],
        "cannot write a.preview.png: it is the exemplar",
    ),
    "sidecar is something else": (
        lambda folder: [save(folder / "a.png"), "-o", a_package(folder)],
        "cannot write .*package.json: a file of another kind is there",
    ),
    "too wide for WebP": (
        exemplar_and("--size", "9x16384", "-o", "x.webp"),
        "16384 .* more than the 16383 that WEBP",
    ),
    # --from-json.
    "no such record": (lambda folder: ["--from-json", "run.json"], "cannot read run.json: No such file"),
    "record is an image": (lambda folder: ["--from-json", save(folder / "a.png")], "not JSON"),
    "record is a list": (
        lambda folder: ["--from-json", save_text(folder / "run.json", "[]")],
        "no record of a synth",
    ),
    "record of another task": (lambda folder: a_record(folder, task="train"), "no record of a synthesis"),
    "record of the future": (lambda folder: a_record(folder, format=99), "its format is 99, expected 1"),
    "record without device": (lambda folder: a_record(folder, device=None), "damaged at 'device'"),
    "record with no threads": (lambda folder: a_record(folder, device={"threads": 0}), "damaged at 'device.threads'"),
    "record with odd options": (lambda folder: a_record(folder, settings={"options": 5}), "at 'settings.options'"),
    "record with odd steps": (
        lambda folder: a_record(folder, settings={"steps": "many", "options": {}}),
        "record's settings are damaged .*'steps'.* got 'many'",
    ),
    "record with an odd setting": (
        lambda folder: a_record(folder, settings={"stepps": 3, "options": {}}),
        "record's settings are damaged .*did you mean 'steps'",
    ),
    "record and flags": (
        lambda folder: [*a_record(folder), "--seed", "1", "-o", "size=5"],
        "cannot go with --seed, -o KEY=VALUE",
    ),
    "record of no file": (
        lambda folder: a_record(folder, exemplar={"path": None, "sha256": "0"}),
        "was no file; name it: featot synth EXEMPLAR --from-json",
    ),
    "record whose exemplar moved": (
        lambda folder: a_record(folder, exemplar={"path": "/gone/a.png", "sha256": "0"}),
        "/gone/a.png is gone; name it: featot synth EXEMPLAR --from-json",
    ),
}


def save_text(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_and_nothing_is_written(case, synth, tmp_path):
    arrange, message = REFUSED[case]
    arranged = arrange(tmp_path)
    arguments = arranged if isinstance(arranged, list) else [arranged]
    before = contents(tmp_path)
    code, out, err = synth(*arguments, steps=None)
    assert (code, out) == (2, "")
    assert err.startswith("featot: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert re.search(message, err), err
    assert contents(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_may_not_be_written(synth, tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "locked").mkdir(mode=0o555)
    code, _, err = synth("a.png", "-o", "locked/x.png")
    assert (code, err.count("\n")) == (2, 1)
    assert "expected a writable directory" in err


# ---- what fails ----


def test_more_memory_than_there_is(synth, tmp_path):
    save(tmp_path / "a.png")
    code, out, err = synth("a.png", "--size", "999999999x999999999")
    assert (code, out) == (1, "")
    assert err == "featot: not enough memory to make 999999999x999999999 pixels; ask for a smaller size\n"
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize("exhaust", ["torch", "numpy", "cuda"])
def test_out_of_memory_on_the_way(exhaust, synth, tmp_path, monkeypatch):
    def resize(self, size):
        if exhaust == "torch":
            torch.empty(2**55)
        elif exhaust == "numpy":
            np.empty(2**55)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")

    monkeypatch.setattr("featot_plugins.image.Image.resize", resize)
    save(tmp_path / "a.png")
    code, out, err = synth("a.png", "--size", "64")
    assert (code, out) == (1, "")
    assert err == "featot: not enough memory to make 64x64 pixels; ask for a smaller size\n"
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize("earlier", [None, b"an earlier picture"])
def test_full_disk_leaves_what_was_there(earlier, synth, tmp_path):
    save(tmp_path / "a.png")
    if earlier:
        (tmp_path / "x.png").write_bytes(earlier)
    before = contents(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        code, out, err = synth("a.png", "-o", "x.png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"featot: cannot write x\.png: File too large\n", err), err
    assert contents(tmp_path) == before


def test_a_bug_is_one_line_unless_asked_for_more(synth, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ArithmeticError("first line\nsecond line")

    monkeypatch.setattr("featot_plugins.image.Image.initialize", broken)
    save(tmp_path / "a.png")
    code, _, err = synth("a.png")
    assert code == 1
    assert re.fullmatch(r"featot: ArithmeticError: first line second line \(this is a bug; FEATOT_DEBUG=1.*\)\n", err)
    monkeypatch.setenv("FEATOT_DEBUG", "1")
    with pytest.raises(ArithmeticError):
        main(["synth", "a.png"])


# ---- what works ----


def rotated(path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: height and width change places
    return save(path, exif=exif)


def with_alpha(pixels):
    alpha = np.full((*pixels.shape[:2], 1), 255, dtype=np.uint8)
    alpha[:4, :4] = 0
    return np.concatenate([pixels, alpha], axis=2)


DEEP = np.linspace(20000, 45000, 32 * 40).reshape(32, 40).astype(np.uint16)
ACCEPTED = {  # what makes the exemplar, the mode and the size (w, h) of the result, a warning
    "colour": (lambda folder: save(folder / "a.png"), "RGB", (40, 32), None),
    "jpeg": (lambda folder: save(folder / "a.jpg"), "RGB", (40, 32), None),
    "grey": (lambda folder: save(folder / "a.png", RGB[:, :, 0]), "L", (40, 32), None),
    "palette": (lambda folder: save(folder / "a.png", Image.fromarray(RGB).quantize(8)), "RGB", (40, 32), None),
    "16 bits": (lambda folder: save(folder / "a.png", DEEP), "I;16", (40, 32), None),
    "float": (lambda folder: save(folder / "a.tif", (DEEP / 65535).astype(np.float32)), "I;16", (40, 32), None),
    "camera turned": (lambda folder: rotated(folder / "a.jpg"), "RGB", (32, 40), None),
    "alpha": (
        lambda folder: save(folder / "a.png", with_alpha(RGB)),
        "RGB",
        (40, 32),
        "1.25 % of the pixels are tra",
    ),
    "odd sides": (lambda folder: save(folder / "a.png", RGB[:29, :37]), "RGB", (37, 29), None),
    "as small as a patch": (lambda folder: save(folder / "a.png", RGB[:4, :4]), "RGB", (4, 4), None),
    "a name with = and ü": (lambda folder: save(folder / "a=ü.png"), "RGB", (40, 32), None),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_every_kind_of_exemplar(case, synth, tmp_path):
    arrange, mode, size, warning = ACCEPTED[case]
    exemplar = arrange(tmp_path)
    code, out, err = synth(exemplar.name, "-o", "out.png")
    assert code == 0
    assert re.fullmatch(r"out\.png  \d+x\d+, loss \S+, \S+ s; record in out\.json\n", out)
    if warning:
        assert err.startswith("featot: warning: ")
        assert err.count("\n") == 1
        assert warning in err
    else:
        assert err == ""
    with Image.open(tmp_path / "out.png") as picture:
        assert (picture.mode, picture.size) == (mode, size)
        pixels = np.asarray(picture, dtype=float) / (257 if mode == "I;16" else 1)
    with Image.open(exemplar) as picture:
        values = np.asarray(picture.convert("RGB") if mode == "RGB" else picture, dtype=float)
    scale = {"16 bits": 255 / 65535, "float": 255.0}.get(case, 1)
    if min(size) > 4:  # the colours are the exemplar's, from the start
        assert abs(pixels.mean() - values.mean() * scale) < 15
        assert pixels.std() > 8


def test_a_constant_exemplar_gives_a_constant_image(synth, tmp_path):
    save(tmp_path / "a.png", np.full((32, 32, 3), (10, 120, 230), dtype=np.uint8))
    assert synth("a.png", "-o", "x.png")[0] == 0
    pixels = np.asarray(Image.open(tmp_path / "x.png"), dtype=float)
    assert np.abs(pixels - (10, 120, 230)).max() <= 1 + 255 * 0.03 * 2  # Adam's first steps, however small the pull


@pytest.mark.parametrize("size", ["5x7", "33x50", "64", " 48X33 "])
def test_sizes_that_no_pyramid_divides(size, synth, tmp_path):
    save(tmp_path / "a.png")
    code, _, err = synth("a.png", "--size", size, "-o", "x.png")
    assert (code, err) == (0, "")
    h, _, w = size.strip().lower().partition("x")
    assert Image.open(tmp_path / "x.png").size == (int(w or h), int(h))


def test_no_option_at_all(synth, tmp_path):
    (tmp_path / "pictures").mkdir()
    save(tmp_path / "pictures" / "bricks.jpg", RGB[:16, :16])
    code, out, err = synth("pictures/bricks.jpg", steps=None)
    assert (code, err) == (0, "")
    assert out.startswith("bricks_synth.png  16x16, ")
    assert sorted(os.listdir(tmp_path)) == ["bricks_synth.json", "bricks_synth.png", "pictures"]


def test_output_and_options_share_a_letter(synth, tmp_path):
    save(tmp_path / "a.png")
    code, _, _ = synth("a.png", "-o", "size=3", "-o", "x.webp", "-o", "ot.psi_steps=1", "-o", "param.noise=0.5")
    assert code == 0
    assert Image.open(tmp_path / "x.webp").format == "WEBP"
    options = record_of(tmp_path / "x.webp")["settings"]["options"]
    assert (options["features.size"], options["ot.psi_steps"], options["param.noise"]) == (3, 1, 0.5)
    assert options["ot.exponent"] == 2.0  # those not given are there too
    code, _, _ = synth("a.png", "--out", "size=4.png", "--features", "patches", "-o", "size=5")
    assert code == 0
    settings = record_of(tmp_path / "size=4.png")["settings"]
    assert (settings["features"], settings["options"]["features.size"]) == ("patches", 5)


def test_the_sidecar_tells_everything(synth, tmp_path):
    save(tmp_path / "a.png")
    assert synth("a.png", "-o", "x.png", "--seed", "7", "--size", "48x32", "--levels", "2")[0] == 0
    record = record_of(tmp_path / "x.png")
    assert record["exemplar"]["path"] == str(tmp_path / "a.png")
    settings = record["settings"]
    assert (settings["seed"], settings["size"], settings["levels"], settings["steps"]) == (7, [48, 32], 2, 2)
    assert (settings["features"], settings["param"], settings["quality"]) == ("pyramid", "image", "standard")
    assert settings["device"] == record["device"]["type"]
    assert {"python", "featot", "torch", "numpy"} <= record["versions"].keys()
    assert record["versions"]["torch"] == torch.__version__ or record["versions"]["torch"] in torch.__version__
    assert record["timings"]["match"] > 0
    assert list(record["timings"]["per_level"]) == ["1/2", "1/1"]
    assert [line["scale"] for line in record["history"]] == [1, 1, 1, 0, 0] * settings["starts"]
    assert record["history"][-1]["loss"] == record["loss"]
    assert record["interrupted"] is False


def test_quiet_and_json(synth, tmp_path, monkeypatch):
    save(tmp_path / "a.png")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    assert "loss" in synth("a.png", "-o", "x.png")[2]
    assert synth("a.png", "-o", "x.png", "--quiet") == (0, "", "")
    code, out, err = synth("a.png", "-o", "ü.png", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == record_of(tmp_path / "ü.png")
    assert out.isascii()  # for any terminal and any pipe
    assert out.count("\n") == 1


def test_a_name_that_is_not_unicode(synth, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        save(tmp_path / name)
    except OSError:
        pytest.skip("this file system knows only Unicode names")
    code, _, err = synth(name, "-o", "x.png")
    assert (code, err) == (0, "")
    assert record_of(tmp_path / "x.png")["exemplar"]["path"] == str(tmp_path / name)
    assert synth("--from-json", "x.json", "-o", "y.png", steps=None)[0] == 0


def test_a_preview_that_cannot_be_written_does_not_end_the_run(synth, tmp_path, monkeypatch):
    save(tmp_path / "a.png")
    monkeypatch.setattr("featot_cli.progress.write_image", full_disk)
    code, _, err = synth("a.png", "-o", "x.png", "--preview")
    assert code == 0
    assert err == "featot: warning: no preview: no space\n"
    assert Image.open(tmp_path / "x.png").size == (40, 32)


def full_disk(*_):
    from featot.errors import FeatotError

    raise FeatotError("no space")


# ---- --from-json ----


def test_from_json_repeats_bit_for_bit_in_another_process(synth, tmp_path):
    save(tmp_path / "a.png")
    code, _, _ = synth(
        "a.png", "-o", "x.png", "--size", "50x34", "--seed", "5", "-o", "size=3", "--max-points", "200"
    )
    assert code == 0
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": "1"}  # the record's threads count, not these
    command = [*COMMAND, "synth", "--from-json", "x.json", "-o", "y.png"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "y.png").read_bytes() == (tmp_path / "x.png").read_bytes()
    first, again = record_of(tmp_path / "x.png"), record_of(tmp_path / "y.png")
    assert [line["loss"] for line in first["history"]] == [line["loss"] for line in again["history"]]
    for key in ("exemplar", "settings", "device", "versions"):
        assert first[key] == again[key]
    # Without the seed the image is another one: the comparison above can fail.
    synth("a.png", "-o", "z.png", "--size", "50x34", "--seed", "6", "-o", "size=3", "--max-points", "200")
    assert (tmp_path / "z.png").read_bytes() != (tmp_path / "x.png").read_bytes()


def test_from_json_says_what_has_changed(synth, tmp_path):
    exemplar = save(tmp_path / "a.png", with_alpha(RGB))
    assert synth("a.png", "-o", "x.png")[0] == 0
    before = (tmp_path / "x.png").read_bytes()

    exemplar.rename(tmp_path / "moved.png")
    code, _, err = synth("moved.png", "--from-json", "x.json", "-o", "y.png", steps=None)
    assert code == 0
    assert re.fullmatch("featot: warning: [^\n]*transparent[^\n]*\n", err)  # once, though it is read twice
    assert (tmp_path / "y.png").read_bytes() == before

    save(exemplar, RGB[::-1].copy())
    record = record_of(tmp_path / "x.png")
    record["versions"]["torch"] = "0.1"
    record["interrupted"] = True
    (tmp_path / "x.json").write_text(json.dumps(record))
    code, _, err = synth("--from-json", "x.json", "-o", "y.png", steps=None)
    assert code == 0
    assert re.search(r"warning: \S+a\.png has changed since the run in x\.json: the image will differ\n", err)
    assert "warning: the run in x.json was interrupted; this one goes to its end\n" in err
    assert re.search(r"warning: torch was 0\.1, is now \S+ since the run in x\.json: the image may differ\n", err)
    assert (tmp_path / "y.png").read_bytes() != before


# ---- Ctrl-C and the progress bar, in real processes ----


def wait_for(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.02)


def test_ctrl_c_keeps_the_best_image_so_far(tmp_path):
    save(tmp_path / "a.png")
    preview = tmp_path / "x.preview.png"
    arguments = ["a.png", "-o", "x.png", "--size", "64x48", "--steps", "1000000", "--preview"]
    process = start(*arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(preview.exists, process)
    first = preview.read_bytes()
    assert Image.open(preview).format == "PNG"
    wait_for(lambda: preview.read_bytes() != first, process)  # it grows
    process.send_signal(signal.SIGINT)
    pressed = time.monotonic()
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)  # `uv run` and `timeout` pass on what the terminal sent already
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - pressed < 4
    assert process.returncode == 130
    assert out == ""
    assert err == "featot: interrupted; x.png holds the best image so far\n"
    assert sorted(os.listdir(tmp_path)) == ["a.png", "x.json", "x.png"]
    assert Image.open(tmp_path / "x.png").size == (48, 64)  # the first level is smaller
    record = record_of(tmp_path / "x.png")
    assert record["interrupted"] is True
    assert len(record["history"]) > 0
    assert record["history"][-1]["scale"] > 0


def test_ctrl_c_while_starting_up_writes_nothing(tmp_path):
    save(tmp_path / "a.png")
    # The signal comes in the middle of importing torch.
    script = (
        "import builtins, os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from featot_cli.main import main\n"
        "real = builtins.__import__\n"
        "def watched(name, *rest, **named):\n"
        "    if name.startswith('torch.nn'):\n"
        "        builtins.__import__ = real\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(name, *rest, **named)\n"
        "builtins.__import__ = watched\n"
        "main(['synth', 'a.png', '-o', 'x.png'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 130
    assert (done.stdout, done.stderr.strip()) == ("", "featot: interrupted")
    assert os.listdir(tmp_path) == ["a.png"]


def on_a_terminal(*arguments, cwd, until):
    """What is shown on a pseudo-terminal until the pattern ``until`` is; then Ctrl-C. Also exit code and stdout."""
    terminal, theirs = pty.openpty()
    fcntl_set_size(theirs)
    process = start(*arguments, cwd=cwd, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown, end, stopped = b"", time.monotonic() + 60, False
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                chunk = os.read(terminal, 65536)
            except OSError:  # how Linux says that the other side has closed
                break
            if not chunk:
                break
            shown += chunk
        if not stopped and re.search(until, plain(shown)):
            process.send_signal(signal.SIGINT)
            stopped = True
    os.close(terminal)
    out, _ = process.communicate(timeout=20)
    assert stopped, plain(shown)[-500:]
    return plain(shown), process.returncode, out.decode()


def fcntl_set_size(terminal):
    import fcntl
    import termios

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))


def plain(shown):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode(errors="replace"))


def test_progress_bar_on_a_terminal(tmp_path):
    save(tmp_path / "a.png")
    bar = r"level 1/2, 16x20 \S+ +\d+/\d+ loss \d+\.\d+ 0:00:\d\d left \d+:\d\d:\d\d"
    shown, code, out = on_a_terminal(
        "a.png", "-o", "x.png", "--steps", "10000", "--levels", "2", cwd=tmp_path, until=bar
    )
    assert (code, out) == (130, "")
    assert shown.endswith("featot: interrupted; x.png holds the best image so far\r\n")
