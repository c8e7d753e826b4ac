"""What every test starts from: one seed, two threads, and no kernels left over from an earlier session."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch

# Where there is no accelerator, Triton's kernels run in its interpreter; it must know before it is imported.
if not torch.accelerator.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

import thalweg
from thalweg import registry
from thalweg.engine import inductor
from thalweg.engine.native import build

#: Where the processes of one run find their common cache of compiled kernels.
SHARED = "THALWEG_TEST_CACHE"
#: Tensors per call of a kernel in most tests.
FEW = 2


@pytest.fixture(scope="session", autouse=True)
def _fresh_compiler_cache() -> Iterator[None]:
    """Empty caches of kernels, thrown away afterwards: results must not depend on what this machine compiled before.

    The processes of one run share it, so that no kernel is compiled twice.
    """
    with pytest.MonkeyPatch.context() as patch:
        fresh = tempfile.TemporaryDirectory(prefix="thalweg-kernels-", ignore_cleanup_errors=True)
        with nullcontext(os.environ[SHARED]) if SHARED in os.environ else fresh as folder:
            for variable in ("TORCHINDUCTOR_CACHE_DIR", "THALWEG_CACHE_DIR"):
                patch.setenv(variable, os.path.join(folder, variable))
            yield


def pytest_configure(config: pytest.Config) -> None:
    """The process that hands out tests to others makes their common cache; they inherit its environment."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        os.environ[SHARED] = tempfile.mkdtemp(prefix="thalweg-kernels-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Throw the common cache away."""
    if SHARED in os.environ and not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(SHARED), ignore_errors=True)


@pytest.fixture(autouse=True)
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of fewer tensors: other code than the library's own chunk only in length, and much faster to compile.

    Tests marked ``own_chunk`` keep the library's.
    """
    if request.node.get_closest_marker("own_chunk") is None:
        monkeypatch.setattr(inductor, "CHUNK", FEW)


@pytest.fixture(autouse=True)
def _names() -> Iterator[None]:
    """Optimizers that a test defines are forgotten after it."""
    thalweg.list_optimizers()
    before = dict(registry._ENTRIES)
    yield
    registry._ENTRIES.clear()
    registry._ENTRIES.update(before)


@pytest.fixture
def inductor_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel by torch's compiler, as on an accelerator."""
    monkeypatch.setattr(build, "supported", lambda: False)


@pytest.fixture(params=["native", "inductor"])
def compiler(request: pytest.FixtureRequest) -> str:
    """Each compiler of the compiled engine in turn."""
    if request.param == "inductor":
        request.getfixturevalue("inductor_only")
    return request.param


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Seed and thread count, whatever the tests before have set."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
