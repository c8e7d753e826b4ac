"""From what the user typed to a `Task`: a built-in's name, data of their own, or a model of their own.

Workers are separate processes, so a task travels as this reference and every worker loads it anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from thalweg.lab.errors import LabError, unknown
from thalweg.lab.tasks import Task, checks, digits, factors, files, gan, surfaces, tabular, text, vae

BUILTIN: dict[str, Callable[[], Task]] = {
    "digits": digits.build_digits,
    "mlp": digits.build_mlp,
    "vae": vae.build_vae,
    "chars": text.build_chars,
    "gru": text.build_gru,
    "diabetes": tabular.build_diabetes,
    "cancer": tabular.build_cancer,
    "wine": tabular.build_wine,
    "factors": factors.build_factors,
    "noisy": digits.build_noisy,
    "tail": digits.build_tail,
    "gan": gan.build_gan,
    "quadratic": surfaces.build_quadratic,
    "rosenbrock": surfaces.build_rosenbrock,
    "stall": checks.build_stall,
    "spike": checks.build_spike,
}
USER_DATA: dict[str, Callable[[Path], Task]] = {
    "mnist": files.build_mnist,
    "cifar10": files.build_cifar10,
    "text": text.build_user_text,
}
"""Tasks on data of the user's, given as ``name:path``."""
GROUP = "thalweg.tasks"
"""The entry point group in which installed packages offer tasks: a `Task`, or a function that returns one."""


def task_names() -> list[str]:
    """The built-in tasks, races first, in the order in which ``all`` runs them."""
    return list(BUILTIN)


def load_task(reference: str, steps: int | None = None) -> Task:
    """Load a task, with another number of steps if given.

    Args:
        reference: a built-in's name, ``mnist:DIR``, ``cifar10:DIR``, ``text:FILE``, ``file.py:function``, or the name
            of an entry point in the group ``thalweg.tasks``.
        steps: training steps of a run, at least 1; the task's own if None.

    Raises:
        LabError: there is no such task, or it cannot be loaded; the message names the remedy.
    """
    task = _find_task(reference)
    return task if steps is None else dataclasses.replace(task, steps=steps)


def source_digest(reference: str) -> str | None:
    """What tells a user's file from a changed one, so that a race is not resumed on another task.

    A file counts by its content; a folder of data by its files' names and sizes.
    """
    user, source = _user_data(reference), _split(reference)
    path = user[1] if user is not None else source[0] if source is not None else None
    if path is None:
        return None
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        content = repr([(file.name, file.stat().st_size) for file in files]).encode()
    else:
        content = path.read_bytes()
    return hashlib.sha256(content).hexdigest()[:16]


def _user_data(reference: str) -> tuple[Callable[[Path], Task], Path] | None:
    """The builder and the path of a task on data of the user's."""
    name, colon, path = reference.partition(":")
    return (USER_DATA[name], Path(path).expanduser()) if colon and name in USER_DATA else None


def _split(reference: str) -> tuple[Path, str] | None:
    """The file and the name in it of a task that a file of the user's defines."""
    path, colon, name = reference.rpartition(":")
    if colon and path.endswith(".py"):
        return Path(path), name
    return (Path(reference), "build_task") if reference.endswith(".py") else None


def _find_task(reference: str) -> Task:
    if reference in BUILTIN:
        return BUILTIN[reference]()
    user = _user_data(reference)
    if user is not None:
        build, path = user
        return build(path)
    source = _split(reference)
    if source is not None:
        path, name = source
        return _called(f"{path}:{name}", lambda: from_file(path, name))
    installed = {point.name: point for point in entry_points(group=GROUP)}
    if reference in installed:
        point: EntryPoint = installed[reference]
        return _called(f"entry point {reference} ({point.value})", point.load)
    error = unknown("task", reference, [*BUILTIN, *installed, *(f"{name}:PATH" for name in USER_DATA)])
    raise LabError(f"{error} A task of your own is given as file.py:build_task.")


def _called(source: str, find: Callable[[], object]) -> Task:
    """The task that something of the user's defines, or returns when called."""
    try:
        found = find()
        task = found() if callable(found) else found
    except LabError:
        raise
    except Exception as error:
        raise LabError(f"{source} could not be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(task, Task):
        raise LabError(f"{source} gave {type(task).__name__}, not a thalweg.lab.Task")
    return task


def from_file(path: Path, name: str) -> object:
    """What a file calls `name`; the file is imported under a name of its own."""
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
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise LabError(f"{path} defines no {name!r}; name the function that returns the task, as in {path}:build_task")
    return getattr(module, name)
