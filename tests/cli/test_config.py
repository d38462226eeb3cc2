"""Options from featot.toml and the environment, who wins, and what Tab offers."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import click
import numpy as np
import pytest
from click.shell_completion import ShellComplete
from PIL import Image

from featot_cli.completion import CHOICES
from featot_cli.main import COMMANDS, cli, main

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "configuration.md").read_text("utf-8")
FAST = "[synth]\nsteps = 1\nlevels = 1\nsize = 32\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The present folder, with an exemplar a.png of 40x40."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("a.png")
    return tmp_path


def command(capsys, *arguments):
    """Exit code, stdout and stderr of ``featot ARGUMENTS`` in this process."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code, *capsys.readouterr()


def settings(capsys, *arguments):
    """Those of ``featot synth a.png ARGUMENTS``, from its record."""
    code, out, err = command(capsys, *arguments[:-1], "synth", "a.png", "--json", *arguments[-1])
    assert (code, err) == (0, "")
    return json.loads(out)["settings"]


def test_the_command_line_wins_then_the_environment_then_the_file(folder, capsys, monkeypatch):
    (folder / "featot.toml").write_text(f"{FAST}seed = 5\n")
    assert settings(capsys, [])["seed"] == 5
    assert settings(capsys, [])["size"] == [32, 32]
    monkeypatch.setenv("FEATOT_SYNTH_SEED", "6")
    assert settings(capsys, [])["seed"] == 6
    assert settings(capsys, ["--seed", "7"])["seed"] == 7
    monkeypatch.setenv("FEATOT_SYNTH_SEED", "")
    assert settings(capsys, [])["seed"] == 5


def test_which_file(folder, capsys, monkeypatch):
    (folder / "featot.toml").write_text(f"{FAST}seed = 5\n")
    (folder / "other.toml").write_text(f"{FAST}seed = 8\n", encoding="utf-8-sig")
    assert settings(capsys, "--config", "other.toml", [])["seed"] == 8
    fast = ["--steps", "1", "--levels", "1"]
    found = settings(capsys, "--config", "none", fast)
    assert (found["seed"], found["size"]) == (0, [40, 40])
    monkeypatch.setenv("FEATOT_CONFIG", "other.toml")
    assert settings(capsys, [])["seed"] == 8
    assert settings(capsys, "--config", "none", fast)["seed"] == 0


def test_lists_flags_and_options_of_plugins(folder, capsys):
    (folder / "featot.toml").write_text(
        f"{FAST}features = ['patches', 'pyramid:0.5']\naugment = ['rot90', 'flip']\nshow_tiled = true\n"
        "[synth.options]\npatches.size = 5\nsliced.directions = 4\npyramid.stride = 2\n"
        "[synth.options.ot]\nbackend = 'torch'\n"
    )
    found = settings(capsys, [])
    assert found["features"] == "patches+0.5*pyramid"
    assert found["augment"] == ["rot90", "flip"]
    assert (folder / "a_synth_tiled.png").exists()
    assert found["options"]["patches.size"] == 5
    assert found["options"]["sliced.directions"] == 4
    # Those that are typed are joined to the others of the file, and an output is no option.
    found = settings(capsys, ["-o", "patches.size=4", "-o", "x.png"])
    assert (folder / "x.png").exists()
    assert found["options"]["patches.size"] == 4
    assert (found["options"]["pyramid.stride"], found["options"]["sliced.directions"]) == (2, 4)
    # All others are replaced.
    (folder / "featot.toml").write_text(f"{FAST}features = ['patches', 'pyramid']\n")
    assert settings(capsys, ["--features", "steerable"])["features"] == "steerable"


def test_an_option_without_its_plugins_name_is_the_same_option(folder, capsys):
    (folder / "featot.toml").write_text(f"{FAST}[synth.options]\npyramid.size = 5\n")
    assert settings(capsys, ["-o", "size=3"])["options"]["features.size"] == 3
    (folder / "featot.toml").write_text(f"{FAST}[synth.options]\nsize = 5\n")
    assert settings(capsys, ["-o", "pyramid.size=3"])["options"]["features.size"] == 3


def test_a_run_that_is_repeated_is_as_it_was(folder, capsys, monkeypatch):
    fast = ["--steps", "1", "--levels", "1", "--seed", "3"]
    settings(capsys, fast)
    (folder / "featot.toml").write_text(f"{FAST}seed = 5\n[synth.options]\npyramid.size = 5\n")
    monkeypatch.setenv("FEATOT_SYNTH_QUALITY", "high")
    monkeypatch.setenv("FEATOT_SYNTH_O", "pyramid.stride=2")
    code, out, err = command(capsys, "synth", "--from-json", "a_synth.json", "-o", "b.png", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)["settings"]
    assert (found["seed"], found["quality"], found["options"]["features.stride"]) == (3, "standard", 1)
    assert (folder / "b.png").read_bytes() == (folder / "a_synth.png").read_bytes()


def test_variables_go_by_the_names_of_options(folder, capsys, monkeypatch):
    monkeypatch.setenv("FEATOT_PLUGINS_JSON", "1")
    assert json.loads(command(capsys, "plugins")[1])["plugins"]
    monkeypatch.setenv("FEATOT_PLUGINS_JSON", "0")
    assert command(capsys, "plugins")[1].startswith("--features")
    monkeypatch.setenv("FEATOT_SYNTH_FEATURES", "patches pyramid:0.5")
    monkeypatch.setenv("FEATOT_SYNTH_O", "patches.size=5 pyramid.stride=2")
    found = settings(capsys, ["--steps", "1", "--levels", "1"])
    assert found["features"] == "patches+0.5*pyramid"
    assert (found["options"]["patches.size"], found["options"]["pyramid.stride"]) == (5, 2)


def test_variables_of_others_mean_nothing(capsys, monkeypatch):
    for name in ("FEATOT_VERSION", "FEATOT_SHARED", "FEATOT_DEBUG"):
        monkeypatch.setenv(name, "0.1.0")
    assert command(capsys, "plugins")[0] == 0


def test_a_table_within_a_table_is_for_a_command_of_a_command(folder, capsys):
    (folder / "featot.toml").write_text("[plugins.new]\nkind = 'loss'\n")
    assert command(capsys, "plugins", "new", "my-x")[0] == 0
    assert "featot_register_losses" in (folder / "my-x" / "my_x.py").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[snyth]\nsize = 3", "featot.toml: unknown command 'snyth'; did you mean 'synth'? (choose from: "),
        ("size = '512x512'", "featot.toml: unknown command 'size'"),
        ("synth = 3", "featot.toml: bad synth 3: expected a table, [synth], with options of the command"),
        ("[synth]\nsiez = 3", "featot.toml: unknown option of [synth] 'siez'; did you mean 'size'?"),
        ("[synth]\no = ['x=1']", "featot.toml: unknown option of [synth] 'o'"),
        ("[synth]\nfrom-json = 'x.json'", "featot.toml: unknown option of [synth] 'from-json'"),
        ("[synth]\nsteps = 'many'", "featot.toml: bad synth.steps 'many': expected a whole number"),
        ("[synth]\nsteps = true", "featot.toml: bad synth.steps True: expected a whole number"),
        ("[synth]\nsteps = 1.5", "featot.toml: bad synth.steps 1.5: expected a whole number"),
        ("[synth]\nquiet = 'yes'", "featot.toml: bad synth.quiet 'yes': expected true or false"),
        ("[synth]\nsize = true", "featot.toml: bad synth.size True: expected text, such as HxW"),
        ("[synth]\nsize = {h = 3}", "featot.toml: bad synth.size {'h': 3}: expected text, such as HxW"),
        ("[synth]\nfeatures = [['vgg']]", "featot.toml: bad synth.features ['vgg']: expected text"),
        ("[synth]\noptions = 'size=3'", "featot.toml: bad synth.options 'size=3': expected a table"),
        ("[synth.options]\na.b = [[1]]", "featot.toml: bad synth.options.a.b [[1]]: expected text, a number"),
        ("[synth]\nsize 3", "cannot read featot.toml: Expected '=' after a key"),
        ("[synth.options]\nstrid = 3", "unknown option 'strid'; did you mean 'stride'?"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(folder, capsys, text, message):
    (folder / "featot.toml").write_text(text)
    code, out, err = command(capsys, "synth", "a.png", "--levels", "1")
    assert (code, out) == (2, "")
    assert err.startswith(f"featot: {message}")
    assert err.count("\n") == 1


def test_files_that_cannot_be_read(folder, capsys):
    (folder / "latin.toml").write_bytes(b"[synth]\nsize = '\xe9'")
    (folder / "folder.toml").mkdir()
    (folder / "near.toml").touch()
    for name, message in (
        ("latin.toml", "cannot read latin.toml: 'utf-8' codec can't decode"),
        ("folder.toml", "cannot read folder.toml: it is a directory; expected a file of TOML"),
        ("naer.toml", "cannot read naer.toml: there is no file 'naer.toml' in "),
    ):
        code, _, err = command(capsys, "--config", name, "plugins")
        assert (code, err.count("\n")) == (2, 1)
        assert err.startswith(f"featot: {message}")


def test_a_wrong_value_says_where_it_comes_from(folder, capsys, monkeypatch):
    monkeypatch.setenv("FEATOT_SYNTH_STEPS", "many")
    code, _, err = command(capsys, "synth", "a.png")
    assert code == 2
    assert "'many' is not a valid integer. (from the environment variable FEATOT_SYNTH_STEPS) See: " in err
    assert "from the" not in command(capsys, "synth", "a.png", "--steps", "few")[2]


def test_other_commands_are_not_looked_into_and_help_needs_no_file(folder, capsys):
    (folder / "featot.toml").write_text("[synth]\nsiez = 3\n[plugins]\njson = true\n")
    code, out, err = command(capsys, "plugins")
    assert (code, err) == (0, "")
    assert json.loads(out)["plugins"]
    (folder / "featot.toml").write_text("][")
    assert command(capsys, "--help")[0] == 0


def test_the_page_is_right(folder, capsys):
    (folder / "featot.toml").write_text(re.search(r"```toml\n(.*?)```", PAGE, re.S)[1])
    group = click.Context(cli, info_name="featot")
    assert cli.get_command(group, "synth").params
    code, out, err = command(capsys, "eval", "a.png", "--exemplar", "a.png", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["images"][0]["scores"].keys() == {"msot", "swd"}
    code, _, err = command(capsys, "synth", "nothing.png")  # so far it is read, and [synth] is right
    assert (code, "there is no file 'nothing.png'" in err) == (2, True)
    for code in ("0", "1", "2", "130"):
        assert f"\n| {code} | " in PAGE


# ---- completion ----


def offered(monkeypatch, *words):
    """What is offered for the last of the ``words`` after "featot"."""
    monkeypatch.setenv("_FEATOT_COMPLETE", "bash_complete")
    *before, last = words
    return [item.value for item in ShellComplete(cli, {}, "featot", "_FEATOT_COMPLETE").get_completions(before, last)]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["synth", "--features", "p"], ["patches", "pyramid"]),
        (["synth", "--features", "pyramid+v"], ["pyramid+vgg"]),
        (["grid", "a.png", "--features", "pyramid,v"], ["pyramid,vgg"]),
        (["synth", "a.png", "--param", "texnet"], ["texnet", "texnet_lite"]),
        (["synth", "--param", "texnet-"], ["texnet_lite"]),
        (["synth", "--loss", "vgg=gr"], ["vgg=gram"]),
        (["train", "--loss", "ot+0.5*s"], ["ot+0.5*sliced"]),
        (["eval", "--metric", "s"], ["sharp", "sifid", "swd"]),
        (["eval", "--metric", "nothing"], []),
        (["synth", "--qua"], ["--quality"]),
        (["plugins", "n"], ["new"]),
        (["snyth", "--qua"], []),
        (["synth", "--quality", ""], ["draft", "standard", "high"]),
        (["transfer", "--colors", "k"], ["keep"]),
        (["synth", "--augment", "rot90,f"], ["rot90,flip"]),
        (["plugins", "new", "--kind", "f"], ["features"]),
    ],
)
def test_names_are_completed(words, names, monkeypatch):
    assert offered(monkeypatch, *words) == names


def test_the_choices_that_are_offered_are_those_there_are():
    from featot.comparison import METHODS
    from featot.exemplars import AUGMENTATIONS
    from featot.formats import ALPHAS
    from featot.match import OptimizerName
    from featot.precision import Precision
    from featot.resample import _TILES
    from featot.schedule import QUALITIES
    from featot.transferring import COLORS
    from featot_cli.templates import KINDS

    assert {
        "alpha": ALPHAS,
        "augment": AUGMENTATIONS,
        "colors": COLORS,
        "device": ("auto", "cpu", "cuda"),
        "kind": tuple(KINDS),
        "methods": tuple(METHODS),
        "optimizer": get_args(OptimizerName),
        "precision": get_args(Precision),
        "quality": tuple(QUALITIES),
        "tile": tuple(_TILES),
    } == CHOICES


def test_commands_and_files_are_completed(monkeypatch):
    assert offered(monkeypatch, "") == list(COMMANDS)
    for words in (["synth", "br"], ["synth", "-o", "br"], ["eval", "--exemplar", "br"], ["sample", "br"]):
        (item,) = ShellComplete(cli, {}, "featot", "_FEATOT_COMPLETE").get_completions(words[:-1], words[-1])
        assert (item.type, item.value) == ("file", "br")


def test_the_shell_gets_its_answer():
    environment = {**os.environ, "COMP_WORDS": "featot synth --loss sl", "COMP_CWORD": "3"}
    answers = {}
    for instruction in ("bash_complete", "bash_source", "zsh_source", "fish_source"):
        done = subprocess.run(
            [sys.executable, "-m", "featot_cli"],
            env={**environment, "_FEATOT_COMPLETE": instruction},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stderr == ""
        answers[instruction] = done.stdout
    assert answers["bash_complete"] == "plain,sliced\n"
    for shell in ("bash", "zsh", "fish"):
        assert f"_FEATOT_COMPLETE={shell}_complete" in answers[f"{shell}_source"]
        assert f"_FEATOT_COMPLETE={shell}_source featot" in PAGE
