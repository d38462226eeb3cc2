"""The c-transform of many ψ over the same two clouds, from a certified short list of candidates."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from featot.ot.cost import SQEUCLIDEAN, Cost, as_cost
from featot.ot.search import nearest, require_match

_TOO_MANY = 0.5  # share of rows to search again above which all are
_MOST_REFERENCES = 32  # ψ at which some rows were searched: more would cost more than to search all again
_RISERS = 1 / 64  # of the y that have risen most: every row looks at those


class Shortlist:
    """Calls are `c_transform` of ψ, with the same assignment, at n·size instead of n·m where the bound holds.

    A row's winner among its ``size`` nearest candidates under an earlier ψ' is the winner among all y as long as its
    reduced cost is at most ``κ_i − max_j (ψ_j − ψ'_j)``, κ_i the next reduced cost then: no other y can have come
    lower. Rows whose bound fails are searched again, all of them when they are many.
    """

    def __init__(
        self,
        x: Float[Tensor, "n d"],
        y: Float[Tensor, "m d"],
        size: int = 32,
        *,
        cost: str | float | Cost = SQEUCLIDEAN,
        backend: str = "auto",
    ) -> None:
        self.cost, self.backend = as_cost(cost), backend
        x, y = self.cost.embed(x.detach()), self.cost.embed(y.detach())
        self._x, self._y = x - y.mean(0), y - y.mean(0)
        self._size = min(size, len(y) - 1)
        self._references: list[Tensor] = []
        self.searched = 0  # rows searched in full by the last call

    def __call__(self, psi: Float[Tensor, " m"]) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
        """``min_j [c(x_i, y_j) − ψ_j]`` and its argmin."""
        require_match(self._x, self._y, psi)
        psi = psi.detach().clone()  # kept as a reference, which the caller may not change in place
        if self._size < 1 or not self._references:
            return self._search_all(psi)
        reduced = self._costs - psi[self._candidates]
        values, position = reduced.min(dim=1)
        assignment = self._candidates.gather(1, position[:, None])[:, 0]
        # The y that rose most since the first reference are looked at by every row; the bound is about the others.
        risen = (psi - self._references[0]).topk(max(1, int(_RISERS * len(psi)))).indices
        value, at = nearest(self._x, self._y[risen], psi[risen], cost=self.cost, backend=self.backend)
        better = value[:, 0] < values
        values = torch.where(better, value[:, 0], values)
        assignment = torch.where(better, risen[at[:, 0]], assignment)
        rises = torch.stack(self._references).neg_().add_(psi)
        rises[:, risen] = -torch.inf
        doubtful = values > self._next - rises.amax(1)[self._reference]
        rows = doubtful.nonzero()[:, 0]
        if len(rows) > _TOO_MANY * len(values) or len(self._references) == _MOST_REFERENCES:
            return self._search_all(psi)
        self.searched = len(rows)
        if len(rows) > 0:
            self._references.append(psi)
            values[rows], assignment[rows] = self._search(rows, psi, len(self._references) - 1)
        return values, assignment

    def _search_all(self, psi: Tensor) -> tuple[Tensor, Tensor]:
        n = self.searched = len(self._x)
        if self._size < 1:
            values, assignment = nearest(self._x, self._y, psi, cost=self.cost, backend=self.backend)
            return values[:, 0], assignment[:, 0]
        self._references = [psi]
        self._candidates = torch.empty(n, self._size, dtype=torch.long, device=psi.device)
        self._costs, self._next = psi.new_empty(n, self._size), psi.new_empty(n)
        self._reference = torch.zeros(n, dtype=torch.long, device=psi.device)
        return self._search(torch.arange(n, device=psi.device), psi, 0)

    def _search(self, rows: Tensor, psi: Tensor, reference: int) -> tuple[Tensor, Tensor]:
        """Searches these rows in full and lists their candidates anew."""
        reduced, found = nearest(self._x[rows], self._y, psi, self._size + 1, cost=self.cost, backend=self.backend)
        last = reduced.argmax(1, keepdim=True)
        self._next[rows] = reduced.gather(1, last)[:, 0]
        kept = torch.ones_like(found, dtype=torch.bool).scatter_(1, last, False)
        candidates = found[kept].view(len(rows), self._size)
        self._candidates[rows] = candidates
        self._costs[rows] = reduced[kept].view(len(rows), self._size) + psi[candidates]
        self._reference[rows] = reference
        values, position = reduced.min(dim=1)
        return values, found.gather(1, position[:, None])[:, 0]
