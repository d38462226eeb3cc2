"""featot: matches feature distributions by semi-discrete optimal transport.

>>> import featot
>>> result = featot.synthesize("bricks.png", size=(512, 512), seed=1)
>>> result.save("out.png")

Everything below is imported when first used, so that ``import featot`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from featot.errors import FeatotError, UsageError
    from featot.evaluation import Evaluation, evaluate
    from featot.hookspecs import hookimpl
    from featot.images import read_image, write_image
    from featot.inpainting import inpaint
    from featot.interfaces import (
        FeatureExtractor,
        FrozenGenerator,
        Generator,
        Loss,
        LossValue,
        Metric,
        Parametrization,
        Score,
    )
    from featot.mixing import mix, mix_path
    from featot.models import Model, load_model, save_model
    from featot.options import option
    from featot.plugins import Plugin
    from featot.progress import progress_bar
    from featot.runs import Synthesis, SynthesisSettings
    from featot.stacks import StackSynthesis, synthesize_stack
    from featot.tasks import synthesize
    from featot.transferring import transfer

_HOME = {
    "FeatotError": "errors",
    "UsageError": "errors",
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
    "hookimpl": "hookspecs",
    "read_image": "images",
    "write_image": "images",
    "FeatureExtractor": "interfaces",
    "FrozenGenerator": "interfaces",
    "Generator": "interfaces",
    "Loss": "interfaces",
    "LossValue": "interfaces",
    "Metric": "interfaces",
    "Parametrization": "interfaces",
    "Score": "interfaces",
    "Model": "models",
    "load_model": "models",
    "save_model": "models",
    "option": "options",
    "Plugin": "plugins",
    "progress_bar": "progress",
    "Synthesis": "runs",
    "SynthesisSettings": "runs",
    "synthesize": "tasks",
    "inpaint": "inpainting",
    "mix": "mixing",
    "mix_path": "mixing",
    "transfer": "transferring",
    "StackSynthesis": "stacks",
    "synthesize_stack": "stacks",
}

__all__ = [
    "Evaluation",
    "FeatotError",
    "FeatureExtractor",
    "FrozenGenerator",
    "Generator",
    "Loss",
    "LossValue",
    "Metric",
    "Model",
    "Parametrization",
    "Plugin",
    "Score",
    "StackSynthesis",
    "Synthesis",
    "SynthesisSettings",
    "UsageError",
    "__version__",
    "evaluate",
    "hookimpl",
    "inpaint",
    "load_model",
    "mix",
    "mix_path",
    "option",
    "progress_bar",
    "read_image",
    "save_model",
    "synthesize",
    "synthesize_stack",
    "transfer",
    "write_image",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"featot.{_HOME[name]}"), name)
    raise AttributeError(f"module 'featot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
