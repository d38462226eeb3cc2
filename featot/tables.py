"""Tables of scores as the paper prints them: the best bold, the second underlined."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from featot.interfaces import Metric


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """One metric's scores by row and column; a score that is missing is left blank."""

    name: str
    metric: Metric
    rows: Sequence[str]
    columns: Sequence[str]
    scores: Mapping[tuple[str, str], float]

    def rank(self, row: str, column: str) -> int | None:
        """0 for the best score of its row, 1 for the second; equal scores share the better rank."""
        if (row, column) not in self.scores:
            return None
        there = [other for other in self.columns if (row, other) in self.scores]
        faults = {other: self.metric.fault(self.scores[row, other]) for other in there}
        return sum(fault < faults[column] for fault in faults.values())

    def markdown(self) -> str:
        """A Markdown table, the direction of the metric in its corner."""
        lines = [
            f"| {self.name} {arrow(self.metric)} | " + " | ".join(self.columns) + " |",
            "|---" * (1 + len(self.columns)) + "|",
        ]
        marks = {0: "**{}**", 1: "<u>{}</u>"}
        lines += [f"| {row} | " + " | ".join(self._cells(row, marks)) + " |" for row in self.rows]
        return "\n".join(lines) + "\n"

    def latex(self) -> str:
        """A LaTeX tabular, for the package booktabs."""
        symbols = {"↓": r"$\downarrow$", "↑": r"$\uparrow$"}
        better = symbols.get(arrow(self.metric)) or rf"$\to {self.metric.ideal:g}$"
        marks = {0: r"\textbf{{{}}}", 1: r"\underline{{{}}}"}
        head = " & ".join([f"{_latex(self.name)} {better}", *map(_latex, self.columns)])
        body = [" & ".join([_latex(row), *self._cells(row, marks)]) + r" \\" for row in self.rows]
        begin = rf"\begin{{tabular}}{{l{'c' * len(self.columns)}}}"
        return "\n".join(
            [begin, r"\toprule", head + r" \\", r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""]
        )

    def _cells(self, row: str, marks: Mapping[int, str]) -> list[str]:
        cells = []
        for column in self.columns:
            rank = self.rank(row, column)
            text = "" if rank is None else f"{self.scores[row, column]:.4f}"
            cells.append(marks.get(rank, "{}").format(text) if rank is not None else text)
        return cells


def to_csv(tables: Sequence[ScoreTable]) -> str:
    """All of them as lines ``metric,row,column,score``, in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["metric", "row", "column", "score"])
    for table in tables:
        for row in table.rows:
            for column in table.columns:
                if (row, column) in table.scores:
                    writer.writerow([table.name, row, column, repr(table.scores[row, column])])
    return text.getvalue()


def arrow(metric: Metric) -> str:
    """↓ or ↑ for what is better, or → with the ideal score."""
    if metric.ideal is not None:
        return f"→{metric.ideal:g}"
    return "↓" if metric.lower_is_better else "↑"


FORMATS: Mapping[str, Callable[[Sequence[ScoreTable]], str]] = {
    ".md": lambda tables: "\n".join(table.markdown() for table in tables),
    ".tex": lambda tables: "\n".join(table.latex() for table in tables),
    ".csv": to_csv,
}
"""How tables are written, by suffix."""


def _latex(text: str) -> str:
    return "".join(rf"\{letter}" if letter in "&%$#_{}" else letter for letter in text)
