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

    The plan is balanced along the graph; what is left over is coupled as `leftover` does.
    """
    plan, wide = graph.smooth(psi, epsilon), graph.smooth(psi, _BLUR * epsilon)
    mass = graph.balance(plan.mass.lerp(wide.mass, _SHARE)).nan_to_num(nan=0.0)  # what is lost is coupled below
    mass = fitting(graph, mass)
    more_rows, more_columns, more = leftover(graph, mass, x, y)
    there = mass > torch.finfo(mass.dtype).eps * graph.a.take(graph.rows)
    return (
        torch.cat([graph.rows[there], more_rows]),
        torch.cat([graph.columns[there], more_columns]),
        torch.cat([mass[there], more]),
    )


def fitting(graph: CandidateGraph, mass: Float[Tensor, " e"]) -> Float[Tensor, " e"]:
    """The mass scaled down where a column receives too much."""
    return mass * (graph.b / graph.column_sums(mass)).clamp_(max=1).take(graph.columns)


def leftover(
    graph: CandidateGraph, mass: Float[Tensor, " e"], x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]
) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"], Float[Tensor, " k"]]:
    """Pairs, and mass, for what rows still have and columns lack once this `fitting` mass is moved.

    Coupled along the line from the mean of the rows that it leaves to that of the columns that lack it.
    """
    left = (graph.a - graph.row_sums(mass)).clamp_(min=0)
    lacks = (graph.b - graph.column_sums(mass)).clamp_(min=0)
    if float(left.sum()) <= 0 or float(lacks.sum()) <= 0:
        return graph.rows[:0], graph.columns[:0], mass[:0]
    line = (left / left.sum()) @ x - (lacks / lacks.sum()) @ y
    rows, columns = (x @ line).argsort(), (y @ line).argsort()
    more_rows, more_columns, more = northwest(left[rows], lacks[columns])
    return rows[more_rows], columns[more_columns], more
