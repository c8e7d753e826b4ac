"""`thalweg show`: an optimizer's registry entry and docstring, with its memory measured rather than promised."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import nn

import thalweg

SIDE = 256


def state_bytes_per_parameter(name: str) -> float:
    """Measured on one square matrix after one step."""
    model = nn.Linear(SIDE, SIDE, bias=False)
    optimizer = thalweg.create(name, model)
    loss = model(torch.ones(1, SIDE)).square().mean()
    loss.backward()
    optimizer.step(loss=loss.detach())
    return optimizer.state_bytes() / (SIDE * SIDE)


def description(entry: Any) -> dict[str, Any]:
    """What there is to know, for programs and for `picture`."""
    return {
        "name": entry.name,
        "title": entry.title,
        "class": f"{entry.cls.__module__}.{entry.cls.__qualname__}",
        "doc": inspect.cleandoc(entry.cls.__doc__ or ""),
        "defaults": {key: _plain(value) for key, value in entry.defaults.items()},
        "needs_loss": entry.needs_loss,
        "state_bytes_per_parameter": state_bytes_per_parameter(entry.name),
        "source": entry.source,
        "code": entry.code,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def picture(found: dict[str, Any]) -> Group:
    """For people; the docstring is shown as it is written, because its equations are set in plain text."""
    facts = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    facts.add_row("class", found["class"])
    facts.add_row("defaults", ", ".join(f"{key}={value}" for key, value in found["defaults"].items()))
    per_parameter = found["state_bytes_per_parameter"]
    facts.add_row("state", f"{per_parameter:.3g} bytes per parameter, measured on a {SIDE} by {SIDE} float32 matrix")
    if found["needs_loss"]:
        facts.add_row("step", "needs the loss: step(loss=loss) or a closure")
    facts.add_row("source", ", ".join(filter(None, (found["source"], found["code"]))))
    return Group(Text(found["name"], style="bold"), Text(), Text(found["doc"]), Text(), facts)
