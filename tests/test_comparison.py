"""Comparisons of several syntheses, their tables and contact sheets."""

import csv
import io

import numpy as np
import pytest
import torch
from PIL import Image

from featot.comparison import METHODS, Case, choose_metrics, compare, grid_cases, tables, write_contact_sheet
from featot.errors import FeatotError, UsageError
from featot.interfaces import Metric
from featot.recipe import parse_sum
from featot.runs import SynthesisSettings
from featot.tables import FORMATS, ScoreTable


class Lower(Metric):
    def __call__(self, image, exemplar):
        return float(image.mean())


class Higher(Lower):
    lower_is_better = False


class Ideal(Lower):
    ideal = 0.5


def _table(metric=Lower, name="msot", **scores):
    rows, columns = ["a_1", "b"], ["x", "y", "z"]
    return ScoreTable(
        name=name,
        metric=metric(),
        rows=rows,
        columns=columns,
        scores={
            ("a_1", "x"): 0.3,
            ("a_1", "y"): 0.1,
            ("a_1", "z"): 0.6,
            ("b", "x"): 1.0,
            ("b", "z"): 1.0,
        },
    )


@pytest.mark.parametrize(
    ("metric", "ranks"),
    [(Lower, [1, 0, 2]), (Higher, [1, 2, 0]), (Ideal, [1, 2, 0])],
    ids=["lower", "higher", "ideal"],
)
def test_ranks_follow_the_direction_of_the_metric(metric, ranks):
    table = _table(metric)
    assert [table.rank("a_1", column) for column in "xyz"] == ranks
    assert [table.rank("b", column) for column in "xyz"] == [0, None, 0]


def test_markdown():
    assert _table().markdown() == (
        "| msot ↓ | x | y | z |\n|---|---|---|---|\n"
        "| a_1 | <u>0.3000</u> | **0.1000** | 0.6000 |\n| b | **1.0000** |  | **1.0000** |\n"
    )
    assert "| msot →0.5 |" in _table(Ideal).markdown()


def test_latex_escapes_names():
    text = _table(name="sif_id").latex()
    assert text.startswith("\\begin{tabular}{lccc}\n\\toprule\nsif\\_id $\\downarrow$ & x & y & z \\\\\n")
    assert "a\\_1 & \\underline{0.3000} & \\textbf{0.1000} & 0.6000 \\\\\n" in text


def test_csv_is_exact():
    rows = list(csv.reader(io.StringIO(FORMATS[".csv"]([_table()]))))
    assert rows[0] == ["metric", "row", "column", "score"]
    assert {(row, column): float(score) for _, row, column, score in rows[1:]} == _table().scores


def _exemplar():
    return np.random.default_rng(0).random((3, 24, 24), dtype=np.float32)


def _outcomes(cases, **options):
    settings = SynthesisSettings(steps=2, levels=1, options=options)
    return list(compare(cases, settings, metrics={"mean": Lower()}))


def test_a_grid_is_every_pair():
    outcomes = _outcomes(grid_cases(_exemplar(), ["pyramid", "random_conv"], ["ot", "gram"]))
    places = [(o.case.row, o.case.column) for o in outcomes]
    assert places == [("pyramid", "ot"), ("pyramid", "gram"), ("random_conv", "ot"), ("random_conv", "gram")]
    (table,) = tables(outcomes, {"mean": Lower()})
    assert (table.rows, table.columns) == (["pyramid", "random_conv"], ["ot", "gram"])
    for outcome in outcomes:
        settings = outcome.synthesis.record["settings"]
        assert (settings["features"], settings["loss"]) == (outcome.case.row, outcome.case.column)
        assert table.scores[outcome.case.row, outcome.case.column] == float(outcome.synthesis.image.mean())


def test_options_of_a_plugin_go_only_where_it_is():
    cases = grid_cases(_exemplar(), ["pyramid", "random_conv"], ["gram"])
    outcomes = _outcomes(cases, **{"random_conv.filters": 3, "pyramid.size": 2})
    options = [outcome.synthesis.record["settings"]["options"] for outcome in outcomes]
    assert options[0]["features.size"] == 2
    assert options[1]["features.filters"] == 3


def test_one_failure_leaves_the_others_alone(tmp_path):
    cases = grid_cases(_exemplar(), ["pyramid", "nothing"], ["ot"])
    outcomes = _outcomes(cases)
    assert outcomes[0].error is None
    assert "unknown features plugin 'nothing'" in outcomes[1].error
    write_contact_sheet(outcomes, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 0


def test_the_sheet_shows_the_pictures(tmp_path):
    """Red, green and blue exemplars, each matched by its mean colour: three such stripes are on the sheet."""
    cases = [
        Case(
            row=name,
            column="ours",
            exemplar=np.eye(3, dtype=np.float32)[i][:, None, None].repeat(16, 1).repeat(16, 2),
        )
        for i, name in enumerate(("red", "green", "blue"))
    ]
    write_contact_sheet(_outcomes(cases), tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).reshape(-1, 3) > 200
    shares = [(pixels == np.eye(3, dtype=bool)[i]).all(1).mean() for i in range(3)]
    assert min(shares) > 0.15


def test_every_method_is_a_synthesis_that_can_be_asked_for():
    for name, changes in METHODS.items():
        settings = SynthesisSettings(**changes)
        assert parse_sum(settings.features, name)


def test_metrics_that_cannot_run_are_left_out_unless_named(monkeypatch):
    monkeypatch.setattr("featot_plugins.weights.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("offline")))
    assert list(choose_metrics()) == ["msot"]
    with pytest.raises(FeatotError, match="no weights of vgg19"):
        choose_metrics(["vgg"])
    with pytest.raises(UsageError, match="there is no file"):
        choose_metrics(None, {"vgg.weights": "nowhere.pth"})
    with pytest.raises(UsageError, match="unknown metric plugin 'mst'"):
        choose_metrics(["mst"])


def test_options_reach_the_metric_of_that_name(vgg19_file):
    metrics = choose_metrics(None, {"vgg.weights": vgg19_file, "msot.points": 50, "vgg.pooling": "max"})
    assert metrics["msot"].options.points == 50
    image = torch.rand(1, 3, 48, 48)
    assert metrics["vgg"](image, image) == 0
