"""`featot train`: files, resuming, signals."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from featot.training_settings import TrainingSettings
from featot_cli.main import main

QUICK = ["--size", "32", "-o", "param.scales=3", "-o", "width=4", "-o", "targets=64"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stripes = np.tile(np.uint8([50, 50, 200, 200]), (32, 8))[..., None].repeat(3, 2)
    Image.fromarray(stripes).save("a.png")
    return tmp_path


@pytest.fixture
def run(folder, capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["train", *arguments])
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return call


def test_it_writes_a_model_and_the_folder_of_the_run(run, folder):
    code, out, err = run("a.png", "--steps", "3", *QUICK)
    assert (code, err) == (0, "")
    assert out.startswith("a.safetensors  3 steps, loss ")
    assert {file.name for file in (folder / "runs" / "a").iterdir()} >= {
        "config.json",
        "curve.csv",
        "checkpoint.safetensors",
    }
    config = json.loads((folder / "runs/a/config.json").read_text("utf-8"))
    assert config["settings"]["options"]["param.width"] == 4
    rows = list(csv.DictReader((folder / "runs/a/curve.csv").open()))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    with pytest.raises(SystemExit) as end:
        main(["sample", "a.safetensors", "--size", "40x56", "--out", "s.png"])
    assert end.value.code == 0
    assert Image.open("s.png").size == (56, 40)


def test_samples_while_it_runs(run, folder, monkeypatch):
    monkeypatch.setattr("featot_cli.train._SAMPLE_SECONDS", 0)
    assert run("a.png", "--steps", "2", *QUICK)[0] == 0
    assert Image.open("runs/a/sample_000002.png").size == (32, 32)


def test_a_memory_is_warned_of(run, monkeypatch):
    monkeypatch.setattr("featot.training.Training.diversity", lambda self: 0.01)
    code, _, err = run("a.png", "--steps", "1", *QUICK)
    assert code == 0
    assert "warning: the model makes nearly the same image from every seed (diversity 0.01" in err


def test_json(run):
    code, out, _ = run("a.png", "--steps", "2", "--json", *QUICK)
    assert code == 0
    assert json.loads(out)["steps"] == 2


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_killed_and_resumed_it_ends_as_an_unbroken_run(folder, number):
    """The killed run is a process of its own; all have one thread, on which sums depend."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "featot_cli", "train"]
    arguments = ["a.png", "--steps", "60", *QUICK]
    started = subprocess.Popen([*command, *arguments, "--out", "broken.safetensors"], env=environment)
    config = folder / "runs/broken/config.json"
    while not config.exists() and started.poll() is None:
        time.sleep(0.05)
    time.sleep(0.3)
    started.send_signal(number)
    assert started.wait(60) == 130
    assert not (folder / "broken.safetensors").exists()
    for rest in (["--resume", "runs/broken"], [*arguments, "--out", "whole.safetensors"]):
        subprocess.run([*command, *rest], env=environment, check=True, stdout=subprocess.DEVNULL)
    models = [load_file(f"{name}.safetensors") for name in ("broken", "whole")]
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[1])
    curves = [(folder / f"runs/{name}/curve.csv").read_text() for name in ("broken", "whole")]
    assert curves[0] == curves[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which image? Expected an EXEMPLAR"),
        (["nope.png"], "cannot read nope.png"),
        (["a.png", "--out", "a.pth"], "expected a model .safetensors, got a.pth"),
        (["a.png", "--steps", "0"], "steps of at least 1"),
        (["a.png", "--param", "image"], "cannot be trained; expected one such as 'texnet'"),
        (["a.png", "--resume", "runs/a"], "it takes no exemplar and no settings"),
        (["--resume", "runs/nothing"], "there is no folder runs/nothing"),
        (["a.png", "--conditional"], "at least two exemplars for a conditional training, got 1"),
        (["a.png", "--precision", "float23"], "unknown precision 'float23'; did you mean 'float32'"),
    ],
)
def test_refused_in_one_line(run, folder, arguments, message):
    code, _, err = run(*arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (folder / "runs").exists()


def test_conditional(run, folder):
    """From two exemplars to an image between them, by way of a run that is left and gone on with."""
    Image.fromarray(np.full((32, 32, 3), 128, dtype=np.uint8)).save("b.png")
    run("a.png", "b.png", "--conditional", "--steps", "4", *QUICK)
    model = load_file("a.safetensors")
    (folder / "a.safetensors").unlink()
    code, out, err = run("--resume", "runs/a")
    assert (code, err) == (0, "")
    assert out.endswith("a.safetensors --weights 1,2\n")
    assert all(torch.equal(tensor, model[name]) for name, tensor in load_file("a.safetensors").items())
    with pytest.raises(SystemExit) as end:
        main(["sample", "a.safetensors", "--size", "40", "--weights", "0,1"])
    assert end.value.code == 0


def test_a_run_is_not_overwritten(run):
    assert run("a.png", "--steps", "1", *QUICK)[0] == 0
    code, _, err = run("a.png", "--steps", "1", *QUICK)
    assert code == 2
    assert "there is a run in runs/a already: go on with --resume runs/a, or name another --run" in err


def test_an_exemplar_that_changed_is_told(run, folder):
    run("a.png", "--steps", "1", *QUICK)
    Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save("a.png")
    code, _, err = run("--resume", "runs/a")
    assert code == 0
    assert "warning: an exemplar of runs/a has changed" in err


def test_the_help_tells_the_defaults(run):
    code, out, _ = run("--help")
    assert code == 0
    row = next(line for line in out.splitlines() if line.lstrip().startswith("--param NAME"))
    assert row.endswith(f"[default: {TrainingSettings().param}]")
    assert "EXEMPLAR...\n" not in out.split("Options:")[1], "an argument is no option"
