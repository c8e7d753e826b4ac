"""Where the numbers come from: the machine and the versions, printed in every report."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from thalweg._version import __version__


def cores() -> int:
    """Cores this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor by the name its maker gives it."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions that can change a result; a race is resumed with the same ones only."""
    found = {"thalweg": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for package in ("numpy", "scipy", "scikit-learn", "optuna"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def describe() -> dict[str, str | int]:
    """The machine, for the report."""
    return {"processor": processor(), "cores": cores(), "system": f"{platform.system()} {platform.machine()}"}


@cache
def host() -> str:
    """Tells this machine from every other one, and containers that share it; processes can be looked up within."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def pid() -> list[Any]:
    """This process, told from later ones of the same number by when it started."""
    return [os.getpid(), _started(os.getpid())]


def exists(process: Sequence[Any]) -> bool:
    """Whether a process of this machine, as given by `pid`, still runs."""
    number, started = process
    if started is not None:
        return _started(number) == started
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started(number: int) -> str | None:
    """When a process started, in the kernel's ticks; None where it is gone, a zombie, or there is no /proc."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
