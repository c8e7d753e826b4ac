"""The command `thalweg report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thalweg.lab.errors import require_packages


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("report")(report)


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A race's directory, such as runs/digits.")],
    other: Annotated[
        Path | None, typer.Argument(metavar="[DIR2]", help="Another one, to compare with the first.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write; DIR for a report, DIR2/against-DIR for a comparison if left out."),
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Write the tables to this Markdown file, and nothing else.")
    ] = None,
) -> None:
    """Write the report of a race anew, or compare two races.

    Both are made from the summary.json in the directories; nothing is run.
    """
    require_packages("jinja2", "vl_convert")
    from thalweg.lab.compare import write_comparison
    from thalweg.lab.report import check_schema, read_summary, write_report
    from thalweg.lab.tables import markdown as page

    first = read_summary(directory)
    if markdown is not None:
        if other is not None:
            raise typer.BadParameter("--markdown is for one race, not for a comparison.")
        check_schema(first)
        markdown.write_text(page(first), encoding="utf-8")
        path = markdown
    elif other is None:
        path = write_report(out or directory, first)
    else:
        against = f"against-{directory.resolve().name}"
        path = write_comparison(out or other / against, first, read_summary(other))
    typer.echo(path)
