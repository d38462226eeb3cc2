"""A stranger's path: wheels into a fresh environment, a plugin of one's own, and the example package at work."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import featot

ROOT = Path(__file__).resolve().parents[1]
OPPONENT = ROOT / "examples" / "featot-opponent"


class Stranger:
    """Somebody with an environment that has featot from its wheel, and a folder to work in."""

    def __init__(self, folder):
        self.folder = folder / "work"
        self.folder.mkdir()
        venv.create(folder / "venv", with_pip=False)
        self.bin = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        (site,) = (folder / "venv").rglob("site-packages")
        # torch and the other libraries are those of the tests; from a .pth, an editable featot there stays unseen.
        borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
        self.environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.environment["OMP_NUM_THREADS"] = "2"

    def run(self, program, *arguments):
        """What ``program`` of the environment prints; it must succeed."""
        done = subprocess.run(
            [self.bin / program, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def stranger(tmp_path_factory, pip, wheel_file):
    folder = tmp_path_factory.mktemp("stranger")
    someone = Stranger(folder)
    shutil.copytree(OPPONENT, folder / "copy", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    pip("wheel", folder / "copy", "--wheel-dir", folder)
    (example,) = folder.glob("featot_opponent-*.whl")
    pip("--python", someone.bin / "python", "install", wheel_file, example)
    generator = np.random.default_rng(0)
    reds, greens = np.uint8([220, 60, 60]), np.uint8([60, 150, 60])  # of nearly the same brightness
    pixels = np.where(generator.random((16, 16, 1)) < 0.5, reds, greens).repeat(2, 0).repeat(2, 1)
    Image.fromarray(pixels).save(someone.folder / "a.png")
    return someone


def test_it_is_the_wheel_that_is_installed(stranger):
    where = stranger.run("python", "-c", "import featot, featot_cli; print(featot.__file__, featot_cli.__file__)")
    assert all(Path(path).is_relative_to(stranger.bin.parent) for path in where.split())


def test_a_plugin_of_ones_own_from_nothing_to_an_image(stranger, pip):
    stranger.run("featot", "plugins", "new", "my-features", "--kind", "features")
    pip("--python", stranger.bin / "python", "install", stranger.folder / "my-features")
    tested = stranger.run(
        "python", "-m", "pytest", "my-features", "--featot", "my-features", "-p", "no:cacheprovider"
    )
    assert " 12 passed" in tested
    stranger.run("featot", "synth", "a.png", "--features", "my-features", "-o", "x.png", "--steps", 30)
    assert Image.open(stranger.folder / "x.png").size == (32, 32)
    record = json.loads((stranger.folder / "x.json").read_text())
    assert record["versions"]["my-features"] == "0.1.0"
    assert record["versions"]["featot"] == featot.__version__


def test_the_example_works_from_its_wheel(stranger):
    (row,) = [
        row for row in json.loads(stranger.run("featot", "plugins", "--json"))["plugins"] if row["name"] == "opponent"
    ]
    assert (row["owner"], row["version"]) == ("featot-opponent", "1.0.0")
    assert [option["name"] for option in row["options"]] == ["size", "luminance", "colour"]

    stranger.run("featot", "synth", "a.png", "--features", "opponent", "-o", "colour=4", "-o", "x.png", "--steps", 60)
    record = json.loads((stranger.folder / "x.json").read_text())
    assert record["settings"]["options"]["features.colour"] == 4
    # It did the work: red and green, which differ little in brightness, are nearly all there is.
    made = np.asarray(Image.open(stranger.folder / "x.png"), dtype=float).reshape(-1, 3)
    near = np.minimum(np.abs(made - (220, 60, 60)).max(1), np.abs(made - (60, 150, 60)).max(1)) < 50
    assert near.mean() > 0.5


def test_the_examples_own_tests_pass(stranger):
    tests = shutil.copytree(OPPONENT / "tests", stranger.folder / "opponent_tests")
    tested = stranger.run("python", "-m", "pytest", tests, "--featot", "opponent", "-p", "no:cacheprovider", "-q")
    assert " passed" in tested
    assert "failed" not in tested
