"""The blocks of the pages show what the JSON files in docs/ have; who wrote those, no test can tell."""

from __future__ import annotations

import json
import re
from pathlib import Path

import growth
import pytest
from pages import ROOT
from report import BENCHMARKS, BLOCK, FIGURES, PAGES, blocks, filled, tables_of

FIGURES_OF_THE_RUN = json.loads(FIGURES.read_text())
TEXTS = {page: page.read_text() for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_are_those_of_the_run(page: Path) -> None:
    assert filled(TEXTS[page], blocks(FIGURES_OF_THE_RUN)) == TEXTS[page]


def test_every_table_stands_on_a_page() -> None:
    assert {found[2] for text in TEXTS.values() for found in BLOCK.finditer(text)} == blocks(FIGURES_OF_THE_RUN).keys()


def test_there_are_the_tables_of_all_benchmarks_and_none_is_without_rows() -> None:
    assert FIGURES_OF_THE_RUN["tables"].keys() == set().union(*BENCHMARKS.values())
    assert all(table.rows for table in tables_of(FIGURES_OF_THE_RUN).values())


def test_what_did_not_fit_the_memory_is_left_out_or_said() -> None:
    figures = json.loads(FIGURES.read_text())
    for name in ("stress", "peer"):
        for row in figures["tables"][name]["rows"]:
            if row["parameters"] >= 1_000_000:
                row.update(dict.fromkeys(row.keys() - {"parameters", "learners", "evaluation"}, "-"))
                row["round_ms" if name == "stress" else "ours_ms"] = "learners need 9 GB of 8"
    tables = tables_of(figures)
    assert [row["parameters"] for row in tables["each"].rows] == [100_000]
    assert all(row["medium_mb"] == row["large_s"] == "-" for row in tables["on_paper"].rows)
    assert not re.search(r"10 million|1,000,000 parameters|\| -", tables["headline"].markdown().partition("---\n")[2])


def test_the_readme_quotes_no_figure_by_hand() -> None:
    section = (ROOT / "README.md").read_text().split("\n## Figures\n")[1].split("\n## ")[0]
    assert re.findall(r"\d", BLOCK.sub("", section)) == []


def test_a_picture_can_be_drawn_of_the_run(tmp_path: Path) -> None:
    growth.draw(tables_of(FIGURES_OF_THE_RUN)["stress"], tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
