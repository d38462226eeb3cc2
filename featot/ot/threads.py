"""Work shared by torch's own threads."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

_REGION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def in_threads(work: Callable[[int], None], parts: Sequence[int], most: int) -> None:
    """Does the work for each part, on as many threads as torch uses, at ``most`` so many.

    They are torch's own, of its OpenMP: those wait for work by spinning, and others would have to compete with them.
    """
    left, failures = iter(parts), []  # shared: who is done takes the next

    def rest(_: object) -> None:
        try:
            for part in left:
                work(part)
        except BaseException as error:  # which C code would drop, Ctrl-C too
            failures.append(error)

    threads = min(torch.get_num_threads(), most, len(parts))
    if threads > 1:
        _parallel()(_REGION(rest), threads)
    else:
        rest(None)
    if failures:
        raise failures[0]


@functools.cache
def _parallel() -> Callable[[Any, int], None]:
    """What runs a function on so many threads."""
    try:
        region = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):  # a torch with another OpenMP
        return _in_pool
    region.argtypes, region.restype = [_REGION, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return lambda work, threads: region(work, None, threads, 0)


def _in_pool(work: Any, threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:  # of this call alone: nothing is left that a fork could break
        for _ in pool.map(work, [None] * threads):
            pass
