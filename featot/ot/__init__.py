"""Semi-discrete optimal transport on its own: no image, no plugin. Start with `solve_semidiscrete`."""

from featot.ot.measure import Measure
from featot.ot.search import BACKENDS, nearest
from featot.ot.semidual import c_transform, marginal, semidual
from featot.ot.solver import SemiDiscreteResult, SemiDiscreteSolver, SolverState, solve_semidiscrete

__all__ = [
    "BACKENDS",
    "Measure",
    "SemiDiscreteResult",
    "SemiDiscreteSolver",
    "SolverState",
    "c_transform",
    "marginal",
    "nearest",
    "semidual",
    "solve_semidiscrete",
]
