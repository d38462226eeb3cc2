"""The two ways a run can end badly, and the near-miss sentence shared by every unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FeatotError(Exception):
    """Something failed that was rightly asked for: one line for the user, exit code 1."""

    exit_code = 1


class UsageError(FeatotError, ValueError):
    """What was asked for makes no sense: says what was wrong and what was expected, exit code 2."""

    exit_code = 2


def unknown_name(what: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not in ``known``: lists the choices and suggests the near miss."""
    known = sorted(set(known))
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    choices = ", ".join(known) if known else "none is installed"
    return UsageError(f"unknown {what} {name!r}{hint} (choose from: {choices})")
