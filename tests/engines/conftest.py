"""Fixtures of the engine tests."""

from __future__ import annotations

import pytest

from engines.rig import FEW
from thalweg.engine import compiled


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of fewer tensors: other code than the library's own chunk only in length, and much faster to compile."""
    monkeypatch.setattr(compiled, "CHUNK", FEW)
