"""What is installed and who may import whom: the wheel, a third party's plugin from pip, the arrows."""

import ast
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import featot

ROOT = Path(__file__).parents[1]
SOURCES = {
    "featot": ROOT / "featot",
    "featot_plugins": ROOT / "plugins/featot_plugins",
    "featot_cli": ROOT / "cli/featot_cli",
}

# ---- the wheel ----


@pytest.fixture(scope="module")
def wheel(wheel_file):
    with zipfile.ZipFile(wheel_file) as opened:
        yield opened


def test_the_wheel_holds_the_three_packages_and_no_other_name(wheel):
    info = f"featot-{featot.__version__}.dist-info"
    assert {name.partition("/")[0] for name in wheel.namelist()} == {*SOURCES, info}
    packed = {name for name in wheel.namelist() if not name.startswith(info)}
    expected = {
        f"{package}/{path.relative_to(source).as_posix()}"
        for package, source in SOURCES.items()
        for path in source.rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    assert packed == expected
    assert {f"{package}/py.typed" for package in SOURCES} <= packed


def test_the_wheel_registers_its_command_and_its_plugins(wheel):
    entry_points = wheel.read(f"featot-{featot.__version__}.dist-info/entry_points.txt").decode().split("\n")
    lines = [line for line in entry_points if line]
    assert lines == [
        "[console_scripts]",
        "featot = featot_cli.main:main",
        "[featot]",
        "featot = featot_plugins",
        "[pytest11]",
        "featot = featot.pytest_plugin",
    ]


def test_the_version_is_told_once(wheel):
    metadata = wheel.read(f"featot-{featot.__version__}.dist-info/METADATA").decode()
    assert f"\nVersion: {featot.__version__}\n" in metadata


# ---- a third party's plugin, as its author would write it ----

PLUGIN_PROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "featot-pixels"
version = "3.1"

[project.entry-points.featot]
pixels = "featot_pixels"

[tool.setuptools]
py-modules = ["featot_pixels"]
"""
PLUGIN_MODULE = """
from dataclasses import dataclass

import featot


@dataclass(frozen=True)
class PixelsOptions:
    stride: int = featot.option(1, "distance between the pixels taken", min=1)


class Pixels(featot.FeatureExtractor):
    linear = True

    def extract(self, image, *, scale=0, boundary="valid", max_points=None):
        step = self.options.stride
        return {f"1/{2**scale}": image[:, :, ::step, ::step].permute(0, 2, 3, 1).flatten(0, 2)}


@featot.hookimpl
def featot_register_extractors():
    return [featot.Plugin("pixels", "featot_pixels:Pixels", "colours alone", PixelsOptions)]
"""


def test_a_plugin_installed_with_pip_is_listed_and_works(tmp_path, pip):
    project, site = tmp_path / "featot-pixels", tmp_path / "site"
    project.mkdir()
    (project / "pyproject.toml").write_text(PLUGIN_PROJECT)
    (project / "featot_pixels.py").write_text(PLUGIN_MODULE)
    pip("install", project, "--target", site)
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "2"}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "featot_cli", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    listed = run("plugins", "--json")
    (row,) = [row for row in json.loads(listed.stdout)["plugins"] if row["name"] == "pixels"]
    assert (row["kind"], row["owner"], row["version"]) == ("features", "featot-pixels", "3.1")
    assert row["summary"] == "colours alone"
    assert row["options"] == [
        {"name": "stride", "type": "int", "default": 1, "help": "distance between the pixels taken", "min": 1}
    ]
    assert "  pixels     colours alone  (featot-pixels 3.1)" in run("plugins").stdout.splitlines()

    pixels = np.random.default_rng(0).integers(0, 2, (32, 32, 1), dtype=np.uint8) * np.uint8([200, 100, 250])
    Image.fromarray(pixels).save(tmp_path / "a.png")
    options = ["--features", "pixels", "-o", "pixels.stride=2", "--steps", "60", "--levels", "1"]
    done = run("synth", "a.png", "-o", "x.png", *options)
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads((tmp_path / "x.json").read_text())
    assert record["settings"]["options"]["features.stride"] == 2
    assert record["versions"]["featot-pixels"] == "3.1"
    # It did the work: the two colours, which white noise does not have, are nearly all there is.
    made = np.asarray(Image.open(tmp_path / "x.png"), dtype=float)[::2, ::2].reshape(-1, 3)
    near = np.minimum(np.abs(made).max(1), np.abs(made - (200, 100, 250)).max(1)) < 50
    assert near.mean() > 0.5

    wrong = run("synth", "a.png", "--features", "pixels", "-o", "strid=2")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "unknown option 'strid'; did you mean 'stride'?" in wrong.stderr
    near_miss = run("synth", "a.png", "--features", "pixel")
    assert "did you mean 'pixels'?" in near_miss.stderr


# ---- who may import whom ----


def imports(path):
    """The modules that a file names in its imports, wherever in it they stand."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(package, *modules):
    """The files of ``package`` that import one of ``modules`` or of its submodules."""
    source = SOURCES[package]
    return [
        path.relative_to(source).as_posix()
        for path in sorted(source.rglob("*.py"))
        if any(name == module or name.startswith(f"{module}.") for name in imports(path) for module in modules)
    ]


def test_the_engine_knows_neither_the_plugins_nor_the_command_line():
    assert importers("featot", "featot_plugins", "featot_cli") == []
    # That what a command plugin provides is a click.Command is checked where it is loaded, and nowhere else.
    assert importers("featot", "click") == ["plugins.py"]
    # The one bar that scripts and notebooks may ask for.
    assert importers("featot", "rich") == ["progress.py"]


def test_the_plugins_do_not_know_the_command_line():
    assert importers("featot_plugins", "featot_cli", "click", "rich") == []


def test_one_file_imports_faiss():
    assert importers("featot", "faiss") == ["ot/search.py"]
    assert importers("featot_plugins", "faiss") == importers("featot_cli", "faiss") == []


def test_only_kernels_import_llvmlite():
    """Those are imported where they run: featot works without it."""
    kernels = ["compiled.py", "fused.py", "line_kernel.py", "rows.py", "softmin.py"]
    assert importers("featot", "llvmlite") == ["noise_kernels.py", *(f"ot/{name}" for name in kernels)]
    assert importers("featot_plugins", "llvmlite") == ["texnet_kernels.py"]


def test_the_command_line_reaches_plugins_only_through_the_registry():
    assert importers("featot_cli", "featot_plugins") == []


def test_optimal_transport_stands_on_its_own():
    inside = [path for path in importers("featot", "featot.ot") if path.startswith("ot/")]
    assert inside, "the scan finds nothing: it would pass on anything"
    for path in sorted((SOURCES["featot"] / "ot").glob("*.py")):
        foreign = {name for name in imports(path) if name.startswith("featot.")}
        assert all(name.startswith(("featot.ot", "featot.errors")) for name in foreign), (path, foreign)
