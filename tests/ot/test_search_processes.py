"""What a search does to its process: imports, memory, and the children that are forked from it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import featot.ot.search as search

needs_faiss = pytest.mark.skipif(not search.faiss_is_installed(), reason="faiss is not installed")
needs_llvm = pytest.mark.skipif(not search.llvm_is_usable(), reason="no llvmlite, or a CPU without AVX2")


def _run(script, *arguments):
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120)


WITHOUT_FAISS = """
import sys
sys.modules["faiss"] = None  # import faiss raises ImportError, as where it is not installed
import torch
import featot.ot.search as search
from featot.errors import FeatotError
from featot.ot import solve_semidiscrete

assert not search.faiss_is_installed()
x = torch.arange(50.0)[:, None]
assert abs(solve_semidiscrete(x, x + 3, max_iter=50).value - 9) < 0.1
try:
    solve_semidiscrete(x, x, backend="faiss")
except FeatotError as error:
    print(error)
"""


def test_everything_but_the_faiss_backend_works_without_faiss():
    run = _run(WITHOUT_FAISS)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("the faiss backend needs faiss")


def test_featot_ot_is_imported_without_importing_its_backends():
    script = "import sys, featot.ot; sys.exit(bool({'faiss', 'pykeops', 'llvmlite'} & sys.modules.keys()))"
    assert _run(script).returncode == 0


FORK = """
import os, signal, sys
import torch
import featot.ot.search as search

torch.set_num_threads(4)
search._faiss().omp_set_num_threads(4)
torch.manual_seed(0)
x, y, psi = torch.randn(4000, 64), torch.randn(3000, 64), torch.randn(3000)

def found():
    names = [(k, name) for k in (1, 3) for name in ("torch", "faiss")]
    names += [(1, "llvm")] * search.llvm_is_usable()
    return [search.nearest(x, y, psi, k, backend=name)[0] for k, name in names]

expected = found()
search._faiss_lock.acquire()  # as if another thread were searching
child = os.fork()
if child == 0:
    signal.alarm(40)
    same = all(torch.allclose(*pair, atol=1e-3) for pair in zip(found(), expected))
    os._exit(0 if same else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_faiss
@pytest.mark.skipif(not hasattr(search.os, "fork"), reason="this system does not fork")
def test_a_forked_child_can_search():
    run = _run(FORK)
    assert run.returncode == 0, run.stderr


PEAK = """
import sys
import torch
from featot.ot import as_cost, nearest

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

torch.set_num_threads(1)
backend, cost, k = sys.argv[1], as_cost(sys.argv[2]), int(sys.argv[3])
x, y, psi = torch.randn(20000, 5), torch.randn(20000, 5), torch.randn(20000)
nearest(x[:50], y[:5000], psi[:5000], k, cost=cost, backend=backend)  # loads the libraries
before = peak()
nearest(x, y, psi, k, cost=cost, backend=backend)
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
@pytest.mark.parametrize(
    ("backend", "cost", "k", "mebibytes"),
    [
        ("torch", "sqeuclidean", "1", 64),
        ("torch", "euclidean", "1", 64),
        ("torch", "sqeuclidean", "16", 256),
        pytest.param("llvm", "sqeuclidean", "1", 16, marks=needs_llvm),
        pytest.param("faiss", "sqeuclidean", "1", 64, marks=needs_faiss),
    ],
)
def test_a_search_keeps_far_less_than_all_costs(backend, cost, k, mebibytes):
    run = _run(PEAK, backend, cost, k)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < mebibytes  # all 20 000² costs would be 1526
