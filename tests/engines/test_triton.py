"""Kernels for accelerators, in Triton's interpreter on the CPU, compiled for an accelerator, and on one if there is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import thalweg
from engines.rig import LAYOUTS, NAMES, build, everything, parameters, run, set_gradients, worst_error
from thalweg.engine import native, triton
from thalweg.engine.triton import chunk

STEPS = 4
TESTS = Path(__file__).parents[1]
FLOAT32 = 2e-5
#: What inductor or foreach does: formulas along axes or of whole matrices.
LEFT = {
    *("adafactor", "adafactor_bv", "adafactor_torch", "adammini", "adamw2", "muon", "sm3", "smmf", "soap"),
}
SERVED = [name for name in NAMES if name not in LEFT]
ACCELERATOR = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
interpreted = pytest.mark.skipif(
    ACCELERATOR is not None, reason="triton compiles for the accelerator here, so it cannot interpret"
)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Triton's kernels for tensors of the CPU."""
    monkeypatch.setattr(native, "key", lambda work: None)
    monkeypatch.setattr(chunk, "DEVICES", {"cpu"})
    yield
    triton.kernel.cache_clear()
    triton.source.cache_clear()
    chunk._writable.cache_clear()


def all_by_triton(opt: thalweg.Optimizer) -> bool:
    """Whether every tensor of every step went through Triton's kernels."""
    plans = opt._compiled.plans.values()
    return bool(plans) and all(
        not plan.leftover and all(isinstance(each, chunk.Chunk) for each in plan.chunks) for plan in plans
    )


DENSE = tuple(name for name in LAYOUTS if name != "gaps")


@cache
def _reference(name: str, layouts: tuple[str, ...]) -> tuple[dict[str, Tensor], dict[str, float]]:
    params = parameters(layouts=layouts)
    sizes: dict[str, float] = {}
    opt = run(name, "reference", params, STEPS, two_groups=True, sizes=sizes)
    return everything(opt, params), sizes


@needs_triton
@interpreted
@pytest.mark.parametrize("name", SERVED)
def test_every_layout(name: str, on_cpu: None, record_property: Callable[[str, object], None]) -> None:
    """Two groups, every layout that fills its memory, tensors of less and of more than a tile."""
    params = parameters(layouts=DENSE)
    opt = run(name, "compiled", params, STEPS, two_groups=True)
    assert all_by_triton(opt)
    error, where = worst_error(everything(opt, params), *_reference(name, DENSE))
    record_property("error", error)
    assert error <= FLOAT32, where


@needs_triton
@interpreted
@pytest.mark.parametrize("name", sorted(LEFT - {"muon", "soap", "adamw2"}))
def test_what_is_left_to_inductor(name: str, on_cpu: None) -> None:
    params = parameters(layouts=("matrix", "large"))
    opt = run(name, "compiled", params, 1)
    assert not all_by_triton(opt)


def _shapes(dtype: torch.dtype) -> dict[str, Parameter]:
    """Blocks of 256 and 128, of a length that is no power of two, in a vector, and tensors too small for blocks."""
    shapes = {"rows": (40, 256), "odd": (20, 250), "vector": (9000,), "conv": (16, 100, 3, 3), "small": (30,)}
    generator = torch.Generator().manual_seed(3)
    return {
        name: Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        for name, shape in shapes.items()
    }


def _steps(name: str, engine: str, dtype: torch.dtype, count: int, **changes: Any) -> dict[str, Tensor]:
    params = _shapes(dtype)
    opt = build(name, params, engine, **changes)
    for t in range(1, count + 1):
        set_gradients(params, t)
        opt.step()
    assert engine != "compiled" or all_by_triton(opt)
    return everything(opt, params)


@needs_triton
@interpreted
@pytest.mark.parametrize("state", ["int8", "int4"])
@pytest.mark.parametrize("name", ["adamw", "lion", "lamb", "ademamix"])
def test_codes(name: str, state: str, on_cpu: None) -> None:
    """One step from zero; where shares differ in their last bits a few codes may be a neighbour's."""
    got, expected = (_steps(name, engine, torch.float32, 1, state=state) for engine in ("compiled", "reference"))
    for key, want in expected.items():
        if want.dtype == torch.uint8:
            assert (got[key] != want).float().mean() < 1e-3, key
        else:
            assert (got[key] - want).abs().max() <= FLOAT32 * want.abs().max().clamp(min=1e-30), key


@needs_triton
@interpreted
@pytest.mark.parametrize("state", ["int8", "int4"])
def test_codes_are_decoded(state: str, on_cpu: None) -> None:
    """More steps: parameters follow from what was stored. A neighbour's code changes one by up to half a step."""
    got, expected = (_steps("adamw", engine, torch.float32, 4, state=state) for engine in ("compiled", "reference"))
    for key in _shapes(torch.float32):
        away = (got[key] - expected[key]).abs()
        assert (away > FLOAT32).float().mean() < 1e-3, key
        assert away.max() <= 0.05, key


@needs_triton
@interpreted
@pytest.mark.parametrize("changes", [{"rounding": "stochastic"}, {"rounding": "stochastic", "state": "int8"}, {}])
def test_bfloat16_parameters(changes: dict[str, Any], on_cpu: None) -> None:
    """At random by the same hash, so to the bit but where arithmetic differs in its last bits."""
    got, expected = (_steps("adamw", engine, torch.bfloat16, 1, **changes) for engine in ("compiled", "reference"))
    for key in _shapes(torch.bfloat16):
        away = (got[key].double() - expected[key].double()).abs() / expected[key].double().abs()
        assert (away > 0).float().mean() < (1e-3 if changes else 1), key
        assert away.max() <= 2.0**-7, key


@needs_triton
@interpreted
@pytest.mark.parametrize("how", [{"rounding": "kahan"}, {"state": "bfloat16"}])
def test_half_precision_state(how: dict[str, Any], on_cpu: None) -> None:
    dtype = torch.float32 if "state" in how else torch.bfloat16
    got, expected = (_steps("adamw", engine, dtype, 1, **how) for engine in ("compiled", "reference"))
    for key, want in expected.items():
        if "compensation" in key:
            key = key.split(".")[0]  # only with its parameter does it mean something
            total = [found[key].double() + found[f"{key}.compensation"].double() for found in (got, expected)]
            assert (total[0] - total[1]).abs().max() <= 2e-4
        else:
            away = (got[key].double() - want.double()).abs()
            assert (away <= 2.0**-7 * want.double().abs()).all(), key


@needs_triton
@interpreted
def test_not_a_number_and_infinity(on_cpu: None) -> None:
    """A maximum over a tensor does not lose NaN, and rounding at random keeps infinities."""
    for value in (float("nan"), float("inf")):
        found = {}
        for engine in ("compiled", "reference"):
            p = Parameter(torch.linspace(-1, 1, 5000).bfloat16())
            opt = thalweg.AdamW([p], engine=engine, rounding="stochastic")
            p.grad = torch.ones_like(p)
            p.grad[4321] = value
            opt.step()
            found[engine] = p.detach().clone()
        assert torch.equal(found["compiled"].isnan(), found["reference"].isnan())
        assert found["compiled"].isnan()[4321] or found["compiled"].isfinite().all()


@needs_triton
@interpreted
def test_gradients_are_found_anew(on_cpu: None) -> None:
    """New gradient tensors, one of another layout, and views that are not aligned."""
    memory = torch.zeros(2049)
    p = Parameter(memory[1:])
    q = Parameter(torch.zeros(6, 4))
    opt = thalweg.SGD([p, q], lr=1.0, engine="compiled")
    for t in range(3):
        p.grad = torch.full((2048,), float(t))
        q.grad = torch.arange(24.0).reshape(4, 6).t()
        opt.step()
    assert torch.equal(p, torch.full((2048,), -3.0))
    assert torch.equal(q, -3 * torch.arange(24.0).reshape(4, 6).t())
    assert memory[0] == 0


@needs_triton
@interpreted
def test_what_does_not_launch_is_left_to_foreach(on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused:
        def __getitem__(self, grid: Any) -> Any:
            raise RuntimeError("no such device\nand more about it")

    monkeypatch.setattr(chunk, "functions_of", lambda text: dict.fromkeys(("tiles", "tensors"), Refused()))
    p = Parameter(torch.ones(1 << 20))
    p.grad = torch.ones_like(p)
    opt = thalweg.SGD([p], lr=0.5)
    with pytest.warns(RuntimeWarning, match="no such device"):
        opt.step()
    assert torch.equal(p, torch.full_like(p, 0.5))
    strict = thalweg.SGD([p], lr=0.5, engine="compiled")
    with pytest.raises(RuntimeError, match="did not compile"):
        strict.step()


@needs_triton
@interpreted
def test_what_fails_after_something_was_stored_is_not_taken_again(
    on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers that are state are stored by a launch of their own, when the parameter has moved already."""
    made = chunk.functions_of

    def broken(text: str) -> dict[str, Any]:
        return made(text) | ({"tensors": None} if "def tensors(table, later)" in text else {})

    monkeypatch.setattr(chunk, "functions_of", broken)
    p = Parameter(torch.ones(100))
    p.grad = torch.ones_like(p)
    with pytest.raises(TypeError):
        thalweg.create("adamnorm", [p], engine="compiled").step()


@needs_triton
@pytest.mark.parametrize(
    ("spec", "vectors"),
    [("adamw", 14), ("lamb", 8), ("ldog", 4), ("adamw:int8", 6), ("adamw:int4", 6), ("adamw:bfloat16", 6)],
)
def test_compiled_for_an_accelerator(spec: str, vectors: int) -> None:
    """For one that is not here (compute capability 9.0): four numbers at a time, and all in registers.

    A thread has eight elements, so a float32 tensor takes it two instructions to read, and two to write.
    """
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    script = [sys.executable, "-m", "engines.triton_offline", spec]
    done = subprocess.run(script, capture_output=True, text=True, cwd=TESTS, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    kernels = json.loads(done.stdout)
    assert kernels
    for kernel in kernels:
        assert kernel["stack"] == 0
        assert kernel["registers"] <= 128
        assert kernel["name"] == "tensors" or kernel["vectors"] >= vectors


@pytest.mark.gpu
@pytest.mark.skipif(ACCELERATOR is None, reason="no accelerator")
@pytest.mark.parametrize("name", NAMES)
def test_on_an_accelerator(name: str) -> None:
    """The steps of the reference engine on the CPU."""
    layouts = DENSE
    params = {key: Parameter(p.detach().to(ACCELERATOR)) for key, p in parameters(layouts=layouts).items()}
    opt = run(name, "compiled", params, STEPS, two_groups=True)
    found = {key: value.cpu() for key, value in everything(opt, params).items()}
    expected, sizes = _reference(name, layouts)
    error, where = worst_error(found, expected, sizes)
    assert error <= 1e-4, where
