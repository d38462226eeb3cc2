"""Weights of torchvision's networks: from a file, or fetched once as torchvision does."""

from __future__ import annotations

import os
import pickle
import stat
import sys
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import torch
from torch import Tensor

from featot.errors import FeatotError, UsageError
from featot.files import kind_of, what_is_missing

_SUFFIXES = (".pth", ".pt", ".safetensors")
_PATIENCE = 20  # seconds, for a server's first answer


@dataclass(frozen=True)
class Weights:
    """The tensors of a network by torchvision's names, and where they came from."""

    tensors: Mapping[str, Tensor]
    origin: str

    def get(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """One of them as float32. Raises `featot.UsageError` unless it is there, of this shape and finite."""
        tensor = self.tensors.get(name)
        if tensor is None:
            raise UsageError(f"{self.origin} has no {name}; expected torchvision's names, such as this one")
        if tensor.shape != shape:
            raise UsageError(f"{self.origin} has a {name} of shape {tuple(tensor.shape)}, expected {shape}")
        tensor = tensor.float()
        if not tensor.isfinite().all():
            raise UsageError(f"{self.origin} has NaN or infinity in {name}")
        return tensor


def load_weights(file: Path | None, *, network: str, plugin: str) -> Weights:
    """The weights in ``file``, else in the file that FEATOT_<NETWORK>_WEIGHTS names, else torchvision's own.

    torchvision downloads them once, with its progress bar and hash check. ``network``: torchvision's name of it,
    "vgg19"; ``plugin``: whose option "weights" the user is told of.
    Raises `featot.UsageError` for a file that cannot be read, `featot.FeatotError` where nothing can be fetched.
    """
    variable = f"FEATOT_{network.partition('_')[0].upper()}_WEIGHTS"
    if file is None and os.environ.get(variable):
        file = Path(os.environ[variable])
    if file is not None:
        return Weights(read_weights(file), str(file))
    from torchvision.models import get_model_weights  # late: it costs a second, and files do without it

    (entry, *_) = get_model_weights(network)  # the first: IMAGENET1K_V1
    cached = Path(torch.hub.get_dir(), "checkpoints", Path(entry.url).name)
    if cached.exists():
        return Weights(read_weights(cached), str(cached))
    try:
        with urlopen(
            entry.url, timeout=_PATIENCE
        ):  # torch.hub announces a download before it looks, and waits for ever
            pass
        with redirect_stdout(sys.stderr):  # where it announces it, too
            state = entry.get_state_dict(progress=sys.stderr.isatty(), check_hash=True, weights_only=True)
    except Exception as error:  # no network, a proxy's page of the wrong hash, a full disk
        raise FeatotError(
            f"no weights of {network} here and no way to fetch them ({_one_line(error)}): give a file with "
            f"-o {plugin}.weights=FILE, or in the environment variable {variable}; download it from {entry.url}"
        ) from error
    return Weights(state, entry.url)


def read_weights(file: Path) -> dict[str, Tensor]:
    """The named tensors in a .pth, .pt or .safetensors file, on the CPU; no pickled code is run.

    Raises `featot.UsageError` for anything else, in one line.
    """
    if file.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"cannot read weights {file}: expected a file that ends in {', '.join(_SUFFIXES)}")
    try:
        mode = os.stat(file).st_mode
        if not stat.S_ISREG(mode):
            raise UsageError(f"cannot read weights {file}: {kind_of(mode)}; expected a file")
        state = _read(file)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"cannot read weights {file}: {what_is_missing(file)}") from None
    except OSError as error:
        raise UsageError(f"cannot read weights {file}: {_one_line(error)}; expected a readable file") from error
    except pickle.UnpicklingError as error:
        why = "it holds more than tensors, and pickled code is never run; expected a plain state dict"
        raise UsageError(f"cannot read weights {file}: {why}") from error
    except (UsageError, MemoryError):
        raise
    except Exception as error:  # a reader that meets damaged data may raise anything
        why = f"truncated or damaged ({_one_line(error)}); expected a whole file"
        raise UsageError(f"cannot read weights {file}: {why}") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UsageError(f"cannot read weights {file}: expected a plain state dict, names to tensors")
    return state


def _read(file: Path) -> object:
    if file.suffix.lower() == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about the pickle's version, just before it is refused
        return torch.load(file, map_location="cpu", weights_only=True)


def _one_line(error: Exception) -> str:
    """The first sentence of what it says, or of its reason, as in an `urllib.error.URLError`."""
    text = " ".join(str(getattr(error, "reason", error)).split()).split(". ")[0]
    return text if text and not isinstance(error, KeyError) else f"{type(error).__name__} {text}".strip()
