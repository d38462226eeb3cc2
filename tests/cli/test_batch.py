"""`featot batch` as a user meets it: its lines, its table, its exit codes, Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featot_cli.main import main

QUICK = ("--quality", "draft", "--levels", "1", "--steps", "1")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs `featot batch` in this process, in a folder with three exemplars in in/."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Path("in").mkdir()
    for name in "abc":
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(f"in/{name}.png")

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["batch", *arguments])
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return call


def test_a_line_for_each_and_a_table_and_the_second_time_nothing(run):
    code, out, err = run("in/*.png", "--out", "out", *QUICK, "--size", "24x40", "-o", "ot.targets=50")
    assert code == 0
    assert [line.split(":")[0] for line in err.splitlines()] == ["[1/3] in/a.png", "[2/3] in/b.png", "[3/3] in/c.png"]
    assert err.count(" s, loss ") == 3
    assert "3 made, 0 skipped, 0 failed" in out
    assert sorted(os.listdir("out")) == [f"{x}.{end}" for x in "abc" for end in ("json", "png")]
    assert Image.open("out/b.png").size == (40, 24)
    settings = json.loads(Path("out/b.json").read_text())["settings"]
    assert settings["options"]["ot.targets"] == 50

    code, out, err = run("in/*.png", "--out", "out", *QUICK, "--size", "24x40", "-o", "ot.targets=50")
    assert (code, err.count("skipped, out/")) == (0, 3)
    assert "0 made, 3 skipped, 0 failed" in out


def test_a_failure_is_told_in_line_and_table_and_ends_with_1(run):
    Path("in/b.png").write_text("<b>[red]no image[/red]</b>")
    code, out, err = run("in/*.png", "-o", "out", *QUICK)
    assert code == 1
    assert re.search(r"\[2/3\] in/b.png: failed after \d\.\d s: cannot read in/b.png", err)
    (row,) = [line for line in out.splitlines() if line.split()[:1] == ["in/b.png"]]
    assert "failed: cannot read in/b.png" in row
    assert "2 made, 0 skipped, 1 failed" in out
    code, out, err = run("in/*.png", "-o", "out", *QUICK, "--quiet")
    assert (code, out, err.count("\n")) == (1, "", 1)
    code, out, err = run("in/*.png", "-o", "out", *QUICK, "--json")
    assert (code, err.count("\n")) == (1, 1)
    skipped, failed, _ = map(json.loads, out.splitlines())
    assert skipped.keys() == {"exemplar", "image", "status", "seconds", "loss", "error"}
    assert (skipped["exemplar"], skipped["image"], skipped["status"]) == ("in/a.png", "out/a.png", "skipped")
    assert failed["error"].startswith("cannot read in/b.png")


def test_a_manifest_has_settings_of_its_own(run):
    Path("list.csv").write_text("exemplar,out,seed,size\nin/a.png,one,,\nin/a.png,two.jpg,5,24\nin/b.png,,,\n")
    code, _, err = run("--manifest", "list.csv", "--out", "out", "--seed", "3", *QUICK)
    assert code == 0, err
    records = {name: json.loads(Path(f"out/{name}.json").read_text())["settings"] for name in ("one", "two", "b")}
    assert {name: settings["seed"] for name, settings in records.items()} == {"one": 3, "two": 5, "b": 3}
    assert Image.open("out/two.jpg").size == (24, 24)


def test_several_seeds_with_tilings_and_pages(run):
    """What is missing of an item's files makes it anew."""
    arguments = ("in/a.png", "--out", "out", *QUICK, "--seed", "3", "--count", "2", "--show-tiled", "--report")
    code, out, err = run(*arguments)
    assert (code, "2 made" in out) == (0, True), err
    names = [f"a_seed{n}{end}" for n in (3, 4) for end in (".html", ".json", ".png", "_tiled.png")]
    assert sorted(os.listdir("out")) == sorted(names)
    for seed in (3, 4):
        image, tiled = (np.asarray(Image.open(f"out/a_seed{seed}{end}.png")) for end in ("", "_tiled"))
        assert (np.tile(image, (2, 2, 1)) == tiled).all()
        assert json.loads(Path(f"out/a_seed{seed}.json").read_text())["settings"]["seed"] == seed
        page = Path(f"out/a_seed{seed}.html").read_text("utf-8")
        assert "--show-tiled --report" in page
        assert "polyline" in page or "<path" in page, "the curves"
    Path("out/a_seed4.html").unlink()
    assert "1 made, 1 skipped" in run(*arguments)[1]
    Path("out/a_seed4.html").write_text("mine")
    code, _, err = run(*arguments)
    assert (code, "a file of another kind is there; expected a report" in err) == (2, True)


def test_warnings_name_their_exemplar(run):
    Image.fromarray(np.full((32, 32, 4), 100, np.uint8)).save("in/a.png")
    code, _, err = run("in/a.png", "--out", "out", *QUICK)
    assert code == 0
    assert err.startswith("featot: warning: in/a.png: 100 % of the pixels are transparent")
    code, _, err = run("in/a.png", "--out", "out", *QUICK, "--alpha", "keep")
    assert "warning" not in err
    assert Image.open("out/a.png").mode == "RGBA"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in/*.png"], "where to? Expected --out FOLDER"),
        (["--out", "out"], "expected EXEMPLARs, as in 'textures/*.png', or a --manifest; got neither"),
        (["in/a.png", "--manifest", "l.csv", "--out", "out"], "or a --manifest; got both"),
        (["in/*.jpg", "--out", "out"], "nothing to do for 'in/*.jpg'"),
        (["in/a.png", "--out", "no/out"], "cannot make the folder no/out"),
        (["in/a.png", "--out", "in/b.png"], "cannot make the folder in/b.png"),
        (["in/a.png", "--out", "in"], "in/a.png: cannot write in/a.png: it is an input"),
        (["in/a.png", "--out", "out", "--jobs", "0"], "expected at least 1 job, got 0"),
        (["in/a.png", "--out", "out", "--count", "0"], "expected --count of at least 1, got 0"),
        (["in/a.png", "--out", "out", "--quality", "hgih"], "unknown quality 'hgih'; did you mean 'high'?"),
        (["in/a.png", "--out", "out", "--loss", "slced"], "unknown loss plugin 'slced'; did you mean 'sliced'?"),
        (["--manifest", "l.csv", "--out", "out"], "row 2 of l.csv: there is no file 'x.png'"),
    ],
)
def test_refused_in_one_line(run, arguments, message):
    Path("l.csv").write_text("exemplar\nx.png\n")
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not Path("out").exists()


def alive(group):
    """The processes of a group, but for those that only wait for somebody to ask how they ended."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return [row for row in rows if row[0] == str(group) and not row[1].startswith("Z")]


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_keeps_what_is_done_and_leaves_no_rest(run, jobs):
    """Small items are done, the large one is in the midst of its work, and with it every process ends."""
    Path("list.csv").write_text("exemplar,steps\nin/a.png,1\nin/b.png,100000\nin/c.png,100000\n")
    command = ["--manifest", "list.csv", "--out", "out", "--quality", "draft", "--levels", "1", "--jobs", str(jobs)]
    started = subprocess.Popen(
        [sys.executable, "-m", "featot_cli", "batch", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    assert started.stderr.readline().startswith("[1/3] in/a.png: ")
    time.sleep(0.5)
    assert len(alive(started.pid)) >= jobs
    os.killpg(started.pid, signal.SIGINT)  # as a terminal does: to all of them
    out, err = started.communicate(timeout=30)
    assert started.returncode == 130
    assert err == "featot: interrupted; 2 of 3 are left: the same command goes on\n"
    assert "1 made, 0 skipped, 0 failed, 2 left" in out
    assert sorted(os.listdir("out")) == ["a.json", "a.png"]
    deadline = time.monotonic() + 5
    while (left := alive(started.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
