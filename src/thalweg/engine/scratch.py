"""Memory for a step's large temporaries on the CPU, which serves one matrix after the other until the step ends.

What is freed in between goes back to the system, and each of its pages is cleared anew when it is asked for again: a
tenth of the time of Muon's step.
"""

from __future__ import annotations

import ctypes
import sys
from math import prod
from typing import Any

import torch
from torch import Tensor

#: Bytes below which the allocator of the system keeps what is freed.
SMALL = 1 << 20

_held: list[Any] = []


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """As ``torch.empty``, in memory that an earlier temporary of this step has left, if there is some of that size."""
    size = prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < SMALL:
        return torch.empty(shape, dtype=dtype, device=device)
    # Tensors hold a reference to the memory they lie in: without one, it is free.
    memory = next((m for m in _held if size <= len(m) <= 2 * size and sys.getrefcount(m) == _FREE), None)
    if memory is None:
        memory = _lasting(size)
        _held.append(memory)
    return torch.frombuffer(memory, dtype=dtype, count=prod(shape)).view(shape)


def clear() -> None:
    """The step has ended; what is in use still lives on."""
    _held.clear()


def _lasting(size: int) -> Any:
    whole = torch.empty(size, dtype=torch.uint8)
    memory = (ctypes.c_char * size).from_address(whole.data_ptr())
    memory.whole = whole  # type: ignore[attr-defined]
    return memory


def _free() -> int:
    """What ``empty`` counts where no tensor lies in the memory."""
    held = [_lasting(1)]
    return next(sys.getrefcount(m) for m in held)


_FREE = _free()
