"""The words of the report's templates that `thalweg.lab.wording` does not have; None is a dash."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from markupsafe import Markup

from thalweg.lab import wording

Task = Mapping[str, Any]
DASH = "–"


def outcome(task: Task) -> str:
    """A task's result in a line: who leads, with what, and how many are level."""
    leader = next((one for one in task["standings"] if one["test"]), None)
    if leader is None:
        return "no result"
    level = sum(1 for one in task["standings"] if one["behind_leader"] and not one["behind_leader"]["separated"])
    beside = f"; {level} more cannot be told from it" if level else ""
    unit = "" if task["unit"] in ("", "%") else f" {task['unit']}"
    return f"{leader['label']}, {task['metric']} {wording.result(dict(task), leader)}{unit}{beside}"


def behind(row: Mapping[str, Any], first: bool) -> str:
    """On how many of the shared seeds the leader is strictly better."""
    found = row["behind_leader"]
    if first or not found:
        return "leader" if first else DASH
    return f"{found['seeds']} of {found['paired']}"


def share(value: float | None) -> str:
    """A share as per cent."""
    return DASH if value is None else f"{100 * value:.0f}{wording.PER_CENT}"


def signed(value: float | None, task: Task) -> str:
    """A difference with its sign; None where it is infinite or unknown."""
    if value is None:
        return DASH
    return (f"{value:+.2f}" if task["unit"] == "%" else f"{value:+.3g}").replace("-", "−")


def short(rate: float | None) -> str:
    """A learning rate to three digits."""
    return wording.rate(None if rate is None else float(f"{rate:.3g}"))


def fixed(value: float | None, digits: int) -> str:
    """A number with so many digits behind the point."""
    return DASH if value is None else f"{value:.{digits}f}"


def when(text: str) -> str:
    """A time in ISO 8601 as people write it, to the minute."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = "" if moment.tzinfo is None else f" {moment.tzname()}"
    return f"{moment.day} {moment:%B %Y, %H:%M}{zone}"


def breakable(label: str) -> Markup:
    """A label that may be broken where its words meet."""
    return Markup("<wbr>").join(Markup("{}").format(part) for part in re.split(r"(?<=[_(,])", label))


def plain(value: Any) -> str:
    """Any value of the protocol or the machine in words; runs of whole numbers as their ends."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(part)}" for key, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        whole = len(value) > 3 and all(isinstance(part, int) for part in value)
        if whole and list(value) == list(range(value[0], value[-1] + 1)):
            return f"{value[0]} to {value[-1]}"
        return ", ".join(plain(part) for part in value) or "none"
    return str(value)


FILTERS = {function.__name__: function for function in (outcome, behind, share, signed, short, fixed, breakable, plain)}
