"""Training on shares: which of them a step learns from, and which ψ it goes by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from featot.problem import Problem
from featot.recipe import Recipe
from featot.terms import Term

_PURE = 0.5  # of the steps, which are about one exemplar alone
_RANGES = 3  # of a share below 1, each with a ψ of its own


class Conditions:
    """The terms of a training on shares: for each exemplar, and each range of its share, those of the recipe.

    ψ is the dual potential of one distribution of the synthesis, which changes with the shares: one ψ for all of
    them would fit none. It is kept apart for each range of the exemplar's own share, and for the exemplar alone.
    """

    def __init__(self, recipe: Recipe, exemplars: Sequence[Sequence[Float[Tensor, "1 _ _ _"]]]) -> None:
        self.count = len(exemplars)
        found = [[recipe.terms(variants, everywhere=True) for _ in range(_RANGES + 1)] for variants in exemplars]
        self.terms: list[Term] = [term for ranges in found for terms in ranges for term in terms]
        self._length = len(found[0][0])

    def draw(self, generator: torch.Generator) -> Float[Tensor, " k"]:
        """One exemplar alone in half of the steps; else anything between them alike (Dirichlet of 1)."""
        pure, which = float(torch.rand((), generator=generator)), torch.randint(self.count, (), generator=generator)
        between = -torch.rand(self.count, generator=generator, dtype=torch.float64).clamp(min=1e-12).log()
        if pure < _PURE:
            return torch.eye(self.count)[which]
        return (between / between.sum()).float()

    @contextmanager
    def weighing(self, problem: Problem, shares: Float[Tensor, " k"]) -> Iterator[None]:
        """Within it, the problem (of `terms`) is about these shares."""
        everything, chosen = problem.terms, []
        for exemplar, share in enumerate(shares.tolist()):
            if share > 0:
                number = exemplar * (_RANGES + 1) + int(share * _RANGES)
                first = number * self._length
                for i in range(first, first + self._length):
                    everything[i].weight = share * self.terms[i].weight
                    chosen.append(everything[i])
        problem.terms = chosen
        try:
            yield
        finally:
            problem.terms = everything
