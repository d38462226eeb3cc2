"""Contract checks for plugins: run them in your own tests, on your own plugin.

>>> from featot.testing import check_extractor
>>> check_extractor(MyExtractor(MyOptions(size=5)))

Each raises AssertionError with a sentence that says what of `featot.interfaces` is violated. They take a second or
two on the CPU, and all their random numbers are fixed. Of an installed plugin, pytest runs them one by one, with the
checks of its options: ``pytest --featot my-features`` (see `featot.pytest_plugin`).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import torch

from featot.interfaces import Generator
from featot.options import describe, to_dict
from featot.ot import Measure
from featot.plugins import Registered
from featot.testing._extractors import EXTRACTOR_CHECKS, check_extractor
from featot.testing._generators import GENERATOR_CHECKS, check_generator
from featot.testing._losses import LOSS_CHECKS, check_loss
from featot.testing._metrics import METRIC_CHECKS, check_metric
from featot.testing._parametrizations import PARAMETRIZATION_CHECKS, check_parametrization
from featot.testing._tools import require

__all__ = [
    "check_extractor",
    "check_generator",
    "check_loss",
    "check_metric",
    "check_options",
    "check_parametrization",
    "contract",
]


def contract(registered: Registered) -> dict[str, Callable[[], None]]:
    """The checks of an installed plugin with its defaults, by name: of its options, and of what its kind promises.

    Each makes an instance of its own, and raises AssertionError. A command need only be there.
    Raises `featot.FeatotError` where the plugin cannot be imported.
    """
    target = registered.load()
    if registered.kind == "command":
        return {"import": lambda: None}
    checks: dict[str, Callable[[], None]] = {"options": functools.partial(check_options, registered)}
    if registered.kind == "loss":
        return checks | {
            name: functools.partial(_on_factory, check, registered) for name, check in LOSS_CHECKS.items()
        }
    suites: dict[str, Any] = {
        "features": EXTRACTOR_CHECKS,
        "param": PARAMETRIZATION_CHECKS,
        "metric": METRIC_CHECKS,
    }
    suite = dict(suites[registered.kind])
    if issubclass(target, Generator):
        suite |= GENERATOR_CHECKS
    return checks | {name: functools.partial(_on_instance, check, registered) for name, check in suite.items()}


def check_options(registered: Registered) -> None:
    """Checks the options of a plugin: each has a line of help, and a record repeats them."""
    for info in describe(registered.plugin.options):
        require(info.help, f"option {info.name!r} has no line of help; declare it with featot.option")
    options = registered.build_options({})
    try:
        record = json.loads(json.dumps(to_dict(options), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"the defaults of the options must be ready for JSON: {error}") from error
    require(registered.build_options(record) == options, f"what a record says of the options, {record}, differs")
    arguments = [Measure(torch.eye(3)), torch.Generator().manual_seed(0)] if registered.kind == "loss" else []
    require(
        registered.factory(options)(*arguments).options is options,
        "the constructor must keep its first argument as self.options",
    )


def _on_factory(check: Callable[[Any], None], registered: Registered) -> None:
    check(registered.factory())


def _on_instance(check: Callable[[Any, int], None], registered: Registered) -> None:
    for channels in (1, 3):
        check(registered.create(), channels)
