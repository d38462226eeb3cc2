"""Options of plugins, declared as frozen dataclasses.

>>> @dataclass(frozen=True)
... class PatchesOptions:
...     size: int = option(7, "side of a patch, in pixels", min=1)

What a user types as ``-o size=7`` is converted and checked by `build`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from featot.errors import UsageError, unknown_name

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class NoOptions:
    """The options of a plugin that has none."""


@dataclass(frozen=True)
class OptionInfo:
    """One option, for help and lists.

    ``type`` is readable: "int", "a|b|c", "list of int". ``default`` is fit for JSON.
    """

    name: str
    type: str
    default: Any
    help: str
    min: float | None
    max: float | None


def option(
    default: Any,
    help: str,
    *,
    min: float | None = None,
    max: float | None = None,
    choices: Sequence[Any] = (),
) -> Any:
    """A field of an options dataclass: its default, a line of help, and what values it takes.

    ``min``, ``max`` and ``choices`` hold for each item of a tuple, and never exclude None from ``T | None``.
    """
    return dataclasses.field(
        default=default, metadata={"help": help, "min": min, "max": max, "choices": tuple(choices)}
    )


def describe(options_type: type) -> list[OptionInfo]:
    """The options that a dataclass declares, in order."""
    return [
        OptionInfo(
            name=field.name,
            type=_type_name(hint, field.metadata.get("choices", ())),
            default=_plain(_default(field)),
            help=field.metadata.get("help", ""),
            min=field.metadata.get("min"),
            max=field.metadata.get("max"),
        )
        for field, hint in _fields(options_type)
    ]


def build(options_type: type, values: Mapping[str, Any], owner: str) -> Any:
    """An instance with ``values``, each converted from text or checked; ``owner`` names the plugin in errors.

    The text "none" always means None where None is allowed; a tuple is written "1,2,3", an empty one "".
    Raises `featot.UsageError` for an unknown option or a value of the wrong type or range.
    """
    fields = {field.name: (field, hint) for field, hint in _fields(options_type)}
    converted = {}
    for name, value in values.items():
        if name not in fields:
            raise UsageError(f"{owner}: {unknown_name('option', name, fields)}")
        field, hint = fields[name]
        try:
            converted[name] = _check(_convert(value, hint), field)
        except (ValueError, OverflowError):  # an int may be too large for a float
            raise UsageError(
                f"option {name!r} of {owner}: expected {_expectation(field, hint)}, got {_shown(value)}"
            ) from None
    try:
        return options_type(**converted)
    except (TypeError, ValueError) as error:  # a default that is missing, or the plugin's own __post_init__
        raise UsageError(f"options of {owner}: {' '.join(str(error).split())}") from error


def rebuild(settings_type: type, record: Mapping[str, Any], owner: str) -> Any:
    """Settings from their record, as `build`; those of plugins, in ``options``, are left as they are."""
    values = dict(record)
    options = dict(values.pop("options"))
    return dataclasses.replace(build(settings_type, values, owner), options=options)


def to_dict(options: Any) -> dict[str, Any]:
    """The values of an options object, ready for JSON; `build` makes an equal object of them."""
    return {field.name: _plain(getattr(options, field.name)) for field in dataclasses.fields(options) if field.init}


def as_text(value: Any) -> str:
    """A value as it would be typed: `build` reads "a,b" as a tuple, "none" as None, "true" as True."""
    if isinstance(value, tuple | list):
        return ",".join(as_text(item) for item in value)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return str(value) if isinstance(value, Path) else value


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _fields(options_type: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(options_type)
    return [(field, hints[field.name]) for field in dataclasses.fields(options_type) if field.init]


def _convert(value: Any, hint: Any) -> Any:
    """``value`` as the type ``hint``; text is parsed, anything else only checked. ValueError if it does not fit."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        optional = type(None) in arguments
        if optional and (value is None or (isinstance(value, str) and value.lower() == "none")):
            return None
        for argument in arguments:
            if argument is not type(None):
                try:
                    return _convert(value, argument)
                except ValueError:
                    continue
        raise ValueError
    if origin is Literal:
        for choice in arguments:
            same = value == choice and type(value) is type(choice)  # True is not 1
            if same or (isinstance(value, str) and value == str(choice)):
                return choice
        raise ValueError
    if origin is tuple:
        items = value
        if isinstance(value, str):
            items = [item.strip() for item in value.split(",")] if value.strip() else []
        if not isinstance(items, list | tuple):
            raise ValueError
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(item, arguments[0]) for item in items)
        return tuple(_convert(item, argument) for item, argument in zip(items, arguments, strict=True))
    return _convert_scalar(value, hint)


def _convert_scalar(value: Any, hint: Any) -> Any:
    if hint is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in _TRUE + _FALSE:
            return value.lower() in _TRUE
        raise ValueError
    if hint in (int, float):
        if isinstance(value, str):
            number = hint(value)
        elif isinstance(value, bool) or not isinstance(value, (int, float) if hint is float else int):
            raise ValueError
        else:
            number = hint(value)
        if not math.isfinite(number):
            raise ValueError
        return number
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    kind = get_origin(hint) or hint  # of list[int], list: the items of other containers are not looked at
    if hint is Any or (isinstance(kind, type) and isinstance(value, kind)):
        return value
    raise ValueError


def _check(value: Any, field: dataclasses.Field[Any]) -> Any:
    least, most, choices = (field.metadata.get(key) for key in ("min", "max", "choices"))
    for item in value if isinstance(value, tuple) else (value,):
        if choices and item is not None and item not in choices:
            raise ValueError
        if not isinstance(item, int | float) or isinstance(item, bool):
            continue
        if (least is not None and item < least) or (most is not None and item > most):
            raise ValueError
    return value


def _expectation(field: dataclasses.Field[Any], hint: Any) -> str:
    name = _type_name(hint, field.metadata.get("choices", ()))
    kind = name.removesuffix(" or none")
    parts = [kind]
    if field.metadata.get("min") is not None:
        parts.append(f"of at least {field.metadata['min']}")
    if field.metadata.get("max") is not None:
        parts.append(f"{'and' if len(parts) > 1 else 'of'} at most {field.metadata['max']}")
    return " ".join(parts) + name[len(kind) :]


def _type_name(hint: Any, choices: Sequence[Any] = ()) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join("none" if a is type(None) else _type_name(a, choices) for a in arguments)
    if origin is tuple and arguments[1:] == (Ellipsis,):
        return f"list of {_type_name(arguments[0], choices)}"
    if origin is tuple:
        return ",".join(_type_name(argument, choices) for argument in arguments)
    if choices or origin is Literal:
        return "|".join(str(choice) for choice in choices or arguments)
    return getattr(hint, "__name__", str(hint)).lower()


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else f"{value!r} ({type(value).__name__})"
