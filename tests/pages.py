"""Pages of HTML, read as a person would: elements, their attributes and their text."""

import json
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Element:
    """One element of a page."""

    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.parts = []

    def __getitem__(self, name):
        return self.attributes[name]

    @property
    def text(self):
        own = (p if isinstance(p, str) else p.text for p in self.parts)
        return " ".join("".join(own).split())

    def all(self, tag=None, **attributes):
        """Elements within, with a tag and a word in each of some attributes."""
        found = []
        for part in self.parts:
            if isinstance(part, str):
                continue
            fits = tag in (None, part.tag) and all(
                value in part.attributes.get(name.strip("_"), "").split()
                for name, value in attributes.items()
            )
            found += [part] if fits else []
            found += part.all(tag, **attributes)
        return found

    def one(self, tag=None, **attributes):
        (found,) = self.all(tag, **attributes)
        return found


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.root = self.at = Element("", {}, None)

    def handle_starttag(self, tag, attributes):
        named = {name: value or "" for name, value in attributes}
        element = Element(tag, named, self.at)
        self.at.parts.append(element)
        if tag not in VOID:
            self.at = element

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.at = self.at.parent

    def handle_endtag(self, tag):
        assert self.at.tag == tag, f"</{tag}> closes <{self.at.tag}>"
        self.at = self.at.parent

    def handle_data(self, data):
        self.at.parts.append(data)


def read_page(html):
    """Read a page; every element has to be closed."""
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.at is reader.root, f"<{reader.at.tag}> is open"
    return reader.root


def data_of(page):
    """What the script of the page's map reads."""
    return json.loads(page.one("script", id="data").text)
