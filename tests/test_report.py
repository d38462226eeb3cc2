"""The page about a run, and the map of where its patches come from."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from featot.errors import UsageError
from featot.files import write_text
from featot.patch_map import find_patches
from featot.plugins import load_registry
from featot.report import Recorder, check_report, write_report
from featot.tasks import synthesize


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# ---- the map ----


def test_a_crop_is_copied_from_where_it_was_cut():
    exemplar = noise(1, 3, 40, 48)
    found = find_patches(exemplar[:, :, 5:37, 9:45], [exemplar])
    rows, columns = torch.meshgrid(torch.arange(5, 5 + 18), torch.arange(9, 9 + 22), indexing="ij")
    assert torch.equal(found.places, torch.stack([rows, columns], 2))
    assert (found.copied, found.stride, found.halvings) == (1, 1, 0)


def test_usage_counts_the_nearest_over_the_mean():
    """The left half of the exemplar, twice as often as the mean; the cells at the cut have both."""
    exemplar = noise(1, 1, 32, 66)
    left = exemplar[:, :, :, : 15 + 25]
    found = find_patches(left, [exemplar])
    assert found.canvas == (18, 52)
    cells = found.cell
    assert torch.allclose(found.usage[:, : 26 // cells * cells], torch.tensor(2.0))
    assert float(found.usage[:, -(52 // 2 // cells) * cells + cells :].amax()) == 0
    assert float(found.usage.mean()) == pytest.approx(1, abs=1e-5)
    assert found.unused == pytest.approx(0.5, abs=0.1)


def test_several_exemplars_lie_side_by_side():
    one, two = noise(1, 3, 32, 30), noise(1, 3, 24, 28, seed=1)
    found = find_patches(two, [one, two])
    assert found.canvas == (18, 16 + 8 + 14)
    assert found.places[0, 0].tolist() == [0, 24]
    assert found.usage.isnan().sum() == 18 * 8 + 8 * 14  # the gap, and below the lower one
    assert found.unused == pytest.approx(16 * 18 / (16 * 18 + 14 * 10))


def test_copied_is_what_the_metric_says():
    """The same patches compared, but for the metric only every fourth in either direction."""
    exemplar = noise(1, 3, 48, 48)
    image = noise(1, 3, 48, 48, seed=1)
    image[:, :, :, 24:] = exemplar[:, :, :, 10:34]
    metric = load_registry().get("metric", "copy").create()
    assert find_patches(image, [exemplar]).copied == pytest.approx(metric(image, exemplar), abs=0.12)


def test_large_exemplars_are_halved():
    found = find_patches(noise(1, 1, 40, 40), [noise(1, 1, 300, 500)])
    assert found.halvings == 1
    assert found.canvas == (149 - 14, 249 - 14)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (15, 15)])
def test_tiny_images(size):
    found = find_patches(noise(1, 3, *size), [noise(1, 3, *size)])
    assert found.side == min(size)
    assert found.unused == 0


# ---- the page ----


class Page(HTMLParser):
    """The elements of a page; fails where one is not closed."""

    def __init__(self, text):
        super().__init__()
        self.text, self.open, self.ids, self.words, self.sources = text, [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.sources += [values[key] for key in ("src", "href", "xlink:href") if key in values]

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += [" ".join(data.split())] if data.strip() else []

    def pictures(self):
        """As arrays, in the order in which they stand there."""
        found = [source.partition("base64,")[2] for source in self.sources if source.startswith("data:image/png")]
        return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def reported(path, exemplar, *, given=None, command="featot synth a.png", **settings):
    recorder = Recorder()
    settings = {"quality": "draft", "steps": 2, "levels": 1, **settings}
    result = synthesize(exemplar, callback=recorder, **settings)
    shown = exemplar if given is None else given
    write_report(path, result=result, exemplar=shown, recorder=recorder, command=command)
    return Page(path.read_text("utf-8")), result, recorder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    pixels = np.random.default_rng(0).random((3, 40, 48), dtype=np.float32)
    path = tmp_path_factory.mktemp("report") / "wall.html"
    return *reported(path, pixels, size=(32, 36), levels=None), pixels


def test_it_shows_exemplar_result_map_legend_and_usage(run):
    page, result, _, pixels = run
    exemplar, image, sources, legend, usage, ramp = page.pictures()
    assert np.array_equal(exemplar, np.round(pixels.transpose(1, 2, 0) * 255))
    assert np.array_equal(image, np.round(result.image[0].permute(1, 2, 0).numpy() * 255))
    assert sources.shape == (18, 22, 3)
    assert legend.shape == usage.shape == (26, 34, 3)
    places = find_patches(result.image, [torch.from_numpy(pixels)[None]]).places
    assert np.array_equal(sources, legend[places[:, :, 0], places[:, :, 1]])
    assert len({tuple(color) for color in legend.reshape(-1, 3)}) > 0.9 * 26 * 34
    brightness = ramp.astype(int).sum(2)[0]
    assert (np.diff(brightness) >= -2).all()
    assert brightness[-1] > brightness[0] + 400
    assert page.text.count('<use href="#result"') == 4


def test_it_needs_no_other_file(run):
    page = run[0]
    assert all(source.startswith(("data:", "#")) for source in page.sources)
    assert not re.search(r"@import|url\((?!#)|<script|<link", page.text)
    assert {source[1:] for source in page.sources if source[0] == "#"} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)


def test_it_tells_settings_timings_scores_and_the_command(run):
    page, result, _, _ = run
    words = page.words
    assert "featot synth a.png" in words
    assert words[words.index("seed") + 1] == "0"
    assert words[words.index("size") + 1] == "32, 36"
    for name in ("ot.targets", "level 1/1", "setup", "torch", "msot ↓", "swd ↓", "sharp →1", "tileability ↓"):
        assert name in words
    assert result.record["versions"]["torch"] in words


def test_curves_follow_the_run(run):
    page, result, recorder, _ = run
    assert set(recorder.spreads) >= {"1/1", "1/2"}
    steps = [step for step, _ in recorder.spreads["1/2"]]
    assert steps == [line.step for line in result.history]
    assert recorder.spreads["1/1"][-1][1] > 0
    assert {"loss", "spread of ψ", "step", "1/2"} <= set(page.words)
    assert page.text.count("currentColor") > 20
    assert "#010203" not in page.text


def test_the_recorder_measures_psi_and_begins_anew():
    recorder, states = Recorder(), []

    def both(state):
        recorder(state)
        states.append((state.record.step, {name: psi.clone() for name, psi in state.inner().items()}))

    for _ in range(2):
        synthesize(noise(3, 32, 32), quality="draft", steps=3, levels=1, loss="ot", callback=both)
    assert len(states) == 6
    expected = [(step, float(np.std(inner["0.1/1.psi"].numpy()))) for step, inner in states[3:]]
    assert np.allclose(recorder.spreads["1/1"], expected)


def test_levels_of_one_name_are_told_apart():
    recorder = Recorder()
    synthesize(
        noise(3, 32, 32),
        features="patches+0.5*pyramid",
        loss="ot",
        steps=1,
        levels=1,
        quality="draft",
        callback=recorder,
    )
    assert {"1/1 of term 1", "1/1 of term 2", "1/2"} <= set(recorder.spreads)


@pytest.mark.parametrize(
    ("channels", "shown"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (5, [0, 1, 2])], ids=["grey", "two", "five"]
)
def test_any_number_of_channels(tmp_path, channels, shown):
    page, result, _ = reported(tmp_path / "a.html", noise(channels, 32, 32).numpy())
    exemplar, image = page.pictures()[:2]
    assert np.array_equal(exemplar, np.round(noise(channels, 32, 32).numpy()[shown].transpose(1, 2, 0) * 255))
    assert np.array_equal(image, np.round(result.image[0, shown].permute(1, 2, 0).numpy() * 255))
    assert any("the first three are shown" in words for words in page.words) == (channels == 5)


def test_a_result_that_does_not_tile_says_so(tmp_path, run):
    page, _, _ = reported(tmp_path / "a.html", noise(3, 32, 32), tile="x")
    assert "it was not made to wrap along y, seams" in page.text
    assert "not made to wrap" not in run[0].text


def test_losses_without_psi(tmp_path):
    page, _, recorder = reported(tmp_path / "a.html", noise(3, 32, 32), features="random_conv", loss="gram")
    assert recorder.spreads == {}
    assert "None of the losses has a ψ." in page.words


def test_several_exemplars(tmp_path):
    given = [noise(3, 32, 32), noise(3, 36, 40, seed=1)]
    page, _, _ = reported(tmp_path / "a.html", given)
    assert page.pictures()[0].shape == (36, 32 + 8 + 40, 3)


def test_names_and_commands_cannot_break_the_page(tmp_path):
    evil = "a<script>alert('1')</script>&\"b"
    name = evil.replace("/", "_")
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / f"{name}.png")
    page, _, _ = reported(tmp_path / f"{name}.html", tmp_path / f"{name}.png", command=f"featot synth '{evil}'")
    assert "<script" not in page.text
    assert f"featot synth '{evil}'" in page.words
    assert name in page.words
    assert str(tmp_path / f"{name}.png") in page.words


def test_large_pictures_are_shown_smaller(tmp_path):
    recorder = Recorder()
    result = synthesize(noise(3, 32, 32), quality="draft", steps=1, levels=1, callback=recorder)
    wide = noise(1, 3, 16, 1500)
    write_report(tmp_path / "a.html", result=result, exemplar=wide, recorder=recorder, command="")
    exemplar = Page((tmp_path / "a.html").read_text("utf-8")).pictures()[0]
    assert exemplar.shape == (11, 1024, 3)


def test_only_a_report_is_overwritten(tmp_path, run):
    path = tmp_path / "a.html"
    check_report(path)
    write_text(path, run[0].text)
    check_report(path)
    path.write_text("<html><title>my page</title></html>")
    with pytest.raises(UsageError, match="a file of another kind is there"):
        check_report(path)
    with pytest.raises(UsageError, match="there is no directory 'nowhere'"):
        check_report(tmp_path / "nowhere" / "a.html")
