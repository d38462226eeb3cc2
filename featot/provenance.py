"""What a run was: the record written beside every result, and reading it back to repeat the run."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featot.errors import UsageError
from featot.files import AnyPath
from featot.match import Record

FORMAT = 1
_LIBRARIES = ("featot", "torch", "numpy", "pillow", "faiss-gpu", "faiss-cpu")


def fingerprint(image: Tensor) -> str:
    """A hash of an image's shape and pixels: tells whether an exemplar is still the same."""
    pixels = image.detach().cpu().contiguous()
    digest = hashlib.sha256(repr(tuple(pixels.shape)).encode() + pixels.numpy().tobytes())
    return digest.hexdigest()


def versions(owners: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Python's version, that of each library that touches the numbers, and of the plugins' distributions."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found | dict(owners)


def describe_device(device: torch.device) -> dict[str, Any]:
    """The device's name, and the threads that share the work where it is a CPU."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"type": str(device), "name": name, "threads": torch.get_num_threads(), "cpus": os.cpu_count()}


def seconds_per_level(history: Iterable[Record]) -> dict[str, float]:
    """Seconds spent at each resolution, by its name ("1/4")."""
    spent: dict[str, float] = {}
    before = 0.0
    for record in history:
        name = f"1/{2**record.scale}"
        spent[name] = spent.get(name, 0.0) + record.seconds - before
        before = record.seconds
    return {name: round(seconds, 4) for name, seconds in spent.items()}


def read_record(path: AnyPath) -> Mapping[str, Any]:
    """The record of an earlier run. Raises `featot.UsageError` unless ``path`` holds one of this format."""
    try:
        record = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; expected the .json beside a synthesis") from None
    except ValueError as error:  # JSON or UTF-8
        raise UsageError(f"cannot read {path}: not JSON ({error}); expected the .json beside a synthesis") from None
    if not isinstance(record, dict) or record.get("task") != "synthesize":
        raise UsageError(f"cannot repeat {path}: it is no record of a synthesis")
    if record.get("format") != FORMAT:
        raise UsageError(f"cannot repeat {path}: its format is {record.get('format')!r}, expected {FORMAT}")
    missing = [key for key in ("exemplar", "settings", "device") if not isinstance(record.get(key), dict)]
    if missing:
        raise UsageError(f"cannot repeat {path}: the record has no {missing[0]!r}")
    return record
