"""What a batch makes: from patterns that name files, or from a manifest with settings for each item."""

from __future__ import annotations

import csv
import dataclasses
import glob
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from featot.batch import Item
from featot.comparison import fitting
from featot.errors import UsageError, unknown_name
from featot.exemplars import Sources
from featot.files import AnyPath, what_is_missing
from featot.formats import Alpha
from featot.images import parse_size
from featot.options import build
from featot.runs import SynthesisSettings

_FILES = ("exemplar", "exemplar_mask", "guide", "exemplar_guide", "weights")  # relative to the manifest
_SETTINGS = tuple(field.name for field in dataclasses.fields(SynthesisSettings) if field.name != "options")
COLUMNS = (*_FILES, "alpha", "out", *_SETTINGS)
"""Of a manifest, beside plugins' options such as "patches.size"."""


def find_items(
    patterns: Sequence[str], folder: Path, settings: SynthesisSettings, *, alpha: Alpha = "white"
) -> list[Item]:
    """An item for each file that is named or that a pattern such as "textures/**/*.png" finds.

    Raises `featot.UsageError` where one finds none.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        files = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        if not files:
            magic = glob.has_magic(pattern)
            why = "no file is called so" if magic else what_is_missing(Path(pattern).absolute())
            raise UsageError(f"nothing to do for {pattern!r}: {why}")
        files = [file for file in files if not os.path.isdir(file)]
        if not files:
            raise UsageError(
                f"nothing to do for {pattern!r}: it is a directory; expected files, as in '{pattern}/*.png'"
            )
        for file in files:
            found.setdefault(os.path.realpath(file), file)
    return [
        Item(
            sources=Sources(exemplars=[file], alpha=alpha),
            settings=settings,
            out=folder / f"{Path(file).stem}.png",
            label=file,
        )
        for file in found.values()
    ]


def read_manifest(path: AnyPath, folder: Path, settings: SynthesisSettings, *, alpha: Alpha = "white") -> list[Item]:
    """An item for each row of a CSV file with a header, or for each object of a JSON list.

    What a row says goes before ``settings`` and ``alpha``; an empty cell, or null, says nothing. ``out`` is relative
    to ``folder``, other files to the manifest. Raises `featot.UsageError`, which names the row.
    """
    items = []
    for label, row in _rows(Path(path)):
        label = f"{label} of {path}"
        try:
            items.append(_item(row, Path(path).parent, folder, settings, alpha, label))
        except UsageError as error:
            raise UsageError(f"{label}: {error}") from None
    if not items:
        raise UsageError(f"nothing to do in {path}: expected at least one row below the header, or one object")
    return items


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with its label; a table's first row is its header."""
    readers = {".csv": _csv_rows, ".json": _json_rows}
    if path.suffix.lower() not in readers:
        raise UsageError(f"expected a manifest .csv or .json, got {path}")
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"cannot read the manifest {path}: {what_is_missing(path.absolute())}") from None
    except OSError as error:
        raise UsageError(f"cannot read the manifest {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"cannot read the manifest {path}: it is not UTF-8") from None
    return readers[path.suffix.lower()](text, path)


def _csv_rows(text: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise UsageError(f"cannot read the manifest {path}: {error}") from None
    header = [name.strip() for name in lines[0]] if lines else []
    if len(set(header)) < len(header):
        raise UsageError(f"the header of {path} has a column twice: {', '.join(header)}")
    for name in header:
        _check_column(name, f"the header of {path}")
    for number, line in enumerate(lines[1:], start=2):
        if any(cell.strip() for cell in line):
            if len(line) > len(header):
                raise UsageError(f"row {number} of {path} has {len(line)} cells, its header {len(header)}")
            cells = zip(header, (cell.strip() for cell in line), strict=False)
            yield f"row {number}", {name: cell for name, cell in cells if cell}


def _json_rows(text: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        objects = json.loads(text)
    except ValueError as error:
        raise UsageError(f"cannot read the manifest {path}: {error}") from None
    if not isinstance(objects, list) or not all(isinstance(row, dict) for row in objects):
        raise UsageError(f"cannot read the manifest {path}: expected a list of objects, one for each item")
    for number, row in enumerate(objects, start=1):
        for name in row:
            _check_column(name, f"item {number} of {path}")
        yield f"item {number}", {name: value for name, value in row.items() if value is not None}


def _check_column(name: str, where: str) -> None:
    if "." not in name and name not in COLUMNS:
        raise UsageError(f"{where}: {unknown_name('column', name, COLUMNS)}; options of plugins are as patches.size")


def _item(
    row: Mapping[str, Any], base: Path, folder: Path, settings: SynthesisSettings, alpha: Alpha, label: str
) -> Item:
    for name in (*_FILES, "out", "alpha"):
        if name in row and not isinstance(row[name], str):
            raise UsageError(f"expected text for {name!r}, got {row[name]!r}")
    files = {name: str(base / row[name]) for name in _FILES if name in row}
    if "exemplar" not in files:
        raise UsageError("it names no exemplar")
    out = Path(row.get("out", Path(files["exemplar"]).stem))
    sources = Sources(
        exemplars=[files["exemplar"]],
        mask=files.get("exemplar_mask"),
        guide=files.get("guide"),
        exemplar_guide=files.get("exemplar_guide"),
        alpha=row.get("alpha", alpha),
    )
    options = {name: value for name, value in row.items() if "." in name}
    if "weights" in files:
        options["vgg.weights"] = files["weights"]
    return Item(
        sources=sources,
        settings=_settings(settings, {name: row[name] for name in _SETTINGS if name in row}, options),
        out=folder / (out if out.suffix and "out" in row else f"{out}.png"),
        label=label,
    )


def _settings(settings: SynthesisSettings, row: Mapping[str, Any], options: Mapping[str, Any]) -> SynthesisSettings:
    """The settings with the row's in their place; its options are all called "plugin.key"."""
    values = {name: parse_size(str(value)) if name == "size" else value for name, value in row.items()}
    for name, joint in (("features", "+"), ("loss", ",")):
        if isinstance(values.get(name), list):
            values[name] = joint.join(map(str, values[name]))
    built = build(SynthesisSettings, values, "the row")
    settings = dataclasses.replace(settings, **{name: getattr(built, name) for name in values})
    if values.keys() & {"features", "param", "loss", "optimizer"}:
        settings = fitting(settings)
    keys = {name.rpartition(".")[2] for name in options}
    kept = {name: value for name, value in settings.options.items() if name not in keys}
    return dataclasses.replace(settings, options={**kept, **options})
