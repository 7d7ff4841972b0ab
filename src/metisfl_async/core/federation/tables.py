"""Records as tables that notebooks show; what peers have named and said is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from metisfl_async.core.texts import plain

__all__ = ["html_table", "shown"]

MOST_ROWS = 200


def html_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Make an HTML table with a line above it; of very many rows, the last ones."""
    rows = list(rows)
    left_out = f" (the last {MOST_ROWS} of {len(rows)})" if len(rows) > MOST_ROWS else ""
    head = "".join(f"<th>{_text(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows[-MOST_ROWS:])
    return f"<p>{_text(title + left_out)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def shown(value: float | None) -> str:
    """Show a number as records do, in four digits."""
    return "" if value is None else f"{value:.4g}"


def _text(value: object) -> str:
    return escape(plain(str(value)))
