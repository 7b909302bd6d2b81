"""Tables that fit their terminal: a column without room is moved or left out as a whole, and words stay whole.

The caller decides what happens to a column if the table is too wide (`Column.how`), and in which order (`give`): it is
left out, it goes below its row, or it is broken between words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.text import Text

_GAP = 3
"""Blanks between two columns."""

_INDENT = 4
"""Blanks before what goes below its row."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Args:
        name: its heading.
        right: whether it is aligned to the right.
        give: its turn to give way if there is no room; 0 is never.
        how: what it does then.
    """

    name: str
    right: bool = False
    give: int = 0
    how: Literal["drop", "below", "wrap"] = "drop"

    @classmethod
    def of(cls, said: Column | str) -> Column:
        """A heading alone, which begins with `>` where its column is aligned to the right."""
        return said if isinstance(said, Column) else cls(said.removeprefix(">"), said.startswith(">"))


class Layout:
    """How wide each column is in lines of `width` characters, and which are left out or go below."""

    def __init__(self, columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int) -> None:
        self.columns = columns
        self.rows = rows
        self.width = width
        self.shown = list(range(len(columns)))
        self.below: list[int] = []
        self.natural = [
            max([_width(column.name), *(row[i].cell_len for row in rows)]) for i, column in enumerate(columns)
        ]
        self.widths = list(self.natural)
        self._fit()
        for i in self.shown:
            # What gave way last may have left more room than was needed.
            if columns[i].how == "wrap":
                self.widths[i] = min(self.natural[i], self.widths[i] - self._excess)

    def _fit(self) -> None:
        columns = self.columns
        for i in sorted((i for i, column in enumerate(columns) if column.give), key=lambda i: columns[i].give):
            if self._excess <= 0:
                return
            self._give_way(i)
        while (excess := self._excess) > 0:
            # Nothing else helps: the widest is broken wherever its room ends.
            widest = max(self.shown, key=lambda i: self.widths[i])
            if self.widths[widest] <= 1:
                return
            self.widths[widest] = max(1, self.widths[widest] - excess)

    @property
    def _excess(self) -> int:
        return sum(self.widths[i] for i in self.shown) + _GAP * (len(self.shown) - 1) - self.width

    def _give_way(self, i: int) -> None:
        how = self.columns[i].how
        if how == "wrap":
            words = [word for row in self.rows for word in row[i].plain.split()]
            narrowest = max(map(_width, [*self.columns[i].name.split(), *words]), default=1)
            self.widths[i] = max(narrowest, self.widths[i] - self._excess)
            return
        self.shown.remove(i)
        if how == "below":
            self.below.append(i)


def lines(columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int) -> Iterator[Text]:
    """The lines of a table of `width` characters."""
    from rich.text import Text

    layout = Layout(columns, rows, width)
    headings = [Text(column.name, style="bold") for column in columns]
    yield from _row(layout, headings)
    yield Text("─" * min(width, sum(layout.widths[i] for i in layout.shown) + _GAP * (len(layout.shown) - 1)))
    for row in rows:
        yield from _row(layout, row)
        for i in layout.below:
            # What is empty needs no line of its own.
            if row[i].plain.strip() not in ("", "-"):
                for part in broken(row[i], max(1, width - _INDENT)):
                    yield Text(" " * _INDENT, style="dim").append_text(part)


def _row(layout: Layout, cells: Sequence[Text]) -> Iterator[Text]:
    from rich.text import Text

    parts = {i: broken(cells[i], layout.widths[i]) for i in layout.shown}
    for place in range(max(map(len, parts.values()), default=0)):
        line = Text(" " * _GAP).join(_aligned(layout, i, parts[i][place : place + 1]) for i in layout.shown)
        line.rstrip()
        yield line


def _aligned(layout: Layout, i: int, parts: Sequence[Text]) -> Text:
    from rich.text import Text

    part = parts[0].copy() if parts else Text()
    part.align("right" if layout.columns[i].right else "left", layout.widths[i])
    return part


def broken(cell: Text, width: int) -> list[Text]:
    """A cell in lines of at most that width, between words where that is possible."""
    if cell.cell_len <= width:
        return [cell]
    from rich.console import Console

    wrapped = cell.wrap(Console(width=width), width, overflow="fold")
    for line in wrapped:
        line.rstrip()
    return list(wrapped)


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
