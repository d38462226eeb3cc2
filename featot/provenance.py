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
# What `read_record` promises; a parent stands before its child.
_NEEDED: Mapping[tuple[str, ...], Any] = {
    ("exemplar",): dict,
    ("exemplar", "path"): str | None,
    ("exemplar", "sha256"): str,
    ("settings",): dict,
    ("settings", "options"): dict,
    ("versions",): dict,
    ("device",): dict,
    ("device", "threads"): int,
}
_LIBRARIES = ("featot", "torch", "numpy", "pillow", "llvmlite", "faiss-gpu", "faiss-cpu")


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


def differences(record: Mapping[str, Any], device: torch.device) -> list[str]:
    """What has changed since ``record`` that may change the bits: "torch was 2.10, is now 2.11"."""
    was: dict[str, Any] = {**record["versions"], "the device": record["device"].get("name")}
    now: dict[str, Any] = {**versions(()), "the device": describe_device(device)["name"]}
    return [f"{key} was {was[key]}, is now {now[key]}" for key in now if key in was and was[key] != now[key]]


def seconds_per_level(history: Iterable[Record]) -> dict[str, float]:
    """Seconds spent at each resolution, by its name ("1/4")."""
    spent: dict[str, float] = {}
    before = 0.0
    for record in history:
        name = f"1/{2**record.scale}"
        spent[name] = spent.get(name, 0.0) + record.seconds - before
        before = record.seconds
    return {name: round(seconds, 4) for name, seconds in spent.items()}


def is_record(path: AnyPath) -> bool:
    """Whether ``path`` holds the record of some run: then that of another run may take its place."""
    try:
        record = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and {"format", "task", "settings"} <= record.keys()


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
    for keys, kind in _NEEDED.items():
        value: Any = record
        for key in keys:
            value = value.get(key)
        if not isinstance(value, kind) or value == 0:
            raise UsageError(f"cannot repeat {path}: the record is damaged at {'.'.join(keys)!r}")
    return record
