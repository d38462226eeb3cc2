"""Makes docs/images/overview.png: crops of scikit-image's CC0 photographs, each beside its synthesis.

python docs/pictures.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from skimage import data

import featot
from featot.images import side_by_side

CROPS = (data.brick()[250:506, 128:384], data.gravel()[:256, :256])

if __name__ == "__main__":
    pictures = []
    for crop in CROPS:
        exemplar = torch.from_numpy(crop).float()[None, None] / 255
        pictures += [exemplar, featot.synthesize(exemplar).image]
    featot.write_image(side_by_side(pictures), Path(__file__).parent / "images" / "overview.png")
