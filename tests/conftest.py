"""Shapes and types are checked while testing; what needs a GPU says so. Must run before featot is imported."""

from __future__ import annotations

import jaxtyping

_jaxtyped = jaxtyping.jaxtyped


def _checked(*, typechecker):
    """What the hook decorates with. Functions inside functions are left as they are: they are made anew at each call,
    and to make their checks took as long as all the rest of a synthesis."""
    check = _jaxtyped(typechecker=typechecker)
    return lambda made: made if "<locals>" in made.__qualname__ else check(made)


jaxtyping.jaxtyped = _checked
# The PEP 484 tower: an int serves where a float is annotated, as it does for mypy.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
# Only modules that compute: the others check what users and plugin authors hand them, in featot's own words.
jaxtyping.install_import_hook(["featot.ot", "featot.resample", "featot_plugins"], CHECKER)

import math  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

if "PYTEST_XDIST_WORKER" in os.environ:  # several of them share the CPU, and so do the processes they start
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
else:
    torch.set_num_threads(2)

# Lies beside a checkout on the machines of this project; nothing of it is in the repository.
SHARED = Path(os.environ.get("FEATOT_SHARED", Path(__file__).resolve().parents[2] / "shared"))

CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
    ],
)


@pytest.fixture(params=["cpu", CUDA])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device that a test should pass on."""
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _no_weights_from_elsewhere(monkeypatch, tmp_path_factory):
    """Neither a developer's own files nor what torch.hub has downloaded."""
    for network in ("VGG19", "VGG16", "INCEPTION"):
        monkeypatch.delenv(f"FEATOT_{network}_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.getbasetemp() / "torch_home"))


@pytest.fixture(scope="session")
def pip():
    """Runs pip with these arguments, without the network; setuptools, of the dev extras, builds."""

    def run(*arguments):
        command = [sys.executable, "-m", "pip", *map(str, arguments), "--no-deps", "--no-build-isolation", "--quiet"]
        offline = {**os.environ, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        done = subprocess.run(command, env=offline, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr

    return run


@pytest.fixture(scope="session")
def wheel_file(tmp_path_factory, pip):
    """featot's wheel, of a copy of the sources: building leaves nothing in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist", ".*", "out", "tests")
    shutil.copytree(Path(__file__).resolve().parents[1], folder / "copy", ignore=ignored)
    (folder / "copy" / "tests").mkdir()  # what must not be packed
    (folder / "copy" / "tests" / "__init__.py").touch()
    pip("wheel", folder / "copy", "--wheel-dir", folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def vgg19_file(tmp_path_factory):
    """VGG-19 up to relu3_1, with random weights that keep the scale."""
    generator, tensors, before = torch.Generator().manual_seed(0), {}, 3
    for index, channels in ((0, 64), (2, 64), (5, 128), (7, 128), (10, 256)):
        kernel = torch.randn(channels, before, 3, 3, generator=generator) * math.sqrt(2 / (9 * before))
        tensors[f"features.{index}.weight"] = kernel
        tensors[f"features.{index}.bias"] = 0.1 * torch.randn(channels, generator=generator)
        before = channels
    return _saved(tensors, tmp_path_factory)


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory):
    """Inception v3 up to its first pooling, with random weights and statistics."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    for name, before, channels in (("1a", 3, 32), ("2a", 32, 32), ("2b", 32, 64)):
        kernel = torch.randn(channels, before, 3, 3, generator=generator) * math.sqrt(2 / (9 * before))
        tensors[f"Conv2d_{name}_3x3.conv.weight"] = kernel
        for part in ("weight", "bias", "running_mean", "running_var"):
            drawn = 0.2 * torch.randn(channels, generator=generator)
            tensors[f"Conv2d_{name}_3x3.bn.{part}"] = drawn.exp() if part in ("weight", "running_var") else drawn
    return _saved(tensors, tmp_path_factory)


def _saved(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture(scope="session")
def real_vgg19_file():
    return _shared("data/weights/vgg19_to_relu3_1.safetensors")


@pytest.fixture(scope="session")
def referee():
    """The independent judge of syntheses, as a module."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("referee", _shared("tools/referee.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def faded():
    """Noise of little contrast, ``(1, 3, 96, 96)``, coarse and fine."""
    noise = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(noise, (1, 1, 1, 1), mode="circular")
    return 0.5 + 0.08 * (0.24 * torch.nn.functional.avg_pool2d(padded, 3, 1) + 0.04 * noise)


@pytest.fixture(scope="session")
def detail():
    """How strong the finest detail of an image is: what differs from the mean of 3×3 pixels."""

    def strength(image):
        return float((image - torch.nn.functional.avg_pool2d(image, 3, 1, 1))[..., 2:-2, 2:-2].std())

    return strength


@pytest.fixture(scope="session")
def textures():
    """A folder of photographs of textures."""
    return _shared("data/textures")


def _shared(name):
    if not (SHARED / name).exists():
        pytest.skip(f"{SHARED / name} is not here (FEATOT_SHARED says where to look)")
    return SHARED / name
