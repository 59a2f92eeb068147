"""The documentation site in build/site: built strictly, its links followed, and nothing loaded from elsewhere.

    make docs                    # or: python tools/build_docs.py, where the extra `docs` is installed

The repository's pages are copied to build/pages in their own layout, so that links between them hold on the site as in
the repository. ``llms.txt``, which lists the pages with their first sentences, is made of the navigation.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
PAGES, SITE = ROOT / "build" / "pages", ROOT / "build" / "site"
COPIED = ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs", "benchmarks/RESULTS.md", "examples")
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Html(HTMLParser):
    """Where a page leads, what it loads, and the places that can be led to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.places: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.places |= {value for name in ("id", "name") if (value := given.get(name))}
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        if tag in LOADED and given.get(LOADED[tag]):
            self.loads.append(str(given[LOADED[tag]]))


def copy_pages() -> None:
    """The pages and pictures, as they lie in the repository."""
    shutil.rmtree(ROOT / "build" / "pages", ignore_errors=True)
    for name in COPIED:
        target = PAGES / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target)
        else:
            shutil.copyfile(ROOT / name, target)


def entries(nav: list[Any]) -> Iterator[tuple[str, str]]:
    """Title and file of every page of the navigation."""
    for entry in nav:
        for title, value in entry.items():
            if isinstance(value, list):
                yield from entries(value)
            else:
                yield title, value


def first_sentence(page: str) -> str:
    """Of the first paragraph below the title, as plain text; empty where there is none."""
    paragraph = next((part for part in page.split("\n\n")[1:] if re.match(r"[*`\w\[]", part)), "")
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(paragraph.split()))
    return plain.partition(". ")[0].rstrip(".:") + "."


def write_llms(nav: list[Any]) -> None:
    """``llms.txt`` (https://llmstxt.org), and beside every page its Markdown."""
    lines = [
        "# truepair",
        "",
        f"> {first_sentence((ROOT / 'README.md').read_text(encoding='utf-8'))}",
        "",
        "## Pages",
        "",
    ]
    for title, file in entries(nav):
        text = (PAGES / file).read_text(encoding="utf-8")
        lines.append(f"- [{title}]({file}): {first_sentence(text)}")
        (SITE / file).write_text(text, encoding="utf-8")
    (SITE / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def faults() -> list[str]:
    """Links that lead nowhere, and what a page would load from elsewhere."""
    pages = {page: Html(page) for page in SITE.rglob("*.html") if page.name != "404.html"}
    found = []
    for page, html in pages.items():
        name = page.relative_to(SITE)
        found += [f"{name} loads {load}" for load in html.loads if urlsplit(load).netloc]
        for link in html.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                found.append(f"{name} leads to {link}, which is not there")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
                found.append(f"{name} leads to {link}: no such place on that page")
    return found


def main() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    copy_pages()
    unlisted = {path.relative_to(PAGES).as_posix() for path in PAGES.rglob("*.md")} - {file for _, file in entries(nav)}
    if unlisted:
        sys.exit(f"pages that the navigation of zensical.toml lacks: {', '.join(sorted(unlisted))}")
    shutil.rmtree(SITE, ignore_errors=True)
    zensical = Path(sys.executable).with_name("zensical")
    subprocess.run([zensical, "build", "--clean", "--strict"], cwd=ROOT, check=True)
    write_llms(nav)
    found = faults()
    if found:
        sys.exit("\n".join(found))
    print(f"{len([*SITE.rglob('*.html')])} pages, every link followed: {SITE / 'index.html'}")


if __name__ == "__main__":
    main()
