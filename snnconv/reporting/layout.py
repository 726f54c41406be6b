"""How every table looks: plain ASCII, no colours, numbers to the right; and how it becomes text."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.box import Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 100
NOTHING = "-"
"""What stands where there is no value."""

RULED = Box("    \n    \n -- \n    \n -- \n -- \n    \n    \n", ascii=True)
"""A line under the head and between sections, nothing else."""


def new_table(
    texts: Sequence[str], numbers: Sequence[str], remarks: Sequence[str] = (), whole: Sequence[str] = ()
) -> Table:
    """An empty table: text columns, then numbers to the right, then text again.

    Text is folded where the table would be wider than the page; numbers only if that does not do.

    Args:
        texts: Headings of the first columns; "|" starts a new line.
        numbers: Headings of the columns of numbers.
        remarks: Headings of the last columns.
        whole: Headings of text columns that are not folded either.
    """
    table = Table(box=RULED, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
    for heading in texts:
        table.add_column(_heading(heading), no_wrap=heading in whole, overflow="fold")
    for heading in numbers:
        table.add_column(_heading(heading), justify="right", no_wrap=True, overflow="fold")
    for heading in remarks:
        table.add_column(_heading(heading), overflow="fold")
    return table


def add(table: Table, *cells: object, end_section: bool = False) -> None:
    """Add a row; whole numbers get thousands separators, None a dash, and text is taken literally."""
    table.add_row(*(Text(cell_text(cell)) for cell in cells), end_section=end_section)


def cell_text(cell: object) -> str:
    """A cell as it is printed."""
    if cell is None:
        return NOTHING
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def render(table: Table, width: int | None = None) -> str:
    """A table as text of at most ``width`` columns (100), without colours or blanks at line ends."""
    text = io.StringIO()
    console = Console(file=text, width=width or WIDTH, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _heading(text: str) -> Text:
    return Text(text.replace("|", "\n"))
