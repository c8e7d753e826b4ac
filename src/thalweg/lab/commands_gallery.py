"""The commands `thalweg gallery` and `thalweg derive`: pictures and derivations to learn from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from thalweg.lab.errors import require_packages, unknown

Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output, and nothing else.")]


def gallery(
    names: Annotated[list[str] | None, typer.Argument(help="Which pictures to make; all if left out.")] = None,
    out: Annotated[Path, typer.Option(help="The directory that the pictures go to.")] = Path("gallery"),
    listing: Annotated[bool, typer.Option("--list", help="Say what there is, and make nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Make the teaching pictures, each computed by the library itself, with the numbers that they show."""
    require_packages("matplotlib", "PIL")
    from thalweg.lab.gallery import PICTURES, make

    console = Console(soft_wrap=True, highlight=False)
    for name in names or ():
        if name not in PICTURES:
            raise unknown("picture", name, PICTURES)
    chosen = names or list(PICTURES)
    if listing:
        if as_json:
            print(json.dumps({name: PICTURES[name].title for name in chosen}, indent=2))
            return
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for name in chosen:
            table.add_row(name, PICTURES[name].title)
        console.print(table)
        return
    made = {}
    for name in chosen:
        path, facts = make(name, out)
        made[name] = {"file": str(path), "facts": facts}
        if not as_json:
            console.print(f"{path} ({path.stat().st_size / 1000:.0f} kB)", style="bold")
            for fact, value in facts.items():
                console.print(f"  {fact}: {value}")
    if as_json:
        print(json.dumps(made, indent=2))


def derive(
    name: Annotated[str, typer.Argument(help="An optimizer's name, as listed by `thalweg list`.")],
    as_json: Json = False,
) -> None:
    """Derive an optimizer from SGD, one idea at a time, and name the optimizers that are met on the way."""
    from thalweg.lab.contenders import find_entry
    from thalweg.lab.derive import as_dict, picture
    from thalweg.lab.derive import derive as derivation

    parts = derivation(find_entry(name).name)
    if as_json:
        print(json.dumps(as_dict(parts), indent=2))
    else:
        Console(soft_wrap=True, highlight=False).print(picture(parts))


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(gallery)
    app.command()(derive)
