"""The files of the page, as they are in this package."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["FILES", "SCRIPTS", "STYLES", "page"]

STYLES = ("uplot.css", "page.css")
SCRIPTS = ("uplot.js", "charts.js", "lanes.js", "page.js")  #: in the order in which they are run

_STATIC = files("metisfl_async.web") / "static"
_PAGE = (_STATIC / "page.html").read_text(encoding="utf-8")

FILES = {name: ((_STATIC / name).read_bytes(), "text/css; charset=utf-8") for name in STYLES} | {
    name: ((_STATIC / name).read_bytes(), "text/javascript; charset=utf-8") for name in SCRIPTS
}
"""Bodies and content types, by the names that the page asks for."""


def page(*, can_stop: bool = False) -> bytes:
    """Give the page's HTML."""
    return (_PAGE.replace("<body>", '<body data-can-stop="yes">') if can_stop else _PAGE).encode()
