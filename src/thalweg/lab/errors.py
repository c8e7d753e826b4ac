"""The errors a user can do something about; the command line prints them as one sentence, never a traceback."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable


class LabError(Exception):
    """Something the user asked for cannot be done; the message names the remedy."""


class MissingExtraError(LabError):
    """A package of the ``lab`` extra is not installed."""

    def __init__(self, missing: Iterable[str]) -> None:
        names = ", ".join(sorted(missing))
        super().__init__(f"this command needs {names}, which is not installed: pip install 'thalweg[lab]'")


def require_packages(*modules: str) -> None:
    """Refuse before any work is done when a package is missing, rather than in every worker."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(missing)


def check_device(name: str) -> None:
    """Refuse a device that torch does not know, or that is not here."""
    import torch

    try:
        torch.empty(0, device=name)
    except Exception as error:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        here = "cpu" if accelerator is None else f"cpu and {accelerator.type}"
        raise LabError(f"no device {name!r} here; there is {here}") from error


def unknown(kind: str, name: str, known: Iterable[str]) -> LabError:
    """Say that `name` is not known and which known names come closest to it."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
    return LabError(f"unknown {kind} {name!r}; {hint}")
