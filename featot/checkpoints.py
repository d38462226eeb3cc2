"""Checkpoints: safetensors with JSON in the header; nothing in them is code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from featot.errors import UsageError
from featot.files import AnyPath, atomic_write, what_is_missing

FORMAT = 1
_KEY = "featot_training"  # of the header's metadata


def write_checkpoint(path: AnyPath, header: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Writes the tensors of each part and the header, fit for JSON, to ``path``: whole or not at all."""
    tensors = {
        f"{part}.{name}": tensor.detach().cpu().contiguous().clone()
        for part, found in parts.items()
        for name, tensor in found.items()
    }
    with atomic_write(path) as file:
        file.write(save(tensors, {_KEY: json.dumps({"format": FORMAT, **header})}))


def read_checkpoint(path: AnyPath) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """The header and the parts. Raises `featot.UsageError` for what is no checkpoint."""
    try:
        with safe_open(str(path), framework="pt") as opened:
            header = json.loads((opened.metadata() or {}).get(_KEY, "null"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"cannot go on from {path}: {what_is_missing(Path(path))}") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise UsageError(f"cannot go on from {path}: truncated, damaged or no checkpoint ({error})") from None
    if not isinstance(header, dict) or not isinstance(header.get("format"), int):
        raise UsageError(f"cannot go on from {path}: it is no checkpoint of featot train")
    if header["format"] > FORMAT:
        raise UsageError(f"cannot go on from {path}: it is of a newer featot (format {header['format']})")
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    return header, parts


def flattened(state: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The state of an optimiser, by "number.name"."""
    return {f"{number}.{name}": tensor for number, found in state.items() for name, tensor in found.items()}


def nested(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """What `flattened` was given."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = tensor
    return state
