"""What some choices between equal results depend on: whose processor this is."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def is_intels() -> bool:
    """Whether the processor is one of Intel's; where nothing says so it is not."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False  # another system
