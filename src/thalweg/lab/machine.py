"""Where the numbers come from: the machine and the versions, printed in every report."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

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
    for package in ("numpy", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def describe() -> dict[str, str | int]:
    """The machine, for the report."""
    return {"processor": processor(), "cores": cores(), "system": platform.platform(terse=True)}
