"""Kernels in C++ of our own: arithmetic, codes, tails and pieces, threads, and what is kept on disk."""

from __future__ import annotations

import ctypes
import math
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import thalweg
from engines.rig import NAMES, build, set_gradients
from thalweg.codecs import Blockwise, codebook
from thalweg.engine import compiled, native, scratch
from thalweg.engine.native import build as build_module
from thalweg.engine.native import chunk as chunk_module
from thalweg.engine.native import loops, tables
from thalweg.engine.native.chunk import Chunk
from thalweg.engine.native.source import book_name, encoded, tabled

SRC = Path(thalweg.__file__).parents[1]
pytestmark = pytest.mark.skipif(not build_module.supported(), reason="native kernels need Linux and a C++ compiler")


def _source(body: str, dtype: torch.dtype = torch.float32, books: tuple[Blockwise, ...] = ()) -> str:
    """A source whose ``run`` goes over vectors at ``p`` (of n numbers) and ``q`` into ``to``."""
    double = dtype == torch.float64
    kept = "\n".join(line for c in books for line in tables.book(book_name(c), c.bits, c.signed))
    return f"""{"typedef double T;" if double else "typedef float T;"}
{"#define DOUBLE" if double else ""}
{loops._header("vectors.hpp")}
{"" if double else loops._header("codes.hpp")}
{kept}
extern "C" void run(int64_t n, const T* p, const T* q, void* to, uint8_t* codes, void*, void*) {{
  for (int64_t o = 0; o < n; o += W) {{ const V x = load<false>(p + o, W), y = load<false>(q + o, W); {body} }}
}}"""


def _over(body: str, x: Tensor, y: Tensor | None = None, **more: Any) -> tuple[Tensor, Tensor]:
    """What such a source leaves in ``to`` and ``codes``."""
    numbers = -(-x.numel() // 16) * 16
    padded = [torch.nn.functional.pad(t, (0, numbers - t.numel())) for t in (x, x if y is None else y)]
    out, codes = torch.empty_like(padded[0]), torch.empty(numbers, dtype=torch.uint8)
    run = build_module.load(_source(body, x.dtype, **more))
    run(numbers, *(t.data_ptr() for t in (*padded, out, codes)), None, None)
    return out[: x.numel()], codes[: x.numel()]


EDGES = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38, -3e38, 88.0, -88.0, -100.0, -104.0, math.inf, -math.inf, math.nan]
FUNCTIONS = {
    "root": torch.sqrt,
    "size": torch.abs,
    "sign": torch.sign,
    "positive": torch.relu,
    "whole": torch.floor,
    "exponential": torch.exp,
    "logarithm": torch.log,
    "logarithm1p": torch.log1p,
    "tangent_h": torch.tanh,
    "logistic": torch.sigmoid,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str, dtype: torch.dtype) -> None:
    """To two units in the last place, at the edges too; ``relu`` and ``abs`` to the bit."""
    x = torch.cat([torch.tensor(EDGES), torch.randn(1000) * 10, torch.rand(1000)]).to(dtype)
    got, _ = _over(f"store<false>((T*)to + o, {name}(x), W);", x)
    exact = FUNCTIONS[name](x.double())
    tolerance = 0 if name in ("size", "positive", "sign", "whole") else 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(got, exact.to(dtype), rtol=tolerance, atol=2e-45, equal_nan=True)


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_an_extremum_with_a_nan_is_one(name: str) -> None:
    a, b = torch.meshgrid(torch.tensor(EDGES), torch.tensor(EDGES), indexing="ij")
    call = {"maximum": "larger", "minimum": "smaller"}[name]
    got, _ = _over(f"store<false>((T*)to + o, {call}(x, y), W);", a.reshape(-1), b.reshape(-1))
    torch.testing.assert_close(got, getattr(torch, name)(a, b).reshape(-1), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("by", [3.0, -0.7, 1e-45, 1e-40, 1.2e-38, -1e-37, 7e37, 3e38, 0.0, math.inf, math.nan])
def test_division_by_a_number(by: float, dtype: torch.dtype) -> None:
    """To two units in the last place, however near the number is to the ends of the range."""
    x = torch.cat([torch.tensor(EDGES), torch.randn(100) * 10, torch.randn(100) * 1e-40]).to(dtype)
    divisor = float(torch.tensor(by, dtype=dtype))
    text = {"inf": "INFINITY", "nan": "NAN"}.get(str(divisor), repr(divisor))
    got, _ = _over(f"const Divisor by = T({text}); store<false>((T*)to + o, over(x, by), W);", x)
    exact = (x.double() / divisor if divisor else x.double() / torch.zeros(())).to(dtype)
    torch.testing.assert_close(got, exact, rtol=2 * torch.finfo(dtype).eps, atol=3e-45, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_division_by_a_root(dtype: torch.dtype) -> None:
    """To two units in the last place, over the whole range, and at its ends what division and root say."""
    ends = torch.tensor([0.0, -0.0, 1e-45, 1e-40, 1.2e-38, 3e38, -1.0, math.inf, math.nan], dtype=dtype)
    y = torch.cat([ends, 10 ** (70 * torch.rand(4000, dtype=torch.float64) - 35).to(dtype)])
    for x in (
        torch.randn(len(y)).to(dtype),
        torch.zeros(len(y), dtype=dtype),
        torch.full((len(y),), math.inf, dtype=dtype),
    ):
        got, _ = _over("store<false>((T*)to + o, over_root(x, y), W);", x, y)
        exact = (x.double() / y.double().sqrt()).to(dtype)
        torch.testing.assert_close(got, exact, rtol=2 * torch.finfo(dtype).eps, atol=0, equal_nan=True)


@pytest.mark.parametrize("bound", ["at_least", "at_most"])
def test_bounds(bound: str) -> None:
    x = torch.tensor([*EDGES, 0.4, 0.6])
    got, _ = _over(f"store<false>((T*)to + o, {bound}(x, T(0.5)), W);", x)
    assert torch.equal(got.nan_to_num(7), x.clamp(**{"min" if bound == "at_least" else "max": 0.5}).nan_to_num(7))


def test_bfloat16_is_rounded_to_nearest_even() -> None:
    bits = torch.arange(1 << 16, dtype=torch.int32) << 16
    x = torch.cat([bits.view(torch.float32), (bits + 0x8000).view(torch.float32), (bits + 0x8001).view(torch.float32)])
    got, _ = _over("store<false>((bfloat16*)to + o, x, W);", x)
    stored = got.view(torch.bfloat16)[: x.numel()] if got.numel() * 2 >= x.numel() else got.view(torch.bfloat16)
    torch.testing.assert_close(stored, x.to(torch.bfloat16)[: stored.numel()], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("codec", [Blockwise(b, s, 64) for b in (8, 4) for s in (True, False)], ids=str)
def test_codes_are_those_of_the_formula(codec: Blockwise) -> None:
    """The tables give the very codes of the piecewise linear formula, at either side of every border too."""
    book = torch.tensor(codebook(codec.bits, codec.signed))
    borders = (book[1:] + book[:-1]) / 2
    near = [borders * (1 + 1e-5), borders * (1 - 1e-5), book]
    shares = torch.cat([*near, torch.rand(5000), 10 ** (-8 * torch.rand(5000)), torch.zeros(1)]).clamp(-1, 1)
    if codec.signed:
        shares = torch.cat([shares, -shares])
    dynamic = tabled(codec)
    books = (codec,) if dynamic else ()
    name = book_name(codec)
    encode = encoded(codec, "x", f"places({name})")
    _, codes = _over(f"put<false>(codes + o, {{{encode}}}, W);", shares, books=books)
    assert torch.equal(codes.float(), codec.positions(shares))
    if dynamic:
        arguments = f"true, {2 ** (codec.bits - 1) - 1}" if codec.signed else "false, 0"
        place = "__builtin_convertvector(x, M)"
        decode = f"decoded<{arguments}>({place}, values({name}, 1))"
        values, _ = _over(f"store<false>((T*)to + o, {decode}, W);", torch.arange(len(book)).float(), books=books)
        torch.testing.assert_close(values, book, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_but_those_that_multiply_matrices_is_native(name: str) -> None:
    """On a CPU, for vectors and matrices; so no step of theirs waits for torch's compiler."""
    params = {"matrix": Parameter(torch.randn(6, 40)), "vector": Parameter(torch.randn(9))}
    opt = build(name, params, "compiled")
    set_gradients(params, 1)
    opt.step(loss=1.0)
    recipes = [opt.recipe_of(group) for group in opt.param_groups]
    served = [chunk for plan in opt._compiled.plans.values() for chunk in plan.chunks]
    assert all(isinstance(chunk, Chunk) for chunk in served)
    multiplies = any(recipe.scope == "matrix" and not recipe.asks for recipe in recipes)
    assert (sum(chunk.count for chunk in served) == 2) != multiplies


def _stepped(name: str, shape: tuple[int, ...], threads: int, engine: str = "compiled", **options: Any) -> list[Tensor]:
    torch.manual_seed(0)
    p = Parameter(torch.randn(shape))
    opt = thalweg.create(name, [p], engine=engine, **options)
    torch.set_num_threads(threads)
    for t in range(2):
        p.grad = torch.randn(shape, generator=torch.Generator().manual_seed(t))
        opt.step(loss=1.0)
    return [p.detach(), *(s for role, s in opt.state[p].items() if role != "step")]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adafactor", {}),
        ("adafactor", {"eps": (0.0, 1e-3)}),
        ("adafactor_torch", {}),
        ("adafactor_torch", {"eps": (0.0, 1e-3)}),
        ("adafactor_torch", {"eps": (0.3, 1e-3)}),  # more than the roots of all products
        ("adafactor_bv", {"min_dim_size_to_factor": 2}),
    ],
)
def test_roots_of_products_are_products_of_roots(name: str, options: dict[str, Any]) -> None:
    """A row and a column without gradients too, and one with small ones."""

    def stepped(engine: str) -> list[Tensor]:
        p = Parameter(torch.randn(40, 70, generator=torch.Generator().manual_seed(0)))
        opt = thalweg.create(name, [p], engine=engine, **options)
        for t in range(3):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(t))
            p.grad[3], p.grad[:, 5] = 0.0, 0.0
            p.grad[7] *= 1e-12
            opt.step()
        return [p.detach(), *(s for role, s in opt.state[p].items() if role != "step")]

    for fast, plain in zip(stepped("compiled"), stepped("reference"), strict=True):
        assert bool(fast.isfinite().all())
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("state", ["float32", "int8", "int4", "bfloat16"])
@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor", "sm3", "prodigy", "smmf"])
def test_the_number_of_threads_changes_no_bit(name: str, state: str) -> None:
    """Several pieces, and a last one that is shorter."""
    shape = (700, 512)
    assert math.prod(shape) > 2 * loops.TASK
    one, two = (_stepped(name, shape, threads, state=state) for threads in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


#: Recipes that see rows, and keep something that is stored in codes.
IN_ROWS: dict[str, dict[str, Any]] = {
    "sm3": {"momentum": 0.9},
    "adammini": {},
    "adafactor_bv": {"momentum": 0.9},
    "adamw": {"techniques": ["agc"]},
    "lion": {"techniques": ["centralise"]},
    "lamb": {"techniques": ["norm_loss"]},
}


@pytest.mark.parametrize("state", ["int8", "int4"])
@pytest.mark.parametrize("name", IN_ROWS)
def test_codes_of_rows(name: str, state: str) -> None:
    """Rows of several blocks, of one, and of blocks of a length that is no power of two; two steps."""

    def stepped(engine: str) -> tuple[list[dict[str, Tensor]], list[Parameter]]:
        shapes = [(40, 768), (300, 64), (20, 250), *([] if name in ("sm3", "adafactor_bv") else [(24, 32, 3, 3)])]
        generator = torch.Generator().manual_seed(0)
        params = [Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        opt = thalweg.create(name, params, engine=engine, state=state, lr=0.05, **IN_ROWS[name])
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        opt.step()
        states = [{role: s.clone() for role, s in opt.state[p].items()} for p in params]
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        opt.step()
        if engine == "compiled":
            (plan,) = opt._compiled.plans.values()
            assert not plan.leftover
            assert sum(each.count for each in plan.chunks if isinstance(each, Chunk)) == len(shapes)
        assert all(any(s.dtype == torch.uint8 for s in each.values()) for each in states)
        return states, params

    (fast, moved), (plain, expected) = stepped("compiled"), stepped("reference")
    for mine, theirs in zip(fast, plain, strict=True):
        for role, state_tensor in theirs.items():
            if state_tensor.dtype == torch.uint8:  # where shares differ in their last bits, a neighbour's code
                assert (mine[role] != state_tensor).float().mean() < 2e-3, role
            else:
                torch.testing.assert_close(mine[role], state_tensor, rtol=2e-5, atol=1e-7)
    for p, q in zip(moved, expected, strict=True):
        assert ((p - q).abs() > 2e-5).float().mean() < 2e-3


@pytest.mark.parametrize("state", ["float32", "int8", "bfloat16"])
@pytest.mark.parametrize("name", ["adamw", "dog", "adafactor", "smmf"])
def test_asking_for_memory_ahead_changes_no_bit(name: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Intel's processors, in all passes, and on others, in those that read one tensor."""
    load, found = build_module.load, []
    for intels in (True, False):
        texts: list[str] = []
        monkeypatch.setattr(loops, "is_intels", lambda intels=intels: intels)
        monkeypatch.setattr(build_module, "load", lambda text, texts=texts: texts.append(text) or load(text))
        compiled.forget()
        found.append(_stepped(name, (70, 512), 2, state=state))
        assert texts
        assert all("AHEAD = 1024;" in text for text in texts if "AHEAD" in text) == intels
    compiled.forget()
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", ["lamb", "ldog", "am_adamw", "adafactor", "adafactor_torch", "adammini"])
def test_sets_of_tensors_change_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which tensors pass their barriers together within the call is not seen in the results."""
    shapes = [(300, 700), (64, 96), (33, 17), (96,), (5,), (1, 7), (400, 3)]

    def stepped(elements: int) -> tuple[list[Tensor], int]:
        monkeypatch.setattr(chunk_module, "PASSES_ELEMENTS", elements)
        params = {
            str(shape): Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0))) for shape in shapes
        }
        opt = build(name, params, "compiled")
        for t in range(3):
            set_gradients(params, t)
            opt.step()
        sets = [c.sets or [] for plan in opt._compiled.plans.values() for c in plan.chunks if isinstance(c, Chunk)]
        state = [s for p in params.values() for s in opt.state[p].values()]
        return [*params.values(), *state], max(map(len, sets))

    (apart, many), (together, one) = stepped(0), stepped(1 << 30)
    assert many > 2
    assert one == 1
    assert all(torch.equal(a, b) for a, b in zip(apart, together, strict=True))


@pytest.mark.parametrize("shape", [(100, 30), (101, 30), (50, 5, 4), (30, 100)])
def test_a_long_matrix_is_measured_in_pieces(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """What its Gram matrix tells needs no copy of it."""
    asked: list[int] = []
    empty = scratch.empty

    def note(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        asked.append(math.prod(shape))
        return empty(shape, dtype, device)

    monkeypatch.setattr(chunk_module, "PASSES_ELEMENTS", 900)
    monkeypatch.setattr(scratch, "empty", note)
    got, want = (_stepped("adamw2", shape, 1, engine) for engine in ("compiled", "reference"))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-6)
    assert max(asked) == (3000 if shape == (30, 100) else 900)


@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor", "smmf"])
@pytest.mark.parametrize("length", [*range(1, 36), 255, 257, 1023])
def test_every_tail(name: str, length: int) -> None:
    """Vectors and rows of any length: no element is left out, and none beyond the end is touched."""
    for shape in ((length,), (3, length)):
        got, want = (_stepped(name, shape, 1, engine) for engine in ("compiled", "reference"))
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("shape", [(300, 257), (64, 64), (13,), (7, 9), (5, 3, 3)])
def test_bits_of_the_square_view(shape: tuple[int, ...]) -> None:
    """Rows begin at whole bytes, and what fills up their last byte is zero: the very bytes of the formula."""
    found = []
    for engine in ("reference", "compiled"):
        p = Parameter(torch.zeros(shape))
        opt = thalweg.SMMF([p], engine=engine)
        p.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        opt.step()
        found.append(opt.state[p]["exp_avg_sign"])
    assert torch.equal(*found)


def test_nothing_beyond_a_tensor_is_written() -> None:
    """Parameters that are pieces of one memory, each with a neighbour that has no gradient."""
    memory = torch.arange(100.0)
    p, q = Parameter(memory[10:31]), Parameter(memory[33:34])
    p.grad, q.grad = torch.ones(21), torch.ones(1)
    thalweg.SGD([p, q], lr=1.0, engine="compiled").step()
    moved = memory != torch.arange(100.0)
    assert moved.nonzero().flatten().tolist() == [*range(10, 31), 33]


@pytest.mark.parametrize("name", ["sm3", "adamw", "lamb"])
def test_a_nan_stays_one(name: str) -> None:
    """A maximum over a row must not lose it."""
    p = Parameter(torch.ones(4, 40))
    p.grad = torch.ones(4, 40)
    p.grad[2, 33] = math.nan
    opt = thalweg.create(name, [p], engine="compiled")
    opt.step()
    q = Parameter(torch.ones(4, 40))
    q.grad = p.grad
    thalweg.create(name, [q], engine="reference").step()
    assert torch.equal(p.isnan(), q.isnan())
    assert p.isnan().any()


def test_state_that_is_not_read_is_stored_whole() -> None:
    """ASGD's average is overwritten without being read, past the caches where memory is aligned."""
    for offset in (0, 1, 5):
        memory = torch.randn(5000)
        p, q = (Parameter(memory.clone()[offset:]) for _ in range(2))
        opts = [thalweg.ASGD([w], engine=e) for w, e in ((p, "compiled"), (q, "reference"))]
        for w, opt in zip((p, q), opts, strict=True):
            w.grad = memory[offset:] * 0.1
            opt.step()
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
        assert torch.equal(opts[0].state[p]["ax"], p)


def test_half_precision_goes_to_inductor() -> None:
    p = Parameter(torch.ones(300, dtype=torch.float16))
    p.grad = torch.ones_like(p)
    opt = thalweg.SGD([p], lr=0.5, engine="compiled")
    opt.step()
    assert not any(isinstance(c, Chunk) for plan in opt._compiled.plans.values() for c in plan.chunks)
    assert (p == 0.5).all()


STEP = """
import torch, thalweg, sys
p = torch.nn.Parameter(torch.ones(3, 50)); p.grad = torch.ones_like(p)
thalweg.LAMB([p], engine="compiled").step()
from thalweg.engine.native import build
print(build.found, build.made, float(p[0, 0]), "torch._inductor.compile_fx" in sys.modules)
"""


def _process(folder: Path) -> list[str]:
    env = {**os.environ, "PYTHONPATH": str(SRC), "THALWEG_CACHE_DIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", STEP], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    first, second = _process(tmp_path), _process(tmp_path)
    assert first[:2] == ["0", "3"]
    assert second[:2] == ["3", "0"]
    assert first[2] == second[2]
    assert first[3] == second[3] == "False", "torch's compiler is not even imported"
    assert not list(tmp_path.glob("tmp*")), "what was compiled in is gone"


def test_a_damaged_kernel_is_made_anew(tmp_path: Path) -> None:
    _process(tmp_path)
    for kernel in tmp_path.glob("*.so"):
        kernel.write_bytes(kernel.read_bytes()[:100])
    assert _process(tmp_path)[:2] == ["0", "3"]
    assert _process(tmp_path)[:2] == ["3", "0"]


def test_a_folder_that_cannot_be_used_is_done_without(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert _process(blocked / "below")[:2] == ["0", "3"]


def test_the_package_holds_its_sources() -> None:
    """What is installed from a wheel must not lack what only a checkout has."""
    folder = Path(native.__file__).parent
    patterns = tomllib.loads((SRC.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "thalweg"
    ]
    packed = {path for pattern in patterns for path in (SRC / "thalweg").glob(pattern)}
    assert {path for path in folder.iterdir() if path.suffix in (".cpp", ".hpp")} <= packed


def test_a_source_that_does_not_compile_says_why() -> None:
    with pytest.raises(build_module.BuildError, match="nonsense"):
        build_module.load("nonsense")


def test_kernels_share_torchs_threads() -> None:
    """Two pools of threads would fight for the cores."""
    library = build_module._threads()
    if library is None:
        pytest.skip("torch has loaded no OpenMP library of GCC's here")

    def libraries() -> set[str]:
        maps = Path("/proc/self/maps").read_text().splitlines()
        return {line.rpartition(" ")[2] for line in maps if "libgomp" in line}

    before = libraries()
    build_module.load(_source("/* one that no other test loads */"))
    assert libraries() == before
    assert library in before
    assert ctypes.CDLL(library).omp_get_max_threads() == torch.get_num_threads()


def test_kernels_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    _stepped("adamw", (10,), 1)
    assert native.kernel.cache_info().currsize
    compiled.forget()
    assert not native.kernel.cache_info().currsize
