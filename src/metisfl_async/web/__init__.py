"""A page that shows a federation while it runs, and afterwards."""

from metisfl_async.web.dashboard import Dashboard
from metisfl_async.web.page import Page

__all__ = ["Dashboard", "Page"]
