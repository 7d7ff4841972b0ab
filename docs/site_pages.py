"""What MkDocs does beside its own: the root's pages and the API become pages, links out of docs/ become paths."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
}
API = ("adapters", "compat", "data", "errors", "events", "strategies", "testing", "tracking", "types", "web")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for name, target in PAGES.items():
        files.append(File.generated(config, target, content=seen_from_docs((ROOT / name).read_text())))
    for module in ("metisfl_async", *(f"metisfl_async.{name}" for name in API)):
        target = f"api/{module.rpartition('.')[2]}.md"
        files.append(File.generated(config, target, content=f"# `{module}`\n\n::: {module}\n"))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Say where a file is that is not on the site."""
    return re.sub(r"(?<!!)\[([^\]]+)\]\(\.\./([^)#]+)[^)]*\)", _named, markdown)


def on_post_page(output: str, **_: object) -> str:
    """Refuse what a reader's browser would fetch from elsewhere."""
    fetched = re.findall(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="(?:https?:)?(//[^"]+)', output)
    if fetched:
        raise PluginError(f"a page fetches {fetched[0]}; allowed: what is on the site")
    return output


def seen_from_docs(text: str) -> str:
    """Let the links of a page in the root lead to the same files from docs/."""
    text = re.sub(r"\]\((?!https?:|#)", "](../", text)
    return text.replace("](../docs/", "](")


def _named(link: re.Match[str]) -> str:
    text, path = link.groups()
    if path in PAGES:
        return f"[{text}]({PAGES[path]})"
    return text if path.rstrip("/") in text else f"{text} (`{path}` in the repository)"
