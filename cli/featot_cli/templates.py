"""What `featot plugins new` writes, for each kind of plugin; $name, $module and $cls are filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Template:
    """The module of a kind of plugin, up to `HOOK`; ``words``: what the files of every kind say differently."""

    words: Mapping[str, str]
    module: str


PACKAGE = {
    "pyproject.toml": """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "$name"
version = "0.1.0"
description = "$summary, for featot"
readme = "README.md"
requires-python = ">=3.10"
dependencies = ["featot>=$version"]

[project.optional-dependencies]
dev = ["pytest>=8.2", "ruff>=0.17"]

# How featot finds the plugin: the module whose hooks it asks.
[project.entry-points.featot]
$module = "$module"

[tool.setuptools]
py-modules = ["$module"]

[tool.pytest.ini_options]
pythonpath = ["."]
testpaths = ["tests"]

[tool.ruff]
line-length = 118

[tool.ruff.lint]
select = ["E", "F", "W", "I", "B", "UP"]
""",
    "tests/test_$module.py": '''\
"""What featot expects of $a_kind, checked by featot's own suite."""

${imports}from featot.testing import $check

from $module import (
    $cls,
    ${cls}Options,
)


def test_it_keeps_the_contract():
    $check($contract)


def test_with_another_option():
    $check($other)
''',
    "README.md": """\
# $name

A plugin of featot: $summary.

```sh
pip install -e '.[dev]'
pytest                     # its own tests
pytest --featot $name      # and the contract of featot's plugins, check by check
featot plugins             # lists it, with its options
$usage
```

The plugin is `$module.py`. What $a_kind must do is told in featot's docs/plugins.md and in the docstrings of
`featot.interfaces`; a second plugin needs one more line in the hook at the end of the module.
""",
    ".gitignore": "__pycache__/\n*.egg-info/\nbuild/\ndist/\n",
}

HOOK = """

@featot.hookimpl
def $hook():
    return [
        featot.Plugin(
            "$module",
            "$module:$cls",
            "$summary",
            ${cls}Options,
        ),
    ]
"""
"""The end of every module."""

_FEATURES = Template(
    {
        "summary": "triples of pixels that form a corner",
        "a_kind": "a feature extractor",
        "check": "check_extractor",
        "imports": "",
        "contract": "${cls}(${cls}Options())",
        "other": "${cls}(${cls}Options(distance=5))",
        "usage": "featot synth bricks.png --features $name -o distance=4",
    },
    '''\
"""$name: $summary, as features for featot."""

from dataclasses import dataclass

import featot
import torch


@dataclass(frozen=True)
class ${cls}Options:
    distance: int = featot.option(2, "from the corner to its neighbours, in pixels", min=1)


class $cls(featot.FeatureExtractor):
    """Each pixel with its neighbours below and to the right: points of dimension 3c."""

    linear = True  # every coordinate is an average of pixels (here, of one)

    def extract(self, image, *, scale=0, boundary="valid", max_points=None):
        step = self.options.distance
        points = torch.cat([image, image.roll(-step, dims=2), image.roll(-step, dims=3)], dim=1)
        if boundary == "valid":
            points = points[:, :, :-step, :-step]  # what came round the border is left out
        points = points.permute(0, 2, 3, 1).flatten(0, 2)
        return {f"1/{2**scale}": points} if len(points) else {}
''',
)

_PARAM = Template(
    {
        "summary": "pixels that cannot leave the range from 0 to 1",
        "a_kind": "a parametrization",
        "check": "check_parametrization",
        "imports": "",
        "contract": "${cls}(${cls}Options())",
        "other": "${cls}(${cls}Options(spread=2.0))",
        "usage": "featot synth bricks.png --param $name -o spread=0.5",
    },
    '''\
"""$name: $summary, as a parametrization for featot."""

from dataclasses import dataclass

import featot
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class ${cls}Options:
    spread: float = featot.option(1.0, "of the logits that it starts from", min=0.0)


class $cls(featot.Parametrization):
    """One free logit per pixel and channel, on a torus; starts as noise about grey."""

    resizable = True  # so it may be optimised from coarse to fine

    def initialize(self, exemplar, size, generator):
        noise = torch.randn(1, exemplar.shape[1], *size, generator=generator)
        self._set((self.options.spread * noise).to(exemplar))

    def resize(self, size):
        self._set(F.interpolate(self.logits.detach(), size, mode="bilinear"))

    def parameters(self):
        return [self.logits]

    def __call__(self, size, generator):
        return self.logits.sigmoid()

    def _set(self, logits):
        self.logits = logits.contiguous().requires_grad_()
''',
)

_LOSS = Template(
    {
        "summary": "maximum mean discrepancy, by random waves",
        "a_kind": "a loss",
        "check": "check_loss",
        "imports": "from functools import partial\n\n",
        "contract": "partial(${cls}, ${cls}Options())",
        "other": "partial(${cls}, ${cls}Options(width=1.0))",
        "usage": "featot synth bricks.png --loss $name -o width=0.5",
    },
    '''\
"""$name: $summary, as a loss for featot."""

import math
from dataclasses import dataclass

import featot
import torch


@dataclass(frozen=True)
class ${cls}Options:
    width: float = featot.option(0.3, "of the kernel, per root of the dimension", min=0.01)


class $cls(featot.Loss):
    """Compares the means of 256 waves over the points (Rahimi and Recht 2007): 0 if they agree."""

    def __init__(self, options, target, generator):
        super().__init__(options, target, generator)
        dimension = target.points.shape[1]
        waves = torch.randn(dimension, 128, generator=generator).to(target.points)
        self.waves = waves / (options.width * math.sqrt(dimension))
        self.mean = target.weights @ self._features(target.points)

    def __call__(self, points, *, improve=True):
        gap = self._features(points).mean(0) - self.mean
        return featot.LossValue(gap.square().mean())

    def _features(self, points):
        angles = points @ self.waves
        return torch.cat([angles.cos(), angles.sin()], dim=1)
''',
)

_METRIC = Template(
    {
        "summary": "difference of the histograms of each channel",
        "a_kind": "a metric",
        "check": "check_metric",
        "imports": "",
        "contract": "${cls}(${cls}Options())",
        "other": "${cls}(${cls}Options(bins=8))",
        "usage": "featot eval wall.png --exemplar bricks.png --metric $name -o bins=64",
    },
    '''\
"""$name: $summary, as a metric for featot."""

from dataclasses import dataclass

import featot
import torch


@dataclass(frozen=True)
class ${cls}Options:
    bins: int = featot.option(32, "between 0 and 1, in each channel", min=2)


class $cls(featot.Metric):
    """Half the L1 distance of the histograms, the mean over the channels: from 0 to 1."""

    lower_is_better = True

    def __call__(self, image, exemplar):
        found, wanted = self._histograms(image), self._histograms(exemplar)
        return float((found - wanted).abs().sum(1).mean() / 2)

    def _histograms(self, image):
        channels = image[0].flatten(1).clamp(0, 1).cpu()
        counts = [torch.histc(channel, self.options.bins, min=0, max=1) for channel in channels]
        return torch.stack(counts) / channels.shape[1]
''',
)

KINDS: Mapping[str, Template] = {"features": _FEATURES, "param": _PARAM, "loss": _LOSS, "metric": _METRIC}
