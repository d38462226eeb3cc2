"""Tasks: each builds a problem for the one loop in `featot.match`."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from featot import provenance
from featot.errors import FeatotError, UsageError
from featot.files import AnyPath, write_text
from featot.images import read_image, write_image
from featot.interfaces import FeatureExtractor, Parametrization, Size
from featot.match import Callback, LossFactory, OptimizerName, Record, Term, match
from featot.options import build, to_dict
from featot.plugins import Registry, load_registry, route_options
from featot.schedule import check_levels, coarse_to_fine

_KINDS = ("features", "param", "loss")
_BYTES_PER_VALUE = 50  # peak memory per pixel and channel of the result: its growth from 1024² to 2048²


@dataclass(frozen=True, kw_only=True)
class SynthesisSettings:
    """Everything that decides a synthesis: equal settings give equal images on one machine.

    ``size``: of the result in pixels (None: the exemplar's). ``features``, ``param``, ``loss``: plugin names.
    ``options``: their options, as "key" where only one of them knows it, or as "plugin.key".
    ``optimizer``: see `featot.match.match`. ``levels``, ``steps``: see `featot.schedule.coarse_to_fine`.
    ``max_points``: levels of the image with more points than this are thinned.
    ``device``: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
    """

    size: Size | None = None
    features: str = "pyramid"
    param: str = "image"
    loss: str = "ot"
    options: Mapping[str, Any] = field(default_factory=dict)
    optimizer: OptimizerName = "adam"
    levels: int | None = None
    steps: int | None = None
    max_points: int = 8192
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, least in (("levels", 1), ("steps", 1), ("max_points", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"expected {name} of at least {least}, got {value}")
            if value is not None and value >= 2**63:
                raise UsageError(f"expected {name} below 2^63, got {value}")
        if self.size is not None and min(self.size) < 1:
            raise UsageError(f"expected a size HxW of at least 1x1, got {self.size[0]}x{self.size[1]}")

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> SynthesisSettings:
        """The settings of an earlier run, from `featot.provenance.read_record`."""
        try:
            values = dict(record["settings"])
            options = dict(values.pop("options"))
            settings: SynthesisSettings = build(cls, values, "a synthesis")
            return dataclasses.replace(settings, options=options)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"cannot repeat the run: its record's settings are damaged ({error})") from None


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """A finished, or interrupted, synthesis.

    ``image``: ``(1, c, h, w)`` in [0, 1] on the CPU; ``history``: one `Record` a step; ``record``: what the
    sidecar JSON says: settings with every option, versions, device, timings, the loss curve.
    """

    image: Float[Tensor, "1 c h w"]
    history: list[Record] = field(repr=False)
    interrupted: bool
    record: dict[str, Any] = field(repr=False)

    def save(self, path: AnyPath) -> Path:
        """Writes the image to ``path``, and the record beside it with the suffix .json; returns the latter's path.

        Raises `featot.UsageError` for an unknown suffix or an impossible place, `featot.FeatotError` where
        writing fails; whatever was there is then still whole.
        """
        write_image(self.image, path)
        sidecar = Path(path).with_suffix(".json")
        write_text(sidecar, json.dumps(self.record, indent=1) + "\n")
        return sidecar


def synthesize(
    exemplar: AnyPath | Tensor | np.ndarray,
    settings: SynthesisSettings | None = None,
    *,
    callback: Callback | None = None,
    registry: Registry | None = None,
    **changes: Any,
) -> Synthesis:
    """Makes an image whose features are distributed like the exemplar's (Houdard et al. 2021, Alg. 1).

    ``exemplar``: a file, or pixels ``(c, h, w)`` or ``(1, c, h, w)`` in [0, 1], c being 1 or 3.
    ``settings``, and any of their fields by name: ``synthesize("a.png", size=(512, 512), seed=3)``. ``features``,
    ``param`` and ``loss`` may also be objects: an extractor, a parametrization, a function
    ``(target, generator) -> Loss``. ``callback``: called after each step with a `featot.match.MatchState`.

    Ctrl-C does not raise: the result is then the best image so far, with ``interrupted`` true.
    Raises `featot.UsageError` for settings that make no sense, `featot.FeatotError` where the run fails.
    """
    start = time.perf_counter()
    objects = {kind: changes.pop(kind) for kind in _KINDS if not isinstance(changes.get(kind, ""), str)}
    unknown = changes.keys() - {field.name for field in dataclasses.fields(SynthesisSettings)}
    if unknown:
        raise TypeError(f"synthesize() has no setting {min(unknown)!r}")
    settings = dataclasses.replace(settings or SynthesisSettings(), **changes)
    registry = load_registry() if registry is None else registry
    chosen = {kind: registry.get(kind, getattr(settings, kind)) for kind in _KINDS if kind not in objects}
    options = route_options(chosen, settings.options)
    device = find_device(settings.device)
    pixels = _pixels(exemplar)
    exemplar_size = (pixels.shape[2], pixels.shape[3])
    size = settings.size or exemplar_size
    check_levels(settings.levels, exemplar_size)
    _check_memory(size, pixels.shape[1])

    extractor: FeatureExtractor = objects.get("features") or chosen["features"].create(options["features"])
    param: Parametrization = objects.get("param") or chosen["param"].create(options["param"])
    loss: LossFactory = objects.get("loss") or chosen["loss"].factory(options["loss"])
    stages = coarse_to_fine(
        size,
        exemplar_size,
        levels=settings.levels if param.resizable else 1,
        steps=settings.steps,
        optimizer=settings.optimizer,
    )
    ready = time.perf_counter()
    with _memory_errors(size):
        pixels = pixels.to(device)
        result = match(
            param,
            [Term(exemplar=pixels, extractor=extractor, loss=loss)],
            stages,
            optimizer=settings.optimizer,
            max_points=settings.max_points,
            generator=torch.Generator().manual_seed(settings.seed),
            callback=callback,
        )
    record = {
        "format": provenance.FORMAT,
        "task": "synthesize",
        "exemplar": {
            "path": None if isinstance(exemplar, Tensor | np.ndarray) else os.path.abspath(exemplar),
            "shape": list(pixels.shape),
            "sha256": provenance.fingerprint(pixels),
        },
        "settings": {
            **dataclasses.asdict(settings),
            **{kind: f"{type(given).__module__}:{type(given).__qualname__}" for kind, given in objects.items()},
            "options": {
                f"{kind}.{name}": value
                for kind, plugin in chosen.items()
                for name, value in to_dict(options[kind]).items()
            },
            "size": size,
            "levels": len(stages),
            "steps": stages[-1].num_steps,
            "device": str(device),
        },
        "device": provenance.describe_device(device),
        "versions": provenance.versions((plugin.owner, plugin.version) for plugin in chosen.values()),
        "timings": {
            "setup": round(ready - start, 4),
            "match": round(time.perf_counter() - ready, 4),
            "per_level": provenance.seconds_per_level(result.history),
        },
        "interrupted": result.interrupted,
        "loss": result.history[-1].loss if result.history else None,
        "history": [dataclasses.asdict(line) for line in result.history],
    }
    return Synthesis(image=result.image.cpu(), history=result.history, interrupted=result.interrupted, record=record)


def find_device(name: str) -> torch.device:
    """The device called ``name``; "auto" is a GPU where there is one. Raises `featot.UsageError`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise UsageError(f"unknown device {name!r} (choose from: auto, cpu, cuda, cuda:N)")
    available = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= available:
        found = f"{available} CUDA device{'s' if available > 1 else ''}" if available else "no CUDA device"
        raise UsageError(f"device {name!r} is not here: torch sees {found}; 'cpu' and 'auto' always work")
    return device


def _pixels(exemplar: AnyPath | Tensor | np.ndarray) -> Float[Tensor, "1 c h w"]:
    if not isinstance(exemplar, Tensor | np.ndarray):
        return read_image(exemplar)
    floating = exemplar.is_floating_point() if isinstance(exemplar, Tensor) else exemplar.dtype.kind == "f"
    *batch, channels, h, w = exemplar.shape if exemplar.ndim >= 3 else (0, 0, 0, 0)
    if not (floating and batch in ([], [1]) and channels in (1, 3) and h * w > 0):
        got = f"{tuple(exemplar.shape)} of {exemplar.dtype}"
        raise UsageError(f"expected an exemplar (c, h, w) or (1, c, h, w), float, c 1 or 3, got {got}")
    if isinstance(exemplar, np.ndarray):  # torch wants it writable, without negative strides, in native byte order
        exemplar = torch.from_numpy(exemplar.astype(np.float32))
    image = exemplar.detach().float().reshape(1, channels, h, w)
    if not torch.isfinite(image).all():
        raise UsageError("expected an exemplar with finite pixels, got NaN or infinity")
    if image.min() < 0 or image.max() > 1:
        raise UsageError(f"expected pixels in [0, 1], got {float(image.min()):.4g} to {float(image.max()):.4g}")
    return image


def _check_memory(size: Size, channels: int) -> None:
    """Refuses at once what would be killed, or swap, for lack of memory."""
    if not hasattr(os, "sysconf"):
        return
    if size[0] * size[1] * channels * _BYTES_PER_VALUE > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        raise _out_of_memory(size)


@contextmanager
def _memory_errors(size: Size) -> Iterator[None]:
    """Tells apart the ways in which torch says that memory is out from real errors."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        full = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if full or "can't allocate memory" in str(error) or "out of memory" in str(error):
            raise _out_of_memory(size) from error
        raise


def _out_of_memory(size: Size) -> FeatotError:
    return FeatotError(f"not enough memory to make {size[0]}x{size[1]} pixels; ask for a smaller size")
