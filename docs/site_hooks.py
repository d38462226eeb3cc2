"""What the site needs beside MkDocs: formulas as MathML, links that leave docs/, links to the reference."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

# Code is matched first, and left as it is.
_CODE = r"(?P<code>^(?P<fence>`{3,}|~{3,}).*?^(?P=fence)[ \t]*$|`+[^`\n]+`+)"
_FORMULA = re.compile(
    _CODE + r"|\$\$(?P<block>.+?)\$\$|(?<![\\$\w])\$(?P<line>[^\s$](?:[^$\n]*[^\s$])?)\$(?![\w$])", re.M | re.S
)
_OUTWARD = re.compile(r"\[([^\]]+)\]\(\.\./([^)#\s]+)\)")
_REFERENCE = {
    name
    for page in Path(__file__).parent.glob("api*.md")
    for name in re.findall(r"^::: (\S+)", page.read_text("utf-8"), re.M)
}
_PLACE = "FEATOTFORMULA{}X"  # nothing that Markdown would read


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Takes the formulas out of Markdown's way; names the files of the repository instead of linking to them."""
    formulas: list[str] = []

    def taken(found: re.Match[str]) -> str:
        if found["code"]:
            name = found[0].strip("`")
            told = any(f"{name}.".startswith(f"{known}.") for known in _REFERENCE)
            return f"[`{name}`][{name}]" if told else found[0]
        try:
            formula = convert(found["block"] or found["line"], display="block" if found["block"] else "inline")
        except Exception as error:  # of many kinds
            raise PluginError(f"{page.file.src_uri}: cannot read the formula {found[0]!r}: {error!r}") from error
        unknown = re.search(r"\\[A-Za-z]+", formula)
        if unknown:
            raise PluginError(f"{page.file.src_uri}: the formula {found[0]!r} has {unknown[0]}, which is not known")
        formulas.append(formula)
        return _PLACE.format(len(formulas) - 1)

    markdown = _FORMULA.sub(taken, markdown)
    page.meta["formulas"] = formulas
    return _OUTWARD.sub(
        lambda found: f"{found[1]} (`{found[2]}`)" if found[1] != found[2] else f"`{found[2]}`", markdown
    )


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Puts the formulas in their places."""
    for number, formula in enumerate(page.meta["formulas"]):
        html = html.replace(_PLACE.format(number), formula)
    return html
