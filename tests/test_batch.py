"""Batches: what an item is, what is refused at once, what is skipped, and what a failure leaves alone."""

import csv
import dataclasses
import io
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featot.batch import Item, check_items, run_items
from featot.errors import UsageError
from featot.exemplars import Sources
from featot.images import write_image
from featot.manifest import find_items, read_manifest
from featot.plugins import load_registry
from featot.runs import SynthesisSettings
from featot.tasks import synthesize, synthesize_each

QUICK = SynthesisSettings(quality="draft", steps=1, levels=1)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with three exemplars in in/, and out/."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for folder in ("in", "out"):
        Path(folder).mkdir()
    for name in "abc":
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(f"in/{name}.png")
    return tmp_path


def items_of(*patterns, settings=QUICK):
    return find_items(patterns, Path("out"), settings)


def statuses(items, **options):
    return {outcome.item.name: outcome.status for outcome in run_items(items, **options)}


# ---- which items ----


def test_patterns_and_files_give_each_exemplar_once(here):
    Path("in/deep").mkdir()
    Path("in/a.png").rename("in/deep/[a].png")
    items = items_of("in/deep/[a].png", "in/**/*.png", "in/../in/c.png")
    assert [item.name for item in items] == ["in/deep/[a].png", "in/b.png", "in/c.png"]
    assert [item.out for item in items] == [Path("out/[a].png"), Path("out/b.png"), Path("out/c.png")]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("in/*.jpg", r"nothing to do for 'in/\*.jpg'"),
        ("in/aa.png", "there is no file 'aa.png' in .*did you mean .*in/a.png"),
        ("in", r"'in': it is a directory; expected files, as in 'in/\*.png'"),
    ],
)
def test_patterns_that_find_nothing(here, pattern, message):
    with pytest.raises(UsageError, match=message):
        items_of("in/a.png", pattern)


ROW = {"exemplar": "../in/a.png", "exemplar_mask": "../in/b.png", "weights": "vgg.pth", "out": "wall.tif"}
ROW |= {"size": "24x32", "seed": "7", "quality": "high", "tile": "x", "augment": "rot90,flip", "alpha": "keep"}
ROW |= {"features": "patches+vgg:0.1", "loss": "vgg=gram,ot", "max_points": "100", "patches.size": "5"}


def manifest(rows, suffix=".csv", name="list"):
    path = Path(name + suffix)
    if suffix == ".json":
        path.write_text(json.dumps(rows))
        return path
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), "utf-8-sig")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_row_says_everything_and_goes_before_the_settings(here, suffix):
    Path("lists").mkdir()
    rows = [ROW, {"exemplar": "../in/c.png"}]
    common = dataclasses.replace(QUICK, seed=3, options={"size": "9", "pyramid.stride": "2", "stride": "3"})
    first, second = read_manifest(manifest(rows, suffix, "lists/l"), Path("out"), common, alpha="ignore")
    assert first.settings == SynthesisSettings(
        size=(24, 32),
        seed=7,
        quality="high",
        features="patches+vgg:0.1",
        loss="vgg=gram,ot",
        tile="x",
        augment=("rot90", "flip"),
        max_points=100,
        steps=1,
        levels=1,
        # 'size' gives way to patches.size, and options of plugins that this item does without are left out
        options={"stride": "3", "patches.size": "5", "vgg.weights": "lists/vgg.pth"},
    )
    assert first.sources == Sources(exemplars=["lists/../in/a.png"], mask="lists/../in/b.png", alpha="keep")
    assert first.out == Path("out/wall.tif")
    assert (second.settings, second.sources.alpha, second.out) == (common, "ignore", Path("out/c.png"))
    labels = {".csv": ("row 2", "row 3"), ".json": ("item 1", "item 2")}[suffix]
    assert (first.label, second.label) == tuple(f"{label} of lists/l{suffix}" for label in labels)


def test_json_has_numbers_lists_and_null(here):
    row = {"exemplar": "in/a.png", "seed": 4, "size": 24, "features": ["patches", "pyramid:0.5"], "steps": None}
    (item,) = read_manifest(manifest([row], ".json"), Path("out"), QUICK)
    assert (item.settings.seed, item.settings.size, item.settings.steps) == (4, (24, 24), 1)
    assert item.settings.features == "patches+pyramid:0.5"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("exemplar,sede\nin/a.png,1", "header of list.csv: unknown column 'sede'; did you mean 'seed'?"),
        ("exemplar,seed,seed\nin/a.png,1,2", "header of list.csv has a column twice"),
        ("exemplar,seed\nin/a.png,1,2", "row 2 of list.csv has 3 cells, its header 2"),
        ("exemplar,seed\n\n,5", "row 3 of list.csv: it names no exemplar"),
        (
            "exemplar,seed\nin/a.png,1\nin/b.png,x",
            "row 3 of list.csv: option 'seed' of the row: expected int, got 'x'",
        ),
        ("exemplar,size\nin/a.png,big", "row 2 of list.csv: bad size 'big'"),
        ("exemplar,quality\nin/a.png,hihg", "row 2 of list.csv: .*unknown quality 'hihg'; did you mean 'high'?"),
        ("exemplar,alpha\nin/a.png,black", "row 2 of list.csv: unknown choice for alpha 'black'"),
        ("exemplar,seed\n", "nothing to do in list.csv"),
        ("", "nothing to do in list.csv"),
        ('exemplar\n"in/a.png', "cannot read the manifest list.csv: unexpected end of data"),
    ],
)
def test_bad_tables_are_refused(here, rows, message):
    Path("list.csv").write_text(rows)
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        read_manifest("list.csv", Path("out"), QUICK)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "nothing to do in list.json"),
        ("{}", "expected a list of objects"),
        ("[3]", "expected a list of objects"),
        ("[{]", "cannot read the manifest list.json: "),
        ('[{"exemplar": "in/a.png"}, {"exemplars": 1}]', "item 2 of list.json: unknown column 'exemplars'"),
        ('[{"exemplar": 1}]', "item 1 of list.json: expected text for 'exemplar', got 1"),
        ('[{"exemplar": "in/a.png", "seed": true}]', "item 1 of list.json: option 'seed' of the row: expected int"),
    ],
)
def test_bad_lists_are_refused(here, text, message):
    Path("list.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_manifest("list.json", Path("out"), QUICK)


def test_a_manifest_must_be_there_and_of_a_known_kind(here):
    with pytest.raises(UsageError, match=r"expected a manifest .csv or .json, got list.xlsx"):
        read_manifest("list.xlsx", Path("out"), QUICK)
    with pytest.raises(UsageError, match=r"cannot read the manifest lst.csv: there is no file"):
        read_manifest("lst.csv", Path("out"), QUICK)
    Path("list.csv").write_bytes(b"exemplar\n\xff\xfe")
    with pytest.raises(UsageError, match="it is not UTF-8"):
        read_manifest("list.csv", Path("out"), QUICK)


# ---- what is refused before anything is computed ----


def an_item(exemplar, out, settings=QUICK):
    return Item(sources=Sources(exemplars=[exemplar]), settings=settings, out=Path(out), label=f"row {exemplar}")


def a_table(folder):
    Path("out/a.json").write_text('{"mine": 1}')
    return [an_item("in/a.png", "out/a.png")]


def a_link(folder):
    os.link("in/b.png", "out/x.png")
    return [an_item("in/a.png", "out/x.png"), an_item("in/b.png", "out/b.png")]


def a_linked_pair(folder):
    Path("other").symlink_to(folder / "out")
    return [an_item("in/a.png", "other/b.png"), an_item("in/b.png", "out/b.png")]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (lambda _: [an_item("in/no.png", "out/a.png")], "row in/no.png: there is no file 'no.png'"),
        (lambda _: [an_item("in/a.png", "in/a.png")], "row in/a.png: cannot write in/a.png: it is an input"),
        (lambda _: [an_item("in/a.png", "in/b.png"), an_item("in/b.png", "out/b.png")], "in/b.png: it is an input"),
        (a_link, "row in/a.png: cannot write out/x.png: it is an input"),
        (a_linked_pair, "row in/b.png: it would write out/b.png, as row in/a.png does"),
        (
            lambda _: [an_item("in/a.png", "out/x.png"), an_item("in/b.png", "out/x.tif")],
            "row in/b.png: it would write out/x.json, as row in/a.png does; expected an output of its own",
        ),
        (lambda _: [an_item("in/a.png", "nowhere/a.png")], "row in/a.png: .*there is no directory 'nowhere'"),
        (lambda _: [an_item("in/a.png", "out/a.gif")], "row in/a.png: .*not a known image format"),
        (a_table, "row in/a.png: cannot write out/a.json: a file of another kind is there"),
        (
            lambda _: [an_item("in/a.png", "out/a.png", dataclasses.replace(QUICK, loss="slced"))],
            "row in/a.png: unknown loss plugin 'slced'; did you mean 'sliced'?",
        ),
        (
            lambda _: [an_item("in/a.png", "out/a.png", dataclasses.replace(QUICK, options={"pyramid.sise": 3}))],
            "row in/a.png: unknown option 'sise'; did you mean 'size'?",
        ),
    ],
)
def test_refused_at_once(here, items, message):
    given = items(here)
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        check_items(given, load_registry())
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


# ---- running ----


def test_an_item_is_what_synthesize_makes(here):
    settings = dataclasses.replace(QUICK, seed=5, size=(24, 40))
    items = items_of("in/a.png", settings=settings)
    check_items(items, load_registry())
    (outcome,) = run_items(items)
    alone = synthesize("in/a.png", settings)
    assert np.array_equal(
        np.asarray(Image.open("out/a.png")), np.round(alone.image[0].permute(1, 2, 0).numpy() * 255)
    )
    record = json.loads(Path("out/a.json").read_text())
    assert record["settings"] == json.loads(json.dumps(alone.record["settings"]))
    assert (outcome.status, outcome.loss, outcome.error) == ("made", record["loss"], None)
    assert outcome.seconds > record["timings"]["match"]
    assert SynthesisSettings.from_record(record).seed == 5


def test_what_is_there_is_skipped_until_something_changes(here):
    items = items_of("in/*.png")
    assert set(statuses(items).values()) == {"made"}
    times = {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    assert set(statuses(items).values()) == {"skipped"}
    assert {path: path.stat().st_mtime_ns for path in Path("out").iterdir()} == times

    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save("in/a.png")
    Path("out/b.png").unlink()
    record = json.loads(Path("out/c.json").read_text())
    Path("out/c.json").write_text(json.dumps({**record, "interrupted": True}))
    assert set(statuses(items).values()) == {"made"}
    assert set(statuses(items).values()) == {"skipped"}
    other = items_of("in/*.png", settings=dataclasses.replace(QUICK, options={"ot.targets": "50"}))
    assert set(statuses(other).values()) == {"made"}
    Image.new("L", (32, 32), 255).save("mask.png")
    masked = [dataclasses.replace(item, sources=dataclasses.replace(item.sources, mask="mask.png")) for item in other]
    assert set(statuses(masked).values()) == {"made"}


def test_a_failure_leaves_the_others_alone(here):
    Path("in/b.png").write_bytes(Path("in/b.png").read_bytes()[:500])
    Image.fromarray(np.zeros((3, 3, 3), np.uint8)).save("in/c.png")
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save("in/d.png")
    outcomes = {outcome.item.name: outcome for outcome in run_items(items_of("in/*.png"))}
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "in/a.png": "made",
        "in/b.png": "failed",
        "in/c.png": "failed",
        "in/d.png": "made",
    }
    assert "in/b.png" in outcomes["in/b.png"].error
    assert "too small" in outcomes["in/c.png"].error
    assert sorted(os.listdir("out")) == ["a.json", "a.png", "d.json", "d.png"]


def test_a_bug_is_a_failure_too(here, monkeypatch):
    def broken(pictures, settings, callback):
        raise ZeroDivisionError("oops\nagain")

    monkeypatch.setattr("featot.batch.synthesize_each", broken)
    outcomes = list(run_items(items_of("in/*.png")))
    assert [outcome.error for outcome in outcomes] == ["ZeroDivisionError: oops again"] * 3


def test_warnings_come_with_the_item(here):
    clear = np.random.default_rng(0).integers(0, 256, (32, 32, 4), dtype=np.uint8)
    Image.fromarray(clear).save("in/a.png")
    with warnings.catch_warnings(record=True) as told:
        first, second, _ = run_items(items_of("in/*.png"))
    assert told == []
    assert "pixels are transparent" in first.warnings[0]
    assert second.warnings == ()


def test_an_interrupted_item_leaves_what_was_there(here, monkeypatch):
    items = items_of("in/*.png")
    assert set(statuses(items).values()) == {"made"}
    kept = {path.name: path.read_bytes() for path in Path("out").iterdir()}

    def interrupt(state):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        "featot.batch.synthesize_each", lambda *given, callback: synthesize_each(*given, callback=interrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        next(run_items(items_of("in/*.png", settings=dataclasses.replace(QUICK, seed=1))))
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == kept


def test_an_image_never_stands_beside_a_record_of_another(here, monkeypatch):
    """Killed between the image and its record: the old record, of other settings, is gone."""
    items = items_of("in/a.png")
    assert statuses(items) == {"in/a.png": "made"}

    def killed(result, path):
        write_image(result.image, path)
        raise SystemExit

    monkeypatch.setattr("featot.runs.Synthesis.save", killed)
    with pytest.raises(SystemExit):
        next(run_items(items_of("in/a.png", settings=dataclasses.replace(QUICK, seed=1))))
    monkeypatch.undo()
    os.chdir(here)
    assert statuses(items) == {"in/a.png": "made"}


def test_at_least_one_job(here):
    with pytest.raises(UsageError, match="expected at least 1 job, got 0"):
        run_items(items_of("in/a.png"), jobs=0)


class Deadly(Sources):
    """Ends the process that unpickles it, as the kernel does where memory runs out."""

    def __reduce__(self):
        return os._exit, (9,)


def test_processes_survive_the_death_of_one(here):
    """Two jobs, four items: one fails, one kills its process, whose place another takes."""
    Path("in/b.png").write_text("no image")
    items = items_of("in/*.png")
    deadly = dataclasses.replace(items[2], sources=Deadly(exemplars=["in/c.png"]))
    again = dataclasses.replace(items[0], out=Path("out/again.png"))
    outcomes = {str(outcome.item.out): outcome for outcome in run_items([deadly, *items[:2], again], jobs=2)}
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "out/a.png": "made",
        "out/again.png": "made",
        "out/b.png": "failed",
        "out/c.png": "failed",
    }
    assert "its process died (exit code 9)" in outcomes["out/c.png"].error
    assert "cannot read in/b.png" in outcomes["out/b.png"].error
    assert sorted(os.listdir("out")) == ["a.json", "a.png", "again.json", "again.png"]
    assert Path("out/a.png").read_bytes() == Path("out/again.png").read_bytes()
    threads = json.loads(Path("out/a.json").read_text())["device"]["threads"]
    assert threads <= max(1, (os.cpu_count() or 1) // 2)
