"""`pytest --featot NAME`: each check a test of its own, and no cost where it is not asked for."""

import os
import subprocess
import sys

import pytest

SOUND_AND_BROKEN = """
import featot

class Sound(featot.FeatureExtractor):
    def extract(self, image, *, scale=0, boundary="valid", max_points=None):
        return {f"1/{2**scale}": image.permute(0, 2, 3, 1).flatten(0, 2)}

class Doubled(Sound):
    linear = True

    def extract(self, image, **given):
        return {name: 2 * points for name, points in super().extract(image, **given).items()}

@featot.hookimpl
def featot_register_extractors():
    return [
        featot.Plugin("sound", Sound, "pixels"),
        featot.Plugin("doubled", Doubled, "pixels, twice as bright"),
        featot.Plugin("absent", "no_such_module:Absent", "cannot be imported"),
    ]
"""


@pytest.fixture
def site(tmp_path):
    """A folder with a distribution "two-pixels" of three plugins, one of which keeps its contract."""
    info = tmp_path / "site" / "two_pixels-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: two-pixels\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[featot]\ntwo = two_pixels\n")
    (tmp_path / "site" / "two_pixels.py").write_text(SOUND_AND_BROKEN)
    (tmp_path / "work").mkdir()
    return tmp_path / "site"


def run(site, *arguments):
    """The finished process of ``pytest ARGUMENTS`` in an empty folder."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "2"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=site.parent / "work",
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_each_check_is_a_test_and_a_broken_one_says_what_is_violated(site):
    done = run(site, "-v", "--featot", "two_pixels", "-k", "not thinning")
    assert done.returncode == 1, done.stdout
    lines = done.stdout.splitlines()
    checks = ["options", "shapes", "determinism", "batches", "periodicity", "tiny images", "dtypes and devices"]
    for check in (*checks, "gradients", "linearity"):
        assert any(line.startswith(f"featot-features-sound::{check} PASSED") for line in lines), check
    assert any(line.startswith("featot-features-doubled::linearity FAILED") for line in lines)
    assert any(line.startswith("featot-features-absent::import FAILED") for line in lines)
    assert (
        "features plugin 'doubled' of two-pixels: the points of level '1/1' (valid) say linear = True, but one"
        in (done.stdout)
    )
    assert "features plugin 'absent' of two-pixels 1.0 failed to import no_such_module:Absent" in done.stdout
    assert "Traceback" not in done.stdout
    assert lines[-1].strip("= ").startswith("2 failed, 17 passed, 2 deselected")


def test_a_name_that_nobody_has(site):
    done = run(site, "--featot", "two-pixel")
    assert done.returncode == 4
    assert "unknown featot plugin or distribution 'two-pixel'; did you mean 'two-pixels'?" in done.stderr


def test_a_distribution_that_cannot_be_imported(site):
    (site / "two_pixels.py").write_text("import no_such_module")
    done = run(site, "--featot", "two-pixels")
    assert done.returncode == 4
    assert "plugin distribution two-pixels 1.0: failed to import two_pixels: ModuleNotFoundError" in done.stderr


def test_it_costs_nothing_when_it_is_not_asked_for(site):
    (site.parent / "work" / "test_nothing.py").write_text(
        "import sys\n"
        "def test_nothing(pytestconfig):\n"
        "    assert pytestconfig.pluginmanager.hasplugin('featot')\n"
        "    ours = {name for name in sys.modules if name.split('.')[0].startswith('featot')}\n"
        "    assert ours == {'featot', 'featot.errors', 'featot.pytest_plugin'}\n"
        "    assert not {'torch', 'numpy', 'featot_plugins'} & set(sys.modules)\n"
    )
    done = run(site, "-q", "-p", "no:jaxtyping", "-p", "no:hypothesispytest")
    assert done.returncode == 0, done.stdout
