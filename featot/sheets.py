"""Labelled contact sheets of pictures, through matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from featot.files import AnyPath, atomic_write

_INCHES, _DPI = 2.6, 120  # of a picture's side


def write_sheet(
    pictures: Sequence[Sequence[tuple[str, Float[Tensor, "1 _ _ _"]] | None]], path: AnyPath, title: str = ""
) -> None:
    """Writes rows of pictures, each with its label below, to a PNG; None leaves a place empty.

    Raises `featot.FeatotError` or `featot.UsageError` where it cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    rows, columns = len(pictures), max(len(row) for row in pictures)
    with matplotlib.rc_context({"font.size": 8}):
        figure = Figure(figsize=(_INCHES * columns, (_INCHES + 0.35) * rows + 0.2), layout="constrained")
        figure.suptitle(title)
        axes = figure.subplots(rows, columns, squeeze=False)
        for i in range(rows):
            for j in range(columns):
                axes[i, j].set_axis_off()
                cell = pictures[i][j] if j < len(pictures[i]) else None
                if cell is not None:
                    label, image = cell
                    colours = image[0].expand(3, -1, -1) if image.shape[1] == 1 else image[0, :3]
                    axes[i, j].imshow(colours.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
                    axes[i, j].set_title(label, y=-0.04, va="top")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": "featot"})
    with atomic_write(path) as file:
        file.write(buffer.getvalue())
