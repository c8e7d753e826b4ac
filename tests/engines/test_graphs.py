"""What is compiled, how often, and when no compiler is started at all."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import thalweg
from engines.rig import NAMES, build
from thalweg import optimizer as optimizer_module
from thalweg.engine import compiled, family, inductor, native
from thalweg.engine.native import build as build_module
from thalweg.engine.native import chunk as native_chunk
from thalweg.lab.bench_graphs import graphs_under_churn, graphs_under_scaling
from thalweg.lab.bench_probes import graph_count

#: A narrow gpt2 of three blocks. As in the true one every matrix has more than 4096 elements, every vector fewer.
BLOCK = [(80,), (80,), (80, 240), (240,), (80, 80), (80,), (80,), (80,), (80, 320), (320,), (320, 80), (80,)]
GPT2: list[tuple[int, ...]] = [(500, 80), (64, 80), *(3 * BLOCK), (80,), (80,)]
SRC = Path(thalweg.__file__).parents[1]
#: Whose every tensor goes to the foreach engine, as formulas over whole matrices do.
UNCOMPILED = [n for n in NAMES if (r := thalweg.get(n).recipe).scope == "matrix" and not r.asks]


def _compiled_by(opt: torch.optim.Optimizer, steps: int = 1) -> int:
    before = graph_count()
    for _ in range(steps):
        opt.step(loss=1.0)  # type: ignore[call-arg]
    return graph_count() - before


def _with_gradients(shapes: list[tuple[int, ...]]) -> list[Parameter]:
    params = [Parameter(torch.randn(shape)) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


@pytest.mark.parametrize(("name", "rotate"), [*((n, True) for n in NAMES), ("adamw", False), ("lamb", False)])
def test_no_graph_after_the_fifth_step(name: str, rotate: bool, few: None) -> None:
    """lr, weight_decay, betas and eps change at every step and gradients go missing, for fifty steps."""
    assert graphs_under_churn(name, engine="compiled", rotate=rotate) == 0
    assert graph_count() > 0 or name in UNCOMPILED


@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor"])
def test_no_graph_of_inductors_after_the_fifth_step(name: str, inductor_only: None) -> None:
    assert graphs_under_churn(name, engine="compiled") == 0


@pytest.mark.parametrize("name", ["adamw", "adams", "adafactor", "lamb"])
def test_four_times_the_tensors_compile_no_more(name: str, compiler: str) -> None:
    found = graphs_under_scaling(name, engine="compiled")
    assert found["tensors"] == [10, 40]
    assert 0 < found["graphs"][1] <= found["graphs"][0]


@pytest.mark.parametrize("name", NAMES)
def test_at_most_eight_graphs_for_a_transformer(name: str, few: None) -> None:
    compiled.forget()
    params = _with_gradients(GPT2)
    graphs = _compiled_by(build(name, {str(i): p for i, p in enumerate(params)}, "compiled"), 3)
    assert (0 if name in UNCOMPILED else 1) <= graphs <= 8


def test_every_pattern_of_missing_gradients(few: None) -> None:
    """All 2^5 subsets of five tensors, and more patterns than plans are kept."""
    params = _with_gradients([(3,), (4, 5), (6,), (2, 2), (9,)])
    opt = build("adamw", {str(i): p for i, p in enumerate(params)}, "compiled")
    assert compiled.PLANS < 32
    _compiled_by(opt, 2)
    grads = [p.grad for p in params]
    counts = [2] * len(params)
    before = graph_count()
    for pattern in range(32):
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            p.grad = g if pattern >> i & 1 else None
            counts[i] += pattern >> i & 1
        opt.step()
    assert graph_count() == before
    assert len(opt._compiled.plans) <= compiled.PLANS
    assert [int(opt.state[p]["step"]) for p in params] == counts


def test_different_step_counts_share_a_call(compiler: str) -> None:
    compiled.forget()
    params = _with_gradients([(3 + i,) for i in range(6)])
    opt = build("adamw", {str(i): p for i, p in enumerate(params)}, "compiled")
    grads = [p.grad for p in params]
    for i, p in enumerate(params):
        for q in params:
            q.grad = None
        p.grad = grads[i]
        for _ in range(i):  # tensor i is i steps ahead
            opt.step()
    for p, g in zip(params, grads, strict=True):
        p.grad = g
    opt.step()
    assert len({int(opt.state[p]["step"]) for p in params}) > 3
    assert _compiled_by(opt, 3) == 0
    plan = list(opt._compiled.plans.values())[-1]
    assert len(plan.chunks) == (1 if compiler == "native" else len(params) // inductor.CHUNK)


def test_kernels_are_shared_by_optimizers(compiler: str) -> None:
    """A second optimizer of the same recipe, over other shapes and numbers, compiles nothing."""
    first = build("adamw", {str(i): p for i, p in enumerate(_with_gradients([(3,), (4, 5), (7,)]))}, "compiled")
    first.step()
    second = thalweg.Optimizer(_with_gradients([(13,), (2, 9), (4,), (5,)]), "adamw", lr=0.3, engine="compiled")
    assert _compiled_by(second, 3) == 0


def _python(code: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_a_small_model_starts_no_compiler() -> None:
    """Nothing of the compiler is loaded that constructing a torch.optim.AdamW does not load (some of it, alas)."""
    code = """
import sys, torch{imports}
p = torch.nn.Parameter(torch.ones(8)); p.grad = torch.ones(8)
opt = {library}.AdamW([p])
for _ in range(3): opt.step()
assert p[0] < 1
parts = ("torch._inductor", "torch._dynamo", "torch._functorch", "triton")
print(*sorted(m for m in sys.modules if m.startswith(parts)))
"""
    theirs = set(_python(code.format(imports="", library="torch.optim")).split())
    ours = set(_python(code.format(imports=", thalweg", library="thalweg")).split())
    assert ours <= theirs
    assert "torch._inductor.compile_fx" not in ours


def test_importing_brings_in_nothing_heavy() -> None:
    code = """
import sys, torch
before = set(sys.modules)
import thalweg
new = {name.partition(".")[0] for name in set(sys.modules) - before}
extras = set("numpy sklearn typer rich optuna vl_convert jinja2 matplotlib scipy".split())
print(sorted(new & extras), "thalweg.lab" in sys.modules)
"""
    assert _python(code) == "[] False"


def _forget_the_compiler() -> None:
    compiled.available.cache_clear()
    build_module.compiler.cache_clear()


def test_without_a_compiler_auto_warns_once_and_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(optimizer_module, "_warned", set())
    _forget_the_compiler()
    try:
        shape = (1024, 1024)
        assert shape[0] * shape[1] >= optimizer_module.COMPILE_FROM
        p, q = Parameter(torch.ones(shape)), Parameter(torch.ones(shape))
        p.grad, q.grad = torch.full(shape, 0.1), torch.full(shape, 0.1)
        opt = thalweg.AdamW([p])
        with pytest.warns(RuntimeWarning, match=r"no C\+\+ compiler \(no-such-compiler\) was found.*foreach") as seen:
            opt.step()
        assert len(seen) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            opt.step()
            thalweg.AdamW([Parameter(torch.ones(shape))]).step()
            other = thalweg.AdamW([q], engine="foreach")
            other.step()
            other.step()
        assert opt.engine_in_use == "foreach"
        assert torch.equal(p, q)
        assert not opt._compiled.plans
    finally:
        _forget_the_compiler()


@pytest.mark.parametrize("name", ["adamw", "adams"])
def test_a_graph_that_does_not_compile_steps_no_tensor_twice(
    name: str, compiler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bfloat16 update fails to compile after the float32 one has run; both must have taken one step."""
    module = native if compiler == "native" else inductor
    whole = module.kernel

    def failing(key: family.Key, barrier: int | None) -> Any:
        kernel = whole(key, barrier)
        if barrier is not None or key.structure.cast is None:
            return kernel

        def fail(*arguments: Any) -> None:
            raise family.NotCompiled("refused by the test")

        return replace(kernel, code=fail)

    def stepped(engine: str) -> list[torch.Tensor]:
        params = [Parameter(torch.ones(8)), Parameter(torch.ones(8, dtype=torch.bfloat16))]
        for p in params:
            p.grad = torch.ones_like(p)
        opt = thalweg.Optimizer(params, name, lr=0.1, engine=engine)
        opt.step()
        return [t for p in params for t in (p.detach(), opt.state[p]["exp_avg"])]

    monkeypatch.setattr(optimizer_module, "COMPILE_FROM", 1)
    monkeypatch.setattr(optimizer_module, "_warned", set())
    monkeypatch.setattr(native_chunk if compiler == "native" else inductor, "kernel", failing)
    with pytest.warns(RuntimeWarning, match="compiling failed"):
        got = stepped("auto")
    for have, want in zip(got, stepped("reference"), strict=True):
        assert torch.allclose(have, want, rtol=1e-6)


def test_with_a_compiler_auto_compiles_large_models() -> None:
    opt = thalweg.AdamW([Parameter(torch.empty(optimizer_module.COMPILE_FROM))])
    assert opt.engine_in_use == "compiled"
    assert thalweg.AdamW([Parameter(torch.empty(optimizer_module.COMPILE_FROM - 1))]).engine_in_use == "foreach"


def test_kernels_use_all_cores_whatever_sizes_they_were_compiled_on(inductor_only: None) -> None:
    """A graph first met on tiny tensors serves large ones later, so inductor must not compile it for one core."""
    cache = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    before = set(cache.rglob("*.cpp"))
    p = Parameter(torch.ones(40))
    p.grad = torch.ones(40)
    recipe = thalweg.ADAMW.but(direction=thalweg.slots.Sign())  # a recipe that no other test compiles
    thalweg.Optimizer([p], recipe, lr=0.1, engine="compiled").step()
    kernels = [f.read_text() for f in set(cache.rglob("*.cpp")) - before]
    loops = [text for text in kernels if "omp for" in text or "void  kernel" in text]
    assert loops
    assert all("#pragma omp parallel" in text for text in loops)


@pytest.mark.parametrize(("parts", "state"), [(1, "float32"), (3, "float32"), (3, "int8")])
def test_whole_matrices_that_are_asked_for_alone_go_through_kernels(parts: int, state: str, compiler: str) -> None:
    """Muon: one kernel before the products and one after them, whatever the shapes, the parts and the storage."""
    compiled.forget()
    shapes = [(192, 64), (96, 96), (48, 128), (96, 8, 3, 3)]
    shapes = shapes if state == "float32" else shapes[:1]  # codecs have a graph for each length of blocks
    params = [[Parameter(torch.randn(shape)) for shape in shapes] for _ in range(2)]
    for a, b in zip(*params, strict=True):
        b.data.copy_(a.data)
    names = ("reference", "compiled")
    groups = [{"params": ps, "parts": parts} for ps in params]
    opts = [thalweg.Muon([g], state=state, engine=e) for g, e in zip(groups, names, strict=True)]
    before = graph_count()
    for _ in range(4):
        for a, b in zip(*params, strict=True):
            a.grad = b.grad = torch.randn_like(a)
        for opt in opts:
            opt.step()
    assert graph_count() - before == 2
    plan = next(iter(opts[1]._compiled.plans.values()))
    assert plan.leftover == []
    for a, b in zip(*params, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 if state == "int8" else 2e-5)
