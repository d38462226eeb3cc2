"""Telling that memory is out, and making do with less of it."""

from __future__ import annotations

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Tells apart the ways in which torch says that memory is out from real errors."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def release_memory() -> None:
    """Gives memory that torch keeps for later back to the GPU."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
