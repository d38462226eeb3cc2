"""The main job on a real photograph: synthesise, look, score.

    python examples/demo.py [FOLDER]

Writes the exemplar (a crop of scikit-image's CC0 photograph `brick`), the synthesis with its record, both side by
side, and the loss curve.
"""

import sys
from pathlib import Path

import matplotlib
import torch
from skimage import data

import featot
from featot.images import side_by_side
from featot.plugins import load_registry
from featot.progress import progress_bar

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    exemplar = torch.from_numpy(data.brick()[250:506, 128:384]).float()[None, None] / 255
    featot.write_image(exemplar, folder / "exemplar.png")

    with progress_bar(quiet=False) as callback:
        result = featot.synthesize(folder / "exemplar.png", seed=0, callback=callback)
    result.save(folder / "synthesis.png")
    featot.write_image(side_by_side([exemplar, result.image]), folder / "side_by_side.png")
    plot_loss(result, folder / "loss.png")

    msot = load_registry().get("metric", "msot").create()
    print(f"made {folder}/synthesis.png in {result.record['timings']['match']:.1f} s")
    print(f"  compare  {folder}/side_by_side.png")
    print(f"  loss     {folder}/loss.png")
    print(
        f"  score    multiscale OT distance {msot(result.image, exemplar):.4f} "
        f"(the exemplar against itself {msot(exemplar, exemplar):.4f}; lower is better)"
    )
    if result.interrupted:
        sys.exit(130)


def plot_loss(result: featot.Synthesis, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    for scale in sorted({record.scale for record in result.history}, reverse=True):
        records = [record for record in result.history if record.scale == scale]
        axes.plot([r.step for r in records], [r.loss for r in records], label=f"1/{2**scale}" if scale else "full")
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.legend(title="resolution", ncols=3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out"))
