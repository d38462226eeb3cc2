"""Smoothed transport on candidate pairs only: what the Newton method of the solver works on."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor

from featot.ot.search import kernels_take
from featot.ot.smoothed import Smoothed, SmoothedDual, faintest

_CG_STEPS = 100


class CandidateGraph(SmoothedDual):
    """Pairs (i, j) with their costs, in order of i, and the same pairs in order of j.

    Every sum over pairs is a sparse matrix product.
    """

    def __init__(self, a: Float[Tensor, " n"], b: Float[Tensor, " m"]) -> None:
        super().__init__(a, b)
        self._index(torch.empty(0, dtype=torch.long, device=a.device), a.new_empty(0))

    def __len__(self) -> int:
        return len(self.costs)

    def extend(self, rows: Int[Tensor, " e"], columns: Int[Tensor, " e"], costs: Float[Tensor, " e"]) -> None:
        """Adds pairs; those that are there already stay once."""
        key = torch.cat([self._key, rows * len(self.b) + columns])
        costs = torch.cat([self.costs, costs])
        key, order = key.sort()
        first = torch.ones_like(key, dtype=torch.bool)
        first[1:] = key[1:] != key[:-1]
        self._index(key[first], costs[order][first])

    def keep(self, chosen: Tensor) -> None:
        """Drops every pair that is not ``chosen`` (booleans)."""
        self._index(self._key[chosen], self.costs[chosen])

    def _index(self, key: Tensor, costs: Tensor) -> None:
        n, m = len(self.a), len(self.b)
        self._key, self.costs = key, costs
        self.rows = key // m
        self.columns = key - self.rows * m
        self._row_ends = _ends(self.rows, n)
        self._columns32 = self.columns.int()  # sparse products are several times faster on 32-bit indices
        self._by_column = self._columns32.sort(stable=True).indices
        self._column_ends = _ends(self.columns, m)
        self._rows32 = self.rows[self._by_column].int()

    def by_rows(self, values: Float[Tensor, " e"]) -> Tensor:
        """The sparse ``(n, m)`` matrix of ``values``."""
        return _csr(self._row_ends, self._columns32, values, (len(self.a), len(self.b)))

    def by_columns(self, values: Float[Tensor, " e"]) -> Tensor:
        """Its transpose ``(m, n)``."""
        return _csr(self._column_ends, self._rows32, values.take(self._by_column), (len(self.b), len(self.a)))

    def row_sums(self, values: Float[Tensor, " e"]) -> Float[Tensor, " n"]:
        """The sum over the candidates of each x."""
        sums: Tensor = self.by_rows(values) @ torch.ones_like(self.b)
        return sums

    def column_sums(self, values: Float[Tensor, " e"]) -> Float[Tensor, " m"]:
        """The sum over the x of which each y is a candidate."""
        sums: Tensor = self.by_columns(values) @ torch.ones_like(self.a)
        return sums

    def smooth(self, psi: Float[Tensor, " m"], epsilon: float) -> Smoothed:
        if kernels_take(psi):
            from featot.ot.softmin import softmin_of_rows, sums_of_columns  # late: llvmlite is optional

            pairs = (self._columns32, self._row_ends)
            mass, least, sums = softmin_of_rows(self.costs, psi, self.a, *pairs, epsilon, faintest(psi))
            received = sums_of_columns(mass, self._by_column, self._column_ends)
            return self.induced(psi, epsilon, mass=mass, received=received, least=least, sums=sums)
        reduced = self.costs - psi.take(self.columns)
        least = torch.full_like(self.a, torch.inf).scatter_reduce_(0, self.rows, reduced, "amin")
        mass = (least.take(self.rows) - reduced).div_(epsilon).clamp_(min=faintest(reduced)).exp_()
        sums = self.row_sums(mass)
        mass.mul_((self.a / sums).take(self.rows))
        received = self.column_sums(mass)
        return self.induced(psi, epsilon, mass=mass, received=received, least=least, sums=sums)

    def solve(self, mass: Tensor, diagonal: Tensor, residual: Tensor, tolerance: float) -> Float[Tensor, " m"]:
        """By conjugate gradients on ``1 − SᵀS``, S being the mass scaled by a and the diagonal."""
        roots = diagonal.rsqrt()
        shares = mass * self.a.rsqrt().take(self.rows) * roots.take(self.columns)
        by_rows, by_columns = self.by_rows(shares), self.by_columns(shares)
        residual = residual * roots
        step, search = torch.zeros_like(residual), residual.clone()
        product = float(residual @ residual)
        stop, count = tolerance * product, 0
        while count < _CG_STEPS and product > stop:
            image = torch.addmv(search, by_columns, by_rows @ search, alpha=-1)
            curvature = float(search @ image)
            if curvature <= 0:  # by rounding: the matrix is hardly more than singular
                break
            length = product / curvature
            step.add_(search, alpha=length)
            residual.sub_(image, alpha=length)
            before, product = product, float(residual @ residual)
            search.mul_(product / before).add_(residual)
            count += 1
        return step.mul_(roots)

    def balance(self, mass: Float[Tensor, " e"], rounds: int = 6) -> Float[Tensor, " e"]:
        """Moves mass along the pairs until the columns nearly receive b, the rows still giving a.

        The flow of least energy with the mass as conductance (a Newton step on the plan, not on ψ), clipped at 0.
        """
        for _ in range(rounds):
            received = self.column_sums(mass)
            residual = self.b - received
            if float(residual.abs().sum()) < 1e-6:
                break
            step = self.solve(mass, self.damped(received, 1e-4), residual, tolerance=1e-3)
            mean = (self.by_rows(mass) @ step) / self.a
            moved = mass * (1 + step.take(self.columns) - mean.take(self.rows)).clamp_(min=0)
            scale = self.a / self.row_sums(moved)
            # Where rounding of a large step has clipped all of a row, the row stays as it is.
            mass = torch.where(scale.isfinite().take(self.rows), moved * scale.take(self.rows), mass)
        return mass


def _ends(indices: Tensor, count: int) -> Tensor:
    sizes = torch.bincount(indices, minlength=count)
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]).int()


def _csr(ends: Tensor, indices: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "sparse CSR tensor support is in beta state"
        return torch.sparse_csr_tensor(ends, indices, values, shape)
