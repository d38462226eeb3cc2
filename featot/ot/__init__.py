"""Semi-discrete optimal transport on its own: no image, no plugin. Start with `solve_semidiscrete`."""

from featot.ot.cost import COSTS, Cost, as_cost
from featot.ot.measure import Measure
from featot.ot.problem import Sampler, SemiDiscreteResult
from featot.ot.search import BACKENDS, nearest
from featot.ot.semidual import ascend, c_transform, marginal, semidual
from featot.ot.shortlist import Shortlist
from featot.ot.solver import METHODS, SemiDiscreteSolver, SolverState, solve_semidiscrete

__all__ = [
    "BACKENDS",
    "COSTS",
    "METHODS",
    "Cost",
    "Measure",
    "Sampler",
    "SemiDiscreteResult",
    "SemiDiscreteSolver",
    "Shortlist",
    "SolverState",
    "as_cost",
    "ascend",
    "c_transform",
    "marginal",
    "nearest",
    "semidual",
    "solve_semidiscrete",
]
