"""Model files: a trained generator as safetensors, with what it is and how it was made as JSON in the header.

Nothing in such a file is code, and nothing else is ever loaded: a pickle is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from featot.errors import FeatotError, UsageError
from featot.files import AnyPath, atomic_write, what_is_missing
from featot.interfaces import FrozenGenerator, Generator
from featot.noise import NoiseField
from featot.options import to_dict
from featot.plugins import Registered, Registry, load_registry
from featot.provenance import versions
from featot.shares import ShareMap

FORMAT = 1
_KEY = "featot"  # of the header's metadata
_NEEDED: Mapping[str, type] = {"param": str, "owner": str, "options": dict, "channels": int, "record": dict}
_EXPECTED = "expected a model that featot has trained"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A generator that was read from a file.

    ``header``: ``format``; ``param``, ``owner``, ``options``: its plugin; ``channels`` of its images; ``exemplar``:
    the SHA-256 of the pixels it learnt from (None where not known); ``versions``; ``record`` of the training;
    ``grey``, whether it learnt one channel of three that were alike; and ``conditions``, the names of the exemplars,
    where it is conditional.
    """

    generator: Generator
    header: Mapping[str, Any] = field(repr=False)

    def freeze(self) -> FrozenGenerator:
        """What samples, in as many channels as the exemplars were given with."""
        frozen = self.generator.freeze()
        return _Grey(frozen) if self.header.get("grey") else frozen


class _Grey(FrozenGenerator):
    """Makes three channels alike out of the one that a generator makes."""

    def __init__(self, frozen: FrozenGenerator) -> None:
        super().__init__()
        self.frozen, self.channels = frozen, 3
        self.stride, self.conditions = frozen.stride, frozen.conditions

    def shared(self, shares: Float[Tensor, " k"] | ShareMap) -> FrozenGenerator:
        return _Grey(self.frozen.shared(shares))

    def render(self, noise: NoiseField, rows: range, columns: range) -> Float[Tensor, "1 3 h w"]:
        return self.frozen.render(noise, rows, columns).expand(-1, 3, -1, -1)

    def margins(self) -> list[tuple[int, int]]:
        return self.frozen.margins()

    def forward(self, *noise: Tensor) -> Tensor:
        image: Tensor = self.frozen(*noise)
        return image.expand(-1, 3, -1, -1)


def save_model(
    path: AnyPath, generator: Generator, plugin: Registered, record: Mapping[str, Any], *, grey: bool = False
) -> None:
    """Writes a calibrated generator, made by ``plugin``, to ``path``: whole or not at all.

    ``record``: of the training, fit for JSON; its ``exemplar``, if any, is that of a synthesis. ``grey``: the one
    channel that it makes stands for three that are alike.
    Raises `featot.UsageError` before `Generator.calibrate`, and what `featot.files.atomic_write` raises.
    """
    header = {
        "format": FORMAT,
        "param": plugin.plugin.name,
        "owner": plugin.owner,
        "options": to_dict(generator.options),
        "channels": generator.freeze().channels,
        "exemplar": record.get("exemplar", {}).get("sha256"),
        "versions": versions([(plugin.owner, plugin.version)]),
        "record": record,
        "grey": grey,
    }
    if generator.conditions:
        header["conditions"] = _names(record, generator.conditions)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in generator.state_dict().items()}
    data = save(tensors, {_KEY: json.dumps(header)})
    with atomic_write(path) as file:
        file.write(data)


def load_model(path: AnyPath, device: torch.device | str = "cpu", registry: Registry | None = None) -> Model:
    """The model in ``path``, on ``device``.

    Raises `featot.UsageError` for what is no whole model of a known format, and where its plugin is not installed or
    its weights do not fit; `featot.FeatotError` where the plugin fails to import.
    """
    header, tensors = _read(path)
    registry = load_registry() if registry is None else registry
    name, owner = header["param"], header["owner"]
    plugin = registry.plugins["param"].get(name)
    if plugin is None or plugin.owner != owner:
        there = f"; the {name!r} that is installed is {plugin.owner}'s" if plugin else ""
        raise _unreadable(path, f"it needs the parametrization {name!r} of {owner!r}, which is not installed{there}")
    try:
        generator = plugin.create(plugin.build_options(header["options"]))
        if not isinstance(generator, Generator):
            raise UsageError(f"the parametrization {name!r} of {owner!r} is no generator")
        generator.conditions = len(header.get("conditions", []))
        if generator.conditions and not generator.conditionable:
            raise UsageError(f"the parametrization {name!r} of {owner!r} cannot be conditioned on several exemplars")
        generator.load_state_dict(tensors, torch.device(device))
        channels = generator.freeze().channels
    except UsageError as error:
        raise _unreadable(path, str(error)) from None
    if channels != header["channels"]:
        raise _unreadable(path, f"its header says {header['channels']} channels, its weights make {channels}")
    return Model(generator=generator, header=header)


def _names(record: Mapping[str, Any], count: int) -> list[str]:
    """Of the exemplars: their files' without suffix, or their numbers."""
    exemplars = [record.get("exemplar", {}), *record.get("more_exemplars", [])][:count]
    paths = [exemplar.get("path") for exemplar in exemplars] + [None] * (count - len(exemplars))
    return [Path(path).stem if path else f"exemplar {number}" for number, path in enumerate(paths, start=1)]


def _read(path: AnyPath) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors, both checked for themselves."""
    try:
        with open(path, "rb") as file:
            start = file.read(16)
        # A safetensors file starts with a length, whose first byte may be a pickle's; then comes "{".
        if start.startswith((b"PK\x03\x04", b"\x80")) and start[8:9] != b"{":
            raise _unreadable(path, f"it is a pickle (.pth), which may run anything and is never loaded; {_EXPECTED}")
        with safe_open(str(path), framework="pt") as opened:
            metadata = opened.metadata() or {}
            header, names = _header(path, metadata), opened.keys()
            tensors = {name: opened.get_tensor(name) for name in names}
    except (FileNotFoundError, NotADirectoryError):
        raise _unreadable(path, what_is_missing(Path(path))) from None
    except OSError as error:
        raise _unreadable(path, f"{error.strerror or error}; {_EXPECTED}") from None
    except SafetensorError as error:
        raise _unreadable(path, f"truncated, damaged or no safetensors file ({error}); {_EXPECTED}") from None
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise FeatotError(f"cannot read {path}: {name!r} has values that are NaN or infinite")
    return header, tensors


def _header(path: AnyPath, metadata: Mapping[str, str]) -> dict[str, Any]:
    if _KEY not in metadata:
        raise _unreadable(path, f"it is a safetensors file of something else; {_EXPECTED}")
    try:
        header = json.loads(metadata[_KEY])
    except ValueError:
        header = None
    number = header.get("format") if isinstance(header, dict) else None
    if isinstance(header, dict) and isinstance(number, int) and number > FORMAT:
        library = header.get("versions")
        made = library.get("featot", "?") if isinstance(library, dict) else "?"
        why = f"its format is {number}, made by featot {made}; this featot reads formats up to {FORMAT}"
        raise _unreadable(path, f"{why}: install a newer one")
    if number != FORMAT:
        raise _unreadable(path, f"its header is damaged: format {number!r}, expected {FORMAT}")
    for key, kind in _NEEDED.items():
        if not isinstance(header.get(key), kind):
            raise _unreadable(path, f"its header is damaged at {key!r}")
    if not isinstance(header.get("grey", False), bool):
        raise _unreadable(path, "its header is damaged at 'grey'")
    conditions = header.get("conditions", ["", ""])
    if not isinstance(conditions, list) or len(conditions) < 2 or not all(isinstance(it, str) for it in conditions):
        raise _unreadable(path, "its header is damaged at 'conditions'")
    return dict(header)


def _unreadable(path: AnyPath, why: str) -> UsageError:
    return UsageError(f"cannot read {path}: {why}")
