"""Compiling generated C++ and loading it; what was compiled once is kept on disk, for later processes."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from thalweg.engine.family import NotCompiled

FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-w")


#: Kernels that this process has found on disk, and that it has compiled.
found = made = 0


class BuildError(NotCompiled):
    """The compiler refused a source, or what it made could not be loaded."""


@cache
def compiler() -> str | None:
    """The C++ compiler: ``$CXX``, ``g++`` or ``clang++``; None where there is none."""
    names = (os.environ.get("CXX"), "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def folder() -> Path:
    """Where compiled kernels are kept: ``$THALWEG_CACHE_DIR``, or ``thalweg`` in the user's cache."""
    if given := os.environ.get("THALWEG_CACHE_DIR"):
        return Path(given)
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches) / "thalweg"
    try:
        return Path.home() / ".cache" / "thalweg"
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir()) / f"thalweg-{os.getuid()}"


@cache
def _machine() -> str:
    """What code made for this machine must not be loaded without: its processor's features, and the compiler."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        features = platform.processor()
    version = subprocess.run([compiler() or "c++", "--version"], capture_output=True, text=True, check=False).stdout
    return f"{platform.machine()} {features} {compiler()} {version} {_threads()}"


@cache
def _threads() -> str | None:
    """The OpenMP library that torch has loaded: kernels must share its threads, not start some of their own."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    return next((p for line in lines if "libgomp" in (p := line.rpartition(" ")[2]) and os.path.exists(p)), None)


def _command(source: Path, target: Path) -> list[str]:
    native = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    wide = ["-mprefer-vector-width=512"] if platform.machine() == "x86_64" else []
    library = ["-Wl,--as-needed", threads] if (threads := _threads()) else []
    return [compiler() or "c++", *FLAGS, native, *wide, str(source), *library, "-o", str(target)]


def load(source: str) -> Callable[..., Any]:
    """The function ``run`` of a source, compiled now or in an earlier process. Raises ``BuildError``."""
    global found, made
    name = hashlib.sha256("\0".join((source, _machine(), *FLAGS)).encode()).hexdigest()[:32]
    kept = folder()
    target = kept / f"{name}.so"
    own = _own(kept)
    if own and target.exists():
        try:
            function = _loaded(target)
        except BuildError:
            target.unlink(missing_ok=True)  # cut short by a full disk, say
        else:
            found += 1
            return function
    made += 1
    with tempfile.TemporaryDirectory(dir=kept if own else None) as place:
        compiled = _compile(source, Path(place) / target.name)
        if not own:
            return _loaded(compiled)  # loaded code stays when its file goes
        # Renamed when complete, so that processes which share the folder never see half a file.
        os.replace(compiled, target)
    return _loaded(target)


@cache
def shipped(name: str) -> Callable[..., Any]:
    """The function ``run`` of a source that comes with the library. Raises ``BuildError``."""
    return load(files("thalweg.engine.native").joinpath(name).read_text())


def _own(kept: Path) -> bool:
    """Whether the folder can be written to, and is this user's: code that others left there is not to be loaded."""
    try:
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.access(kept, os.W_OK) and kept.stat().st_uid == os.getuid()
    except OSError:
        return False


def _compile(source: str, target: Path) -> Path:
    text = target.with_suffix(".cpp")
    text.write_text(source)
    done = subprocess.run(_command(text, target), capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line.partition("error: ")[2] for line in done.stderr.splitlines() if "error: " in line]
        raise BuildError((said or [f"{compiler()} ended with {done.returncode}"])[0])
    return target


def _loaded(path: Path) -> Callable[..., Any]:
    try:
        function = ctypes.CDLL(str(path)).run
    except (OSError, AttributeError) as error:
        raise BuildError(str(error)) from error
    function.restype = None
    function.argtypes = [ctypes.c_int64, *[ctypes.c_void_p] * 6]
    return function


def supported() -> bool:
    """Whether kernels can be made here: Linux with a compiler."""
    return sys.platform == "linux" and compiler() is not None
