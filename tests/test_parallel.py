"""Two processes train as one with twice the batch."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from featot.checkpoints import read_checkpoint
from featot.parallel import BatchNorm2d, apart, average, average_gradients, in_any, world

# Runs the command and leaves the names of the threads that are there as the interpreter ends.
COMMAND = """
import atexit, os, pathlib, sys

@atexit.register
def leave_threads():
    names = [task.joinpath("comm").read_text() for task in pathlib.Path("/proc/self/task").glob("*")]
    pathlib.Path(f"threads_{os.environ.get('RANK', 'alone')}").write_text("".join(names))

from featot_cli.main import main
main(sys.argv[1:])
"""
TRAIN = [
    "train",
    "--steps",
    "6",
    "--size",
    "32",
    "--param",
    "texnet",
    "--loss",
    "ot",
    "--json",
]
OPTIONS = ["-o", "param.scales=3", "-o", "targets=64", "-o", "psi_steps=2", "--max-points", "100000"]


def test_alone_nothing_changes():
    tensor = torch.rand(3, requires_grad=True)
    tensor.square().sum().backward()
    before = tensor.grad.clone()
    average_gradients([tensor])
    assert world() == (0, 1)
    assert average(before) is before
    assert torch.equal(tensor.grad, before)
    assert in_any(True)
    assert not in_any(False)
    with apart():
        assert world() == (0, 1)
    x, ours, theirs = torch.rand(2, 4, 5, 5), BatchNorm2d(4), torch.nn.BatchNorm2d(4)
    assert torch.equal(ours(x), theirs(x))


def test_a_steady_normalisation_is_the_fixed_one_with_the_gradient_of_the_other():
    x = torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    steady, fixed = BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    for part, values in (("running_mean", [0.2, 0.5, 0.9]), ("running_var", [0.05, 0.1, 0.2]), ("weight", [2, 1, 3])):
        getattr(steady, part).data.copy_(torch.tensor(values))
    fixed.load_state_dict(steady.state_dict())
    steady.steady = True
    pull = torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(1))

    with torch.no_grad():
        assert steady(x).isfinite().all()
    assert steady.running_mean.tolist() == fixed.running_mean.tolist()  # looking changes nothing
    made, expected = steady(x), fixed.eval()(x)
    torch.testing.assert_close(made, expected)
    torch.testing.assert_close(steady.running_mean, fixed.running_mean.lerp(x.detach().mean((0, 2, 3)), 0.02))
    batch = x.detach().var((0, 2, 3), correction=0)
    torch.testing.assert_close(steady.running_var, fixed.running_var.lerp(batch, 0.02))

    (made * pull).sum().backward()
    found, x.grad = x.grad, None
    own = torch.nn.functional.batch_norm(x, None, None, training=True)
    (own * pull).sum().backward()
    stretch = fixed.weight * ((batch + fixed.eps) / (fixed.running_var + fixed.eps)).sqrt()
    torch.testing.assert_close(found, x.grad * stretch[:, None, None])
    torch.testing.assert_close(steady.weight.grad, ((expected / fixed.weight[:, None, None]) * pull).sum((0, 2, 3)))


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without torch.distributed")
@pytest.mark.parametrize("what", [["a.png"], ["a.png", "b.png", "--conditional"]], ids=["plain", "conditional"])
def test_two_processes_are_one_with_twice_the_batch(tmp_path, what):
    rng = np.random.default_rng(0)
    for name in "ab":
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    (tmp_path / "command.py").write_text(COMMAND)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    records = []
    for name, before, batch in (("two", launch, 1), ("one", [], 2)):
        command = [
            sys.executable,
            *before,
            "command.py",
            *TRAIN,
            *what,
            *OPTIONS,
            "-o",
            f"batch={batch}",
            "--out",
            f"{name}.safetensors",
        ]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        records.append(json.loads(done.stdout))
    if sys.platform == "linux":
        for rank in range(2):
            assert "gloo" not in (tmp_path / f"threads_{rank}").read_text()
    assert records[0]["loss"] == pytest.approx(records[1]["loss"], rel=1e-3)
    curves = [np.loadtxt(tmp_path / f"runs/{name}/curve.csv", delimiter=",", skiprows=1) for name in ("two", "one")]
    np.testing.assert_allclose(curves[0][:3], curves[1][:3], rtol=1e-5)
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-3)  # rounding grows from step to step
    # Not the weights: some have no gradient but rounding, which Adam enlarges to its full step. Conditional training
    # feels that sooner: its ψ are compared as a whole, not value by value.
    files = (tmp_path / f"runs/{name}/checkpoint.safetensors" for name in ("two", "one"))
    two, one = (read_checkpoint(file)[1]["losses"] for file in files)
    potentials = [name for name in one if name.endswith("psi")]
    assert len(potentials) == (16 if "--conditional" in what else 2)
    within = 0.05 if "--conditional" in what else 1e-3
    for name in potentials:
        assert (two[name] - one[name]).norm() <= within * one[name].norm(), name
