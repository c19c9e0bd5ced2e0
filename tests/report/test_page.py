import json
import math
import re
from html.parser import HTMLParser

import pytest

from voxseg.report.page import Column, Html, Script, details, escape, figure, json_text, number, page, section, table

NASTY = "</script><script>alert('1')</script> \"q\" & <b>"


class Reader(HTMLParser):
    """What a browser would make of a page: its text, its elements with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.text, self.elements = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)


def test_text_is_escaped_everywhere():
    parts = [
        section(
            NASTY,
            table([NASTY, Column(NASTY, True, NASTY)], [[NASTY, (NASTY, NASTY)]], caption=NASTY, foot=[NASTY, ""]),
        ),
        details(NASTY, "<p>x</p>"),
        figure(b"png", NASTY, NASTY),
    ]
    read = Reader(page(NASTY, NASTY, parts))
    assert read.count("script") == 1  # the page's own
    assert read.count("b") == 0
    shown = "".join(read.text)
    # title, heading, lead, h2, caption, 2 column names, 2 cells, foot, summary, caption of the picture
    assert shown.count(NASTY) == 12
    assert [a["alt"] for tag, a in read.elements if tag == "img"] == [NASTY]
    assert [a["data-value"] for tag, a in read.elements if "data-value" in a] == [NASTY]


def test_html_is_not_escaped_twice():
    assert escape(Html("<b>")) == "<b>"
    assert '<th scope="row"><i>x</i></th>' in table(["a"], [[Html("<i>x</i>")]])


@pytest.mark.parametrize("closing", ["</script>", "</SCRIPT >", "<!--", "<!-- <script>"])
def test_nothing_ends_a_script_but_its_end(closing):
    read = Reader(page("a", "b", [], [Script(f'"{closing}"'), Script(json_text({"name": closing}), id="data")]))
    assert read.count("script") == 3
    content = next(text for text in read.text if text.strip().startswith('{"name"'))
    assert json.loads(content)["name"] == closing


def test_the_browser_is_told_to_refuse_requests():
    read = Reader(page("a", "b", []))
    policy = next(a["content"] for tag, a in read.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page("a", "b", []))


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(1234567.891, 1, "1 234 567.9"), (-0.5, 2, "−0.50"), (-0.001, 2, "0.00"), (math.nan, 2, "–"), (0.0, 0, "0")],
)
def test_numbers(value, digits, text):
    assert number(value, digits) == text.replace(" ", "\u202f")


def test_rows_have_a_cell_for_each_column():
    with pytest.raises(ValueError, match="zip"):
        table(["a", "b"], [["1"]])
