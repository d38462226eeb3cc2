"""Options of plugins: text and values become typed options, what makes no sense is one clear line."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featot.errors import UsageError
from featot.options import NoOptions, OptionInfo, as_text, build, describe, option, to_dict

OWNER = "features plugin 'patches'"


@dataclass(frozen=True)
class Everything:
    """One option of every type."""

    size: int = option(7, "side of a patch", min=1)
    rate: float = option(0.5, "step", min=0.0, max=2.0)
    wrap: bool = option(False, "wrap round")
    label: str = "plain"
    backend: str = option("auto", "search", choices=("auto", "torch"))
    order: int = option(1, "order", choices=(1, 2))
    mode: Literal["valid", "same"] = option("valid", "border")
    norm: Literal[1, 2] = 2
    weights: Path | None = option(None, "a file")
    scales: Optional[int] = option(None, "scales", min=1)  # noqa: UP045
    flavour: str | None = option(None, "flavour", choices=("sweet", "sour"))
    layers: tuple[int, ...] = option((1, 2), "layers", min=0)
    sides: tuple[int, float] = (3, 0.5)
    files: tuple[Path, ...] = (Path("a"),)
    parts: tuple[str, ...] = option(("r",), "channels", choices=("r", "g"))
    table: dict[str, int] = dataclasses.field(default_factory=lambda: {"one": 1})
    area: int = dataclasses.field(default=49, init=False)


def built(**values: Any) -> Everything:
    options = build(Everything, values, OWNER)
    assert isinstance(options, Everything)
    return options


# ---- what is accepted ----


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("size", "9", 9),
        ("size", 9, 9),
        ("size", "1", 1),
        ("rate", "1e-1", 0.1),
        ("rate", 1, 1.0),
        ("rate", "2.0", 2.0),
        *(("wrap", text, True) for text in ("true", "YES", "1", "On")),
        *(("wrap", text, False) for text in ("false", "no", "0", "OFF")),
        ("wrap", True, True),
        ("label", "a, b = c", "a, b = c"),
        ("backend", "torch", "torch"),
        ("order", "2", 2),
        ("mode", "same", "same"),
        ("norm", "1", 1),
        ("weights", "a/b.pt", Path("a/b.pt")),
        ("weights", Path("c.pt"), Path("c.pt")),
        ("weights", "none", None),
        ("scales", "None", None),
        ("scales", None, None),
        ("scales", "3", 3),
        ("flavour", "sour", "sour"),
        ("flavour", None, None),
        ("layers", "4, 5,6", (4, 5, 6)),
        ("layers", [4, 5], (4, 5)),
        ("layers", "", ()),
        ("sides", "4,1", (4, 1.0)),
        ("files", "b,c/d", (Path("b"), Path("c/d"))),
        ("parts", "g, r", ("g", "r")),
        ("table", {"two": 2}, {"two": 2}),
    ],
)
def test_values_and_text_are_converted(name, given, expected):
    value = getattr(built(**{name: given}), name)
    assert value == expected
    assert type(value) is type(expected)


def test_what_is_not_given_keeps_its_default():
    assert built() == Everything()
    assert build(NoOptions, {}, OWNER) == NoOptions()


# ---- what is refused ----


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("size", "seven", "expected int of at least 1, got 'seven'"),
        ("size", "0", "expected int of at least 1, got '0'"),
        ("size", "7.0", "expected int of at least 1, got '7.0'"),
        ("size", 7.0, "expected int of at least 1, got 7.0 (float)"),
        ("size", True, "expected int of at least 1, got True (bool)"),
        ("size", None, "expected int of at least 1, got None (NoneType)"),
        ("size", "1\n2", r"expected int of at least 1, got '1\n2'"),
        ("rate", "nan", "expected float of at least 0.0 and at most 2.0, got 'nan'"),
        ("rate", math.nan, "expected float of at least 0.0 and at most 2.0, got nan (float)"),
        ("rate", "2.1", "expected float of at least 0.0 and at most 2.0, got '2.1'"),
        ("rate", False, "expected float of at least 0.0 and at most 2.0, got False (bool)"),
        ("wrap", "maybe", "expected bool, got 'maybe'"),
        ("wrap", 1, "expected bool, got 1 (int)"),
        ("label", 3, "expected str, got 3 (int)"),
        ("backend", "cuda", "expected auto|torch, got 'cuda'"),
        ("order", "3", "expected 1|2, got '3'"),
        ("mode", "full", "expected valid|same, got 'full'"),
        ("norm", True, "expected 1|2, got True (bool)"),
        ("weights", 3, "expected path or none, got 3 (int)"),
        ("scales", "0", "expected int of at least 1 or none, got '0'"),
        ("flavour", "salt", "expected sweet|sour or none, got 'salt'"),
        ("layers", "1,x", "expected list of int of at least 0, got '1,x'"),
        ("layers", "1,,2", "expected list of int of at least 0, got '1,,2'"),
        ("layers", "1,-1", "expected list of int of at least 0, got '1,-1'"),
        ("layers", 1, "expected list of int of at least 0, got 1 (int)"),
        ("sides", "4", "expected int,float, got '4'"),
        ("parts", "r,b", "expected list of r|g, got 'r,b'"),
        ("table", "a=1", "expected dict, got 'a=1'"),
    ],
)
def test_a_value_that_does_not_fit_is_one_line(name, given, message):
    with pytest.raises(UsageError) as refused:
        built(**{name: given})
    assert str(refused.value) == f"option {name!r} of {OWNER}: {message}"


@pytest.mark.parametrize("given", [10**400, "1e999", "-inf", math.inf], ids=["huge", "1e999", "-inf", "inf"])
def test_a_float_is_finite(given):
    @dataclass(frozen=True)
    class Free:
        rate: float = 1.0

    with pytest.raises(UsageError, match="expected float, got"):
        build(Free, {"rate": given}, OWNER)


def test_an_unknown_option_suggests_the_near_miss_and_lists_the_choices():
    @dataclass(frozen=True)
    class Two:
        size: int = 1
        stride: int = 1

    with pytest.raises(UsageError) as refused:
        build(Two, {"strid": "2"}, OWNER)
    expected = f"{OWNER}: unknown option 'strid'; did you mean 'stride'? (choose from: size, stride)"
    assert str(refused.value) == expected
    with pytest.raises(UsageError, match="unknown option 'area'"):  # it is computed, not chosen
        built(area=1)


def test_what_the_options_themselves_refuse_is_a_usage_error_of_one_line():
    @dataclass(frozen=True)
    class Picky:
        low: int = 1
        high: int = 2

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low\nis above high")

    assert build(Picky, {"high": "5"}, OWNER) == Picky(1, 5)
    with pytest.raises(UsageError) as refused:
        build(Picky, {"low": "3"}, OWNER)
    assert str(refused.value) == f"options of {OWNER}: low is above high"


def test_an_option_without_a_default_is_asked_for():
    @dataclass(frozen=True)
    class Needy:
        path: Path

    assert build(Needy, {"path": "a.pt"}, OWNER) == Needy(Path("a.pt"))
    with pytest.raises(UsageError, match=f"options of {OWNER}: .*'path'"):
        build(Needy, {}, OWNER)


# ---- describe ----


def test_describe_tells_type_default_help_and_limits():
    infos = {info.name: info for info in describe(Everything)}
    assert list(infos) == [field.name for field in dataclasses.fields(Everything) if field.init]
    assert infos["size"] == OptionInfo("size", "int", 7, "side of a patch", 1, None)
    assert infos["rate"] == OptionInfo("rate", "float", 0.5, "step", 0.0, 2.0)
    assert infos["label"] == OptionInfo("label", "str", "plain", "", None, None)  # not made by `option`
    assert {name: info.type for name, info in infos.items()} == {
        "size": "int",
        "rate": "float",
        "wrap": "bool",
        "label": "str",
        "backend": "auto|torch",
        "order": "1|2",
        "mode": "valid|same",
        "norm": "1|2",
        "weights": "path or none",
        "scales": "int or none",
        "flavour": "sweet|sour or none",
        "layers": "list of int",
        "sides": "int,float",
        "files": "list of path",
        "parts": "list of r|g",
        "table": "dict",
    }
    assert describe(NoOptions) == []


def test_described_defaults_are_fit_for_json():
    defaults = {info.name: info.default for info in describe(Everything)}
    assert build(Everything, json.loads(json.dumps(defaults)), OWNER) == Everything()
    assert defaults["table"] == {"one": 1}


# ---- there and back ----

PATHS = st.text("abc/.", min_size=1).map(Path)
NUMBERS = st.integers(0, 10**6)
EVERYTHING = st.builds(
    Everything,
    size=st.integers(1),
    rate=st.floats(0, 2),
    wrap=st.booleans(),
    label=st.text(),
    backend=st.sampled_from(["auto", "torch"]),
    order=st.sampled_from([1, 2]),
    mode=st.sampled_from(["valid", "same"]),
    norm=st.sampled_from([1, 2]),
    weights=st.none() | PATHS,
    scales=st.none() | st.integers(1),
    flavour=st.sampled_from([None, "sweet", "sour"]),
    layers=st.lists(NUMBERS).map(tuple),
    sides=st.tuples(NUMBERS, st.floats(allow_nan=False, allow_infinity=False)),
    files=st.lists(PATHS).map(tuple),
    parts=st.lists(st.sampled_from(["r", "g"])).map(tuple),
    table=st.dictionaries(st.text(), NUMBERS),
)


@given(EVERYTHING)
def test_options_survive_to_dict_and_json(options):
    values = to_dict(options)
    assert build(Everything, values, OWNER) == options
    assert build(Everything, json.loads(json.dumps(values)), OWNER) == options


@given(EVERYTHING)
def test_options_survive_being_written_as_text(options):
    values = {name: value for name, value in to_dict(options).items() if name not in ("label", "table")}
    text = {name: as_text(value) for name, value in values.items()}
    assert build(Everything, text, OWNER) == dataclasses.replace(options, label="plain", table={"one": 1})


@pytest.mark.parametrize(
    ("value", "text"), [(("a", "b"), "a,b"), ((), ""), (None, "none"), (True, "true"), (2.0, "2.0"), (Path("x"), "x")]
)
def test_values_are_written_as_they_are_typed(value, text):
    assert as_text(value) == text
