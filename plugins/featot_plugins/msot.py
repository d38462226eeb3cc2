"""The multiscale optimal transport distance, the paper's own measure of a synthesis."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from featot.interfaces import Metric, Score
from featot.ot import SemiDiscreteResult, solve_semidiscrete
from featot_plugins.options import MSOTOptions
from featot_plugins.patches import windows
from featot_plugins.scales import both_scales


class MSOT(Metric):
    """Mean over the scales of a pyramid of OT between random patches of image and exemplar (squared cost).

    Houdard et al. 2021, Sec. 5. Two draws of the same image do not score 0: an exemplar against itself gives the
    least that can be told apart, which is what a score is to be compared with.
    """

    def __call__(self, image: Float[Tensor, "1 c h w"], exemplar: Float[Tensor, "1 c2 h2 w2"]) -> float:
        return self.score(image, exemplar).value

    def score(self, image: Float[Tensor, "1 c h w"], exemplar: Float[Tensor, "1 c2 h2 w2"]) -> Score:
        """Details: "upper", which the distance does not exceed where the score is its lower bound; "gap", the largest
        relative gap between the two bounds of a scale and draw; "scales", the score at each.
        """
        options: MSOTOptions = self.options
        generator = torch.Generator().manual_seed(0)
        solved: dict[str, list[SemiDiscreteResult]] = {}
        for name, *pair in both_scales(image, exemplar, options.size, options.scales):
            all_x, all_y = (windows(halved, options.size, 1, "valid", None) for halved in pair)
            assert all_x is not None
            assert all_y is not None
            # Where every patch is drawn, another draw is the same.
            draws = options.draws if max(len(all_x), len(all_y)) > options.points else 1
            solved[name] = [
                solve_semidiscrete(self._draw(all_x, generator), self._draw(all_y, generator), max_iter=100)
                for _ in range(draws)
            ]
        scales = {name: _mean([result.value for result in results]) for name, results in solved.items()}
        upper = _mean([_mean([result.value_upper for result in results]) for results in solved.values()])
        gap = max(result.gap for results in solved.values() for result in results)
        return Score(_mean(list(scales.values())), {"upper": upper, "gap": gap, "scales": scales})

    def _draw(self, points: Tensor, generator: torch.Generator) -> Tensor:
        chosen = torch.randperm(len(points), generator=generator)[: self.options.points]
        return points[chosen.to(points.device)]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
