"""`featot eval` as a user meets it: the table, JSON, CSV, what is skipped and what is refused."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import select
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from featot_cli.main import main

PAIR = ("noise.png", "--exemplar", "bricks.png")
QUICK = ("--metric", "sharp,tileability")


@pytest.fixture
def evaluate(capsys, monkeypatch, tmp_path):
    """Runs ``featot eval`` in this process, beside three images: its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("featot_plugins.weights.urlopen", _refuse)
    drawn = np.random.default_rng(0)
    exemplar = drawn.integers(0, 256, (40, 44, 3), dtype=np.uint8)
    Image.fromarray(exemplar).save("bricks.png")
    Image.fromarray(exemplar // 2).save("dark.png")
    Image.fromarray(drawn.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save("noise.png")

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["eval", *map(str, arguments)])
        return ended.value.code, *capsys.readouterr()

    return run


def _refuse(*_, **__):
    raise OSError("no network in tests")


def test_the_table(evaluate):
    code, out, err = evaluate("dark.png", "noise.png", "--exemplar", "bricks.png", *QUICK)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines() if line.strip()]
    assert lines[0] == ["image", "sharp", "→1", "tileability", "↓"]
    assert [line[0] for line in lines[2:4]] == ["dark.png", "noise.png"]
    assert float(lines[2][1]) == pytest.approx(0.5, abs=0.01)
    assert lines[4][:3] == ["exemplar", "itself", "1"]
    assert out.splitlines()[-1] == "  →1 the nearer to 1 the better, ↓ lower is better"


def test_the_best_of_a_column_is_bold_on_a_terminal(tmp_path, evaluate):
    command = [
        sys.executable,
        "-m",
        "featot_cli",
        "eval",
        "dark.png",
        "noise.png",
        "--exemplar",
        "bricks.png",
        *QUICK,
    ]
    shown = _on_a_terminal(command)
    (dark,), (noise,) = (re.findall(rf"^.*{name}.*$", shown, re.M)[-1:] for name in ("dark.png", "noise.png"))
    bold = r"\x1b\[1m *[\d.]+"
    assert re.search(bold, noise)
    assert len(re.findall(bold, noise) + re.findall(bold, dark)) == 2, "one of each column"
    assert "sharp of dark.png" in shown, "the bar says what is going on"
    alone = _on_a_terminal([part for part in command if part != "dark.png"])
    assert not re.search(bold, re.findall(r"^.*noise.png .*$", alone, re.M)[-1]), "one image is no competition"


def _on_a_terminal(command):
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    assert process.wait() == 0
    return shown.decode().replace("\r", "\n")


def test_json_has_the_certified_gap(evaluate):
    arguments = ("--metric", "msot", "--metric", "sharp", "-o", "msot.points=50", "-o", "scales=2", "--json")
    code, out, err = evaluate(*PAIR, *arguments)
    assert (code, err) == (0, "")
    told = json.loads(out)
    msot = told["images"][0]["scores"]["msot"]
    assert 0 < msot["gap"] < 0.01
    assert msot["value"] <= msot["upper"]
    assert told["metrics"]["msot"]["options"]["points"] == 50
    assert told["exemplar"]["scores"]["sharp"] == {"value": 1}


def test_csv(evaluate, tmp_path):
    code, out, _ = evaluate("noise.png", "dark.png", "--exemplar", "bricks.png", *QUICK, "--csv", "scores.csv")
    assert code == 0
    assert "noise.png" in out
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert [row["image"] for row in rows] == ["noise.png", "dark.png", "bricks.png"]
    assert float(rows[1]["sharp"]) == pytest.approx(0.5, abs=0.01)


def test_what_has_no_weights_is_skipped_unless_it_is_named(evaluate):
    code, out, err = evaluate(*PAIR, "-o", "msot.points=20", "-o", "draws=1")
    assert code == 0
    assert re.findall(r"[a-z]+", out.splitlines()[1]) == ["image", "copy", "msot", "sharp", "swd", "tileability"]
    assert [line.split(":")[1] for line in err.splitlines()] == [" skipped sifid", " skipped vgg"]
    for line, variable in zip(err.splitlines(), ("FEATOT_INCEPTION_WEIGHTS", "FEATOT_VGG19_WEIGHTS"), strict=True):
        assert variable in line
    code, out, err = evaluate(*PAIR, "--metric", "vgg")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(
        "featot: no weights of vgg19 here and no way to fetch them (no network in tests): give a file"
    )


def test_weights_from_a_file(evaluate, vgg19_file):
    given = ("--metric", "vgg", "-o", f"vgg.weights={vgg19_file}")
    code, out, err = evaluate("dark.png", "--exemplar", "bricks.png", *given)
    assert (code, err) == (0, "")
    assert "vgg ↓" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "which images? Expected an IMAGE, as in: featot eval wall.png --exemplar bricks.png"),
        (("a.png",), "which exemplar? Expected --exemplar, as in: featot eval a.png --exemplar bricks.png"),
        (("noise.png", "--exemplar", "brick.png"), "cannot read brick.png: there is no file 'brick.png'"),
        ((*PAIR, "--metric", "msto"), "unknown metric plugin 'msto'; did you mean 'msot'"),
        ((*PAIR, "-o", "out.png"), "bad option 'out.png': expected KEY=VALUE"),
        ((*PAIR, "-o", "size=3"), "option 'size' is ambiguous: say copy.size or"),
        ((*PAIR, "-o", "msot.points=0"), "option 'points' of metric plugin 'msot'"),
        ((*PAIR, "--csv", "no/a.csv"), "cannot write no/a.csv: there is no directory"),
        ((*PAIR, "--csv", "noise.png"), "cannot write noise.png: it is one of the images"),
    ],
)
def test_wrong_usage_is_one_line(evaluate, arguments, message):
    code, out, err = evaluate(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"featot: {message}")


def test_names_are_not_markup(evaluate, tmp_path):
    (tmp_path / "noise.png").rename(tmp_path / "[bold]a.png")
    assert "[bold]a.png" in evaluate("[bold]a.png", "--exemplar", "bricks.png", *QUICK)[1]
