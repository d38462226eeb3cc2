"""One suite for every backend of the search, against brute force in float64."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import featot.ot.search as search
from featot.errors import FeatotError, UsageError
from featot.ot import BACKENDS, c_transform, nearest

EPS = torch.finfo(torch.float32).eps


@pytest.fixture(params=["torch", "faiss", "auto"])
def backend(request, device):
    if request.param == "faiss" and not search.faiss_is_installed():
        pytest.skip("faiss is not installed")
    if request.param == "faiss" and device.type != "cpu":
        pytest.skip("the faiss backend searches on the CPU")
    return request.param


def _problem(n, m, d, device, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    y = torch.randn(m, d, generator=generator, dtype=torch.float64)
    psi = torch.randn(m, generator=generator, dtype=torch.float64)
    return [t.to(device, dtype) for t in (x, y, y.square().sum(1) - psi)]


def _check(x, y, bias, values, indices):
    """Both values and indices attain the minimum; the index is the argmin itself wherever rounding cannot tie."""
    costs = bias.double() - 2 * x.double() @ y.double().t()
    expected, argmin = costs.min(dim=1)
    # The sizes of the numbers that a row's reduced cost is summed from, times a few roundings.
    summands = x.double().norm(dim=1) * y.double().norm(dim=1).max() + expected.abs() + 1
    tolerance = 8 * torch.finfo(x.dtype).eps * summands
    assert values.dtype == x.dtype
    assert indices.dtype == torch.int64
    assert values.shape == indices.shape == (len(x),)
    assert ((values.double() - expected).abs() <= tolerance).all()
    attained = costs.gather(1, indices[:, None])[:, 0]
    assert (attained - expected <= 2 * tolerance).all()
    if len(y) > 1:
        second = costs.topk(2, dim=1, largest=False).values[:, 1]
        clear = second - expected > 2 * tolerance
        assert torch.equal(indices[clear], argmin[clear])


@pytest.mark.parametrize(
    ("n", "m", "d"),
    [
        pytest.param(1, 50, 3, id="n=1"),
        pytest.param(50, 1, 3, id="m=1"),
        pytest.param(1, 1, 1, id="n=m=d=1"),
        pytest.param(19, 40, 4, id="n below FAISS's old BLAS threshold"),
        pytest.param(20, 40, 4, id="n at FAISS's old BLAS threshold"),
        pytest.param(3000, 40, 43, id="n·d above FAISS's new BLAS threshold"),
        pytest.param(257, 131, 48, id="one tile"),
        pytest.param(1024, 2048, 2, id="whole tiles"),
        pytest.param(2500, 7, 5, id="rows not a multiple of a tile"),
        pytest.param(23, 8300, 5, id="columns not a multiple of a tile"),
        pytest.param(1100, 2100, 3, id="a remainder both ways"),
    ],
)
def test_parity_with_brute_force(n, m, d, backend, device):
    x, y, bias = _problem(n, m, d, device)
    _check(x, y, bias, *nearest(x, y, bias, backend))


@pytest.mark.parametrize("n", [5, 1100])
def test_parity_in_float64(n, device):
    x, y, bias = _problem(n, 2100, 6, device, torch.float64)
    for backend in ("torch", "auto"):
        _check(x, y, bias, *nearest(x, y, bias, backend))


@pytest.mark.parametrize("scale", [1e-6, 1e3, 1e6])
def test_bias_far_above_the_costs(scale, backend, device):
    x, y, bias = _problem(200, 90, 4, device)
    bias = bias * scale
    _check(x, y, bias, *nearest(x, y, bias, backend))


def test_one_y_never_and_one_y_always(backend, device):
    x, y, bias = _problem(200, 90, 4, device)
    bias[7] = 1e6  # one hopeless y must not cost the others their precision
    values, indices = nearest(x, y, bias, backend)
    _check(x, y, bias, values, indices)
    assert (indices != 7).all()
    bias[11] = -1e6
    assert (nearest(x, y, bias, backend)[1] == 11).all()


def test_reduced_costs_below_zero_are_not_clamped(backend, device):
    # At x = y with ψ > 0 the reduced cost ‖x − y‖² − ψ is −ψ: FAISS would clamp it to 0.
    y = _problem(30, 30, 3, device)[1]
    psi = torch.linspace(0, 0.01, 30, device=device)
    values, indices = c_transform(y, y, psi, backend)
    assert indices.tolist() == list(range(30))
    torch.testing.assert_close(values, -psi, rtol=0, atol=64 * EPS)


def test_duplicate_y(backend, device):
    x, y, bias = _problem(100, 40, 3, device)
    y, bias = torch.cat([y, y]), torch.cat([bias, bias + 0.5])
    values, indices = nearest(x, y, bias, backend)
    _check(x, y, bias, values, indices)
    assert (indices < 40).all()  # the copy with the smaller bias, always
    bias = torch.cat([bias[:40], bias[:40]])  # and exact ties
    _check(x, y, bias, *nearest(x, y, bias, backend))


def test_far_offset_is_centred_away(backend, device):
    x, y, _ = _problem(300, 200, 3, device)
    psi = torch.zeros(200, device=device)
    x, y = x + 1000, y + 1000
    values, indices = c_transform(x, y, psi, backend)
    costs = torch.cdist(x.double(), y.double()).square()
    # Without centring the error would be near 1e6 × EPS = 0.1.
    torch.testing.assert_close(values.double(), costs.min(dim=1).values, rtol=0, atol=1e-4)
    assert torch.equal(indices, costs.argmin(dim=1))


def test_strided_input(backend, device):
    x, y, bias = _problem(100, 60, 8, device)
    wide_y, wide_bias = torch.stack([y, y], dim=2), torch.stack([bias, bias], dim=1)
    strided = x.t().contiguous().t(), wide_y[..., 0], wide_bias[:, 0]
    assert not any(t.is_contiguous() for t in strided)
    _check(x, y, bias, *nearest(*strided, backend))


def test_no_gradient_flows_and_inputs_stay(backend, device):
    inputs = [t.requires_grad_() for t in _problem(100, 60, 8, device)]
    before = [t.detach().clone() for t in inputs]
    values, indices = nearest(*inputs, backend)
    assert not values.requires_grad
    assert not indices.requires_grad
    assert all(torch.equal(t, was) for t, was in zip(inputs, before, strict=True))


def test_torch_default_dtype_does_not_matter(backend, device):
    x, y, bias = _problem(100, 60, 8, device)
    torch.set_default_dtype(torch.float64)
    try:
        values, indices = nearest(x, y, bias, backend)
    finally:
        torch.set_default_dtype(torch.float32)
    _check(x, y, bias, values, indices)


def test_deterministic(backend, device):
    x, y, bias = _problem(500, 300, 8, device)
    first, second = nearest(x, y, bias, backend), nearest(x, y, bias, backend)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def _refuse(*_):
    raise AssertionError("the other backend should have searched")


@pytest.mark.skipif(not search.faiss_is_installed(), reason="faiss is not installed")
def test_each_backend_is_the_one_asked_for(monkeypatch):
    problem = _problem(64, 64, 3, "cpu")
    for backend, other in (("faiss", "_nearest_torch"), ("torch", "_nearest_faiss"), ("auto", "_nearest_faiss")):
        with monkeypatch.context() as patch:
            patch.setattr(search, other, _refuse)
            _check(*problem, *nearest(*problem, backend))


@pytest.mark.skipif(not search.faiss_is_installed(), reason="faiss is not installed")
def test_faiss_is_left_as_it_was_found():
    import faiss

    before = faiss.cvar.distance_compute_blas_threshold
    nearest(*_problem(30, 30, 2, "cpu"), "faiss")
    assert faiss.cvar.distance_compute_blas_threshold == before > 1


@pytest.mark.parametrize("near", ["fais", "FAISS", "torhc"])
def test_unknown_backend_names_the_near_miss(near):
    with pytest.raises(UsageError, match="unknown search backend") as caught:
        nearest(*_problem(2, 2, 2, "cpu"), near)
    assert all(name in str(caught.value) for name in BACKENDS)
    if near != "FAISS":
        assert "did you mean" in str(caught.value)


def test_faiss_refuses_float64():
    with pytest.raises(FeatotError, match=r"float32 on the CPU, got torch\.float64"):
        nearest(*_problem(50, 50, 2, "cpu", torch.float64), "faiss")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_faiss_refuses_cuda():
    with pytest.raises(FeatotError, match=r"float32 on the CPU, got torch\.float32 on cuda"):
        nearest(*_problem(50, 50, 2, "cuda"), "faiss")


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_that_do_not_match_are_refused_before_anything_is_read(backend):
    x, y, bias = _problem(50, 40, 3, "cpu")
    with pytest.raises(UsageError, match=r"\(50, 3\), \(40, 2\), \(40,\)"):
        nearest(x, y[:, :2], bias, backend)
    with pytest.raises(UsageError, match=r"\(50, 3\), \(40, 3\), \(39,\)"):
        nearest(x, y, bias[1:], backend)
    with pytest.raises(UsageError, match=r"one dtype, got torch\.float32, torch\.float64 and torch\.float32"):
        nearest(x, y.double(), bias, backend)


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
    run = subprocess.run([sys.executable, "-c", WITHOUT_FAISS], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("the faiss backend needs faiss")


def test_featot_ot_is_imported_without_importing_faiss():
    code = "import sys, featot.ot; sys.exit('faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
