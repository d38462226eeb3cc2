"""A new plugin package: one module that works, its test, its pyproject.toml and a README."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import secrets
import shutil
import sys
from pathlib import Path
from string import Template

import featot
from featot import plugins
from featot.errors import FeatotError, UsageError, unknown_name
from featot.files import what_is_missing
from featot.plugins import Registry
from featot_cli.templates import HOOK, KINDS, PACKAGE

_LONGEST = 30  # characters of a name: the lines that it stands in, twice, fit in 118


def scaffold(name: str, kind: str, into: str, registry: Registry) -> list[Path]:
    """Makes the folder ``into``/``name`` with a package that has a plugin of ``kind``: the files made.

    It appears whole or not at all, and nothing is ever overwritten.
    Raises `featot.UsageError` for a name or a place that will not do, `featot.FeatotError` where writing fails.
    """
    if kind not in KINDS:
        raise unknown_name("kind of plugin", kind, KINDS)
    module = _check_name(name)
    if module in registry.plugins[kind]:
        taken = registry.get(kind, module)
        raise UsageError(f"bad plugin name {name!r}: {taken} is there already, that of {taken.owner} {taken.version}")
    folder = Path(into, name)
    if os.path.lexists(folder):
        raise UsageError(f"cannot make {folder}: it is there already, and nothing is overwritten; use another --into")
    if not os.path.isdir(into):
        raise UsageError(f"cannot make {folder}: {what_is_missing(Path(os.path.abspath(into), name))}")
    if importlib.util.find_spec(module) is not None:
        raise UsageError(f"bad plugin name {name!r}: a module {module!r} is installed already; choose another name")
    files = {Path(path): text for path, text in _files(name, module, kind).items()}
    temporary = folder.with_name(f".{name}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            for path, text in files.items():
                (temporary / path).parent.mkdir(parents=True, exist_ok=True)
                (temporary / path).write_text(text, "utf-8")
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise FeatotError(f"cannot make {folder}: {error.strerror or error}") from error
    return [folder / path for path in files]


def _check_name(name: str) -> str:
    """The name of the module; raises `featot.UsageError` for what cannot name a package, a module and a class."""
    expected = "expected lowercase words of a-z and 0-9 with '-' or '_' between, a letter first, as in my-features"
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name):
        near = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()).strip("-0123456789")
        raise UsageError(f"bad plugin name {name!r}: {expected}" + (f"; how about {near!r}?" if near else ""))
    if len(name) > _LONGEST:
        raise UsageError(f"bad plugin name {name!r}: {len(name)} characters; expected at most {_LONGEST}")
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or keyword.iskeyword(_class_name(module)) or module in sys.stdlib_module_names:
        raise UsageError(f"bad plugin name {name!r}: Python has a {module!r} of its own; choose another name")
    if module in ("tests", "featot"):
        raise UsageError(f"bad plugin name {name!r}: something else is called so; choose another name")
    return module


def _class_name(module: str) -> str:
    return "".join(word.capitalize() for word in module.split("_"))


def _files(name: str, module: str, kind: str) -> dict[str, str]:
    """The text of each file of the package."""
    template = KINDS[kind]
    names = {
        "name": name,
        "module": module,
        "cls": _class_name(module),
        "version": featot.__version__,
        "hook": plugins.KINDS[kind],
    }
    names |= {key: Template(text).substitute(names) for key, text in template.words.items()}
    texts = {**PACKAGE, "$module.py": template.module + HOOK}
    return {Template(path).substitute(names): Template(text).substitute(names) for path, text in texts.items()}
