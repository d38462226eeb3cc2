"""Feasible plans: the upper bound of a transport cost."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from featot.ot.graph import CandidateGraph

_BLUR = 16.0  # the plan is mixed with the one at so many times its smoothing, ...
_SHARE = 0.05  # ... by this share: it opens pairs along which mass can still move


def northwest(
    p: Float[Tensor, " n"], q: Float[Tensor, " m"]
) -> tuple[Int[Tensor, " e"], Int[Tensor, " e"], Float[Tensor, " e"]]:
    """The north-west corner coupling of two mass vectors of one sum, in their order: rows, columns, mass.

    At most n + m − 1 pairs. Cumulated in double precision; the shorter sum is stretched to the longer one.
    """
    ends_p, ends_q = p.double().cumsum(0), q.double().cumsum(0)
    ends_q = ends_q * (ends_p[-1] / ends_q[-1])
    ends_q[-1] = ends_p[-1]
    ends = torch.cat([ends_p, ends_q]).sort().values
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    middle = (starts + ends) / 2
    rows = torch.searchsorted(ends_p, middle, right=True).clamp_(max=len(p) - 1)
    columns = torch.searchsorted(ends_q, middle, right=True).clamp_(max=len(q) - 1)
    mass = ends - starts
    there = mass > 0
    return rows[there], columns[there], mass[there].to(p.dtype)


def repaired(
    graph: CandidateGraph, psi: Float[Tensor, " m"], epsilon: float, x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]
) -> tuple[Int[Tensor, " e"], Int[Tensor, " e"], Float[Tensor, " e"]]:
    """A plan with the marginals a and b near the smoothed one of ψ: rows, columns, mass (Altschuler et al. 2017).

    The plan is balanced along the graph, scaled down where a column still receives too much, and what is left over
    is coupled along the line from the mean of the rows that it leaves to that of the columns that lack it.
    """
    plan, wide = graph.smooth(psi, epsilon), graph.smooth(psi, _BLUR * epsilon)
    mass = graph.balance(plan.mass.lerp(wide.mass, _SHARE)).nan_to_num(nan=0.0)  # what is lost is coupled below
    mass = mass * (graph.b / graph.column_sums(mass)).clamp_(max=1).take(graph.columns)
    left = (graph.a - graph.row_sums(mass)).clamp_(min=0)
    lacks = (graph.b - graph.column_sums(mass)).clamp_(min=0)
    there = mass > torch.finfo(mass.dtype).eps * graph.a.take(graph.rows)
    rows, columns, mass = graph.rows[there], graph.columns[there], mass[there]
    if float(left.sum()) <= 0 or float(lacks.sum()) <= 0:
        return rows, columns, mass
    line = (left / left.sum()) @ x - (lacks / lacks.sum()) @ y
    row_order, column_order = (x @ line).argsort(), (y @ line).argsort()
    more_rows, more_columns, more = northwest(left[row_order], lacks[column_order])
    return (
        torch.cat([rows, row_order[more_rows]]),
        torch.cat([columns, column_order[more_columns]]),
        torch.cat([mass, more]),
    )
