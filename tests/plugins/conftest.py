"""Networks for tests: random weights in files, and the real ones where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

SHARED = Path(os.environ.get("FEATOT_SHARED", Path(__file__).resolve().parents[2].parent / "shared"))


@pytest.fixture(autouse=True)
def no_weights_from_elsewhere(monkeypatch, tmp_path_factory):
    """Neither a developer's own files nor the cache of torch.hub."""
    for network in ("VGG19", "VGG16", "INCEPTION"):
        monkeypatch.delenv(f"FEATOT_{network}_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.getbasetemp() / "torch_home"))


@pytest.fixture(scope="session")
def vgg19():
    """The first twelve layers of torchvision's network, up to relu3_1, with random weights that keep the scale."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = torchvision.models.vgg19(weights=None, init_weights=False).features[:12].eval()
    for convolution in features:
        if isinstance(convolution, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(convolution.weight, generator=torch.Generator().manual_seed(1))
            torch.nn.init.uniform_(convolution.bias, -0.1, 0.1, generator=torch.Generator().manual_seed(2))
    return features.requires_grad_(False)


@pytest.fixture(scope="session")
def vgg19_file(vgg19, tmp_path_factory):
    """`vgg19` as a file that ends where it does."""
    path = tmp_path_factory.mktemp("weights") / "vgg19.safetensors"
    save_file({f"features.{name}": tensor for name, tensor in vgg19.state_dict().items()}, path)
    return path


@pytest.fixture(scope="session")
def real_vgg19_file():
    path = SHARED / "data" / "weights" / "vgg19_to_relu3_1.safetensors"
    if not path.exists():
        pytest.skip(f"no {path}: real weights are not part of the repository")
    return path


@pytest.fixture(scope="session")
def referee():
    """The project's independent judge."""
    import importlib.util

    path = SHARED / "tools" / "referee.py"
    if not path.exists():
        pytest.skip(f"no {path}: the referee is not part of the repository")
    spec = importlib.util.spec_from_file_location("referee", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
