"""HTML, taken apart: what a page would load, run and show."""

import re
from html.parser import HTMLParser

LOADING = {"src", "href", "srcset", "data", "poster", "action", "xlink:href", "background"}
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """What the page would load, the elements it has, its words, and whether it is well formed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.images: list[dict] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open += [] if tag in VOID else [tag]
        self.loads += [value for name, value in attrs if name in LOADING]
        self.loads += re.findall(r"url\(([^)]*)\)", dict(attrs).get("style") or "")
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
