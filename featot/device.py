"""Where a run computes: finding the device, and saying plainly that it has too little memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from featot.errors import FeatotError, UsageError
from featot.interfaces import Size
from featot.machine import usable_memory
from featot.ot.memory import is_out_of_memory

_BYTES_PER_VALUE = 50  # peak memory per pixel and channel of the result: its growth from 1024² to 2048²


def find_device(name: str) -> torch.device:
    """The device called ``name``; "auto" is a GPU where there is one. Raises `featot.UsageError`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise UsageError(f"unknown device {name!r} (choose from: auto, cpu, cuda, cuda:N)")
    available = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= available:
        found = f"{available} CUDA device{'s' if available > 1 else ''}" if available else "no CUDA device"
        raise UsageError(f"device {name!r} is not here: torch sees {found}; 'cpu' and 'auto' always work")
    return device


def check_memory(size: Size, channels: int) -> None:
    """Refuses at once what would be killed, or swap, for lack of memory. Raises `featot.FeatotError`."""
    if size[0] * size[1] * channels * _BYTES_PER_VALUE > usable_memory():
        raise _too_little(size)


@contextmanager
def memory_errors(size: Size) -> Iterator[None]:
    """Within it, running out of memory is a `featot.FeatotError` that names the size."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise _too_little(size) from error
        raise


def _too_little(size: Size) -> FeatotError:
    return FeatotError(f"not enough memory to make {size[0]}x{size[1]} pixels; ask for a smaller size")
