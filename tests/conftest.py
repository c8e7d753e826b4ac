"""What every test starts from: one seed, two threads, and no kernels left over from an earlier session."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _fresh_compiler_cache() -> Iterator[None]:
    """An empty inductor cache, thrown away afterwards: results must not depend on what this machine compiled before."""
    fresh = tempfile.TemporaryDirectory(prefix="thalweg-inductor-", ignore_cleanup_errors=True)
    with fresh as folder, pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "TORCHINDUCTOR_CACHE_DIR", folder)
        yield


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Seed and thread count, whatever the tests before have set."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
