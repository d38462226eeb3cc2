"""From coarse to fine: at which scale a generator learns, and when.

A step on images of half the size takes about half the time, and what coarse scales look like takes most steps.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

from featot.interfaces import Size
from featot.resample import halved_size

_SHARES = {3: 0.28, 2: 0.14, 1: 0.1}  # of the time, at these scales; the rest is the finest's
# Of the finest scale's time, the last: on images of the whole size, whose statistics are nearer to those of any size.
_WHOLE = 0.25
_SMALLEST = 32  # pixels: images that are no larger have no coarse part worth a stage


class TrainingPlan:
    """The scales, from ``coarser`` at most to 0, that a training of images of ``size`` goes through in ``steps``."""

    def __init__(self, size: Size, coarser: int, steps: int) -> None:
        self._size = size
        possible = [scale for scale in _SHARES if scale <= coarser and min(size) >> scale >= _SMALLEST]
        shares = {scale: _SHARES[scale] for scale in possible}
        shares[0] = 1 - sum(shares.values())
        self.scales = list(shares)
        self._ends = [0.0, *accumulate(shares.values())]  # of the time
        counts = [0.0, *accumulate(share * 2.0 ** max(1, scale) for scale, share in shares.items())]
        self._steps = [steps * count / counts[-1] for count in counts]

    def size(self, scale: int, passed: float) -> Size:
        """Of the images at this scale, when so much of its time has passed: halved so often, and the finest for most
        of their time once, as what is fine needs less room to vary."""
        once = len(self.scales) > 1 and not self.ends(scale, passed)
        return halved_size(self._size, max(scale, int(once)))

    def ends(self, scale: int, passed: float) -> bool:
        """Whether it is the last part of the finest scale's time."""
        return scale == 0 and passed >= 1 - _WHOLE

    def fraction(self, steps: int) -> float:
        """How much of the time so many steps take."""
        if steps >= self._steps[-1]:
            return 1.0
        stage = bisect_right(self._steps, steps) - 1
        (first, last), (start, end) = self._steps[stage : stage + 2], self._ends[stage : stage + 2]
        return start + (end - start) * (steps - first) / (last - first)

    def at(self, fraction: float) -> tuple[int, float]:
        """The scale there, and how much of its own time has passed."""
        stage = min(bisect_right(self._ends, fraction), len(self.scales)) - 1
        start, end = self._ends[stage : stage + 2]
        return self.scales[stage], (fraction - start) / (end - start)
