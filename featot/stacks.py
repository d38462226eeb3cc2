"""Materials: several maps of one surface, synthesised together so that they stay aligned."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from featot.errors import UsageError, unknown_name
from featot.exemplars import Picture, Pictures, Sources
from featot.files import write_text
from featot.formats import Format
from featot.images import png_of, side_by_side, write_image
from featot.match import Callback
from featot.plugins import Registry
from featot.runs import Synthesis, SynthesisSettings
from featot.tasks import synthesize

_KNEE, _SLOPE, _LIFT, _POWER = 0.0031308, 12.92, 0.055, 2.4  # of sRGB's transfer function (IEC 61966-2-1)


@dataclass(frozen=True, kw_only=True)
class StackSynthesis:
    """A finished, or interrupted, synthesis of a material.

    ``maps``: by name the image ``(1, c, h, w)`` in [0, 1] of each; ``formats``: as which they are written;
    ``joint``: all of them as the loop saw them, with history and record.
    """

    maps: Mapping[str, Float[Tensor, "1 _ h w"]]
    formats: Mapping[str, Format | None] = field(repr=False)
    joint: Synthesis = field(repr=False)

    def of(self, name: str) -> Synthesis:
        """One map as a synthesis of its own, with the history of all: to show, or to report about."""
        record = {**self.joint.record, "exemplar": self.joint.record["stack"][name]}
        return dataclasses.replace(self.joint, image=self.maps[name], record=record, format=self.formats[name])

    def save(self, pattern: str) -> Path:
        """Writes each map to ``pattern`` with its name for "{map}", and the record as "stack", which it returns.

        Raises what `featot.Synthesis.save` raises.
        """
        for name, image in self.maps.items():
            write_image(image, map_path(pattern, name), self.formats[name])
        sidecar = map_path(pattern, "stack").with_suffix(".json")
        write_text(sidecar, json.dumps(self.joint.record, indent=1) + "\n")
        return sidecar

    def _repr_png_(self) -> bytes:
        """The maps side by side, for Jupyter."""
        return png_of(side_by_side([image[:, :3] for image in self.maps.values()]))


def map_path(pattern: str, name: str) -> Path:
    """Where the map goes. Raises `featot.UsageError` for a pattern without "{map}", or a name that is a path."""
    if os.path.basename(name) != name:
        raise UsageError(f"expected a name such as albedo for a map, got {name!r}, which names a folder too")
    if "{map}" not in pattern:
        raise UsageError(
            f"expected an output with {{map}} for the name of each map, as out/{{map}}.png, got {pattern}"
        )
    return Path(pattern.replace("{map}", name))


def read_map(picture: Picture) -> Pictures:
    """A map with all its channels. Raises `featot.UsageError`."""
    return Sources(exemplars=[picture], alpha="keep").read()


def synthesize_stack(
    maps: Mapping[str, Picture | Pictures],
    settings: SynthesisSettings | None = None,
    *,
    weights: Mapping[str, float] | None = None,
    linear: Collection[str] = (),
    normals: Collection[str] | None = None,
    callback: Callback | None = None,
    registry: Registry | None = None,
    **changes: Any,
) -> StackSynthesis:
    """Makes all maps of a material as one image of many channels: each patch is taken from the same place in all.

    ``maps``: by name, files or pixels ``(c, h, w)`` in [0, 1], or what `read_map` gave, of one size; each keeps its
    depth and profile.
    ``weights``: how much a map's squared differences count, 1 where not said. ``linear``: maps whose files hold
    sRGB, which are compared, and averaged, as linear light. ``normals``: maps of unit vectors, which are made of
    length 1 again (None: those with "normal" in their name).
    ``settings`` and their fields: see `featot.synthesize`. Raises what that raises, and `featot.UsageError` for maps
    of several sizes, for names that are none of the maps, and for turns of a map of normals.
    """
    if not maps:
        raise UsageError("expected at least one map")
    vectors = [name for name in maps if "normal" in name.lower()] if normals is None else list(normals)
    for name in {**(weights or {}), **dict.fromkeys(linear), **dict.fromkeys(vectors)}:
        if name not in maps:
            raise unknown_name("map", name, maps)
    for name, weight in (weights or {}).items():
        if not 0 < weight < float("inf"):
            raise UsageError(f"expected a weight above 0 for map {name!r}, got {weight}")
    if vectors and (changes.get("augment") or (settings and settings.augment)):
        raise UsageError(f"map {vectors[0]!r} holds directions, which turn with the image; expected no --augment")
    read = {name: picture if isinstance(picture, Pictures) else read_map(picture) for name, picture in maps.items()}
    sizes = {name: pictures.size for name, pictures in read.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name} {h}x{w}" for name, (h, w) in sizes.items())
        raise UsageError(f"expected maps of one size, got {found}")
    for name in vectors:
        if read[name].channels != 3:
            raise UsageError(f"expected three channels in the map of normals {name!r}, got {read[name].channels}")
    counts = {name: (weights or {}).get(name, 1.0) * (3 if pictures.grey else 1) for name, pictures in read.items()}
    factors = {name: (count / max(counts.values())) ** 0.5 for name, count in counts.items()}
    parts = {
        name: factors[name] * (_to_linear(pictures.exemplars[0]) if name in linear else pictures.exemplars[0])
        for name, pictures in read.items()
    }
    joint = synthesize(
        torch.cat(list(parts.values()), dim=1), settings, callback=callback, registry=registry, **changes
    )
    made = {}
    for name, image in zip(parts, joint.image.split([part.shape[1] for part in parts.values()], dim=1), strict=True):
        image = (image / factors[name]).clamp(0, 1)
        if name in linear:
            image = _to_srgb(image)
        made[name] = read[name].as_given(image)
    formats = {name: pictures.format for name, pictures in read.items()}
    for name in vectors:
        made[name], formats[name] = _unit(made[name], formats[name])
    stack = {name: pictures.record["exemplar"] for name, pictures in read.items()}
    facts = {"weights": dict(weights or {}), "linear": sorted(linear), "normals": sorted(vectors)}
    record = {**joint.record, "task": "stack", "stack": stack, **facts}
    return StackSynthesis(
        maps=made,
        formats=formats,
        joint=dataclasses.replace(joint, record=record),
    )


def _unit(image: Float[Tensor, "1 3 h w"], format: Format | None) -> tuple[Tensor, Format | None]:
    """Vectors v of length 1 as (v + 1) / 2, and the format for it; floats below 0 in a file were v itself."""
    low, span = (format.low, format.range) if format is not None and format.low < 0 else (-1.0, 2.0)
    vectors = low + span * image
    length = vectors.square().sum(1, keepdim=True).sqrt()
    up = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).to(image)
    vectors = torch.where(length > 1e-3, vectors / length.clamp(min=1e-3), up)
    if format is not None and format.low < 0:
        format = dataclasses.replace(format, low=-1.0, range=2.0)
    return (vectors + 1) / 2, format


def _to_linear(image: Tensor) -> Tensor:
    bent = ((image + _LIFT) / (1 + _LIFT)) ** _POWER
    return torch.where(image <= _SLOPE * _KNEE, image / _SLOPE, bent)


def _to_srgb(image: Tensor) -> Tensor:
    bent = (1 + _LIFT) * image.clamp(min=_KNEE) ** (1 / _POWER) - _LIFT
    return torch.where(image <= _KNEE, _SLOPE * image, bent)
