"""What the site's pages are made of; `make check` builds them, and fails where a link leads nowhere."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location

import pytest
from mkdocs.exceptions import PluginError
from pages import ROOT

SPEC = spec_from_file_location("site_pages", ROOT / "docs/site_pages.py")
assert SPEC is not None
assert SPEC.loader is not None
site = module_from_spec(SPEC)
SPEC.loader.exec_module(site)


def test_links_of_a_page_in_the_root_lead_to_the_same_files() -> None:
    text = "[a](docs/guide.md#tests) ![b](docs/images/page.png) [c](SECURITY.md) [d](#here) [e](https://flower.ai)"
    seen = "[a](guide.md#tests) ![b](images/page.png) [c](../SECURITY.md) [d](#here) [e](https://flower.ai)"
    assert site.seen_from_docs(text) == seen


def test_what_is_not_on_the_site_is_named() -> None:
    said = site.on_page_markdown("[one](../examples/x.py), [`examples/y`](../examples/y), [it](../SECURITY.md)")
    assert said == "one (`examples/x.py` in the repository), `examples/y`, [it](security-policy.md)"


def test_a_page_that_fetches_something_from_elsewhere_is_refused() -> None:
    local = '<img src="images/page.png"> <a href="https://flower.ai">'
    assert site.on_post_page(local) == local
    with pytest.raises(PluginError, match=r"fetches //fonts\.example/x\.css"):
        site.on_post_page('<link rel="stylesheet" href="https://fonts.example/x.css">')
