"""The coarse-to-fine schedule: which resolutions, how many steps at each, and how large they are."""

from __future__ import annotations

from featot.errors import UsageError, unknown_name
from featot.interfaces import Size
from featot.match import OptimizerName, Stage
from featot.resample import halved_size, halvings

_SMALLEST_SIDE = 12  # pixels of exemplar and image at the coarsest level, where none are asked for
_STEPS, _SINGLE_LEVEL_STEPS = 40, 500  # the paper takes 500 at its one level
_STEPS_GROWTH = 1.5  # a coarser level has a quarter of the pixels, so more steps there cost little
# The optimiser's step at the start and at the end of each level: of Adam in pixel values, of the closed form λ
# (straight to v); L-BFGS finds its own.
_RATES: dict[str, tuple[float, float]] = {"adam": (0.03, 0.003), "closed-form": (1.0, 1.0), "lbfgs": (1.0, 1.0)}


def coarse_to_fine(
    size: Size,
    exemplar_size: Size,
    *,
    levels: int | None = None,
    steps: int | None = None,
    optimizer: OptimizerName = "adam",
) -> list[Stage]:
    """Stages from the coarsest resolution to the finest, each of twice the size of the one before.

    ``levels``: how many (None: as long as image and exemplar keep 12 pixels a side); 1 is the paper's plain
    algorithm. ``steps``: at the finest (None: 40, or 500 if it is the only one), half as many again at each coarser.
    """
    levels = count_levels(size, exemplar_size) if levels is None else levels
    steps = (_SINGLE_LEVEL_STEPS if levels == 1 else _STEPS) if steps is None else steps
    if optimizer not in _RATES:
        raise unknown_name("optimizer", optimizer, _RATES)
    rate, stages = _RATES[optimizer], []
    for scale in reversed(range(levels)):
        num_steps = round(steps * _STEPS_GROWTH**scale)
        stages.append(Stage(scale=scale, size=halved_size(size, scale), num_steps=num_steps, rate=rate))
    return stages


def count_levels(size: Size, exemplar_size: Size) -> int:
    """How often image and exemplar can be halved while each keeps 12 pixels a side, and once more."""
    levels = 1
    most = 1 + halvings(min(exemplar_size), _SMALLEST_SIDE)
    while levels < most and min(halved_size(size, levels)) >= _SMALLEST_SIDE:
        levels += 1
    return levels


def check_levels(levels: int | None, exemplar_size: Size) -> None:
    """Raises `featot.UsageError` for more levels than the exemplar can be halved to."""
    most = 1 + halvings(min(exemplar_size), 1)
    if levels is not None and levels > most:
        h, w = exemplar_size
        raise UsageError(f"expected levels of at most {most} for an exemplar of {h}x{w} pixels, got {levels}")
