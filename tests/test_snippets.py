"""Every snippet of the documents: Python runs, commands parse, files are read, other lines name what exists."""

from __future__ import annotations

import csv
import re
import shlex
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from PIL import Image

from featot.models import save_model
from featot.options import describe
from featot.plugins import load_registry
from featot.runs import SynthesisSettings
from featot_cli import config
from featot_cli.main import COMMANDS, cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "examples").glob("*/README.md"))
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)
KINDS = ("features", "param", "loss", "metric")
# What stands for plugins of the reader's own.
OTHERS = {"my_features", "my-features", "colors", "opponent", "median"}
# What would take minutes is made smaller: nothing else of a snippet is changed.
SMALLER = {"size=(512, 512)": 'size=(32, 32), quality="draft"', "10**6 + 512))  #": "10**6 + 64))  #", "-512": "-64"}


def blocks(page, language):
    found = [(kind, re.sub(f"^{indent}", "", text, flags=re.M)) for indent, kind, text in BLOCK.findall(page)]
    return [text for kind, text in found if kind == language]


def pages_with(language):
    return [path for path in PAGES if blocks(path.read_text("utf-8"), language)]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_block_is_of_a_kind_that_is_tested(path):
    kinds = {kind for _, kind, _ in BLOCK.findall(path.read_text("utf-8"))}
    assert kinds <= {"", "python", "sh", "toml", "csv", "bibtex"}, f"{name_of(path)}: a test must learn of {kinds}"
    assert path.read_text("utf-8").count("```") == 2 * len(BLOCK.findall(path.read_text("utf-8")))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder with the files that snippets take for granted."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("bricks.png")
    plugin = load_registry().get("param", "texnet_lite")
    generator = plugin.create(plugin.build_options({"width": 4, "scales": 3}))
    generator.initialize(torch.rand(1, 3, 32, 32), (32, 32), torch.Generator().manual_seed(0))
    generator.calibrate((32, 32), torch.Generator().manual_seed(0))
    save_model("moss.safetensors", generator, plugin, {})
    return tmp_path


@pytest.mark.parametrize("path", pages_with("python"), ids=name_of)
def test_python_runs(path, folder):
    """The blocks of a page one after the other, in one namespace."""
    namespace = {}
    for code in blocks(path.read_text("utf-8"), "python"):
        for large, small in SMALLER.items():
            code = code.replace(large, small)
        exec(compile(code, name_of(path), "exec"), namespace)


def test_what_is_made_smaller_is_there():
    text = "".join(code for path in PAGES for code in blocks(path.read_text("utf-8"), "python"))
    assert all(large in text for large in SMALLER)


# ---- commands ----


def lines_of(path):
    """The commands of a page's shell blocks: continued lines joined, comments cut, chains split."""
    text = "\n".join(blocks(path.read_text("utf-8"), "sh")).replace("\\\n", " ")
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            yield words[:end]
            words = words[end + 1 :]


def examples_of(command):
    """The commands in the help of one: what follows them after three blanks is their comment."""
    for line in (command.help or "").splitlines():
        if line.strip().startswith(("featot ", "torchrun ")):
            yield shlex.split(re.split(r"\s{3,}", line.strip())[0], comments=True)


def all_commands(group, prefix=()):
    for name in group.commands if group is not cli else COMMANDS:
        command = group.get_command(click.Context(group), name)
        yield (*prefix, name), command
        if isinstance(command, click.Group):
            yield from all_commands(command, (*prefix, name))


def parse(words):
    """Parses as the program does, up to the command's own code; nothing runs."""
    command, name, parent = cli, "featot", None
    while True:
        context = command.make_context(name, list(words), parent=parent)
        if not isinstance(command, click.Group):
            return context
        words = [*context._protected_args, *context.args]
        if not words:
            return context
        name, command, words = command.resolve_command(context, words)
        parent = context


def check(words):
    """Options that exist, values of their types; plugins that exist, and their options."""
    context = parse(words[1:])
    registry = load_registry()
    for kind in KINDS:
        given = context.params.get(kind) or ()
        for text in [given] if isinstance(given, str) else given:
            for name in re.findall(r"[a-z][\w-]*", re.sub(r"[\w.]+\*|:[\d.]+|\w+=", "", text)):
                assert name in {*registry.names(kind), *OTHERS}, f"no {kind} is called {name!r}"
    options = {
        info.name for kind in KINDS for name in registry.names(kind) for info in options_of(registry, kind, name)
    }
    options.add("colour")  # of the example
    for text in context.params.get("mixed") or ():
        key, equals, _ = text.partition("=")
        assert not equals or key.rpartition(".")[2] in options, f"no plugin has the option {key!r}"


def options_of(registry, kind, name):
    return describe(registry.get(kind, name).plugin.options)


@pytest.mark.parametrize("path", pages_with("sh"), ids=name_of)
def test_commands_parse(path, monkeypatch, tmp_path):
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    for words in lines_of(path):
        monkeypatch.chdir(ROOT)
        if words[0] == "make":
            assert set(words[1:]) <= set(targets), words
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file(), words
        elif words[0] == "torchrun":
            check(["featot", *words[words.index("featot_cli") + 1 :]])
        elif words[0] == "featot":
            monkeypatch.chdir(tmp_path)  # no featot.toml
            check(words)
        else:
            assert words[0] in {"pip", "pytest", "ruff", "eval", ".", "_FEATOT_COMPLETE=fish_source"}, words


@pytest.mark.parametrize(
    ("name", "command"),
    list(all_commands(cli)),
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else "",
)
def test_examples_in_the_help_parse(name, command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = list(examples_of(command))
    if not isinstance(command, click.Group) or command.invoke_without_command:
        assert found, f"featot {' '.join(name)} --help shows no example"
    for words in found:
        check(words if words[0] == "featot" else ["featot", *words[words.index("featot_cli") + 1 :]])


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("featot synth a.png --sise 3", click.NoSuchOption),
        ("featot synht a.png", Exception),
        ("featot synth a.png --seed x", click.BadParameter),
        ("featot synth a.png --features nothing", AssertionError),
        ("featot synth a.png -o sise=3", AssertionError),
    ],
)
def test_a_wrong_line_would_be_found(line, error):
    with pytest.raises(error):
        check(shlex.split(line))


# ---- files ----


@pytest.mark.parametrize("path", pages_with("toml"), ids=name_of)
def test_toml_is_read(path, tmp_path):
    """As a featot.toml where its tables are commands; else as part of a pyproject.toml."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    for text in blocks(path.read_text("utf-8"), "toml"):
        tables = tomllib.loads(text)
        if "project" in tables:
            assert tables["project"]["entry-points"].keys() == {"featot"}
            continue
        (tmp_path / "featot.toml").write_text(text, "utf-8")
        for name in tables:
            command = cli.get_command(click.Context(cli), name)
            assert config.default_map(str(tmp_path / "featot.toml"), command, name, COMMANDS)[name]


@pytest.mark.parametrize("path", pages_with("csv"), ids=name_of)
def test_a_manifest_is_read(path, folder):
    from featot.manifest import read_manifest

    for text in blocks(path.read_text("utf-8"), "csv"):
        (folder / "list.csv").write_text(text, "utf-8")
        items = read_manifest("list.csv", folder, SynthesisSettings())
        assert len(items) == len(list(csv.reader(text.strip().splitlines()))) - 1
