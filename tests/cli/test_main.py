"""The group `featot`: quick help, near misses, the list of plugins, broken plugins, pipes that close."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
from PIL import Image

import featot
from featot_cli.main import COMMANDS, _interrupt_once, cli, main

PYTHON = [sys.executable, "-m", "featot_cli"]
# Of these, none may be needed to answer a question about the program itself.
HEAVY = ("torch", "torchvision", "faiss", "matplotlib", "numpy", "PIL", "scipy", "rich")


def environment(*site, **extra):
    """That of a subprocess that finds the plugins in the directory ``site``."""
    paths = [*map(str, site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join(paths), **extra}


def featot_process(*arguments, site=(), cwd=None, **extra):
    """The finished process of ``featot ARGUMENTS``; never with a traceback."""
    done = subprocess.run(
        [*PYTHON, *arguments], env=environment(*site, **extra), cwd=cwd, capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in done.stderr
    return done


def command(capsys, *arguments):
    """Exit code, stdout and stderr of ``featot ARGUMENTS`` in this process."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code, *capsys.readouterr()


def distribution(site, name, source, version="1.0"):
    """Installs a module as pip would, with the entry point of a plugin, in the directory ``site``."""
    module = name.replace("-", "_")
    info = site / f"{module}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[featot]\n{module} = {module}\n")
    (site / f"{module}.py").write_text(source)


# ---- quick answers ----


ALL_COMMANDS = ", ".join(sorted(COMMANDS))


@pytest.mark.parametrize("arguments", [["--help"], ["synth", "--help"], ["plugins"], ["--version"]])
def test_questions_load_nothing_heavy(arguments):
    script = (
        "import sys\n"
        "from featot_cli.main import main\n"
        "try:\n"
        "    main(sys.argv[2:])\n"
        "except SystemExit as ended:\n"
        "    assert not ended.code\n"
        "loaded = [name for name in sys.argv[1].split() if name in sys.modules]\n"
        "print('LOADED', loaded)\n"
    )
    process = [sys.executable, "-c", script, " ".join(HEAVY), *arguments]
    done = subprocess.run(process, capture_output=True, text=True, env=environment(), timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    answer, _, loaded = done.stdout.rpartition("LOADED ")
    assert loaded == "[]\n"
    assert "featot" in answer


def test_a_synthesis_imports_no_compiler(tmp_path):
    """torch's takes more than a second, a quarter of a standard synthesis."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    script = (
        "import sys, featot\n"
        "featot.synthesize('a.png', steps=1)\n"
        "print([name for name in ('torch._dynamo', 'torch._inductor', 'sympy') if name in sys.modules])"
    )
    process = [sys.executable, "-c", script]
    done = subprocess.run(process, cwd=tmp_path, capture_output=True, text=True, env=environment(), timeout=60)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_help_takes_less_than_half_a_second():
    """Of the processor's time: where others work too, the clock says nothing."""

    def seconds():
        before = os.times()
        assert featot_process("--help").returncode == 0
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) < 0.5


def test_help_names_commands_and_plugins(capsys):
    code, out, err = command(capsys, "--help")
    assert (code, err) == (0, "")
    for word in ("synth", "plugins", "--features", "pyramid", "--param", "image", "--loss", "ot"):
        assert word in out
    code, out, _ = command(capsys, "synth", "-h")
    assert code == 0
    for word in ("EXEMPLAR", "--from-json", "Ctrl-C", "-o KEY=VALUE for --features pyramid", "psi_steps=10"):
        assert word in out


def test_version(capsys):
    assert command(capsys, "--version") == (0, f"featot, version {featot.__version__}\n", "")


def test_alone_it_shows_its_help(capsys):
    code, out, err = command(capsys)
    assert code == 2
    assert "Usage: featot" in out + err
    assert "synth" in out + err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["snyth", "a.png"], f"unknown command 'snyth'; did you mean 'synth'? (choose from: {ALL_COMMANDS})"),
        (["xyz"], f"unknown command 'xyz' (choose from: {ALL_COMMANDS})"),
        (["--versoin"], "No such option '--versoin'. Did you mean '--version'? See: featot --help"),
        (["plugins", "--jsn"], "No such option '--jsn'. Did you mean '--json'? See: featot plugins --help"),
        (["doctor", "now"], "Got unexpected extra argument (now). See: featot doctor --help"),
        (["inpaint"], "IMAGE is missing; expected as in: featot inpaint wall.png"),  # not the comment behind it
        (["mix"], "A B is missing; expected as in: featot mix rust.png moss.png --weights .3,.7"),
        (["transfer", "a.png"], "STYLE is missing; expected as in: featot transfer portrait.jpg bricks.png"),
        (["plugins", "ot"], "unknown command of featot plugins 'ot' (choose from: new)"),
    ],
)
def test_wrong_usage_is_one_line(arguments, message, capsys):
    code, out, err = command(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("featot: ")
    assert err.count("\n") == 1
    assert err.removeprefix("featot: ").strip().replace("(Did", "Did").replace("?)", "?") == message


# ---- the list of plugins ----


def test_plugins_lists_owner_version_summary_and_options(capsys):
    code, out, err = command(capsys, "plugins")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["--features", "--param", "--loss", "--metric"]
    owner = f"(featot {featot.__version__})"
    assert f"  patches    square patches at one scale  {owner}" in lines
    assert "    -o size=7  side of a patch, in pixels [int, at least 1]" in lines
    assert "    -o backend=auto  search of the c-transform [auto|torch|llvm|faiss|keops]" in lines
    assert "    -o layers=relu1_1,relu2_1,relu3_1  layers, each a level [list of str]" in lines  # as it is typed


def test_plugins_json(capsys):
    code, out, err = command(capsys, "plugins", "--json")
    assert (code, err) == (0, "")
    listed = json.loads(out)
    assert listed["problems"] == []
    by_name = {(row["kind"], row["name"]): row for row in listed["plugins"]}
    assert {("features", "patches"), ("features", "pyramid"), ("param", "image"), ("loss", "ot")} <= by_name.keys()
    row = by_name["features", "patches"]
    assert (row["owner"], row["version"]) == ("featot", featot.__version__)
    assert row["summary"] == "square patches at one scale"
    size = {"name": "size", "type": "int", "default": 7, "help": "side of a patch, in pixels", "min": 1}
    assert row["options"][0] == size
    assert by_name["loss", "ot"]["options"][0]["max"] == 2.0


# ---- third parties ----

HELLO = """
import click, featot

@featot.hookimpl
def featot_register_commands():
    return [
        featot.Plugin("hello", "hello_plugin:hello", "Greets."),
        featot.Plugin("synth", "hello_plugin:hello", "Not what it seems."),
        featot.Plugin("odd", "hello_plugin:not_there", "Cannot be loaded."),
    ]

@click.command()
@click.option("--name", default="world")
def hello(name):
    click.echo(f"hello {name}")
    raise click.exceptions.Exit(3)
"""
BROKEN = {  # what the distribution holds, and what is said of it
    "bad-import": ("import no_such_module_anywhere", "failed to import bad_import: ModuleNotFoundError"),
    "bad-exit": ("raise SystemExit('bye')", "failed to import bad_exit: SystemExit: bye"),
    "bad-syntax": ("def :", "failed to import bad_syntax: SyntaxError"),
    "bad-hook": (
        "import featot\n@featot.hookimpl\ndef featot_register_extractor():\n    return []",
        "unknown hook 'featot_register_extractor'; did you mean 'featot_register_extractors'?",
    ),
    "bad-type": (
        "import featot\n@featot.hookimpl\ndef featot_register_losses():\n    return 'ot'",
        "featot_register_losses returned str, expected a list of featot.Plugin",
    ),
    "bad-twin": (
        "import featot\n@featot.hookimpl\ndef featot_register_losses():\n    return [featot.Plugin('ot', 'a:B', '')]",
        f"loss plugin 'ot' is already that of featot {featot.__version__}",
    ),
    "bad-raise": (
        "import featot\n@featot.hookimpl\ndef featot_register_losses():\n    raise KeyError('first\\nsecond')",
        "featot_register_losses failed: KeyError: 'first\\nsecond'",
    ),
}


@pytest.fixture
def site(tmp_path):
    return tmp_path / "site"


def test_broken_plugins_are_named_and_everything_else_works(site, tmp_path):
    for name, (source, _) in BROKEN.items():
        distribution(site, name, source)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    listed = featot_process("plugins", "--json", site=[site])
    synthesised = featot_process("synth", "a.png", "--steps", "1", "-o", "x.png", site=[site], cwd=tmp_path)
    assert (listed.returncode, synthesised.returncode) == (0, 0)
    assert (tmp_path / "x.png").exists()
    problems = json.loads(listed.stdout)["problems"]
    expected = [f"plugin distribution {name} 1.0: {message}" for name, (_, message) in sorted(BROKEN.items())]
    assert len(problems) == len(expected)
    for problem, start in zip(sorted(problems), sorted(expected), strict=True):
        assert problem.startswith(start)
    warnings = "".join(f"featot: warning: {problem}\n" for problem in problems)
    assert listed.stderr == synthesised.stderr == warnings


def test_a_command_of_a_third_party(site):
    distribution(site, "hello-plugin", HELLO, version="2.5")
    warning = "featot: warning: plugin distribution hello-plugin 2.5: command 'synth' is one of featot's own\n"

    shown = featot_process("--help", site=[site])
    assert (shown.returncode, shown.stderr) == (0, warning)
    assert re.search(r"^  hello +Greets\.$", shown.stdout, re.M)
    assert "Not what it seems" not in shown.stdout

    ran = featot_process("hello", "--name", "ψ", site=[site], PYTHONUTF8="1")
    assert (ran.returncode, ran.stdout, ran.stderr) == (3, "hello ψ\n", warning)

    odd = featot_process("odd", site=[site])
    assert (odd.returncode, odd.stdout) == (1, "")
    assert odd.stderr.startswith(
        f"{warning}featot: command plugin 'odd' of hello-plugin 2.5 failed to import hello_plugin:not_there: "
    )

    listed = featot_process("plugins", site=[site])
    assert "  hello      Greets.  (hello-plugin 2.5)" in listed.stdout.splitlines()


# ---- Ctrl-C ----


def test_the_echo_of_a_ctrl_c_is_not_heard(monkeypatch):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("featot_cli.main.time", clock)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for clock.now in (5.0, 7.0):
            _interrupt_once()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            clock.now += 0.9
            signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for a process in the background: it stays ignored
        _interrupt_once()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# ---- the other end of the pipe ----


def test_a_reader_that_leaves_is_no_error():
    # As `featot plugins | true`: the pipe has lost its reader before the first line is written.
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*PYTHON, "plugins"], stdout=writer, stderr=subprocess.PIPE, env=environment(), timeout=60)
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output():
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*PYTHON, "plugins"], stdout=full, stderr=subprocess.PIPE, env=environment(), timeout=60
        )
    assert done.stderr == b"featot: [Errno 28] No space left on device\n"
    assert done.returncode == 1


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "ascii"])
def test_any_encoding_of_standard_output(encoding):
    encoded = {"env": environment(PYTHONIOENCODING=encoding, PYTHONUTF8="0"), "timeout": 60}
    done = subprocess.run([*PYTHON, "plugins"], capture_output=True, **encoded)
    assert (done.returncode, done.stderr) == (0, b"")
    # click takes ASCII for a mistake and writes UTF-8
    psi = rb"\u03c8" if encoding == "latin-1" else "ψ".encode()
    assert b"ascent steps of " + psi + b" per" in done.stdout


def test_every_command_stands_under_a_heading():
    from featot_cli.main import _SECTIONS, COMMANDS

    assert sorted(name for names in _SECTIONS.values() for name in names) == sorted(COMMANDS)


def test_the_help_of_a_command_groups_its_options(capsys):
    with pytest.raises(SystemExit):
        main(["synth", "--help"])
    page = capsys.readouterr().out
    headings = ["Options:", "What is matched:", "How it is optimised:", "What is told:"]
    places = [page.index(f"\n{heading}\n") for heading in headings]
    assert places == sorted(places)
    assert places[1] < page.index("--features NAME") < places[2] < page.index("--steps INTEGER") < places[3]
    assert page.count("\n  --features ") == 1


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "plugins"])
def test_no_heading_stands_over_one_option_alone(name, capsys):
    _, page, _ = command(capsys, name, "--help")
    sections = re.findall(r"^([A-Z][\w ]*):\n((?:  .*\n)+)", page, re.M)
    assert sections[0][0] == "Options"
    assert sections[0][1].splitlines()[-1].split()[:2] == ["-h,", "--help"]
    for title, text in sections[1:]:
        assert len(re.findall(r"^  -", text, re.M)) > 1, f"{title} of {name}"


def test_every_command_says_as_little_and_as_much_as_it_is_asked():
    """--quiet where there is a bar or a summary, --json where there is something to read."""
    silent, plain = set(), set()
    for name in COMMANDS:
        found = {option for param in cli.get_command(click.Context(cli), name).params for option in param.opts}
        silent |= {name} if not {"-q", "--quiet"} <= found else set()
        plain |= {name} if "--json" not in found else set()
    assert (silent, plain) == ({"doctor", "plugins"}, set())


@pytest.mark.parametrize(("terminal", "colour"), [(True, {}), (True, {"NO_COLOR": "1"}), (False, {})])
def test_styles_are_for_terminals_that_want_them(terminal, colour):
    ours, theirs = pty.openpty() if terminal else os.pipe()
    done = subprocess.run([*PYTHON, "plugins"], stdout=theirs, env=environment(TERM="xterm", **colour), timeout=60)
    os.close(theirs)
    shown = os.read(ours, 1000)
    os.close(ours)
    assert (done.returncode, b"--features" in shown) == (0, True)
    assert (b"\x1b[" in shown) == (terminal and not colour)
