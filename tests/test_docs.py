"""What the documents say is so: generated parts are fresh, and the README's code runs."""

import importlib
import importlib.util
import inspect
import re
from contextlib import suppress
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import featot
from featot import hookspecs
from featot.plugins import load_registry
from featot.testing import check_extractor

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_fresh(generate):
    assert len(generate.DOCUMENTS) == 3
    for path in generate.DOCUMENTS:
        assert generate.renew(path) == path.read_text("utf-8"), "run: python docs/generate.py"


def public(source):
    """The names of the module's own classes, functions and methods that are for others, with what they are."""
    for name, thing in vars(source).items():
        own = getattr(thing, "__module__", None) == source.__name__
        if own and not name.startswith("_") and (inspect.isclass(thing) or inspect.isfunction(thing)):
            yield name, thing
            for part, member in vars(thing).items() if inspect.isclass(thing) else ():
                member = member.fget if isinstance(member, property) else member
                if inspect.isfunction(member) and not part.startswith("_"):
                    yield f"{name}.{part}", getattr(thing, part)


@pytest.mark.parametrize("folder", ["featot", "featot/ot", "featot/testing", "plugins/featot_plugins"])
def test_what_is_public_says_what_it_is(folder):
    """In a docstring of its own, or in that of what it overrides."""
    for path in sorted((ROOT / folder).glob("[!_]*.py")) + sorted((ROOT / folder).glob("_[!_]*.py")):
        module = importlib.import_module(f"{folder.removeprefix('plugins/').replace('/', '.')}.{path.stem}")
        silent = [name for name, thing in public(module) if not inspect.getdoc(thing)]
        assert silent == [], f"without a docstring in {path.name}"


def test_every_file_is_in_the_design():
    page = (ROOT / "docs" / "design.md").read_text("utf-8")
    for folder in ("featot", "plugins", "cli"):
        for path in (ROOT / folder).rglob("*.py"):
            told = page.split(f"**`{path.parent.relative_to(ROOT).as_posix()}/`**")[1].split("**`")[0]
            assert re.search(rf"^\| `{path.name}` \| \S", told, re.M), f"{path}: no docstring, or not in the table"


def test_what_the_mathematics_names_is_there():
    """Every function beside a formula can be imported."""
    page = (ROOT / "docs" / "mathematics.md").read_text("utf-8")
    names = set(re.findall(r"`(featot\w*(?:\.\w+)+)`", page))
    assert len(names) > 30
    for name in names:
        parts = name.split(".")
        found = None
        for length in range(len(parts), 0, -1):
            with suppress(ModuleNotFoundError):
                found = importlib.import_module(".".join(parts[:length]))
                break
        for part in parts[length:]:
            found = getattr(found, part)


def test_every_link_leads_somewhere():
    pages = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"))
    for page in (*pages, *(ROOT / "examples").glob("*/README.md")):
        prose = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", prose):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_readme_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("bricks.png")
    code = re.search(r"## Ten lines of Python\n\n```python\n(.*?)```", README, re.S)[1]
    assert code.count("(512, 512)") == 1
    exec(code.replace("(512, 512)", "(32, 32), steps=2"), {})
    assert Image.open("wall.png").size == (32, 32)
    assert (tmp_path / "wall.json").exists()
    assert capsys.readouterr().out.endswith("True\n")


def test_the_solver_page_runs(capsys):
    page = (ROOT / "docs" / "solver.md").read_text("utf-8")
    exec(re.search(r"```python\n(.*?)```", page, re.S)[1], {})
    assert "size=(4000, 1000)" in capsys.readouterr().out


PLUGINS_PAGE = (ROOT / "docs" / "plugins.md").read_text("utf-8")


def test_every_hook_is_documented_with_its_signature():
    hooks = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("featot_")}
    assert hooks
    for name, hook in hooks.items():
        signature = str(inspect.signature(hook)).replace("'", "")  # annotations are text there
        rows = re.findall(rf"\| `def {name}(.*?)` \| `(.*?)` \| an? .*?`(.*?)` \|\n", PLUGINS_PAGE)
        assert [row[0] for row in rows] == [signature]
        assert all(word.split()[0] in hook.__doc__ for word in rows[0][1:])
    assert set(re.findall(r"featot_register_\w+", PLUGINS_PAGE)) == set(hooks)


def test_the_python_of_the_plugins_page_runs():
    hook, options, *rest = re.findall(r"```python\n(.*?)```", PLUGINS_PAGE, re.S)
    namespace = {}
    for code in (options, hook, *rest):  # the page tells of hooks before it tells of options
        exec(code, namespace)
    (plugin,) = namespace["featot_register_extractors"]()
    assert plugin.options is namespace["MedianOptions"]
    assert "check_extractor(Median(" in rest[-1]


def test_readme_plugin_works(tmp_path, monkeypatch):
    code = re.search(r"```python\n# featot_colors.py\n(.*?)```", README, re.S)[1]
    (tmp_path / "featot_colors.py").write_text(code, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    ours = EntryPoint("featot", "featot_plugins", "featot")
    registry = load_registry([ours, EntryPoint("colors", "featot_colors", "featot")])
    assert registry.problems == []
    check_extractor(registry.get("features", "colors").create())
    result = featot.synthesize(np.full((3, 20, 20), 0.25), features="colors", steps=60, registry=registry)
    assert abs(float(result.image.mean()) - 0.25) < 0.02
