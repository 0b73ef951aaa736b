"""The answer on a terminal: readable at 100 columns, in colour where there is any."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from actors.compare.answer import BY, Answer, Claim, Part, held, number, ratio
from actors.compare.beside import Beside
from actors.compare.sensitivity import said
from actors.compare.tables import Row, Table

INDENT = "  "
LABEL = 36  # columns, so that the tables line up with each other
NUMBERS = 17  # columns for a count and its ratio
WORD_STYLE = {"holds": "green", "does not hold": "red", "not judged": "yellow"}


def lines(answer: Answer, width: int = 100) -> Iterator[RenderableType]:
    """What to print on a terminal of that many columns, from top to bottom."""
    yield Text(f"scenario {answer.name}, seed {answer.seed}, hosts at depth {answer.depth}", style="bold")
    if answer.stopped:
        yield Text("STOPPED before its end: what follows is what was finished until then", style="bold red")
    for verdict in answer.verdicts:
        yield _verdict(verdict)
    for part in answer.parts if not answer.beside else ():
        yield Text(part.headline, style="bold")
    if answer.claims:
        yield Text(held(answer.claims))
    for beside in answer.beside:
        yield from _beside(beside)
    for part in answer.parts:
        yield from _part(part, width)
    if answer.claims:
        yield from _claims(answer.claims)
    if answer.seeds:
        yield Text()
        yield Text("Over the seeds, the whole run", style="bold")
        yield from (Padding(Text(text), (0, 0, 0, 2)) for text in answer.seeds)
    yield Text()
    yield Text(
        "Counts are exact for this scenario and seed. Bytes of records are estimates. "
        + ("" if any(part.modelled for part in answer.parts) else "No time is modelled in this run.")
    )
    if answer.wall:
        yield Text(
            f"This program itself took: {answer.wall}; that says nothing about any hardware.", style="dim"
        )


def _verdict(verdict: dict[str, object]) -> Text:
    word = "holds" if verdict["holds"] else "FAILED"
    value = verdict["value"]
    found = number(value if isinstance(value, int) else None)
    text = f"threshold {verdict['what']} {verdict['wanted']} on {verdict['arch']}: {word} ({found})"
    return Text(text, style="green" if verdict["holds"] else "bold red")


def _beside(table: Beside) -> Iterator[RenderableType]:
    """The architectures in one table, a column for each."""
    yield Text()
    yield Text(table.title, style="bold")
    grid = Grid(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    grid.add_column("", min_width=LABEL, overflow="fold")
    for name in table.columns:
        grid.add_column(name, justify="right", no_wrap=True)
    for level, label, cells in table.rows:
        style = "" if level else "bold"
        grid.add_row(Text(INDENT * (level + 1) + label), *map(Text, cells), style=style)
    yield grid
    yield from (Padding(Text(f"-  {note}", style="dim"), (0, 0, 0, 2)) for note in table.notes)


def _part(part: Part, width: int) -> Iterator[RenderableType]:
    yield Text()
    title = f"{part.arch}  {part.title}".rstrip()
    yield Text(title + (f"  ({part.realism})" if part.realism else ""), style="bold reverse")
    if part.breakeven:
        yield Text()
        yield Text("Break-even, in exits at L0 unless it says otherwise", style="bold")
        yield from (Padding(Text(text), (0, 0, 0, 2)) for text in part.breakeven)
    for table in part.tables:
        yield Text()
        yield Text(table.title, style="bold")
        yield _grid(table, width)
        yield from (Padding(Text(f"-  {note}", style="dim"), (0, 0, 0, 2)) for note in table.notes)
    if part.modelled:
        yield Text()
        yield Text("Modelled time (virtual, not measured)", style="bold")
        yield from (Padding(Text(f"{path}: {figures}"), (0, 0, 0, 2)) for path, figures in part.modelled)
    if part.sensitivity:
        yield Text()
        yield Text("What modelled time rests on", style="bold")
        yield from (Padding(Text(text), (0, 0, 0, 2)) for text in said(part.sensitivity))


def _grid(table: Table, width: int) -> Grid:
    """For each path a count and its ratio to direct, in columns of their own so that both line up."""
    grid = Grid(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    label = max(LABEL // 3, min(LABEL, width - NUMBERS * len(table.columns)))
    grid.add_column("", min_width=label, max_width=LABEL if width >= 100 else label, overflow="fold")
    for name in table.columns:
        grid.add_column(name, justify="right", no_wrap=True, min_width=9)
        grid.add_column("", justify="right", no_wrap=True, min_width=0 if name == "direct" else 5)
    for row in table.rows:
        grid.add_row(Text(INDENT * (row.level + 1) + row.label), *_cells(row), style=_style(row))
    return grid


def _cells(row: Row) -> Iterator[Text]:
    for cell in row.cells:
        yield Text(number(cell.value))
        yield Text(ratio(cell.ratio), style="dim")


def _style(row: Row) -> str:
    return "bold" if row.level == 0 else "dim" if row.level == 2 else ""


def _claims(claims: tuple[Claim, ...]) -> Iterator[RenderableType]:
    yield Text()
    yield Text("What the talk claims", style="bold")
    grid = Grid.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for claim in claims:
        said = Text(claim.text)
        ground = BY.get(claim.by, claim.by)
        said.append(f"\n{ground}" + (f"; {claim.figures}" if claim.figures else ""), style="dim")
        grid.add_row(Text(f"{INDENT}{claim.word}", style=WORD_STYLE[claim.word]), said)
    yield grid
