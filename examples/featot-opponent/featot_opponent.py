"""Opponent colours for featot: what is registered, and its options. No torch here: `featot --help` reads it."""

from __future__ import annotations

from dataclasses import dataclass

import featot


@dataclass(frozen=True)
class OpponentOptions:
    size: int = featot.option(4, "side of a patch, in pixels", min=1)
    luminance: float = featot.option(1.0, "weight of light against dark", min=0.0)
    colour: float = featot.option(2.0, "weight of red against green, and of yellow against blue", min=0.0)

    def __post_init__(self) -> None:
        if self.luminance == self.colour == 0:
            raise ValueError("expected a weight above 0 for luminance or for colour")


@featot.hookimpl
def featot_register_extractors() -> list[featot.Plugin]:
    return [
        featot.Plugin(
            "opponent",
            "featot_opponent_colours:Opponent",
            "patches at every scale in an opponent colour space",
            OpponentOptions,
        ),
    ]
