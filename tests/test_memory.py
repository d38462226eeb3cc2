"""Running out of memory: it is found out for real, in a process whose address space is limited."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from featot.ot.memory import is_out_of_memory
from featot.ot.search import nearest
from featot.tasks import synthesize

LIMITED = """
import json, resource, sys, warnings
import torch
torch.set_num_threads(1)
from featot import synthesize
from featot.errors import FeatotError

def noise(side):
    return torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))

settings = {"features": "patches", "loss": "ot", "levels": 1, "steps": 2, "device": "cpu"}
settings |= {"options": {"patches.size": 15, "ot.backend": "torch"}}
synthesize(noise(32), **settings)  # what is loaded and set up only once
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
side, megabytes, max_points = map(int, sys.argv[1:])
exemplar = noise(side)
resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, resource.RLIM_INFINITY))
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    try:
        result = synthesize(exemplar, max_points=max_points, **settings)
    except FeatotError as error:
        found = {"error": str(error)}
    else:
        finite = bool(torch.isfinite(result.image).all())
        found = {"finite": finite, "notes": result.record["notes"], "steps": len(result.history)}
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(json.dumps({**found, "warnings": [str(warning.message) for warning in told]}))
"""


def _limited(side, megabytes, max_points):
    if not sys.platform.startswith("linux"):
        pytest.skip("address space is limited by setrlimit, and /proc says how much is used, on Linux")
    arguments = [sys.executable, "-c", LIMITED, *map(str, (side, megabytes, max_points))]
    ended = subprocess.run(
        arguments, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("max_points", [1000, 10**9])
def test_with_too_little_memory_fewer_points_are_compared(max_points):
    """All patches of 15 pixels of an image of 300² take 221 MB, and a few such clouds are needed at once."""
    found = _limited(300, 250, max_points)
    assert found["finite"]
    assert found["steps"] == 2
    assert found["notes"]
    assert found["notes"][0].startswith("memory ran out at 300x300: from there on at most ")
    assert all("memory is short" in text for text in found["warnings"])
    assert len(found["warnings"]) == len(found["notes"])


def test_with_enough_memory_nothing_is_said():
    found = _limited(100, 4000, 10**9)
    assert (found["finite"], found["notes"], found["warnings"]) == (True, [], [])


def test_with_no_memory_at_all_it_ends_in_an_error():
    found = _limited(1200, 60, 1000)
    assert found["error"] == "not enough memory to make 1200x1200 pixels; ask for a smaller size"


def test_the_search_halves_its_parts(monkeypatch):
    """The same result from smaller parts: the matrix product fails for more than 300 rows."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(5000, 8, generator=generator), torch.rand(2000, 8, generator=generator)
    expected = nearest(x, y, torch.zeros(2000), backend="torch")
    product, sizes = torch.mm, []

    def limited(rows, columns, *, out):
        sizes.append(len(rows))
        if len(rows) > 300:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")
        return product(rows, columns, out=out)

    monkeypatch.setattr(torch, "mm", limited)
    found = nearest(x, y, torch.zeros(2000), backend="torch")
    assert max(sizes) > 300
    assert sizes[-1] <= 300
    assert torch.equal(found[1], expected[1])


def test_other_errors_are_no_lack_of_memory(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(torch, "mm", broken)
    x = torch.rand(10, 3)
    with pytest.raises(RuntimeError, match="size mismatch"):
        nearest(x, x, torch.zeros(10), backend="torch")
    assert not is_out_of_memory(RuntimeError("size mismatch"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_on_a_gpu_too():
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**28) / total)
    try:
        exemplar = torch.rand(3, 300, 300, generator=torch.Generator().manual_seed(0))
        settings = {"features": "patches", "loss": "ot", "levels": 1, "steps": 2, "options": {"patches.size": 15}}
        with pytest.warns(UserWarning, match="memory is short"):
            result = synthesize(exemplar, max_points=10**9, device="cuda", **settings)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.isfinite(result.image).all()
    assert result.record["notes"]
