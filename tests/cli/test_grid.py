"""`featot grid` and `featot bench-table`."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from featot_cli.main import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(tmp_path / "in" / f"{name}.png")
    return tmp_path


@pytest.fixture
def run(folder, capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main([*arguments])
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return call


QUICK = ("--steps", "2", "--levels", "1", "--metric", "msot,swd", "-o", "msot.points=50")


def test_grid_writes_a_sheet_and_tables(run, folder):
    code, out, err = run("grid", "in/a.png", "--features", "patches,random_conv", *QUICK, "--out", "g.png")
    assert code == 0, err
    assert out.count("| patches |") == out.count("| random_conv |") == 2
    assert "msot ↓ | ot | gram" in out
    assert Image.open(folder / "g.png").width > 500
    assert (folder / "g.md").read_text("utf-8") in out
    assert len(list(csv.reader((folder / "g.csv").open()))) == 1 + 2 * 4
    assert (folder / "g.tex").read_text("utf-8").count(r"\textbf") == 4


def test_bench_table_writes_every_image(run, folder):
    code, out, err = run("bench-table", "in", "--methods", "image,sliced", *QUICK)
    assert code == 0, err
    made = {file.name for file in (folder / "in_table").iterdir()}
    images = {f"{row}_{column}" for row in "ab" for column in ("image", "sliced")}
    assert made == {"table.png", "table.md", "table.csv", "table.tex"} | {
        f"{name}.{end}" for name in images for end in ("png", "json")
    }
    assert "a, sliced: msot " in err
    assert out.startswith("| msot ↓ | image | sliced |")


def test_a_failure_is_told_and_ends_with_1(run, folder):
    case = ("grid", "in/a.png", "--features", "patches,steerable", "--loss", "ot", *QUICK, "-o", "patches.size=30")
    code, out, err = run(*case)
    assert code == 1
    assert "warning: patches, ot: the exemplar is too small for its features" in err
    assert "| patches |" in out
    assert (folder / "a_grid.png").exists()
    code, out, err = run(*case, "--json")
    assert (code, err.count("\n")) == (1, 1)
    failed, made = json.loads(out)
    assert (failed["row"], failed["column"], failed["scores"], failed["seconds"]) == ("patches", "ot", {}, None)
    assert "too small" in failed["error"]
    assert (made["scores"].keys(), made["error"]) == ({"msot", "swd"}, None)


def test_metrics_are_named_together_or_one_by_one(run):
    code, out, _ = run("bench-table", "in", "--methods", "sliced", *QUICK, "--metric", "tileability", "--json")
    assert code == 0
    assert [row["scores"].keys() for row in json.loads(out)] == [{"msot", "swd", "tileability"}] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["grid", "in/a.png", "--features", "a,,b"], "bad features 'a,,b'"),
        (["grid", "in/a.png", "--loss", "ot,ot"], "bad loss 'ot,ot': expected different names"),
        (["grid", "in/a.png", "--out", "g.jpg"], "expected a contact sheet .png, got g.jpg"),
        (["grid", "in/a.png", "--features", "pyramid,pryamid"], "'pryamid'; did you mean 'pyramid'?"),
        (["grid", "in/a.png", "-o", "sise=5"], "unknown option 'sise'; did you mean 'size'?"),
        (["grid", "in/a.png", "--metric", "mst"], "unknown metric plugin 'mst'"),
        (["bench-table", "in", "--methods", "image,gatsy"], "unknown method 'gatsy'; did you mean 'gatys'?"),
        (["bench-table", "nowhere"], "expected a folder of exemplars, got nowhere"),
        (["bench-table", "empty"], "no exemplars in empty"),
    ],
)
def test_refused_in_one_line(run, folder, arguments, message):
    (folder / "empty").mkdir()
    code, _, err = run(*arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
