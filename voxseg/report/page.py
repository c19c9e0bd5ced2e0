"""Self-contained HTML pages: text made safe, tables, pictures inside, and a frame that forbids requests."""

from __future__ import annotations

import base64
import html
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any

__all__ = ["Column", "Html", "Script", "asset", "details", "escape", "figure", "number", "page", "section", "table"]

# The browser itself refuses whatever is not in the file. NiiVue reads its letters from data: addresses.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src data: blob:; base-uri 'none'; form-action 'none'"
)

FRAME = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="voxseg $version">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
$style
</style>
</head>
<body>
<header>
<h1>$heading</h1>
<p class="lead">$lead</p>
</header>
<main>
$body
</main>
<footer>
<p>Made by voxseg $version. For research use only: not a medical device, not for diagnosis or treatment. Look at the
pictures before you use the numbers.</p>
<p>This file is complete in itself: it loads nothing and sends nothing. It shows the scan: treat it like the scan.</p>
$notices
</footer>
$scripts
</body>
</html>
""")


class Html(str):
    """Text that is HTML already and must not be escaped again."""

    __slots__ = ()


@dataclass(frozen=True)
class Script:
    """A script of the page.

    Attributes:
        text: JavaScript, or JSON as `json_text` makes it.
        id: of the element; for data.
        notice: a licence, put before the script as a comment and at the foot of the page.
    """

    text: str
    id: str = ""
    notice: str = ""

    def __str__(self) -> str:
        kind = f' type="application/json" id="{escape(self.id)}"' if self.id else ""
        comment = f"/*!\n{self.notice}*/\n" if self.notice else ""
        return f"<script{kind}>\n{comment}{_inline(self.text)}\n</script>"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: its heading.
        number: whether its cells are numbers, set flush right.
        hint: shown when the pointer rests on the heading.
    """

    name: str
    number: bool = False
    hint: str = ""


def escape(text: object) -> Html:
    """Text as it may stand in HTML, in elements and in quoted attributes; what is `Html` stays as it is."""
    return text if isinstance(text, Html) else Html(html.escape(str(text), quote=True))


def json_text(data: Any) -> str:
    """Data as JSON that may stand in a script element, whatever strings are in it."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def number(value: float, digits: int = 2, missing: str = "–") -> str:
    """A number with thin spaces between thousands and a true minus sign; `missing` for NaN."""
    if math.isnan(value):
        return missing
    text = f"{value:,.{digits}f}".replace(",", "\u202f")
    return "0" + text[2:] if float(f"{value:.{digits}f}") == 0 and text.startswith("-") else text.replace("-", "−")


def asset(name: str) -> str:
    """The text of a file in `assets/`."""
    return files("voxseg.report").joinpath("assets").joinpath(name).read_text(encoding="utf-8")


def page(title: str, lead: str, body: Iterable[str], scripts: Sequence[Script] = ()) -> str:
    """A whole page.

    Args:
        title: heading and name of the page; text.
        lead: the line below it; text or `Html`.
        body: parts, HTML.
        scripts: in their order, behind the page's own.
    """
    from voxseg import __version__

    notices = [details("Licence of the viewer", f"<pre>{escape(s.notice)}</pre>") for s in scripts if s.notice]
    return FRAME.substitute(
        policy=POLICY,
        version=escape(__version__),
        title=escape(title),
        style=asset("page.css"),
        heading=escape(title),
        lead=escape(lead),
        body="\n".join(body),
        notices="\n".join(notices),
        scripts="\n".join(map(str, [Script(asset("page.js")), *scripts])),
    )


def section(title: str, *parts: str, anchor: str = "") -> Html:
    """A part of the page under a heading.

    Args:
        title: text.
        parts: HTML.
        anchor: id of the element.
    """
    name = f' id="{escape(anchor)}"' if anchor else ""
    return Html(f"<section{name}>\n<h2>{escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>")


def details(summary: str, content: str, opened: bool = False) -> Html:
    """Content (HTML) that is unfolded by a click on its summary (text)."""
    return Html(f"<details{' open' if opened else ''}><summary>{escape(summary)}</summary>\n{content}\n</details>")


def figure(png: bytes, alternative: str, caption: str = "", kind: str = "image/png") -> Html:
    """A picture inside the page.

    Args:
        png: the file.
        alternative: what it shows, for those who cannot see it.
        caption: below it; text or `Html`.
        kind: media type of the file.
    """
    data = base64.b64encode(png).decode("ascii")
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return Html(f'<figure><img src="data:{kind};base64,{data}" alt="{escape(alternative)}">{words}</figure>')


def table(
    columns: Sequence[Column | str],
    rows: Iterable[Sequence[object]],
    caption: str = "",
    sortable: bool = False,
    foot: Sequence[object] = (),
) -> Html:
    """A table that scrolls sideways where it is too wide.

    Args:
        columns: headings; a bare string is a column of text.
        rows: cells, text or `Html`; a pair (shown, value) is sorted by its value. The first cell names the row.
        caption: above it; text or `Html`.
        sortable: whether a click on a heading sorts.
        foot: cells of a last row that stays last.
    """
    heads = [column if isinstance(column, Column) else Column(column) for column in columns]
    lines = [f"<table{' data-sortable' if sortable else ''}>"]
    if caption:
        lines.append(f"<caption>{escape(caption)}</caption>")
    lines.append("<thead><tr>" + "".join(_heading(column, sortable) for column in heads) + "</tr></thead>")
    lines.append("<tbody>")
    lines += [_row(heads, row) for row in rows]
    lines.append("</tbody>")
    if foot:
        lines.append(f"<tfoot>{_row(heads, foot)}</tfoot>")
    lines.append("</table>")
    return Html('<div class="wide" tabindex="0">' + "\n".join(lines) + "</div>")


def _heading(column: Column, sortable: bool) -> str:
    kind = ' class="number"' if column.number else ""
    hint = f' title="{escape(column.hint)}"' if column.hint else ""
    name = escape(column.name)
    inner = f'<button type="button" class="sort">{name}</button>' if sortable and name else name
    return f'<th scope="col"{kind}{hint}>{inner}</th>'


def _row(columns: Sequence[Column], cells: Sequence[object]) -> str:
    parts = []
    for place, (column, cell) in enumerate(zip(columns, cells, strict=True)):
        shown, value = cell if isinstance(cell, tuple) else (cell, None)
        kind = ' class="number"' if column.number else ""
        order = "" if value is None else f' data-value="{escape(value)}"'
        tag = 'th scope="row"' if place == 0 else "td"
        parts.append(f"<{tag}{kind}{order}>{escape(shown)}</{tag[:2]}>")
    return "<tr>" + "".join(parts) + "</tr>"


def _inline(text: str) -> str:
    """Text as it may stand in a script element, which ends at the first closing tag whatever is around it."""
    return re.sub(r"<(/script|!--)", r"<\\\1", text, flags=re.IGNORECASE)
