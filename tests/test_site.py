"""The documentation as a site: it builds without a warning, is whole, and fetches nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the site needs the extra 'docs'")
pytest.importorskip("material", reason="the site needs the extra 'docs'")
pytest.importorskip("mkdocstrings", reason="the site needs the extra 'docs'")
pytest.importorskip("latex2mathml", reason="the site needs the extra 'docs'")

ROOT = Path(__file__).resolve().parent.parent
BUILD = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir"]
# Links that are followed when they are clicked are no loads.
LOADS = r"""(?:<(?:script|img|iframe|source|video)[^>]+src|<link[^>]+href|url|@import)\s*[=(]?\s*["']?(https?:)?//"""


def build(site, *arguments):
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        [*BUILD, str(site), *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built = build(folder)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr + built.stdout
    return folder


def text_of(site, page):
    return (site / page).read_text("utf-8")


def test_every_page_is_in_the_navigation(site):
    """MkDocs warns of those that are not; here once more, by what a reader can click."""
    start = text_of(site, "index.html")
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert f'href="{name}"' in start, f"{name} cannot be reached"


def test_nothing_is_fetched_from_elsewhere(site):
    for path in site.rglob("*"):
        if path.suffix in (".html", ".css"):
            found = re.search(LOADS, path.read_text("utf-8"))
            assert found is None, f"{path.name}: {found[0]}"


def test_formulas_are_mathml(site):
    page = text_of(site, "mathematics.html")
    source = (ROOT / "docs" / "mathematics.md").read_text("utf-8")
    assert page.count('display="block"') == source.count("\n$$\n") // 2 > 10
    assert page.count('display="inline"') > 40
    assert "$$" not in page
    assert "FEATOTFORMULA" not in page


def test_functions_beside_formulas_lead_to_the_reference(site):
    page = text_of(site, "mathematics.html")
    linked = re.findall(r'href="(api[\w-]*\.html)#(featot[\w.]+)"', page)
    assert len(set(linked)) > 30
    assert re.findall(r"(?<!>)<code>(featot[\w.]+)</code>", page) == [], "a name that leads nowhere"
    for target, anchor in set(linked):
        assert f'id="{anchor}"' in text_of(site, target)


def test_a_formula_that_cannot_be_read_is_an_error():
    from mkdocs.exceptions import PluginError

    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from site_hooks import on_page_markdown
    finally:
        sys.path.pop(0)

    class Page:
        meta: dict = {}  # noqa: RUF012
        file = type("File", (), {"src_uri": "a.md"})

    text = "`$x$` costs 5$ or $x^2$\n```sh\necho $HOME $$\n```\n[it](../a/b.py)"
    assert on_page_markdown(text, Page) == text.replace("$x^2$", "FEATOTFORMULA0X").replace(
        "[it](../a/b.py)", "it (`a/b.py`)"
    )
    assert "<msup>" in Page.meta["formulas"][0]
    for wrong, message in (("x_1_2", "cannot read the formula"), ("\\fraktur{x}", r"has \\fraktur")):
        with pytest.raises(PluginError, match=message):
            on_page_markdown(f"${wrong}$", Page)


def test_the_reference_has_what_is_public(site):
    import featot
    import featot.ot

    pages = [text_of(site, f"{name}.html") for name in ("api", "api-ot", "api-plugins")]
    for module in (featot, featot.ot):
        for name in set(module.__all__) - {"__version__", "BACKENDS", "COSTS", "METHODS", "Sampler", "hookimpl"}:
            home = getattr(module, name).__module__
            assert any(f'id="{home}.{name}"' in page for page in pages), f"{home}.{name} is in no reference"
