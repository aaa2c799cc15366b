"""Pages as tests read them."""

import re
from html.parser import HTMLParser
from itertools import pairwise

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags balance; keeps the tables, the text and every attribute."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.cells: dict[str, list[tuple[str, str]]] = {}
        self._row: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self._row = []
        if tag in ("td", "th"):
            self._row.append([dict(attrs).get("class") or "", ""])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"
        if tag == "tr":
            (_, name), *rest = [(mark, " ".join(text.split())) for mark, text in self._row]
            self.cells.setdefault(name, []).extend(rest)

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)
            if self._row and {"td", "th"} & set(self.open):
                self._row[-1][1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def marks(self, name: str) -> list[str]:
        return [mark for mark, _ in self.cells[name]]


def whole(text: str) -> Page:
    """The page, once it is sure to be balanced HTML that needs nothing else."""
    parsed = Page(text)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            if value := attributes.get(name):
                assert value.startswith("data:") or (value.startswith("#") and value[1:] in ids), (tag, name, value[:60])
        assert tag not in ("link", "iframe", "object", "embed", "base")
    _readable(parsed)
    assert not re.search(r"@import|url\(|https?://|//[a-z]+\.", re.sub(r"data:image/png;base64,[\w+/=]+", "", text))
    return parsed


def _readable(page: Page) -> None:
    """What a screen reader and a keyboard need: names of pictures, tables and regions, heads that say what they head."""
    tags = [tag for tag, _ in page.tags]
    assert tags.count("h1") == tags.count("main") == 1
    assert tags.count("table") == tags.count("caption") == tags.count("thead") == tags.count("tbody")
    assert ("a", {"class": "skip", "href": "#main"}) in page.tags
    assert page.tags[0] == ("html", {"lang": "en"})
    for tag, attributes in page.tags:
        if tag == "img":
            assert attributes["alt"]
            assert attributes["width"]
        if tag == "th":
            assert attributes["scope"] in ("col", "row")
        if tag == "svg" and attributes.get("class") == "chart":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if tag == "section":
            assert attributes["aria-labelledby"] in {named.get("id") for _, named in page.tags}
        if attributes.get("role") == "region":
            assert attributes["aria-label"]
            assert attributes["tabindex"] == "0"
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))
