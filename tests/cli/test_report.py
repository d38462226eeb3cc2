"""`featot synth --report`."""

import html
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featot_cli.main import main


@pytest.fixture
def synth(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("a b.png")

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["synth", *arguments, "--quality", "draft", "--levels", "1", "--steps", "1"])
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return call


def test_each_image_gets_a_page_with_the_command(synth):
    code, out, err = synth("a b.png", "-o", "x.png", "--report", "--seeds", "3,4", "--tile", "none")
    assert (code, err) == (0, "")
    assert out.count("\n") == 2
    for seed in (3, 4):
        page = html.unescape(Path(f"x_seed{seed}.html").read_text("utf-8"))
        typed = "featot synth 'a b.png' -o x.png --report --seeds 3,4 --tile none"
        assert f">{typed} --quality draft --levels 1 --steps 1</pre>" in page
        assert f"<tr><th>seed</th><td>{seed}</td></tr>" in page
        assert "it was not made to wrap along y and x" in page


def test_no_page_unasked_and_none_of_somebody_else_is_lost(synth):
    assert synth("a b.png", "-o", "x.png")[0] == 0
    assert not Path("x.html").exists()
    Path("y.html").write_text("my page")
    code, _, err = synth("a b.png", "-o", "y.png", "--report")
    assert code == 2
    assert err.startswith("featot: cannot write y.html: a file of another kind is there")
    assert not Path("y.png").exists()
