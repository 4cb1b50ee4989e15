"""A report's HTML, read strictly."""

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "wbr", "link", "hr", "input"}


class Page(HTMLParser):
    """Tags with their attributes, text, and scripts; refuses tags that do not close in order."""

    def __init__(self, html):
        super().__init__()
        self.html, self.tags, self.open, self.scripts, texts = html, [], [], [], []
        self.handle_data = lambda data: (self.scripts if self.open[-1:] == ["script"] else texts).append(data)
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        self.text = re.sub(r"\s+", " ", " ".join(texts))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def all(self, *names):
        """The attributes of every tag of these names."""
        return [attrs for tag, attrs in self.tags if tag in names]
