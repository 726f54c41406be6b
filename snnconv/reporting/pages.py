"""A page of headings, paragraphs, tables and figures, as one HTML file and as Markdown; both without requests."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

from snnconv.reporting.layout import cell_text

STYLE = """
:root { color-scheme: light dark; --text: #1c1f23; --soft: #5d6670; --back: #ffffff; --card: #f5f7f9; --line: #d9dee4;
  --link: #0060a0; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e7eb; --soft: #9aa5b1; --back: #15181c; --card: #1f242a;
  --line: #363d46; --link: #6cb6ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 76rem; background: var(--back); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-top: 1rem; border-top: 1px solid var(--line); }
p { max-width: 50rem; } a { color: var(--link); }
.lead { color: var(--soft); margin-top: 0; }
nav { margin: 1.25rem 0; } nav a { margin-right: 1rem; white-space: nowrap; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .75rem; margin: 1.25rem 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem; }
.tile b { display: block; font-size: clamp(1rem, 4.5vw, 1.2rem); white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .85rem; }
.wide { overflow-x: auto; margin: .75rem 0 1.25rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
caption span { display: block; position: sticky; left: 0; max-width: min(50rem, 100vw - 2.5rem); }
th, td { padding: .3rem .75rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { vertical-align: bottom; font-weight: 600; }
tbody th { font-weight: 400; white-space: nowrap; vertical-align: top; }
.number { text-align: right; }
td { white-space: nowrap; }
td.long { white-space: normal; min-width: 12rem; max-width: 34rem; overflow-wrap: break-word; }
tr.total th, tr.total td { font-weight: 600; }
figure { margin: 1rem 0 1.75rem; }
figure img { display: block; max-width: 100%; height: auto; background: #ffffff; padding: .5rem; border-radius: .5rem;
  border: 1px solid var(--line); }
figure .wide { margin: 0; }
@media (max-width: 48rem) { img.panorama { max-width: none; width: 46rem; } }
@media print { nav { display: none; } figure, tr { break-inside: avoid; } }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .4rem; max-width: 50rem; }
code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .9em; }
"""


@dataclass(frozen=True)
class Heading:
    """Start of a section."""

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph; words in `backquotes` are code."""

    text: str


@dataclass(frozen=True)
class Tiles:
    """Numbers to see first: (value, what it is)."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """Rows of cells, as ``layout.cell_text`` prints them.

    Attributes:
        headings: One a column.
        rows: Cells; the first is the row's name.
        words: Columns of words, to the left; the others are numbers, to the right.
        caption: What it shows.
        totals: So many rows at the end are totals.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[object]]
    words: frozenset[int] = frozenset({0})
    caption: str = ""
    totals: int = 0


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: Its file's, without suffix.
        caption: What it shows; also its alternative text.
        svg: The SVG file.
    """

    name: str
    caption: str
    svg: bytes


Block = Heading | Text | Tiles | Table | Picture
LONG = 30
"""Letters of a cell that is a sentence, which wants room on a narrow screen."""
PANORAMA = 500.0
"""Width from which on a figure does not shrink to a narrow screen but scrolls [points]."""


def to_html(title: str, lead: str, blocks: Sequence[Block]) -> str:
    """One HTML file that asks for nothing else: style and figures lie in it, and its policy forbids all requests."""
    sections = "".join(
        f'<a href="#{_anchor(block.text)}">{html.escape(block.text)}</a>\n'
        for block in blocks
        if isinstance(block, Heading)
    )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n'
        "<body>\n"
        f'<h1>{html.escape(title)}</h1>\n<p class="lead">{_inline(lead)}</p>\n<nav>\n{sections}</nav>\n'
        + "\n".join(_html(block) for block in blocks)
        + "\n</body>\n</html>\n"
    )


def to_markdown(title: str, lead: str, blocks: Sequence[Block], folder: str) -> str:
    """The same as Markdown, whose figures lie as ``<folder>/<name>.svg`` beside it."""
    return "\n\n".join([f"# {title}", lead, *(_markdown(block, folder) for block in blocks)]) + "\n"


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f'<h2 id="{_anchor(block.text)}">{html.escape(block.text)}</h2>'
    if isinstance(block, Text):
        return f"<p>{_inline(block.text)}</p>"
    if isinstance(block, Tiles):
        tiles = (
            f'<div class="tile"><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>'
            for value, name in block.items
        )
        return f'<div class="tiles">\n{chr(10).join(tiles)}\n</div>'
    if isinstance(block, Table):
        return _html_table(block)
    data = base64.b64encode(block.svg).decode()
    caption = html.escape(block.caption)
    kind = ' class="panorama"' if _width(block.svg) >= PANORAMA else ""
    return (
        f'<figure id="{block.name}"><div class="wide" tabindex="0"><img{kind} src="data:image/svg+xml;base64,{data}" '
        f'alt="{caption}"></div><figcaption>{_inline(block.caption)}</figcaption></figure>'
    )


def _html_table(table: Table) -> str:
    texts = [[cell_text(cell) for cell in row] for row in table.rows]
    kinds = [
        ' class="number"' if column not in table.words else ' class="long"' if _is_long(texts, column) else ""
        for column in range(len(table.headings))
    ]
    heads = "".join(
        f'<th scope="col"{kind}>{html.escape(text)}</th>' for kind, text in zip(kinds, table.headings, strict=True)
    )
    lines = []
    for number, row in enumerate(texts):
        total = ' class="total"' if number >= len(table.rows) - table.totals else ""
        first, *others = (html.escape(cell) for cell in row)
        cells = "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds[1:], others, strict=True))
        lines.append(f'<tr{total}><th scope="row"{kinds[0]}>{first}</th>{cells}</tr>')
    caption = f"<caption><span>{_inline(table.caption)}</span></caption>" if table.caption else ""
    body = "\n".join(lines)
    return (
        f'<div class="wide" tabindex="0"><table>{caption}<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _is_long(rows: Sequence[Sequence[str]], column: int) -> bool:
    return any(len(row[column]) > LONG for row in rows)


def _width(svg: bytes) -> float:
    """Width of a figure [points]; 0 where it does not say."""
    found = re.search(rb'<svg[^>]*\bwidth="([0-9.]+)pt"', svg)
    return float(found[1]) if found else 0.0


def _markdown(block: Block, folder: str) -> str:
    if isinstance(block, Heading):
        return f"## {block.text}"
    if isinstance(block, Text):
        return block.text
    if isinstance(block, Tiles):
        return "\n".join(f"* **{value}** {name}" for value, name in block.items)
    if isinstance(block, Table):
        rule = "|".join("---" if column in block.words else "---:" for column in range(len(block.headings)))
        rows = [block.headings, *block.rows]
        head, *body = ("| " + " | ".join(cell_text(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)
        return "\n".join([*([block.caption, ""] if block.caption else []), head, f"|{rule}|", *body])
    alternative = block.caption.replace("[", "(").replace("]", ")")
    return f"![{alternative}]({folder}/{block.name}.svg)\n\n{block.caption}"


def _inline(text: str) -> str:
    """Escaped text whose `backquotes` are code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
