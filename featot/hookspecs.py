"""What a plugin may register. Each hook returns a list of `featot.plugins.Plugin`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from featot.plugins import Plugin

hookspec = pluggy.HookspecMarker("featot")
hookimpl = pluggy.HookimplMarker("featot")


@hookspec
def featot_register_extractors() -> list[Plugin]:  # type: ignore[empty-body]
    """Feature extractors, for ``--features``: targets are `featot.FeatureExtractor` classes."""


@hookspec
def featot_register_parametrizations() -> list[Plugin]:  # type: ignore[empty-body]
    """Parametrizations, for ``--param``: targets are `featot.Parametrization` classes."""


@hookspec
def featot_register_losses() -> list[Plugin]:  # type: ignore[empty-body]
    """Losses, for ``--loss``: targets are `featot.Loss` classes."""


@hookspec
def featot_register_metrics() -> list[Plugin]:  # type: ignore[empty-body]
    """Metrics, for ``--metric``: targets are `featot.Metric` classes."""


@hookspec
def featot_register_commands() -> list[Plugin]:  # type: ignore[empty-body]
    """Commands of the command line, ``featot NAME``: targets are `click.Command` objects."""
