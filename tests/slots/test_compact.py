"""Compact moments: what they keep, how bits are packed, torch's checkpoints, and where they do not fit."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import thalweg
from thalweg.engine import compiled
from thalweg.engine.view import reduce
from thalweg.slots.square import compress, expand
from thalweg.square import pack, square_shape, unpack


def _train(opt: Any, params: list[Parameter], start: int, steps: int, size: float = 1.0) -> None:
    for t in range(start, start + steps):
        generator = torch.Generator().manual_seed(t)
        for p in params:
            p.grad = (size * torch.randn(p.shape, generator=generator, dtype=torch.float64)).to(p.dtype)
        opt.step()


def _params(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


#: Bytes per parameter of a 512 x 1024 tensor in float32, by the formulas of the literature.
R, C = 512, 1024
N = R * C
VECTORS = 4 * (R + C) / N
SQUARE = 2 * 4 * sum(square_shape((R, C))) / N
BYTES: list[tuple[str, dict[str, Any], float]] = [
    ("adafactor", {}, VECTORS),
    ("adafactor", {"beta1": 0.9}, VECTORS + 4),
    ("adafactor", {"flatten_conv": True}, VECTORS),
    ("adafactor", {"factored": False}, 4),
    ("adafactor_torch", {}, VECTORS),
    ("adafactor_bv", {"momentum": None}, VECTORS),
    ("sm3", {"momentum": 0}, VECTORS),
    ("sm3", {}, VECTORS + 4),
    ("smmf", {}, SQUARE + 1 / 8),
    ("smmf", {"packed": False}, SQUARE + 1),
    ("smmf", {"beta": None}, SQUARE / 2),
    ("amos", {"eta": 1.0}, 2 * 4 / N),
    ("amos", {}, 3 * 4 / N),
    ("amos", {"eta": 1.0, "slots": "row"}, 2 * 4 * R / N),
    ("amos", {"eta": 1.0, "slots": "col"}, 2 * 4 * C / N),
    ("amos", {"eta": 1.0, "slots": "full", "momentum": 0.9}, 12),
    ("adamw", {"techniques": ["factored"]}, VECTORS + 4),
    ("adamw", {"techniques": ["sm3"]}, VECTORS + 4),
    ("adamw", {"techniques": ["smmf"]}, SQUARE / 2 + 4),
]


@pytest.mark.parametrize(("name", "options", "expected"), BYTES)
def test_state_bytes(name: str, options: dict[str, Any], expected: float) -> None:
    (p,) = _params((R, C))
    opt = thalweg.create(name, [p], engine="foreach", **options)
    _train(opt, [p], 1, 1)
    kept = sum(v.nbytes for k, v in opt.state[p].items() if k != "step")
    assert kept / N == pytest.approx(expected, rel=1e-12)
    assert opt.recipe.state_bytes((R, C)) == pytest.approx(expected, rel=1e-12)


def test_a_convolution_as_a_matrix() -> None:
    (p,) = _params((64, 32, 3, 3))
    flat, last = (thalweg.Adafactor([p], flatten_conv=f).recipe.state_bytes(tuple(p.shape)) for f in (True, False))
    assert flat == pytest.approx(4 * (64 + 288) / (64 * 288))
    assert last == pytest.approx(4 * 6 / 9)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 64])
def test_bits(count: int) -> None:
    """Bit j of a row's byte k is its element 8k+j; what fills up the last byte is zero."""
    bits = torch.rand(3, count, generator=torch.Generator().manual_seed(count)) > 0.5
    packed = pack(bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (3, math.ceil(count / 8))
    for row, found in zip(bits.tolist(), packed.tolist(), strict=True):
        assert found == [sum(int(b) << j for j, b in enumerate(row[k : k + 8])) for k in range(0, count, 8)]
    assert torch.equal(unpack(packed, bits), bits)


def test_square_views() -> None:
    assert square_shape((6, 6)) == (6, 6)
    assert square_shape((3, 2, 2)) == (4, 3)
    assert square_shape((13,)) == (13, 1)
    assert square_shape(()) == (1, 1)
    assert square_shape((0, 4)) == (0, 1)

    def compressed(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What an engine answers to ``compress``."""
        asking = compress(matrix)
        sums = tuple(reduce(r.value, r.over, r.how) for r in next(asking))
        with pytest.raises(StopIteration) as stop:
            asking.send(sums)
        return stop.value.value

    matrix = torch.rand(5, 3, dtype=torch.float64)
    rows, columns = compressed(matrix)
    torch.testing.assert_close(expand(rows, columns).sum(), matrix.sum())
    rank_one = matrix[:, :1] * matrix[:1]
    torch.testing.assert_close(expand(*compressed(rank_one)), rank_one)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_survive_a_file(packed: bool, dtype: torch.dtype) -> None:
    params = _params((6, 5), (7,), dtype=dtype)
    opt = thalweg.SMMF(params, lr=0.01, packed=packed)
    _train(opt, params, 1, 5)
    twins = [Parameter(p.detach().clone()) for p in params]
    fresh = thalweg.SMMF(twins, lr=0.01, packed=packed)
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    signs = fresh.state[twins[0]]["exp_avg_sign"]
    assert signs.dtype == (torch.uint8 if packed else torch.bool)
    assert fresh.state[twins[0]]["exp_avg_row"].dtype == torch.float32
    _train(opt, params, 6, 5)
    _train(fresh, twins, 6, 5)
    for p, q in zip(params, twins, strict=True):
        assert torch.equal(p, q)
        assert all(torch.equal(v, fresh.state[q][k]) for k, v in opt.state[p].items())


def test_packed_and_boolean_signs_take_the_same_steps() -> None:
    a, b = _params((6, 5), (7,), (2, 3, 2)), _params((6, 5), (7,), (2, 3, 2))
    _train(thalweg.SMMF(a, lr=0.1), a, 1, 10)
    _train(thalweg.SMMF(b, lr=0.1, packed=False), b, 1, 10)
    assert all(map(torch.equal, a, b))


@pytest.mark.parametrize("engine", ["reference", "foreach", "compiled"])
@pytest.mark.parametrize("size", [1.0, 1e-5])
def test_torchs_adafactor(engine: str, size: float) -> None:
    """Also where gradients are so small that the machine epsilon bites; its checkpoints continue here."""
    shapes = ((6, 5), (7,), (), (4, 3, 2, 2))
    ours, theirs = _params(*shapes), _params(*shapes)
    options: dict[str, Any] = {"lr": 0.03, "weight_decay": 0.1, "beta2_decay": -0.7, "d": 1.5}
    a = thalweg.AdafactorTorch(ours, engine=engine, **options)
    b = torch.optim.Adafactor(theirs, **options)
    for opt, params in ((a, ours), (b, theirs)):
        _train(opt, params, 1, 10, size)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=2e-5, atol=2e-6)
        assert {k: v.shape for k, v in a.state[p].items()} == {k: v.shape for k, v in b.state[q].items()}
    for p, q in zip(ours, theirs, strict=True):
        p.data.copy_(q.data)
    a.load_state_dict(copy.deepcopy(b.state_dict()))
    for opt, params in ((a, ours), (b, theirs)):
        _train(opt, params, 11, 10, size)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=2e-5, atol=2e-6)


def test_big_visions_adafactor_factors_the_later_of_equal_axes() -> None:
    (p,) = _params((2, 3, 2, 2))
    opt = thalweg.AdafactorBV([p], lr=0.1, min_dim_size_to_factor=2)
    _train(opt, [p], 1, 1)
    assert opt.state[p]["exp_avg_sq_r"].shape == (2, 1, 2, 2)
    assert opt.state[p]["exp_avg_sq_c"].shape == (2, 3, 2, 1)


def test_amos_takes_a_scale_for_every_parameter() -> None:
    params = _params((4, 4), (4,), (8, 4))
    opt = thalweg.Amos([("a", params[0]), ("b", params[1]), ("c", params[2])], lr=0.1, eta=lambda p: 0.1 * p.ndim)
    assert [(g["eta"], len(g["params"])) for g in opt.param_groups] == [(0.2, 2), (0.1, 1)]
    before = [p.detach().clone() for p in params]
    _train(opt, params, 1, 1)
    steps = [float((p.detach() - q).norm() / q.numel() ** 0.5) for p, q in zip(params, before, strict=True)]
    assert steps == pytest.approx([0.02, 0.01, 0.02], rel=0.5)
    with pytest.raises(ValueError, match="eta"):
        thalweg.Amos(params, eta=lambda p: -1.0)
    with pytest.raises(ValueError, match="eta"):
        opt.add_param_group({"params": [*zip("de", _params((2, 2), (2,)), strict=True)], "eta": lambda p: p.ndim - 1.0})
    assert len(opt.param_groups) == 2
    opt.add_param_group({"params": [*zip("de", _params((2, 2), (2,)), strict=True)], "eta": 0.7})
    assert opt.param_groups[2]["eta"] == 0.7


def test_amos_scales_by_shape() -> None:
    params = _params((8, 4, 3, 3), (8,))
    opt = thalweg.Amos(params)
    _train(opt, params, 1, 1)
    assert [float(opt.state[p]["scale"]) for p in params] == pytest.approx([math.sqrt(2 / 36), 0.5])


@pytest.mark.parametrize("name", ["factored", "sm3", "smmf"])
@pytest.mark.parametrize("engine", ["reference", "foreach", "compiled"])
def test_rank_one_squares_lose_nothing(name: str, engine: str) -> None:
    """With |g| of rank one the factors are exact, and the steps those of AdamW; the square view is the matrix itself.

    SM3's cover is exact for a constant |g| only.
    """
    g = torch.outer(torch.linspace(0.5, 2, 6), torch.linspace(-1, 3, 6))
    g = torch.full_like(g, -0.3) if name == "sm3" else g
    (a,), (b,) = _params((6, 6)), _params((6, 6))
    with_factors = thalweg.AdamW([a], lr=0.1, techniques=[name], engine=engine)
    plain = thalweg.AdamW([b], lr=0.1, engine=engine)
    for t in range(1, 6):
        for p, opt in ((a, with_factors), (b, plain)):
            p.grad = g / t
            opt.step()
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["factored", "sm3", "smmf"])
@pytest.mark.parametrize("base", ["lion", "sgd", "adafactor", "sm3"])
def test_techniques_need_a_plain_second_moment(name: str, base: str) -> None:
    with pytest.raises(ValueError, match="second moment"):
        thalweg.create(base, _params((2, 2)), techniques=[name])
    with pytest.raises(ValueError, match="second moment"):
        thalweg.Adam(_params((2, 2)), amsgrad=True, techniques=[name])


@pytest.mark.parametrize("engine", ["reference", "foreach"])
def test_the_square_view_follows_c_order(engine: str) -> None:
    plain = _params((4, 6))[0]
    odd = Parameter(plain.detach().t().contiguous().t())
    assert odd.stride() != plain.stride()
    for p in (plain, odd):
        _train(thalweg.SMMF([p], lr=0.1, engine=engine), [p], 1, 5)
    assert torch.equal(plain, odd)


def test_the_largest_axes_are_found_by_the_order_of_sizes_alone() -> None:
    """Shapes of one order share a kernel; a shape of another order, and one too small to factor, has its own."""
    factored = thalweg.Factored(axes="largest", least=4)
    alike = [factored.alike(shape) for shape in [(9, 5), (7, 4), (5, 9), (6, 6), (5, 3), (2, 2)]]
    assert (alike[0], alike[2], alike[4]) == (alike[1], alike[3], (1, 1))
    assert alike[5] == (1, 1)
    assert len(set(alike)) == 3
    for shape in [(9, 5), (5, 9), (6, 6), (5, 3), (8, 3, 9), (9, 9, 2, 9), (3, 4, 3)]:
        assert factored.averaged(factored.alike(shape)) == factored.averaged(shape), shape


@pytest.mark.parametrize("least", [0, 4])
def test_the_largest_axes_in_every_order_compiled(least: int) -> None:
    shapes = [(9, 5), (5, 9), (6, 6), (3, 7), (4, 8, 2), (8, 2, 4), (2, 4, 8)]
    params = {engine: _params(*shapes) for engine in ("reference", "compiled")}
    opts = {
        engine: thalweg.AdamW(ps, techniques=[thalweg.Factored(axes="largest", least=least)], engine=engine)
        for engine, ps in params.items()
    }
    for engine, opt in opts.items():
        _train(opt, params[engine], 1, 4)
    for a, b in zip(*params.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    plan = next(iter(opts["compiled"]._compiled.plans.values()))
    assert not plan.leftover


@pytest.mark.parametrize("name", ["adafactor", "adafactor_bv", "sm3"])
def test_a_kernel_first_met_on_a_square_matrix_fits_others(name: str) -> None:
    """Rows and columns of one length are still two axes; and axes of length one are axes."""
    compiled.forget()
    shapes = [(48, 48), (24, 48), (64, 32, 1, 1), (16, 1, 3, 3), (256, 256, 1, 1)]
    params = {engine: _params(*shapes) for engine in ("reference", "compiled")}
    opts: dict[str, Any] = {engine: thalweg.create(name, ps, engine=engine) for engine, ps in params.items()}
    for engine, opt in opts.items():
        _train(opt, params[engine], 1, 3)
    for a, b in zip(*params.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    plan = next(iter(opts["compiled"]._compiled.plans.values()))
    served = [place for chunk in plan.chunks for place in chunk.at]
    assert len(served) + len(plan.leftover) == len(shapes)
    assert plan.leftover == []
