"""A trained generator as an ONNX graph, for programs without torch."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from featot.errors import FeatotError
from featot.files import AnyPath, atomic_write
from featot.interfaces import FrozenGenerator

_NEEDED = ("onnx", "onnxscript")


def export_onnx(generator: FrozenGenerator, path: AnyPath) -> None:
    """Writes the network without its noise: whole or not at all.

    Inputs ``noise0``, ``noise1``, … from fine to coarse, float32 ``(1, ·, h/2^s + 2m, w/2^s + 2m)``, uniform in
    [0, 1), where ``h`` and ``w`` are multiples of `FrozenGenerator.stride` and m is the scale's margin; output
    ``image`` ``(1, c, h, w)``, not clipped. Where the noise is wrapped round by its margins, the image tiles.
    A conditional generator has a last input ``weights`` ``(k,)``, at least 0, whose sum is 1.
    Raises `featot.FeatotError` where packages of the extra ``onnx`` are missing or the network cannot be exported.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise FeatotError(f"export to ONNX needs {' and '.join(missing)}: pip install 'featot[onnx]'")
    margins = generator.margins()
    tall, wide = Dim("h", min=2), Dim("w", min=2)  # in cells of the coarsest scale
    names = [f"noise{scale}" for scale in range(len(margins))]
    examples: list[Tensor] = []
    shapes: list[dict[int, Any] | None] = []
    for scale, (channels, margin) in enumerate(margins):
        cells = generator.stride // 2**scale
        examples.append(torch.rand(1, channels, 3 * cells + 2 * margin, 4 * cells + 2 * margin))
        shapes.append({2: cells * tall + 2 * margin, 3: cells * wide + 2 * margin})
    if generator.conditions:
        names.append("weights")
        examples.append(torch.full((generator.conditions,), 1 / generator.conditions))
        shapes.append(None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of its own innards
            program = torch.onnx.export(
                generator.cpu(),
                tuple(examples),
                dynamo=True,
                verbose=False,
                input_names=names,
                output_names=["image"],
                dynamic_shapes=(tuple(shapes),),
            )
        assert program is not None
        data = program.model_proto.SerializeToString()
    except Exception as error:  # torch.export and onnxscript each have many
        reason = " ".join(str(error).split())[:200]
        raise FeatotError(f"cannot export {type(generator).__name__}: {type(error).__name__}: {reason}") from error
    with atomic_write(path) as file:
        file.write(data)
