"""``thalweg memory``: what training a model with an optimizer will hold, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

import thalweg
from thalweg.accounting import PRECISIONS, Memory, memory
from thalweg.lab.errors import LabError, unknown
from thalweg.lab.loading import from_file
from thalweg.lab.parameter_sets import PARAMETER_SETS, parameter_set, routed


def load_model(reference: str) -> nn.Module:
    """The model that ``file.py:function`` returns or ``file.py:name`` is, without memory where that can be.

    A function is called on the meta device; one that cannot be (it reads a checkpoint, say) is called once more
    without.

    Raises:
        LabError: there is no such file or name, or what is there is no model.
    """
    path, _, name = reference.rpartition(":")
    if not path.endswith(".py"):
        raise LabError(
            f"{unknown('model', reference, PARAMETER_SETS)}. A model of your own is given as file.py:function."
        )
    try:
        found = from_file(Path(path), name)
        model = found
        if callable(found) and not isinstance(found, nn.Module):
            try:
                with torch.device("meta"):
                    model = found()
            except Exception:  # whatever keeps it from the meta device; if it fails on the host too, that is told
                model = found()
    except LabError:
        raise
    except Exception as error:
        raise LabError(f"{reference} could not be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise LabError(f"{reference} gave {type(model).__name__}, not a torch.nn.Module")
    if not any(p.requires_grad for p in model.parameters()):
        raise LabError(f"{reference} has no parameter that is trained")
    return model


def estimate(reference: str, name: str, state: str = "float32") -> Memory:
    """What training that model with that optimizer will hold, in bytes by role; routed as ``thalweg.create`` does it.

    ``reference`` is a model (see ``load_model``) or the name of a parameter set. State is counted from the recipes'
    layouts; nothing of the model's size is allocated where the model can be built on the meta device.

    Raises:
        LabError: see ``load_model``; or the optimizer cannot be built for the model, or with that ``state``.
    """
    from thalweg.lab.contenders import find_entry

    entry = find_entry(name)
    if reference in PARAMETER_SETS:
        shapes = parameter_set(reference)
        params = routed(entry.name, [(n, nn.Parameter(torch.empty(shape, device="meta"))) for n, shape in shapes])
    else:
        params = load_model(reference)
    try:
        optimizer = thalweg.create(entry.name, params, state=state)
    except (TypeError, ValueError) as error:
        raise LabError(f"{entry.name} for {reference}: {error}") from error
    return memory(optimizer)


def precision_rows(held: Memory) -> list[dict[str, Any]]:
    """Bytes of each precision: weights, gradients, master weights and state in it, and their total."""
    state = sum(held.state.values())
    rows = []
    for p in PRECISIONS:
        parts = {
            "weights": held.parameters * p.weights,
            "gradients": held.parameters * p.gradients,
            "master": held.parameters * p.master,
            "state": state * p.state_item // 4,
        }
        rows.append({"name": p.name, **parts, "total": sum(parts.values())})
    return rows
