"""Elements and texts of the report. It is XML: what comes from outside is escaped and cannot break it."""

from __future__ import annotations

import html
import re

from actors.compare.style import STYLE

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escaped(value: object) -> str:
    """A text as it may stand anywhere in the file."""
    return html.escape(_NOT_IN_XML.sub("�", str(value)))


def tag(name: str, *inside: str, **attributes: str) -> str:
    """An element. What is inside is markup already; attributes are texts. `class_` is class."""
    given = "".join(f' {key.rstrip("_")}="{escaped(text)}"' for key, text in attributes.items())
    return f"<{name}{given}>{''.join(inside)}</{name}>"


def page(title: str, *body: str) -> str:
    """A whole file: it brings its style with it and asks for nothing."""
    head = (
        '<meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        '<meta name="color-scheme" content="light dark"/>'
    )
    head += tag("title", escaped(title)) + tag("style", STYLE)
    return f"<!DOCTYPE html>\n{tag('html', tag('head', head), tag('body', *body), lang='en')}\n"


def wide(*inside: str) -> str:
    """A table that scrolls by itself where the screen is narrow."""
    return tag("div", tag("table", *inside), class_="wide")


def table(heads: list[str], rows: list[list[str]], numbers: bool = True) -> str:
    """A table of texts: the first column heads its row; the others are to the right if they are `numbers`."""
    kind = {"class_": "n"} if numbers else {}
    head = [
        tag("th", escaped(text), scope="col", **(kind if place else {})) for place, text in enumerate(heads)
    ]
    body = [
        tag(
            "tr",
            tag("th", escaped(row[0]), scope="row"),
            *(tag("td", escaped(text), **kind) for text in row[1:]),
        )
        for row in rows
    ]
    return wide(tag("thead", tag("tr", *head)), tag("tbody", *body))
