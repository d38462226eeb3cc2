"""How much of an image is copied verbatim from its exemplar."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from featot.errors import UsageError
from featot.interfaces import Metric
from featot.ot import nearest
from featot_plugins.options import CopyingOptions
from featot_plugins.patches import windows
from featot_plugins.scales import check_alike


class Copying(Metric):
    """The share of neighbouring patches whose nearest exemplar patches are neighbours in the same way.

    1 for a crop of the exemplar, 0 where no two patches come from there side by side. Neighbours in a row count.
    """

    measures_likeness = False

    def __call__(self, image: Float[Tensor, "1 c h w"], exemplar: Float[Tensor, "1 c2 h2 w2"]) -> float:
        options: CopyingOptions = self.options
        check_alike(image, exemplar, options.size)
        rows, columns = ((side - options.size) // options.stride + 1 for side in image.shape[2:])
        if columns < 2:
            h, w = image.shape[2:]
            raise UsageError(f"an image of {h}x{w} has no two patches of {options.size} pixels side by side")
        # Whole strides, or `windows` would end with patches that are flush with the border.
        h, w = ((count - 1) * options.stride + options.size for count in (rows, columns))
        x = windows(image[:, :, :h, :w], options.size, options.stride, "valid", None)
        y = windows(exemplar, options.size, 1, "valid", None)
        assert x is not None
        assert y is not None
        found = nearest(x, y, y.new_zeros(len(y)), center=y.mean(0))[1].view(rows, columns)
        width = exemplar.shape[3] - options.size + 1
        row, column = found // width, found % width
        onward = (column.diff(dim=1) == options.stride) & (row.diff(dim=1) == 0)
        return float(onward.float().mean())
