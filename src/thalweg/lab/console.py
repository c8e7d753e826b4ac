"""What the commands share: where results are printed, and how lists are read."""

from __future__ import annotations

import os
import re
import shlex
import sys
from typing import Annotated

import typer
from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output, and nothing else.")]
SetOption = Annotated[str, typer.Option("--set", help="Parameter shapes: gpt2-small, resnet50 or tiny.")]
RepeatsOption = Annotated[int, typer.Option(min=1, help="How many pairs of steps are timed.")]
ThreadsOption = Annotated[int, typer.Option(min=1, help="How many threads torch may use.")]


def split_list(text: str) -> list[str]:
    """Split at commas, except inside brackets: ``adam:betas=(0.9,0.99),sgd`` names two."""
    return [part.strip() for part in re.split(r",(?![^([]*[)\]])", text) if part.strip()]


def stdout() -> Console:
    """Where results go; lines are not squeezed to 80 columns when they go to a file."""
    return Console(width=None if sys.stdout.isatty() else 120)


def command_line() -> str:
    """The command as it was typed, for the report."""
    return shlex.join([os.path.basename(sys.argv[0]).replace("cli.py", "thalweg"), *sys.argv[1:]])
