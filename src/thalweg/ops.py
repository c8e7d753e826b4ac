"""The few operations that every engine must do in its own best way.

Formulas use ordinary tensor arithmetic for everything else; it works on tensors, on lists of tensors (``Many``)
and on recorded symbols alike.
"""

from __future__ import annotations

from typing import Any

from thalweg.engine.many import Many


def mix(a: Any, s: Any, b: Any, x: Any) -> Any:
    """``a*s + b*x``, the workhorse of every moving average; plain numbers 0 and 1 cost nothing."""
    if isinstance(b, (int, float)) and b == 0:
        return s if isinstance(a, (int, float)) and a == 1 else s * a
    if isinstance(s, Many):
        return s.mix(a, b, x)
    if isinstance(a, (int, float)) and a == 1:
        return s + x * b
    return s * a + x * b
