"""Tasks: each builds a problem for the one loop in `featot.match`."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from featot import provenance
from featot.errors import FeatotError, UsageError, unknown_name
from featot.exemplars import Picture, Pictures, Sources, check_augment
from featot.files import AnyPath, write_text
from featot.formats import Alpha, Format
from featot.images import write_image
from featot.interfaces import Size
from featot.match import Callback, OptimizerName, Record, match
from featot.options import rebuild
from featot.plugins import Registry, load_registry
from featot.recipe import KINDS, Recipe
from featot.resample import wrapped_axes
from featot.schedule import check_levels, coarse_to_fine, count_levels, find_quality

DEFAULT_LOSS = {"adam": "ot+sliced", "lbfgs": "ot+sliced", "closed-form": "ot"}  # by optimizer
_MARGIN = 2  # pixels of the coarsest level by which an axis that is not to tile is longer while it is made
_BYTES_PER_VALUE = 50  # peak memory per pixel and channel of the result: its growth from 1024² to 2048²


@dataclass(frozen=True, kw_only=True)
class SynthesisSettings:
    """Everything that decides a synthesis: equal settings give equal images on one machine.

    ``size``: of the result in pixels (None: the first exemplar's, or the guide's). ``quality``: a preset of
    `featot.schedule.QUALITIES`; whatever else is given goes before it. ``param``: a plugin.
    ``features``: a plugin, or a sum such as "pyramid+0.1*vgg", where 1 means as much pull on the image as the first
    of them at the start. ``loss``: a plugin, or a weighted sum such as "ot+2*sliced"; for one of the features
    "vgg=gram", commas between (None, and where nothing is said: "ot+sliced", or "ot" for "closed-form").
    ``options``: of the plugins, as "key" where only one of them knows it, or as "plugin.key".
    ``optimizer``: see `featot.match.match`. ``levels``, ``steps``: see `featot.schedule.coarse_to_fine`.
    ``max_points``: levels of the image with more points than this are thinned. ``starts``: see `featot.match.match`.
    ``augment``: "rot90" adds the exemplar's quarter turns, "flip" its mirror images. ``tile``: the axes along which
    the result wraps round: "both", "x", "y" or "none".
    ``device``: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
    """

    size: Size | None = None
    features: str = "pyramid"
    param: str = "image"
    loss: str | None = None
    quality: str = "standard"
    options: Mapping[str, Any] = field(default_factory=dict)
    optimizer: OptimizerName = "adam"
    levels: int | None = None
    steps: int | None = None
    max_points: int | None = None
    starts: int | None = None
    augment: tuple[str, ...] = ()
    tile: str = "both"
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, least in (("levels", 1), ("steps", 1), ("max_points", 1), ("starts", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"expected {name} of at least {least}, got {value}")
            if value is not None and value >= 2**63:
                raise UsageError(f"expected {name} below 2^63, got {value}")
        if self.optimizer not in DEFAULT_LOSS:
            raise unknown_name("optimizer", self.optimizer, DEFAULT_LOSS)
        wrapped_axes(self.tile)
        find_quality(self.quality)
        check_augment(self.augment)
        if self.size is not None and min(self.size) < 1:
            raise UsageError(f"expected a size HxW of at least 1x1, got {self.size[0]}x{self.size[1]}")

    @property
    def wraps(self) -> tuple[bool, bool]:
        """Whether the result tiles from top to bottom, and from left to right."""
        return wrapped_axes(self.tile)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> SynthesisSettings:
        """The settings of an earlier run, from `featot.provenance.read_record`."""
        try:
            settings: SynthesisSettings = rebuild(cls, record["settings"], "a synthesis")
            return settings
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"cannot repeat the run: its record's settings are damaged ({error})") from None


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """A finished, or interrupted, synthesis.

    ``image``: ``(1, c, h, w)`` in [0, 1] on the CPU; ``history``: one `Record` a step; ``record``: what the
    sidecar JSON says: settings with every option, versions, device, timings, the loss curve. ``format``: the first
    exemplar's, if it was a file.
    """

    image: Float[Tensor, "1 c h w"]
    history: list[Record] = field(repr=False)
    interrupted: bool
    record: dict[str, Any] = field(repr=False)
    format: Format | None = None

    def save(self, path: AnyPath) -> Path:
        """Writes the image to ``path``, and the record beside it with the suffix .json; returns the latter's path.

        The first exemplar's depth and ICC profile are kept where the suffix can hold them.
        Raises `featot.UsageError` for an unknown suffix or an impossible place, `featot.FeatotError` where
        writing fails; whatever was there is then still whole.
        """
        write_image(self.image, path, self.format)
        sidecar = Path(path).with_suffix(".json")
        write_text(sidecar, json.dumps(self.record, indent=1) + "\n")
        return sidecar


def synthesize(
    exemplar: Picture | Sequence[Picture],
    settings: SynthesisSettings | None = None,
    *,
    mask: Picture | None = None,
    guide: Picture | None = None,
    exemplar_guide: Picture | None = None,
    alpha: Alpha = "white",
    callback: Callback | None = None,
    registry: Registry | None = None,
    **changes: Any,
) -> Synthesis:
    """Makes an image whose features are distributed like the exemplar's (Houdard et al. 2021, Alg. 1).

    ``exemplar``: a file, or pixels ``(c, h, w)`` or ``(1, c, h, w)`` in [0, 1]; or a list of these, whose
    features are pooled. ``mask``, ``guide``, ``exemplar_guide``, ``alpha``: see `featot.exemplars.Sources`; the
    result has the size of the guide.
    ``settings``, and any of their fields by name: ``synthesize("a.png", size=(512, 512), seed=3)``. ``features``,
    ``param`` and ``loss`` may also be objects: an extractor, a parametrization, a function
    ``(target, generator) -> Loss``. ``callback``: called after each step with a `featot.match.MatchState`.

    Ctrl-C does not raise: the result is then the best image so far, with ``interrupted`` true.
    Raises `featot.UsageError` for settings that make no sense, `featot.FeatotError` where the run fails.
    """
    exemplars: list[Any] = list(exemplar) if isinstance(exemplar, list | tuple) else [exemplar]
    sources = Sources(exemplars=exemplars, mask=mask, guide=guide, exemplar_guide=exemplar_guide, alpha=alpha)
    return next(synthesize_each(sources, settings, [None], callback=callback, registry=registry, **changes))


def synthesize_each(
    sources: Sources | Pictures,
    settings: SynthesisSettings | None = None,
    seeds: Iterable[int | None] = (None,),
    *,
    callback: Callback | None = None,
    registry: Registry | None = None,
    **changes: Any,
) -> Iterator[Synthesis]:
    """One synthesis after the other, as `synthesize`, for each of the seeds (None: that of the settings).

    The exemplars are read, checked and prepared once. After Ctrl-C there are no more.
    """
    start = time.perf_counter()
    objects = {kind: changes.pop(kind) for kind in KINDS if not isinstance(changes.get(kind) or "", str)}
    unknown = changes.keys() - {field.name for field in dataclasses.fields(SynthesisSettings)}
    if unknown:
        raise TypeError(f"synthesize() has no setting {min(unknown)!r}")
    settings = dataclasses.replace(settings or SynthesisSettings(), **changes)
    quality = find_quality(settings.quality)
    recipe = Recipe.choose(
        load_registry() if registry is None else registry,
        features=settings.features,
        param=settings.param,
        loss=settings.loss,
        default_loss=DEFAULT_LOSS[settings.optimizer],
        options=settings.options,
        presets=quality.options,
        objects=objects,
    )
    device = find_device(settings.device)
    pictures = sources if isinstance(sources, Pictures) else sources.read()
    size = _result_size(settings.size, pictures)
    check_levels(settings.levels, pictures.smallest)
    levels = count_levels(size, pictures.smallest) if settings.levels is None else settings.levels
    margins = [0 if wraps else _MARGIN * 2 ** (levels - 1) for wraps in settings.wraps]
    torus = size[0] + margins[0], size[1] + margins[1]
    _check_memory(torus, pictures.channels)
    with _memory_errors(size):
        images, masks = pictures.varied(settings.augment)
        images = [image.to(device) for image in images]
        guide = None if pictures.guide is None else _padded(pictures.guide.to(device), torus)
    given = settings
    for seed in seeds:
        settings = given if seed is None else dataclasses.replace(given, seed=seed)
        param = recipe.parametrization()
        stages = coarse_to_fine(
            torus,
            pictures.smallest,
            quality=quality,
            levels=levels if param.resizable else 1,
            steps=settings.steps,
            optimizer=settings.optimizer,
        )
        max_points = settings.max_points or quality.max_points
        ready = time.perf_counter()
        with _memory_errors(size):
            result = match(
                param,
                recipe.terms(images, guide=guide, masks=masks),
                stages,
                optimizer=settings.optimizer,
                max_points=max_points,
                starts=settings.starts or quality.starts,
                generator=torch.Generator().manual_seed(settings.seed),
                callback=callback,
            )
        record = {
            "format": provenance.FORMAT,
            "task": "synthesize",
            **pictures.record,
            "settings": {
                **dataclasses.asdict(settings),
                **recipe.settings(),
                "size": size,
                "levels": len(stages),
                "steps": stages[-1].num_steps,
                "max_points": max_points,
                "starts": settings.starts or quality.starts,
                "device": str(device),
            },
            "device": provenance.describe_device(device),
            "versions": provenance.versions((plugin.owner, plugin.version) for plugin in recipe.plugins.values()),
            "timings": {
                "setup": round(ready - start, 4),
                "match": round(time.perf_counter() - ready, 4),
                "per_level": provenance.seconds_per_level(result.history),
            },
            "interrupted": result.interrupted,
            "loss": result.history[-1].loss if result.history else None,
            "history": [dataclasses.asdict(line) for line in result.history],
        }
        image = result.image[:, :, : size[0], : size[1]].cpu()
        yield Synthesis(
            image=image,
            history=result.history,
            interrupted=result.interrupted,
            record=record,
            format=pictures.format,
        )
        if result.interrupted:
            return
        start = time.perf_counter()


def _result_size(size: Size | None, pictures: Pictures) -> Size:
    if pictures.guide is None:
        return size or pictures.size
    guide = (pictures.guide.shape[2], pictures.guide.shape[3])
    if size not in (None, guide):
        raise UsageError(f"expected the size of the guide, {guide[0]}x{guide[1]}, got {size[0]}x{size[1]}")
    return guide


def _padded(guide: Tensor, size: Size) -> Tensor:
    """The guide continued to a torus of ``size``, by its last row and column."""
    h, w = guide.shape[2:]
    return F.pad(guide, (0, size[1] - w, 0, size[0] - h), mode="replicate")


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
