"""Clouds, their exact transport, and the one comparator that every method and backend answers to."""

from __future__ import annotations

import math

import ot
import pytest
import torch
from scipy.spatial.distance import cdist

# Rounding of float32 and float64 costs summed over a cloud, relative to the largest cost.
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-10}


class Oracle:
    @staticmethod
    def clouds(n, m, d, *, weighted=True, dtype=torch.float64, device="cpu", seed=0):
        """x, y, a, b."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n, d, generator=generator, dtype=torch.float64)
        y = 1.5 * torch.randn(m, d, generator=generator, dtype=torch.float64) + 0.5
        a, b = (torch.rand(k, generator=generator, dtype=torch.float64) * weighted + 0.1 for k in (n, m))
        return [t.to(device, dtype) for t in (x, y, a / a.sum(), b / b.sum())]

    @staticmethod
    def costs(x, y, cost="sqeuclidean"):
        """The n×m matrix, by scipy, in float64."""
        x, y = (points.detach().double().cpu().numpy() for points in (x, y))
        if cost in ("sqeuclidean", "cosine"):
            return torch.from_numpy(cdist(x, y, cost))
        return torch.from_numpy(cdist(x, y) ** (1 if cost == "euclidean" else cost))

    def optimum(self, x, y, a, b, cost="sqeuclidean"):
        """The network simplex on the whole matrix."""
        a, b = (w.double().cpu() / w.double().cpu().sum() for w in (a, b))
        return ot.emd2(a.numpy(), b.numpy(), self.costs(x, y, cost).numpy(), numItermax=10**7)

    def check(self, result, x, y, a, b, cost="sqeuclidean", tol=1e-2):
        """All that a result claims, against brute force: bounds, plan, potentials, assignment, marginal, flags."""
        matrix, exact = self.costs(x, y, cost), self.optimum(x, y, a, b, cost)
        a, b = a.double().cpu(), b.double().cpu()
        slack = ROUNDING[y.dtype] * max(1.0, float(matrix.max()))
        f, psi, sigma = (t.cpu() for t in (result.potential_a, result.potential_b, result.assignment))
        assert f.dtype == psi.dtype == result.marginal_b.dtype == y.dtype
        assert result.value <= exact + slack
        # Feasible everywhere, tight along the assignment, of b-mean 0; what has no mass is never chosen.
        gaps = matrix - f.double()[:, None] - psi.double()[None]
        assert float(gaps.min()) >= -10 * slack
        assert float(gaps.gather(1, sigma[:, None]).max()) <= 10 * slack
        assert abs(float(b @ psi.double())) <= slack
        assert abs(float(a @ f.double()) - result.value) <= slack
        assert bool((b[sigma] > 0).all())
        # Repeated y share the mass that arrives and the potential.
        group = torch.unique(y.cpu(), dim=0, return_inverse=True)[1]
        arrived, shared = torch.zeros(2, len(y), dtype=torch.float64)
        arrived.index_add_(0, group[sigma], a)
        shared.index_add_(0, group, result.marginal_b.double().cpu())
        torch.testing.assert_close(shared, arrived, rtol=0, atol=1e-6)
        if result.sparse_plan is None:
            assert result.value_upper == result.gap == math.inf
            assert not result.converged
            return
        assert exact <= result.value_upper + slack
        assert result.converged == (result.gap <= tol)
        if result.value_upper > 1e-3 * float(matrix.max()):
            assert result.gap == pytest.approx((result.value_upper - result.value) / result.value_upper, abs=1e-6)
        plan = result.sparse_plan.cpu()
        assert plan.is_coalesced()
        assert plan.shape == matrix.shape
        assert float(plan.values().min()) >= 0
        plan = plan.to_dense().double()
        torch.testing.assert_close(plan.sum(1), a, rtol=0, atol=1e-6)
        torch.testing.assert_close(plan.sum(0), b, rtol=0, atol=1e-6)
        assert float((plan * matrix).sum()) == pytest.approx(result.value_upper, abs=slack)


@pytest.fixture(scope="session")
def oracle():
    return Oracle()
