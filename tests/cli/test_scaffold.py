"""`featot plugins new`: what it makes works as it is, and nothing is ever overwritten."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

import featot
from featot.plugins import KINDS, load_registry
from featot_cli.main import main
from featot_cli.templates import KINDS as TEMPLATES

PIXELS = np.random.default_rng(0).random((3, 24, 24)).astype(np.float32)


def command(capsys, *arguments):
    """Exit code, stdout and stderr of ``featot ARGUMENTS`` in this process."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code, *capsys.readouterr()


@pytest.fixture
def packages(tmp_path, monkeypatch, capsys):
    """One new package of each kind, in the present folder."""
    monkeypatch.chdir(tmp_path)
    for kind in TEMPLATES:
        assert command(capsys, "plugins", "new", f"my-{kind}", "--kind", kind)[0] == 0
    yield tmp_path
    for kind in TEMPLATES:
        sys.modules.pop(f"my_{kind}", None)


def test_there_is_a_template_for_every_kind_with_a_contract():
    assert set(TEMPLATES) == set(KINDS) - {"command"}


def test_it_says_what_it_made_and_what_comes_next(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(capsys, "plugins", "new", "my-features", "--kind", "features")
    assert (code, err) == (0, "")
    *made, step = out.splitlines()
    assert step == "next: pip install -e my-features && pytest my-features"
    assert {Path(line) for line in made} == {p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()}
    names = {"pyproject.toml", "my_features.py", "test_my_features.py", "README.md", ".gitignore"}
    assert {Path(line).name for line in made} == names


def test_each_passes_its_own_tests(packages):
    folders = [str(packages / f"my-{kind}") for kind in TEMPLATES]
    settings = ["-o", f"pythonpath={' '.join(folders)}", "--import-mode=importlib", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *settings, *folders], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout
    assert f"{2 * len(folders)} passed" in done.stdout


@pytest.mark.parametrize("name", ["a", "my-features", "x2_y", "abcdefghij-klmnopqrst-uvwxyz-0"])
def test_ruff_has_nothing_to_say_whatever_the_name(name, tmp_path, capsys):
    from ruff.__main__ import find_ruff_bin

    for kind in TEMPLATES:
        (tmp_path / kind).mkdir()
        code, _, err = command(capsys, "plugins", "new", name, "--kind", kind, "--into", str(tmp_path / kind))
        assert (code, err) == (0, "")
    for step in (["check"], ["format", "--check", "--diff"]):
        ruff = [find_ruff_bin(), *step, "--no-cache", str(tmp_path)]
        done = subprocess.run(ruff, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_they_work_in_a_run(packages, monkeypatch):
    for kind in TEMPLATES:
        monkeypatch.syspath_prepend(packages / f"my-{kind}")
    ours = EntryPoint("featot", "featot_plugins", "featot")
    registry = load_registry([ours, *(EntryPoint(f"my_{k}", f"my_{k}", "featot") for k in TEMPLATES)])
    assert registry.problems == []
    run = {"size": (24, 24), "steps": 30, "levels": 1, "registry": registry}
    for choice in ("features", "param", "loss"):  # a hyphen is as good as what Python makes of it
        result = featot.synthesize(PIXELS, **run, **{choice: f"my-{choice}"})
        assert result.record["settings"][choice].replace("-", "_") == f"my_{choice}"
        assert result.history[-1].loss < result.history[0].loss
    result = featot.synthesize(PIXELS, **run, features="my-features", options={"my-features.distance": 3})
    assert result.record["settings"]["options"]["features.distance"] == 3
    scores = featot.evaluate([PIXELS**4], PIXELS, metrics=["my-metric"], registry=registry)
    assert scores.exemplar.scores["my-metric"].value == 0 < scores.images[0].scores["my-metric"].value


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("MyFeatures", "expected lowercase words of a-z and 0-9 .* how about 'my-features'"),
        ("my features", "how about 'my-features'"),
        ("../evil", "how about 'evil'"),
        ("2d", "a letter first.*how about 'd'"),
        ("my--x", "expected lowercase words"),
        ("", "expected lowercase words of .* as in my-features$"),
        ("x" * 31, "31 characters; expected at most 30"),
        ("class", "Python has a 'class' of its own"),
        ("none", "Python has a 'none' of its own"),  # its class would be called None
        ("json", "Python has a 'json' of its own"),
        ("tests", "something else is called so"),
        ("numpy", "a module 'numpy' is installed already"),
        ("vgg", "features plugin 'vgg' is there already, that of featot"),
    ],
)
def test_bad_names_are_refused(name, sentence, tmp_path, capsys):
    code, out, err = command(capsys, "plugins", "new", "--kind", "features", "--into", str(tmp_path), "--", name)
    assert (code, out, err.count("\n")) == (2, "", 1)
    with pytest.raises(featot.UsageError, match=sentence):
        raise featot.UsageError(err.strip())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["new"], "which name? Expected one, as in: featot plugins new my-features --kind features"),
        (["new", "my-x"], "which kind? Expected --kind, as in: featot plugins new my-x --kind features"),
        (["new", "my-x", "--kind", "features", "--into", "nowhere"], "there is no directory 'nowhere' in "),
        (["new", "my-x", "--kind", "lss"], "unknown kind of plugin 'lss'; did you mean 'loss'?"),
        (["nwe"], "unknown command of featot plugins 'nwe'; did you mean 'new'?"),
        (["--json", "new", "my-x", "--kind", "loss"], "--json is for the list of plugins alone"),
    ],
)
def test_wrong_usage_says_what_was_expected(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(capsys, "plugins", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert sentence in err
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays_as_it_is(tmp_path, monkeypatch, capsys):
    (tmp_path / "my-x").mkdir()
    (tmp_path / "my-x" / "pyproject.toml").write_text("mine")
    (tmp_path / "my-y").symlink_to(tmp_path / "nowhere")
    for name in ("my-x", "my-y"):
        code, _, err = command(capsys, "plugins", "new", name, "--kind", "loss", "--into", str(tmp_path))
        assert (code, "it is there already, and nothing is overwritten" in err) == (2, True)
    assert (tmp_path / "my-x" / "pyproject.toml").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["my-x", "my-y"]


def test_a_failure_half_way_leaves_nothing(tmp_path, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    code, _, err = command(capsys, "plugins", "new", "my-x", "--kind", "loss", "--into", str(tmp_path))
    assert (code, err) == (1, f"featot: cannot make {tmp_path / 'my-x'}: No space left on device\n")
    assert list(tmp_path.iterdir()) == []
