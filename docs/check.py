"""Whether every link of a built site leads somewhere, and nothing of it is fetched from elsewhere.

python docs/check.py build/site

Links within the site must lead to a file, and to an anchor in it where they name one; of links to other places only the form is
looked at.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Attributes by which a page fetches something as it is shown.
FETCHED = {("script", "src"), ("img", "src"), ("link", "href"), ("source", "src"), ("iframe", "src"), ("video", "src")}
#: Relations of a <link> that fetch nothing.
NAMED = {"canonical", "next", "prev", "search", "index", "genindex"}
REMOTE = re.compile(r"url\(\s*['\"]?(?:https?:)?//|@import\s+['\"]?(?:https?:)?//")


@dataclass
class Page(HTMLParser):
    """What a page names, links to and fetches."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if not NAMED & set(given.get("rel", "").split()):
            self.fetched += [value for name, value in given.items() if (tag, name) in FETCHED]


@cache
def read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def fault(path: Path, link: str) -> str:
    """What is wrong with a link of a page, empty where nothing is."""
    parts = urlsplit(link)
    if parts.scheme in ("http", "https"):
        return "" if "." in parts.netloc and " " not in link else "is no address"
    if parts.scheme or parts.netloc:
        return "" if parts.scheme in ("mailto", "data") else "is of no known kind"
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return "leads nowhere"
    lacking = parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in read(target).anchors
    return "leads to no such place in its page" if lacking else ""


def problems(folder: Path) -> Iterator[str]:
    """All that is wrong with a site, one line each."""
    for path in sorted(folder.rglob("*.html")):
        page = read(path)
        for link in sorted({*page.links, *page.fetched}):
            if found := fault(path, link):
                yield f"{path.relative_to(folder)}: {link} {found}"
        yield from (
            f"{path.relative_to(folder)}: {link} is fetched from elsewhere" for link in page.fetched if urlsplit(link).netloc
        )
    for path in sorted(folder.rglob("*.css")):
        if REMOTE.search(path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(folder)} fetches from elsewhere"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    found = list(problems(folder))
    print("\n".join(found) or f"{len(list(folder.rglob('*.html')))} pages, every link leads somewhere")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
