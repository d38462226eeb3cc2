"""Plugins: what each hook registers, who owns it, and that a bad plugin harms nobody but itself."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path

import click
import pluggy
import pytest

from featot import hookspecs
from featot.errors import FeatotError, UsageError
from featot.options import NoOptions, option
from featot.plugins import KINDS, Plugin, Registered, load_registry, route_options

ROOT = Path(__file__).parents[1]

# As short as a plugin author writes it: this is the promise of the documentation.
MEDIAN = """
from dataclasses import dataclass
from featot.hookspecs import hookimpl
from featot.options import option
from featot.plugins import Plugin

@dataclass(frozen=True)
class MedianOptions:
    size: int = option(3, "side of the window, in pixels", min=1)

@hookimpl
def HOOK():
    return [Plugin("median", "TARGET", "local medians", MedianOptions)]
"""
GOOD = """
from featot.hookspecs import hookimpl
from featot.plugins import Plugin

@hookimpl
def featot_register_extractors():
    return [Plugin("good", "nowhere:Good", "works")]
"""


@dataclass(frozen=True)
class SizeOptions:
    size: int = option(3, "side of the window, in pixels", min=1)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A directory on sys.path; the modules imported from it are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def module(site, name, source):
    """A plugin module with an entry point made by hand, which no distribution owns."""
    (site / f"{name}.py").write_text(source)
    return EntryPoint(name=name, value=name, group="featot")


def distribution(directory, name, source, version="1.0"):
    """A plugin on disk as pip installs it; its entry points, owned by it."""
    stem = name.replace("-", "_").lower()
    info = directory / f"{stem}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[featot]\nplugin = {stem}_plugin\n")
    (directory / f"{stem}_plugin.py").write_text(source)
    return list(Distribution.at(info).entry_points)


def problems(registry):
    return [str(problem) for problem in registry.problems]


def listed(registry):
    return [(registered.kind, registered.plugin.name, registered.owner) for registered in registry.all()]


# ---- the hooks ----


def registered_through(site, hook, kind, target):
    """The one plugin of a package written as its author would, with ``target`` in a module of its own."""
    package = site / "featot_median"
    package.mkdir()
    source = MEDIAN.replace("HOOK", hook).replace("TARGET", "featot_median.target:Median")
    (package / "__init__.py").write_text(source)
    (package / "target.py").write_text(target)
    registry = load_registry([EntryPoint(name="median", value="featot_median", group="featot")])
    assert problems(registry) == []
    assert listed(registry) == [(kind, "median", "featot_median")]
    assert "featot_median.target" not in sys.modules  # loaded when it is first used, not before
    return registry.get(kind, "median")


def test_hook_featot_register_extractors(site):
    target = (
        "from featot.interfaces import FeatureExtractor\n"
        "class Median(FeatureExtractor):\n"
        "    def extract(self, image, *, scale=0, boundary='valid', max_points=None):\n"
        "        return {}\n"
    )
    plugin = registered_through(site, "featot_register_extractors", "features", target)
    assert plugin.create().options.size == 3
    extractor = plugin.create(plugin.build_options({"size": "5"}))
    assert type(extractor) is plugin.load()
    assert extractor.options.size == 5
    with pytest.raises(UsageError, match=r"option 'size' of features plugin 'median': .* at least 1, got '0'"):
        plugin.build_options({"size": "0"})


def test_hook_featot_register_parametrizations(site):
    target = (
        "from featot.interfaces import Parametrization\n"
        "class Median(Parametrization):\n"
        "    def initialize(self, exemplar, size, generator): ...\n"
        "    def parameters(self): return []\n"
        "    def __call__(self, size, generator): ...\n"
    )
    plugin = registered_through(site, "featot_register_parametrizations", "param", target)
    assert plugin.create().options.size == 3


def test_hook_featot_register_losses(site):
    target = (
        "from featot.interfaces import Loss\n"
        "class Median(Loss):\n"
        "    def __call__(self, points, *, improve=True): ...\n"
    )
    plugin = registered_through(site, "featot_register_losses", "loss", target)
    factory = plugin.factory(plugin.build_options({"size": 4}))
    first, second = factory("target", "generator"), factory("target", "generator")
    assert (first.options.size, first.target, first.generator) == (4, "target", "generator")
    assert first is not second


def test_hook_featot_register_metrics(site):
    target = (
        "from featot.interfaces import Metric\n"
        "class Median(Metric):\n"
        "    def __call__(self, image, exemplar): return float(self.options.size)\n"
    )
    plugin = registered_through(site, "featot_register_metrics", "metric", target)
    assert plugin.create()(None, None) == 3.0


def test_hook_featot_register_commands(site):
    target = "import click\n@click.command()\ndef Median():\n    pass\n"
    plugin = registered_through(site, "featot_register_commands", "command", target)
    assert isinstance(plugin.load(), click.Command)


def test_every_hook_belongs_to_a_kind_and_is_tested_here():
    manager = pluggy.PluginManager("featot")
    manager.add_hookspecs(hookspecs)
    hooks = {name for name in dir(hookspecs) if name.startswith("featot_")}
    assert hooks == set(KINDS.values()) == set(vars(manager.hook)) - {"_plugins"}
    assert all(f"test_hook_{hook}" in globals() for hook in hooks)
    assert all(getattr(hookspecs, hook).__doc__.count("\n") == 0 for hook in hooks)


def test_a_hook_may_be_implemented_under_another_name(site):
    source = GOOD.replace("@hookimpl", "@hookimpl(specname='featot_register_extractors')")
    registry = load_registry([module(site, "renamed", source.replace("def featot_register_extractors", "def mine"))])
    assert (listed(registry), problems(registry)) == ([("features", "good", "renamed")], [])


# ---- what a plugin must be ----


@pytest.mark.parametrize("name", ["", "Median", "2d", "_x", "a-b", "a b", "é", "a\n", None, 3])
def test_a_plugin_name_is_lowercase_letters_digits_and_underscores(name):
    with pytest.raises(UsageError, match="bad plugin name"):
        Plugin(name, "m:C", "s")


def test_good_plugin_names_are_taken():
    assert [Plugin(name, "m:C", "s").name for name in ("a", "median_3", "x__")] == ["a", "median_3", "x__"]
    assert Plugin("a", "m:C", "s").options is NoOptions


@pytest.mark.parametrize("target", ["", "module", "module:", ":Class", "a b:C"])
def test_a_target_is_module_and_class(target):
    with pytest.raises(UsageError, match=r"bad target .* of plugin 'a': expected 'module:Class'"):
        Plugin("a", target, "s")


@dataclass
class Thawed:
    size: int = 1


@dataclass(frozen=True)
class Unreadable:
    size: Nowhere = 1  # noqa: F821


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Thawed, "are no frozen dataclass"),
        (dict, "are no frozen dataclass"),
        (None, "are no frozen dataclass"),
        (SizeOptions(), "are no frozen dataclass"),  # an instance for the class
        (Unreadable, "cannot be read: NameError: name 'Nowhere' is not defined"),
    ],
)
def test_options_are_a_frozen_dataclass_that_can_be_read(options, message):
    with pytest.raises(UsageError, match=f"the options of plugin 'a' {message}"):
        Plugin("a", "m:C", "s", options)


def test_a_summary_is_text():
    with pytest.raises(UsageError, match="the summary of plugin 'a' is no text, but None"):
        Plugin("a", "m:C", None)


# ---- who owns it ----


def test_owner_and_version_come_from_the_metadata(site):
    distribution(site, "Featot-Median", GOOD, version="1.2.3")
    registry = load_registry()  # finds it on sys.path, with whatever else is installed
    registered = registry.get("features", "good")
    assert (registered.owner, registered.version) == ("Featot-Median", "1.2.3")
    assert str(registered) == "features plugin 'good'"


def test_without_metadata_the_module_is_named(site):
    registered = load_registry([module(site, "handmade", GOOD)]).get("features", "good")
    assert (registered.owner, registered.version) == ("handmade", "?")


@pytest.mark.parametrize("left", ["", "Metadata-Version: 2.1\nVersion: 1.0\n", None])
def test_a_half_removed_distribution_does_no_harm(site, left):
    whole = distribution(site, "zzz", returning("other"))
    half = distribution(site, "half", GOOD)
    metadata = site / "half-1.0.dist-info" / "METADATA"
    metadata.unlink() if left is None else metadata.write_text(left)
    registry = load_registry([*whole, *half])
    assert listed(registry) == [("features", "good", "half_plugin"), ("features", "other", "zzz")]
    assert registry.problems == []


def test_metadata_that_cannot_be_read_does_no_harm(site):
    class Unreadable(Distribution):
        def read_text(self, filename):
            if filename != "entry_points.txt":
                raise OSError(filename)
            return "[featot]\nplugin = handmade\n"

        def locate_file(self, path):
            return path

    module(site, "handmade", GOOD)
    registry = load_registry(list(Unreadable().entry_points))
    assert (listed(registry), problems(registry)) == ([("features", "good", "handmade")], [])


def test_a_distribution_found_twice_is_registered_once(site, tmp_path):
    copies = [distribution(tmp_path / place, name, GOOD) for place, name in (("a", "Two_Ways"), ("b", "two-ways"))]
    module(site, "two_ways_plugin", GOOD)
    registry = load_registry(list(itertools.chain(*copies)))
    assert (listed(registry), problems(registry)) == ([("features", "good", "Two_Ways")], [])


def test_a_distribution_twice_on_the_path_is_registered_once(site, tmp_path, monkeypatch):
    for place in ("a", "b"):
        distribution(tmp_path / place, "twice", GOOD)
        monkeypatch.syspath_prepend(tmp_path / place)
    registry = load_registry()
    assert registry.get("features", "good").owner == "twice"
    assert [problem for problem in problems(registry) if "twice" in problem] == []


def returning(*names):
    """The source of a plugin with extractors of these names."""
    plugins = ", ".join(f"Plugin({name!r}, 'nowhere:Good', 'works')" for name in names)
    return GOOD[: GOOD.index("[")] + f"[{plugins}]\n"


def test_of_two_plugins_with_one_name_the_built_in_wins_then_the_alphabet(site):
    points = [
        *distribution(site, "bbb", returning("good", "mine"), version="2.0"),
        *distribution(site, "aaa", returning("mine", "good"), version="3.0"),
        *distribution(site, "featot", returning("good"), version="1.0"),
    ]
    registry = load_registry(points)
    assert listed(registry) == [("features", "good", "featot"), ("features", "mine", "aaa")]
    assert problems(registry) == [
        "plugin distribution aaa 3.0: features plugin 'good' is already that of featot 1.0",
        "plugin distribution bbb 2.0: features plugin 'good' is already that of featot 1.0",
        "plugin distribution bbb 2.0: features plugin 'mine' is already that of aaa 3.0",
    ]


def test_one_name_may_serve_several_kinds(site):
    source = GOOD + GOOD.replace("extractors", "losses")
    registry = load_registry([module(site, "both", source)])
    assert listed(registry) == [("features", "good", "both"), ("loss", "good", "both")]
    assert problems(registry) == []


# ---- a bad plugin harms nobody but itself ----

BROKEN = {  # what is wrong, how the module goes on after GOOD, what is said of it
    "misspelled hook": (
        "@hookimpl\ndef featot_register_extractor(): return []",
        "unknown hook 'featot_register_extractor'; did you mean 'featot_register_extractors'?",
    ),
    "hook like no other": ("@hookimpl\ndef zzz(): return []", "unknown hook 'zzz'"),
    "misspelled specname": (
        "@hookimpl(specname='featot_register_loss')\ndef mine(): return []",
        "unknown hook 'featot_register_loss'; did you mean 'featot_register_losses'?",
    ),
    "raises": (
        "@hookimpl\ndef featot_register_losses(): raise RuntimeError('no\\nluck')",
        "featot_register_losses failed: RuntimeError: no luck",
    ),
    "exits": (
        "@hookimpl\ndef featot_register_losses(): raise SystemExit",
        "featot_register_losses failed: SystemExit",
    ),
    "bare plugin": (
        "@hookimpl\ndef featot_register_losses(): return Plugin('a', 'm:C', 's')",
        "featot_register_losses returned Plugin, expected a list of featot.Plugin",
    ),
    "nothing": (
        "@hookimpl\ndef featot_register_losses(): pass",
        "featot_register_losses returned NoneType, expected a list of featot.Plugin",
    ),
    "list of classes": (
        "@hookimpl\ndef featot_register_losses(): return [Plugin]",
        "featot_register_losses returned a list with type in it, expected featot.Plugin",
    ),
    "unprintable": (
        "class Odd:\n"
        "    def __repr__(self): raise RuntimeError\n"
        "@hookimpl\ndef featot_register_losses(): return [Odd()]",
        "featot_register_losses returned a list with Odd in it, expected featot.Plugin",
    ),
    "bad name": (
        "@hookimpl\ndef featot_register_losses(): return [Plugin('Bad-Name', 'm:C', 's')]",
        "featot_register_losses failed: UsageError: bad plugin name 'Bad-Name': "
        "expected a-z, 0-9 and _, a letter first",
    ),
    "unknown argument": (
        "@hookimpl\ndef featot_register_losses(config): return []",
        "featot_register_losses does not fit its hook: "
        "Argument(s) {'config'} are declared in the hookimpl but can not be found in the hookspec",
    ),
}


@pytest.mark.parametrize("wrong", BROKEN)
def test_what_is_wrong_is_said_and_the_rest_of_the_plugin_survives(site, wrong):
    source, message = BROKEN[wrong]
    last = "\n@hookimpl\ndef featot_register_metrics(): return [Plugin('late', 'm:C', 's')]\n"
    registry = load_registry(distribution(site, "broken-one", GOOD + source + last, version="0.3"))
    assert problems(registry) == [f"plugin distribution broken-one 0.3: {message}"]
    assert listed(registry) == [("features", "good", "broken-one"), ("metric", "late", "broken-one")]


def test_a_good_plugin_in_a_list_with_a_bad_one_survives(site):
    registry = load_registry([module(site, "mixed", GOOD.replace("[Plugin", "[None, Plugin"))])
    assert listed(registry) == [("features", "good", "mixed")]
    assert len(registry.problems) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_module_here", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("raise SystemExit('bye')", "SystemExit: bye"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("def :", "SyntaxError: "),
    ],
)
def test_a_module_that_cannot_be_imported_leaves_the_others_alone(site, source, message):
    bad = distribution(site, "aaa-bad", source, version="0.1")
    registry = load_registry([*bad, module(site, "other", GOOD)])
    assert listed(registry) == [("features", "good", "other")]
    (problem,) = problems(registry)
    assert problem.startswith(f"plugin distribution aaa-bad 0.1: failed to import aaa_bad_plugin: {message}")
    assert "\n" not in problem


def test_ctrl_c_is_no_problem_of_a_plugin(site):
    with pytest.raises(KeyboardInterrupt):
        load_registry([module(site, "slow", "raise KeyboardInterrupt")])


# ---- the registry ----


def test_an_unknown_name_suggests_the_near_miss_and_lists_the_choices(site):
    registry = load_registry([module(site, "one", returning("patches"))])
    with pytest.raises(UsageError) as refused:
        registry.get("features", "pathces")
    expected = "unknown features plugin 'pathces'; did you mean 'patches'? (choose from: patches)"
    assert str(refused.value) == expected
    with pytest.raises(UsageError, match=r"unknown loss plugin 'ot' \(choose from: none is installed\)"):
        registry.get("loss", "ot")


def test_plugins_come_sorted_by_kind_then_name(site):
    source = returning("b", "a", "c")
    registry = load_registry([module(site, "many", source.replace("extractors", "metrics") + source)])
    assert listed(registry) == [(kind, name, "many") for kind in ("features", "metric") for name in "abc"]
    assert registry.names("features") == ["a", "b", "c"]


def test_registries_share_nothing(site):
    first = load_registry([module(site, "one", GOOD)])
    assert listed(load_registry([])) == []
    second = load_registry([EntryPoint(name="one", value="one", group="featot")])
    second.plugins["features"].clear()
    assert listed(first) == [("features", "good", "one")]


def test_loading_the_registry_loads_nothing_heavy(site):
    distribution(site, "third-party", GOOD)
    script = (
        "import sys\n"
        "from featot.options import describe\n"
        "from featot.plugins import load_registry\n"
        "registry = load_registry()\n"
        "for registered in registry.all():\n"
        "    describe(registered.plugin.options)\n"
        "print(registry.get('features', 'good').owner)\n"
        "print([name for name in ('torch', 'torchvision', 'faiss', 'numpy', 'click') if name in sys.modules])\n"
    )
    paths = map(str, (site, ROOT, ROOT / "plugins", ROOT / "cli"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.stdout, done.stderr) == ("third-party\n[]\n", "")


# ---- loading a target ----


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_of_the_wrong_type_is_refused(kind):
    class Nothing:
        pass

    expected = {
        "features": "a subclass of featot.FeatureExtractor",
        "param": "a subclass of featot.Parametrization",
        "loss": "a subclass of featot.Loss",
        "metric": "a subclass of featot.Metric",
        "command": "a click.Command",
    }[kind]
    for target in (Nothing, Nothing(), None):
        registered = Registered(kind, Plugin("odd", target, "s"), "owner", "1.2")
        with pytest.raises(FeatotError, match=f"{kind} plugin 'odd' of owner 1.2: expected {expected}, got "):
            registered.load()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "no_such_module_here:C",
            "no_such_module_here:C: ModuleNotFoundError: No module named 'no_such_module_here'",
        ),
        ("json:NoSuchClass", "json:NoSuchClass: AttributeError: module 'json' has no attribute 'NoSuchClass'"),
        ("exits:C", "exits:C: SystemExit: bye"),
    ],
)
def test_a_target_that_cannot_be_imported_names_its_owner(site, target, message):
    module(site, "exits", "raise SystemExit('bye')")
    with pytest.raises(FeatotError) as failed:
        Registered("loss", Plugin("foo", target, "s"), "bar", "1.2").create()
    assert str(failed.value) == f"loss plugin 'foo' of bar 1.2 failed to import {message}"
    assert not isinstance(failed.value, UsageError)


# ---- options on their way to several plugins ----


@dataclass(frozen=True)
class RateOptions:
    size: int = option(1, "another size")
    rate: float = option(1.0, "step")


CHOSEN = {
    "features": Registered("features", Plugin("median", "m:C", "s", SizeOptions), "owner", "1"),
    "loss": Registered("loss", Plugin("slow", "m:C", "s", RateOptions), "owner", "1"),
}


def test_options_go_to_the_plugin_that_has_them():
    assert route_options(CHOSEN, {}) == {"features": SizeOptions(), "loss": RateOptions()}
    routed = route_options(CHOSEN, {"rate": "0.5", "features.size": "5", "slow.size": "6"})
    assert routed == {"features": SizeOptions(5), "loss": RateOptions(6, 0.5)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 5}, "option 'size' is ambiguous: say features.size or loss.size"),
        ({"rte": 5}, "unknown option 'rte'; did you mean 'rate'?"),
        ({"features.rate": 5}, "unknown option 'rate' (choose from: size)"),
        ({"slwo.rate": 5}, "unknown plugin in option 'slwo'; did you mean 'slow'?"),
        ({"rate": 1, "loss.rate": 2}, "option 'rate' of loss plugin 'slow' is given twice"),
        ({"rate": "fast"}, "option 'rate' of loss plugin 'slow': expected float, got 'fast'"),
    ],
)
def test_options_that_reach_no_plugin_are_refused(values, message):
    with pytest.raises(UsageError) as refused:
        route_options(CHOSEN, values)
    assert str(refused.value).startswith(message)
