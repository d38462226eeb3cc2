"""One suite for every backend of the search, against brute force in float64."""

from __future__ import annotations

import functools
import inspect
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
import torch

import featot.ot.search as search
import featot.ot.tiles as tiles
from featot.errors import FeatotError, UsageError
from featot.ot import BACKENDS, as_cost, c_transform, nearest
from featot.ot.cost import SQEUCLIDEAN

EPS = torch.finfo(torch.float32).eps
NEAREST = inspect.unwrap(nearest)  # without the type checks of conftest.py, which no user has
needs_faiss = pytest.mark.skipif(not search.faiss_is_installed(), reason="faiss is not installed")
needs_keops = pytest.mark.skipif(not search.keops_is_installed(), reason="pykeops is not installed")
needs_llvm = pytest.mark.skipif(not search.llvm_is_usable(), reason="no llvmlite, or a CPU without AVX2")
MARKS = {"faiss": needs_faiss, "keops": needs_keops, "llvm": needs_llvm}


class Case(NamedTuple):
    n: int
    m: int
    d: int
    k: int
    says: str


CASES = [
    Case(1, 50, 5, 1, "n is 1"),
    Case(50, 1, 5, 1, "m is 1"),
    Case(1, 1, 1, 1, "all are 1"),
    Case(19, 40, 4, 1, "n below FAISS's old BLAS threshold"),
    Case(20, 40, 4, 1, "n at FAISS's old BLAS threshold"),
    Case(3000, 40, 43, 1, "n·d above FAISS's new BLAS threshold"),
    Case(90, 255, 5, 1, "less than a block"),
    Case(90, 256, 5, 1, "one block"),
    Case(90, 257, 5, 1, "a block and one"),
    Case(90, 511, 5, 1, "less than a tile"),
    Case(90, 513, 48, 1, "a tile and one"),
    Case(2500, 1100, 5, 1, "remainders both ways"),
    Case(2048, 2048, 2, 1, "whole tiles"),
    Case(4096, 2049, 2, 1, "blocks and one, in whole tiles of rows"),
    Case(2049, 4100, 2, 1, "blocks with remainders both ways"),
    Case(50, 2, 5, 2, "k is m"),
    Case(19, 40, 5, 2, "k of few"),
    Case(90, 257, 5, 2, "k from blocks with a remainder"),
    Case(2100, 1025, 3, 2, "k from blocks of several tiles"),
    Case(700, 900, 48, 5, "k of which a kernel keeps more"),
    Case(40, 2048, 3, 16, "16 from whole blocks"),
    Case(40, 2111, 3, 16, "16 from blocks with a remainder"),
    Case(40, 2047, 3, 16, "16 from tiles"),
    Case(60, 131, 6, 131, "k is m, many"),
    Case(520, 8300, 3, 100, "many from several tiles"),
]


def _suits(backend, case):
    # KeOps compiles for some seconds for every d and k: it takes the cases of one d.
    return not (backend == "keops" and (case.d != 5 or case.k > 2)) and not (backend == "llvm" and case.k > 16)


CASES_OF_BACKENDS = [
    pytest.param(backend, case, id=f"{backend}: {case.says}", marks=MARKS.get(backend, ()))
    for backend in BACKENDS
    for case in CASES
    if _suits(backend, case)
]


@pytest.fixture(params=[pytest.param(backend, marks=MARKS.get(backend, ())) for backend in BACKENDS])
def backend(request, device):
    if request.param in ("llvm", "faiss") and device.type != "cpu":
        pytest.skip(f"the {request.param} backend searches on the CPU")
    if request.param == "llvm" and request.node.callspec.params.get("k", 1) > 16:
        pytest.skip("the llvm backend finds 16 nearest at most")
    return request.param


def _problem(n, m, d=5, device="cpu", dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (n, d), (m, d), (m,)
    return [torch.randn(*s, generator=generator, dtype=torch.float64).to(device, dtype) for s in shapes]


def _bounds(x, y, psi, cost):
    """Between which values rounding may put each reduced cost: a few units of what it is summed from."""
    rounding = 8 * torch.finfo(x.dtype).eps
    x, y, psi = x.double(), y.double(), psi.double()
    squared = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    slack = rounding * (x.norm(dim=1)[:, None] + y.norm(dim=1)).square()
    potential = rounding * (psi.abs() + psi.max().abs())
    lower = cost.scale * (squared - slack).clamp(min=0) ** (cost.exponent / 2) - psi - potential
    upper = cost.scale * (squared + slack) ** (cost.exponent / 2) - psi + potential
    return lower, upper


def _check(x, y, psi, values, indices, k=1, cost=SQEUCLIDEAN):
    """The k smallest, with their values: another y may stand for one only where rounding cannot tell them apart."""
    assert values.dtype == x.dtype
    assert indices.dtype == torch.int64
    assert values.shape == indices.shape == (len(x), k)
    ordered = indices.sort(dim=1).values
    assert (ordered[:, 1:] > ordered[:, :-1]).all(), "an index twice in one row"
    lower, upper = _bounds(x, y, psi, cost)
    least = lower.gather(1, indices)
    assert (values >= least).all()
    assert (values <= upper.gather(1, indices)).all()
    others = upper.scatter(1, indices, torch.inf).amin(1)
    assert (least.amax(1) <= others).all()


@pytest.mark.parametrize(("backend", "case"), CASES_OF_BACKENDS, indirect=["backend"])
def test_parity_with_brute_force(backend, case, device):
    problem = _problem(case.n, case.m, case.d, device)
    _check(*problem, *nearest(*problem, case.k, backend=backend), case.k)


@pytest.mark.parametrize(
    ("backend", "n", "k"),
    [(name, *size) for name in ("auto", "torch") for size in ((5, 1), (1100, 1), (300, 3), (300, 20))]
    + [pytest.param("keops", 300, 1, marks=needs_keops)],
)
def test_parity_in_float64(backend, n, k, device):
    x, y, psi = _problem(n, 2100, device=device, dtype=torch.float64)
    values, indices = nearest(x, y, psi, k, backend=backend)
    expected = (torch.cdist(x, y).square() - psi).topk(k, dim=1, largest=False)
    assert torch.equal(indices.sort(1).values, expected.indices.sort(1).values)
    torch.testing.assert_close(values.sort(1).values, expected.values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cost", ["euclidean", 0.5, 1.5])
@pytest.mark.parametrize(("m", "k"), [(300, 1), (5100, 1), (1100, 2), (300, 20)])
def test_parity_for_other_costs(m, k, cost, device):
    problem, cost = _problem(700, m, device=device), as_cost(cost)
    for backend in ("torch", "auto"):
        _check(*problem, *nearest(*problem, k, cost=cost, backend=backend), k, cost)


@needs_llvm
@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean", 0.5])
@pytest.mark.parametrize(("lanes", "columns"), [(16, 8), (8, 6)], ids=["AVX-512", "AVX2"])
@pytest.mark.parametrize("k", [1, 3, 16])
def test_kernels_of_either_width_in_parts_and_on_threads(k, lanes, columns, cost, monkeypatch):
    import featot.ot.fused as fused

    sizes = {"_LANES": lanes, "_COLUMNS": columns, "_PART": 64, "_CACHED": 100, "_WORK": 1000}
    for name, size in sizes.items():
        monkeypatch.setattr(fused, name, size)
    monkeypatch.setattr(fused, "_kernel", functools.cache(fused._kernel.__wrapped__))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for n, m in ((1, 1), (31, 8), (33, 9), (31, 16), (500, 301)):
        if k <= m:
            problem = _problem(n, m)
            _check(*problem, *nearest(*problem, k, cost=as_cost(cost), backend="llvm"), k, as_cost(cost))


@needs_llvm
@pytest.mark.parametrize(
    ("says", "options"),
    [
        (r"float32 on the CPU, got torch\.float64", {"dtype": torch.float64}),
        ("at most 16 nearest", {"k": 17}),
        ("for p in", {"cost": as_cost(1.5)}),
    ],
)
def test_llvm_refuses_what_it_cannot(says, options):
    problem = _problem(50, 50, dtype=options.pop("dtype", torch.float32))
    with pytest.raises(FeatotError, match=says):
        nearest(*problem, backend="llvm", **options)


def test_llvm_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(search, "llvm_is_usable", lambda: False)
    with pytest.raises(FeatotError, match="llvmlite"):
        nearest(*_problem(50, 50), backend="llvm")
    problem = _problem(700, 5100)
    _check(*problem, *nearest(*problem))  # auto does without


@needs_llvm
def test_auto_takes_llvm_where_it_pays(monkeypatch):
    import featot.ot.fused as fused

    taken = []
    monkeypatch.setattr(fused, "smallest_by_registers", lambda *_: taken.append(True))

    def takes(n, m, d, k=1, **options):
        taken.clear()
        NEAREST(*_problem(n, m, d, dtype=options.pop("dtype", torch.float32)), k, **options)
        return bool(taken)

    assert takes(700, 600, 48)
    assert takes(700, 600, 48, cost=as_cost(1))
    assert not takes(700, 600, 48, cost=as_cost(1.5))
    assert takes(700, 600, 48, k=16)
    assert not takes(700, 600, 48, k=17)
    assert not takes(700, 600, 48, dtype=torch.float64)
    assert not takes(100, 6000, 48)
    assert not takes(300, 300, 257)
    assert not takes(300, 300, 48)


@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean", 0.5])
@pytest.mark.parametrize("m", [1, 8, 15, 16, 17, 100], ids=lambda m: f"m={m}")
@pytest.mark.parametrize(
    ("few", "ks"),
    [(0, [1]), (10**9, [1]), (0, [2, 5, 13, 17, 40, 100])],
    ids=["one from blocks", "one from tiles", "more from either"],
)
def test_every_path_over_many_small_tiles(few, ks, m, cost, monkeypatch, device):
    for name in ("_CPU_TILE", "_CUDA_TILE", "_INDEXED_TILE", "_TOPK_TILE"):
        monkeypatch.setattr(tiles, name, (8, 16))
    sizes = {"_BLOCK": 8, "_SMALL_BLOCK": 4, "_KEPT": 100, "_ROWS": 16, "_FEW": few, "_FEW_PAIRS": few}
    for name, size in sizes.items():
        monkeypatch.setattr(tiles, name, size)
    cost = as_cost(cost)
    for n in (1, 8, 43):
        problem = _problem(n, m, device=device)
        for k in ks:
            if k <= m:
                _check(*problem, *nearest(*problem, k, cost=cost, backend="torch"), k, cost)


@pytest.mark.parametrize("cost", ["sqeuclidean", 0.5])
@pytest.mark.parametrize(("m", "k"), [(300, 1), (1100, 1), (2100, 16), (300, 20)])
def test_the_center_is_taken_off_both_clouds(m, k, cost, backend, device):
    if (backend == "faiss" and cost == 0.5) or backend == "keops":
        pytest.skip(f"{backend} does not search this")
    (x, y, psi), cost = _problem(9000 if k == 1 else 50, m, device=device), as_cost(cost)
    center = torch.tensor([1000.0, -500, 3, 0, 0], device=device)[: x.shape[1]]
    values, indices = nearest(x + center, y + center, psi, k, cost=cost, center=center, backend=backend)
    # Moving them there has rounded the points, not the search.
    moved = (x + center) - center, (y + center) - center
    _check(*moved, psi, values, indices, k, cost)


def test_parity_for_the_cosine(backend, device):
    x, y, psi = _problem(300, 200, device=device)
    cost = as_cost("cosine")
    problem = cost.embed(x), cost.embed(y), psi / 10
    _check(*problem, *nearest(*problem, cost=cost, backend=backend), 1, cost)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("scale", [1e-6, 1e3, 1e6])
def test_potential_far_above_the_costs(scale, k, backend, device):
    x, y, psi = _problem(200, 300, device=device)
    _check(x, y, psi * scale, *nearest(x, y, psi * scale, k, backend=backend), k)


def test_one_y_never_and_one_y_always(backend, device):
    x, y, psi = _problem(200, 90, device=device)
    psi[7] = -1e6  # one hopeless y must not cost the others their precision
    values, indices = nearest(x, y, psi, backend=backend)
    _check(x, y, psi, values, indices)
    assert (indices != 7).all()
    psi[11] = 1e6
    assert (nearest(x, y, psi, backend=backend)[1] == 11).all()


def test_reduced_costs_below_zero_are_not_clamped(backend, device):
    # At x = y with ψ > 0 the reduced cost ‖x − y‖² − ψ is −ψ: FAISS would clamp it to 0.
    y = _problem(30, 30, device=device)[1]
    psi = torch.linspace(0, 0.01, 30, device=device)
    values, indices = c_transform(y, y, psi, backend)
    assert indices.tolist() == list(range(30))
    torch.testing.assert_close(values, -psi, rtol=0, atol=64 * EPS)


@pytest.mark.parametrize("k", [1, 2])
def test_duplicate_y(k, backend, device):
    x, y, psi = _problem(100, 40, device=device)
    y, lower = torch.cat([y, y]), torch.cat([psi, psi - 50])
    values, indices = nearest(x, y, lower, k, backend=backend)
    _check(x, y, lower, values, indices, k)
    assert (indices < 40).all()  # never the copy with the smaller potential
    ties = torch.cat([psi, psi])
    _check(x, y, ties, *nearest(x, y, ties, k, backend=backend), k)


def test_far_offset_is_centred_away(backend, device):
    x, y, _ = _problem(300, 200, device=device)
    psi = torch.zeros(200, device=device)
    x, y = x + 1000, y + 1000
    values, indices = c_transform(x, y, psi, backend)
    costs = torch.cdist(x.double(), y.double()).square()
    # Without centring the error would be near 1e6 × EPS = 0.1.
    torch.testing.assert_close(values.double(), costs.min(dim=1).values, rtol=0, atol=1e-4)
    assert torch.equal(indices, costs.argmin(dim=1))


@pytest.mark.parametrize("k", [1, 2])
def test_strided_input(k, backend, device):
    x, y, psi = _problem(100, 300, device=device)
    strided = x.t().contiguous().t(), torch.stack([y, y], dim=2)[..., 0], torch.stack([psi, psi], dim=1)[:, 0]
    assert not any(t.is_contiguous() for t in strided)
    _check(x, y, psi, *nearest(*strided, k, backend=backend), k)


def test_no_gradient_flows_and_inputs_stay(backend, device):
    inputs = [t.requires_grad_() for t in _problem(100, 60, device=device)]
    before = [t.detach().clone() for t in inputs]
    values, indices = nearest(*inputs, backend=backend)
    assert not values.requires_grad
    assert not indices.requires_grad
    assert all(torch.equal(t, was) for t, was in zip(inputs, before, strict=True))


def test_torch_default_dtype_does_not_matter(backend, device):
    problem = _problem(100, 60, device=device)
    torch.set_default_dtype(torch.float64)
    try:
        values, indices = nearest(*problem, backend=backend)
    finally:
        torch.set_default_dtype(torch.float32)
    _check(*problem, values, indices)


@pytest.mark.parametrize("k", [1, 2])
def test_deterministic(k, backend, device):
    problem = _problem(500, 300, device=device)
    first, second = nearest(*problem, k, backend=backend), nearest(*problem, k, backend=backend)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("k", [1, 2])
def test_rows_do_not_see_each_other(k, backend, device):
    x, y, psi = _problem(500, 300, device=device)
    parts = [nearest(part, y, psi, k, backend=backend) for part in x.split(77)]
    values, indices = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    _check(x, y, psi, values, indices, k)
    whole = nearest(x, y, psi, k, backend=backend)[0]
    torch.testing.assert_close(values.sort(1).values, whole.sort(1).values, rtol=0, atol=1e-4)


@needs_faiss
def test_auto_asks_neither_faiss_nor_keops(monkeypatch):
    def refuse(*_):
        raise AssertionError("torch should have searched")

    monkeypatch.setattr(search, "_nearest_faiss", refuse)
    monkeypatch.setattr(search, "_nearest_keops", refuse)
    problem = _problem(64, 64)
    for name in ("auto", "torch"):
        _check(*problem, *nearest(*problem, backend=name))
    with pytest.raises(AssertionError):
        nearest(*problem, backend="faiss")


@needs_faiss
def test_faiss_is_left_as_it_was_found():
    import faiss

    before = faiss.cvar.distance_compute_blas_threshold
    problems = [_problem(10, 50, seed=seed) for seed in range(400)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda problem: nearest(*problem, backend="faiss"), problems))
    assert faiss.cvar.distance_compute_blas_threshold == before > 1
    for problem, (values, indices) in zip(problems, found, strict=True):
        _check(*problem, values, indices)


@pytest.mark.parametrize("near", ["fais", "FAISS", "torhc", "kepos"])
def test_unknown_backend_names_the_near_miss(near):
    with pytest.raises(UsageError, match="unknown search backend") as caught:
        nearest(*_problem(2, 2), backend=near)
    assert all(name in str(caught.value) for name in BACKENDS)
    if near != "FAISS":
        assert "did you mean" in str(caught.value)


@needs_faiss
def test_faiss_refuses_float64():
    with pytest.raises(FeatotError, match=r"float32 on the CPU, got torch\.float64"):
        nearest(*_problem(50, 50, dtype=torch.float64), backend="faiss")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_faiss_refuses_cuda():
    with pytest.raises(FeatotError, match=r"float32 on the CPU, got torch\.float32 on cuda"):
        nearest(*_problem(50, 50, device="cuda"), backend="faiss")


@pytest.mark.parametrize("backend", ["faiss", "keops"])
@pytest.mark.parametrize("cost", ["euclidean", 0.5])
def test_faiss_and_keops_refuse_costs_that_are_not_squared(backend, cost):
    with pytest.raises(FeatotError, match=f"the {backend} backend searches squared costs"):
        nearest(*_problem(50, 50), cost=as_cost(cost), backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_that_do_not_match_are_refused_before_anything_is_read(backend):
    x, y, psi = _problem(50, 40, 3)
    for shapes, inputs in (
        (r"\(50, 3\), \(40, 2\), \(40,\)", (x, y[:, :2], psi)),
        (r"\(50, 3\), \(40, 3\), \(39,\)", (x, y, psi[1:])),
        (r"\(50, 3\), \(40, 3\), \(40, 1\)", (x, y, psi[:, None])),
        (r"\(3,\), \(40, 3\), \(40,\)", (x[0], y, psi)),
        (r"shapes \(0, 3\) and \(40, 3\)", (x[:0], y, psi)),
        (r"shapes \(50, 3\) and \(0, 3\)", (x, y[:0], psi[:0])),
        (r"shapes \(50, 0\) and \(40, 0\)", (x[:, :0], y[:, :0], psi)),
        (r"one dtype on one device, got torch\.float32 on cpu, torch\.float64 on cpu", (x, y.double(), psi)),
        (r"one dtype on one device", (x, y, psi.double())),
    ):
        with pytest.raises(UsageError, match=shapes):
            NEAREST(*inputs, backend=backend)
    for k in (0, -1, 41):
        with pytest.raises(UsageError, match=f"k between 1 and the 40 points of y, got {k}"):
            NEAREST(x, y, psi, k, backend=backend)
