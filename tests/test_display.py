"""Results as Jupyter and the interpreter show them, and the bar of long work."""

from __future__ import annotations

import importlib.util
import io
import re

import numpy as np
import PIL.Image
import pytest
import torch
from rich.console import Console

import featot
from featot.images import for_looking

QUICK = {"steps": 2, "levels": 2, "device": "cpu"}


def _noise(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _pixels(png):
    return np.asarray(PIL.Image.open(io.BytesIO(png)))


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_a_synthesis_is_a_picture_and_a_line(channels):
    result = featot.synthesize(_noise(channels, 28, 32), size=(24, 20), **QUICK)
    expected = result.image[0, :3] if channels >= 3 else result.image[0, :1].expand(3, -1, -1)
    assert (_pixels(result._repr_png_()) == (expected * 255).round().byte().permute(1, 2, 0).numpy()).all()
    assert re.fullmatch(rf"Synthesis\(24x20, {channels} channels, \d+ steps, loss [\d.e-]+\)", repr(result))


def test_a_material_is_its_maps():
    maps = {"albedo": _noise(3, 28, 32), "height": _noise(1, 28, 32)}
    result = featot.synthesize_stack(maps, size=(24, 20), **QUICK)
    shown = _pixels(result._repr_png_())
    assert shown.shape[0] == 24
    assert shown.shape[1] > 2 * 20
    assert (shown[:, -20:] == (result.maps["height"][0, 0] * 255).round().byte().numpy()[..., None]).all()


def test_scores_are_a_table():
    image = _noise(1, 40, 40)
    table = featot.evaluate([image], image, metrics=["sharp", "tileability"])._repr_markdown_()
    assert table.startswith("| | sharp →1 | tileability ↓ |\n|---|---|---|\n| image 1 | 1.0000 | ")
    assert table.count("\n") == 4


def test_large_pictures_are_made_smaller():
    assert for_looking(torch.zeros(1, 3, 64, 256), 128).size == (128, 32)


def _bar(monkeypatch, console):
    """What is written where the bar's console is this one."""
    monkeypatch.setattr("featot.progress.Console", lambda stderr: console)
    with featot.progress_bar() as callback:
        featot.synthesize(_noise(3, 28, 32), size=(24, 20), callback=callback, **QUICK)
    return console.file.getvalue()


def test_the_bar_on_a_terminal_and_elsewhere(monkeypatch):
    shown = _bar(monkeypatch, Console(file=io.StringIO(), force_terminal=True))
    assert "level 2/2, 24x20" in shown
    assert _bar(monkeypatch, Console(file=io.StringIO(), force_terminal=False)) == ""


def test_what_is_printed_after_a_run_has_a_line_of_its_own(monkeypatch):
    """Several runs under one bar: it is wiped away at the end of each, and comes again."""
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "xterm"})
    monkeypatch.setattr("featot.progress.Console", lambda stderr: console)
    with featot.progress_bar() as callback:
        for number in range(2):
            featot.synthesize(_noise(3, 28, 32), size=(24, 20), callback=callback, **QUICK)
            console.file.write(f"made {number}\n")
    *runs, rest = re.split(r"made \d\n", console.file.getvalue())
    for shown in runs:
        assert "level 2/2, 24x20" in shown
        assert re.search(r"\n(\x1b\[[\d?]*[a-zA-Z]|\r)*$", shown), "something stands on the line"
    assert "level" not in rest


@pytest.mark.parametrize("installed", [True, False])
def test_the_bar_in_a_notebook(monkeypatch, installed):
    """As a widget where there are widgets; else nothing, and no complaint."""
    pytest.importorskip("ipywidgets", reason="the bar in notebooks needs the extra 'notebooks'")
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *given, **_: shown.append(given))
    if not installed:
        find = importlib.util.find_spec
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ipywidgets" else find(name))
    _bar(monkeypatch, Console(file=io.StringIO(), force_jupyter=True))
    widgets = [given for given in shown if type(given[0]).__name__ == "Output"]
    assert bool(widgets) == installed
