"""Write the tables of docs/results into the pages that show them: python -m benchmarks.results_pages

README.md and docs/results/README.md have marked places, `<!-- results: NAME -->` to `<!-- end of results -->`. Each is
replaced by a table made from docs/results/*/results.json.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from app.reproduce.experiments import EXPERIMENTS  # noqa: E402
from app.reproduce.tables import errors, number, value  # noqa: E402

RESULTS = ROOT / "docs/results"
PAGES = (ROOT / "README.md", RESULTS / "README.md")
PLACE = re.compile(r"(<!-- results: ([\w-]+) -->\n).*?(<!-- end of results -->)", re.DOTALL)


def main() -> None:
    for page in PAGES:
        page.write_text(filled(page.read_text()))


def filled(text: str) -> str:
    """Return a page's text with its marked places replaced."""
    return PLACE.sub(lambda match: f"{match[1]}{content(match[2])}\n{match[3]}", text)


def content(name: str) -> str:
    """Return the text for a marked place of a page: the tables of an experiment, or of all if `name` is "all"."""
    if name == "all":
        return "\n\n".join(section(name) for name in EXPERIMENTS if results_of(name))
    found = results_of(name)
    return f"{cells_table(found['cells'])}\n\n{verdicts(found['verdicts'])}" if found else "No run is finished yet."


def results_of(name: str) -> dict[str, Any]:
    """Return the content of an experiment's results.json, or an empty dict if there is none."""
    path = RESULTS / name / "results.json"
    return json.loads(path.read_text()) if path.exists() else {}


def section(name: str) -> str:
    """Return the section about an experiment in docs/results/README.md."""
    found = results_of(name)
    images = [f"![{path.stem}]({name}/{path.name})" for path in sorted((RESULTS / name).glob("*.png"))]
    parts = [f"### [{found['title']}]({name}/table.md)", cells_table(found["cells"]), verdicts(found["verdicts"])]
    return "\n\n".join(filter(None, [*parts, "\n".join(images)]))


def cells_table(rows: list[dict[str, Any]]) -> str:
    """Return a table with a line for each cell: our numbers, then those of the paper's row."""
    lines = [
        "| | our k | our kn | our learning rate | our error | seeds"
        " | paper's k | paper's kn | paper's learning rate | paper's error |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        paper = row["paper"] or {"minibatch": None, "lr": None, "mean": None, "std": None}
        workers = None if paper["minibatch"] is None else paper["minibatch"] // 32
        theirs = f"{number(workers, '')} | {number(paper['minibatch'], '')} | {number(paper['lr'], '.3g')}"
        lines.append(
            f"| {row['name']} | {row['workers']} | {row['minibatch']} | {row['lr']:.3g} | {errors(row, 'error')}"
            f" | {len(row['seeds'])} | {theirs} | {value(paper)} |"
        )
    return "\n".join(lines)


def verdicts(rows: list[dict[str, Any]]) -> str:
    """Return a list with a line for each claim: the verdict, the difference, the test and its corrected p-value."""
    lines = []
    for row in rows:
        test = row["test"].replace("TOST, ", "TOST with a margin of ")
        p = f" ({test}, p = {row['p_corrected']:.2g})" if row["p_corrected"] is not None else ""
        difference = "" if row["difference"] is None else f", with a difference of {row['difference']:+.2f} points"
        lines.append(f'- "{row["text"]}" is **{row["verdict"]}**{difference}{p}')
    return "\n".join(lines)


if __name__ == "__main__":
    main()
