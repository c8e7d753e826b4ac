"""The few operations that every engine must do in its own best way.

Formulas use ordinary tensor arithmetic for everything else; it works on tensors, on lists of tensors (``Many``)
and on recorded symbols alike.
"""

from __future__ import annotations

from typing import Any

from thalweg.engine.many import Many


def mix(a: Any, s: Any, b: Any, x: Any, y: Any = None) -> Any:
    """``a*s + b*x`` (or ``a*s + b*x*y``), the workhorse of every moving average; plain 0 and 1 cost nothing."""
    if isinstance(b, (int, float)) and b == 0:
        return s if isinstance(a, (int, float)) and a == 1 else s * a
    if isinstance(s, Many) and y is not None:
        return s.mix(a, b, x, y)
    term = x * b if y is None else x * y * b
    return s + term if isinstance(a, (int, float)) and a == 1 else s * a + term
