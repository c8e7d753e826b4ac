"""From what the user typed to a `Task`: a built-in's name, or ``file.py:function`` for a model of their own.

Workers are separate processes, so a task travels as this reference and every worker loads it anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import sys
from pathlib import Path

from thalweg.lab import chars, digits
from thalweg.lab.errors import LabError, unknown
from thalweg.lab.tasks import Task

BUILTIN = {"digits": digits.build_task, "chars": chars.build_task}


def split_reference(reference: str) -> tuple[Path, str] | None:
    """The file and the name in it, or None for a built-in task."""
    path, colon, name = reference.rpartition(":")
    if colon and path.endswith(".py"):
        return Path(path), name
    if reference.endswith(".py"):
        return Path(reference), "build_task"
    return None


def load_task(reference: str, steps: int | None = None) -> Task:
    """Load a task, with another number of steps if given; `LabError` names the remedy where that cannot be done."""
    task = _find_task(reference)
    return task if steps is None else dataclasses.replace(task, steps=steps)


def _find_task(reference: str) -> Task:
    parts = split_reference(reference)
    if parts is None:
        if reference not in BUILTIN:
            error = unknown("task", reference, BUILTIN)
            raise LabError(f"{error} A task of your own is given as file.py:build_task.")
        return BUILTIN[reference]()
    path, name = parts
    if not path.is_file():
        raise LabError(f"no such task file: {path}")
    module_name = "thalweg_task_" + hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
        found = getattr(module, name, None)
        task = found() if callable(found) else found
    except LabError:
        raise
    except Exception as error:
        raise LabError(f"{path} could not be loaded: {type(error).__name__}: {error}") from error
    if found is None:
        raise LabError(f"{path} defines no {name!r}; name the function that returns the task, as in {path}:build_task")
    if not isinstance(task, Task):
        raise LabError(f"{path}:{name} gave {type(task).__name__}, not a thalweg.lab.Task")
    return task


def source_digest(reference: str) -> str | None:
    """A user's file by its content, so that a race is not resumed after the model was changed."""
    parts = split_reference(reference)
    return None if parts is None else hashlib.sha256(parts[0].read_bytes()).hexdigest()[:16]
