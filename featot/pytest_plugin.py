"""`pytest --featot my-features`: the contract checks of an installed plugin, each a test of its own.

pytest loads this module whenever featot is installed; it imports nothing of weight until the option is given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from featot.errors import FeatotError, UsageError

if TYPE_CHECKING:
    from featot.plugins import Registered, Registry


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --featot."""
    parser.getgroup("featot").addoption(
        "--featot",
        action="append",
        default=[],
        metavar="NAME",
        help="also run the contract checks of this featot plugin, or of all plugins of this distribution; repeatable",
    )


@pytest.hookimpl(tryfirst=True)  # before -k and -m choose among the tests
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Appends the checks of the plugins that --featot names."""
    names = config.getoption("--featot")
    if not names:
        return
    from featot.plugins import load_registry

    registry = load_registry()
    try:
        chosen = {str(plugin): plugin for name in names for plugin in _find(registry, name)}
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error
    for plugin in chosen.values():
        items.extend(PluginContract.from_parent(session, registered=plugin).collect())


def _find(registry: Registry, name: str) -> list[Registered]:
    """The plugins of that name, of whatever kind; else those of the distribution of that name."""
    from featot.errors import unknown_name
    from featot.plugins import plugin_name

    everything = list(registry.all())
    named = [found for found in everything if found.plugin.name == plugin_name(name)]
    owned = [found for found in everything if _normalized(found.owner) == _normalized(name)]
    if named or owned:
        return named or owned
    broken = [str(problem) for problem in registry.problems if _normalized(problem.owner) == _normalized(name)]
    if broken:
        raise UsageError("; ".join(broken))
    raise unknown_name(
        "featot plugin or distribution", name, [n for f in everything for n in (f.plugin.name, f.owner)]
    )


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


class PluginContract(pytest.Collector):
    """The checks of one plugin."""

    def __init__(self, *, registered: Registered, **keywords: Any) -> None:
        name = f"featot-{registered.kind}-{registered.plugin.name}"
        super().__init__(name=name, nodeid=name, **keywords)
        self.registered = registered

    def collect(self) -> Iterator[pytest.Item]:
        from featot.testing import contract

        try:
            checks = contract(self.registered)
        except FeatotError as error:
            yield ContractCheck.from_parent(self, name="import", check=_raising(AssertionError(str(error))))
            return
        for name, check in checks.items():
            yield ContractCheck.from_parent(self, name=name, check=check)


class ContractCheck(pytest.Item):
    """One check: it fails with the sentence that says what is violated."""

    parent: PluginContract

    def __init__(self, *, check: Callable[[], None], **keywords: Any) -> None:
        super().__init__(**keywords)
        self.check = check

    def runtest(self) -> None:
        self.check()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, AssertionError):
            return f"{self.parent.registered} of {self.parent.registered.owner}: {excinfo.value}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[str, None, str]:
        return self.parent.name, None, f"{self.parent.registered}: {self.name}"


def _raising(error: AssertionError) -> Callable[[], None]:
    def check() -> None:
        raise error

    return check
