"""Small tables on their way to a device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def upload(numbers: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers as a tensor of a device, without waiting for the device: they are copied from memory that stays put.

    The memory is given out again only when the copy has been made, which torch's allocator of pinned memory sees to.
    """
    if device.type == "cpu":
        return torch.tensor(numbers, dtype=dtype)
    pinned = torch.tensor(numbers, dtype=dtype, pin_memory=True)
    return pinned.to(device, non_blocking=True)


def capturing(device: torch.device) -> bool:
    """Whether what a device is told now is written down for later instead of done."""
    asked = None if device.type == "cpu" else torch.get_device_module(device)
    return asked is not None and hasattr(asked, "is_current_stream_capturing") and asked.is_current_stream_capturing()
