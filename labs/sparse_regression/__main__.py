"""Sparse optimization of linear models: parts (b) to (f), figures, table and answers.

    python -m labs.sparse_regression [--json]

Takes seconds; nothing is random. Writes ``labs/results/sparse_regression.csv``, the figures in
``labs/results/sparse_regression`` as SVG and PNG, and table and answers into
``docs/sparse_regression.md``. With ``--json`` prints the numbers as one object and writes nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Row, markdown, put_table, write_rows
from flyweight.sparse_regression import lipschitz_constant
from labs.sparse_regression.answers import answers, loss_text, support_text, vector_text
from labs.sparse_regression.cases import STEP, STEPS, Case, X, Y, cases
from labs.sparse_regression.figures import draw_all

RESULTS = Path(__file__).parents[1] / "results"
DOCUMENT = Path(__file__).parents[2] / "docs" / "sparse_regression.md"


def rows_of(found: Sequence[Case]) -> list[Row]:
    """The table, with all digits."""
    return [
        {
            "part": case.letter,
            "method": case.method,
            "strength": "" if case.strength is None else case.strength,
            "threshold": "" if case.strength is None else STEP * case.strength,
            "steps": case.history.steps,
            "loss": float(case.history.loss[-1]),
            **{f"w{i + 1}": float(weight) for i, weight in enumerate(case.weights)},
            "exact_zeros": case.history.exact_zeros,
            "support_changes": len(case.history.support_changes),
            "support_final_from_step": case.history.support_changes[-1][0],
        }
        for case in found
    ]


def numbers(found: Sequence[Case]) -> dict[str, Any]:
    """All of it for a program: the problem, and of each case the whole history."""
    return {
        "X": X.tolist(),
        "y": Y.tolist(),
        "step": STEP,
        "steps": STEPS,
        "lipschitz_constant": lipschitz_constant(X),
        "cases": [
            {key: None if value == "" else value for key, value in row.items()}
            | {
                "losses": case.history.loss.tolist(),
                "weights": (case.history.weights + 0.0).tolist(),
                "supports": case.history.support_changes,
            }
            for row, case in zip(rows_of(found), found, strict=True)
        ],
    }


def report(found: Sequence[Case]) -> str:
    """Markdown: the table, then the answers."""
    columns = [":case", f"L after {STEPS} steps", ":W", "exact zeros"]
    columns += ["support changes", "final from step", ":support"]
    table = markdown(
        columns,
        [
            (
                case.name,
                loss_text(case.history.loss[-1]),
                vector_text(case.weights),
                case.history.exact_zeros,
                len(case.history.support_changes),
                case.history.support_changes[-1][0],
                support_text(case.history.support_changes[-1][1]),
            )
            for case in found
        ],
    )
    limit = 2 / lipschitz_constant(X)
    stable = f"The step μ = {STEP:g} is below 2 / {lipschitz_constant(X):.4f} = {limit:.5f}, where"
    return f"{stable} gradient descent stops converging.\n\n{table}\n\n{answers(found)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Solve, then print or write."""
    parser = argparse.ArgumentParser(description="Sparse optimization of linear models.")
    parser.add_argument("--json", action="store_true", help="print the numbers, write nothing")
    options = parser.parse_args(arguments)
    found = cases()
    if options.json:
        print(json.dumps(numbers(found)))
        return
    write_rows("sparse_regression", rows_of(found), RESULTS)
    draw_all(found, RESULTS / "sparse_regression")
    put_table("labs.sparse_regression", report(found), DOCUMENT)
    print(f"wrote {DOCUMENT} and the figures in {RESULTS / 'sparse_regression'}")


if __name__ == "__main__":
    main()
