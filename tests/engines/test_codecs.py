"""State stored in half, a quarter and an eighth of float32, and bfloat16 weights that keep what rounding would lose."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import thalweg
from thalweg.codecs import CHOICES, LONGEST, Blockwise, block_length, codebook

SMALL = [choice for choice in CHOICES if choice != "float32"]
BLOCKWISE = [Blockwise(bits, signed, LONGEST[bits]) for bits in (8, 4) for signed in (True, False)]
#: Elements of each: coded in whole rows, in pieces of a row, as one row, as a convolution, and one too small to code.
SHAPES = [(64, 256), (24, 384), (4096,), (64, 12, 3, 3), (7,)]


def golden() -> dict[str, Any]:
    """The values of the codebooks on record."""
    records = json.loads((Path(__file__).parents[1] / "goldens" / "optimizers.json").read_text())
    return next(entry["table"] for entry in records["entries"] if entry["optimizer"] == "codebook")


def spread(codec: Blockwise) -> torch.Tensor:
    """Numbers over nine decades, in blocks; the first block is zero."""
    torch.manual_seed(0)
    x = torch.randn(512, codec.block) * 10 ** (-9 * torch.rand(512, codec.block))
    x[0] = 0
    return x if codec.signed else x.abs()


def train(
    name: str,
    engine: str = "foreach",
    steps: int = 6,
    dtype: torch.dtype = torch.float32,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    **options: Any,
) -> tuple[list[torch.nn.Parameter], thalweg.Optimizer]:
    """Steps on gradients that spread over decades, the same for every call."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes]
    optimizer = thalweg.create(name, params, engine=engine, **options)
    for step in range(steps):
        advance(optimizer, params, step)
    return params, optimizer


def advance(optimizer: thalweg.Optimizer, params: list[torch.nn.Parameter], step: int) -> None:
    noise = torch.Generator().manual_seed(step)
    for p in params:
        size = 10 ** torch.randn(p.shape, generator=noise)
        p.grad = (torch.randn(p.shape, generator=noise) * size).to(p.dtype)
    optimizer.step(loss=1.0)


@pytest.mark.parametrize("codec", BLOCKWISE, ids=str)
def test_codebook_is_the_goldens(codec: Blockwise) -> None:
    values = golden()
    book = codebook(codec.bits, codec.signed)
    assert len(book) == 2**codec.bits
    if codec.bits == 4:
        expected = values["signed4" if codec.signed else "unsigned4_linear_no_zero"]
        assert book == pytest.approx(expected, abs=1e-15)
    elif codec.signed:
        assert book[:8] == pytest.approx(values["signed8_first8"], abs=1e-15)
        assert book[124:132] == pytest.approx(values["signed8_mid"], abs=1e-15)
        assert book[-4:] == pytest.approx(values["signed8_last4"], abs=1e-15)
    else:
        assert book[:8] == pytest.approx(values["unsigned8_first8"], abs=1e-15)
        assert book[-4:] == pytest.approx(values["unsigned8_last4"], abs=1e-15)


@pytest.mark.parametrize("codec", BLOCKWISE, ids=str)
def test_codes_are_the_nearest_in_the_codebook(codec: Blockwise) -> None:
    x = spread(codec)
    codes, scale = codec.store(x)
    book = torch.tensor(codebook(codec.bits, codec.signed), dtype=torch.float64)
    share = x.double() / scale.double()
    place = torch.bucketize(share, (book[1:] + book[:-1]) / 2)
    if not codec.signed and codec.bits == 8:
        place = torch.where(share > 0, place.clamp(min=1), place)
    nearest = book[place]
    found = codec.decode(codes, scale).reshape(x.shape).double() / scale.double()
    # No farther off than the nearest one, but for the rounding of float32 where two are as near.
    assert ((found - share).abs() <= (nearest - share).abs() * (1 + 1e-5) + 1e-6).all()
    assert ((found - nearest).abs() < 1e-6).double().mean() > 0.9999
    if not codec.signed:
        assert (found[x > 0] > 0).all()


def test_edges() -> None:
    for codec in BLOCKWISE:
        zero = codec.decode(*codec.store(torch.zeros(2, codec.block)))
        assert (zero.abs() <= 1e-36).all()
        tiny = torch.full((2, codec.block), 1e-30)
        assert torch.allclose(codec.decode(*codec.store(tiny)).reshape(2, -1), tiny, rtol=0.01)
        poisoned = torch.ones(2, codec.block)
        poisoned[0, 3] = float("nan")
        back = codec.decode(*codec.store(poisoned)).reshape(2, -1)
        assert back[0].isnan().any()
        assert torch.allclose(back[1], torch.ones(codec.block))


def test_blocks_divide_rows() -> None:
    assert block_length((1024, 768), 8) == 256
    assert block_length((64, 12, 3, 3), 8) == 108
    assert block_length((1024, 768), 4) == 128
    assert block_length((5, 1031), 8) is None  # a prime: such a tensor keeps float32 state


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("adamw", "bfloat16"),
        ("adamw", "int8"),
        ("lion", "int4"),
        ("lamb", "int8"),
        ("muon", "int8"),
        ("adafactor_bv", "int4"),
    ],
)
def test_engines_agree(name: str, state: str) -> None:
    shapes = [shape for shape in SHAPES if shape != (24, 384)]  # every length of block is a kernel to compile
    if state == "int8":
        shapes = [(64, 256), (4096,), (7,)]
    reference, _ = train(name, "reference", state=state, shapes=shapes)
    for engine in ("foreach", "compiled"):
        params, _ = train(name, engine, state=state, shapes=shapes)
        for p, q in zip(reference, params, strict=True):
            # A number on the border of two codes may fall to either side; all others are equal.
            close = torch.isclose(p, q, rtol=2e-5, atol=2e-5)
            assert close.double().mean() > 0.999, (engine, p.shape)
            assert torch.allclose(p, q, atol=0.05)


@pytest.mark.parametrize("state", SMALL)
def test_every_optimizer_runs_with_small_state(state: str) -> None:
    for name in thalweg.list_optimizers():
        if name == "sparseadam":
            continue
        params, optimizer = train(name, steps=3, state=state)
        assert all(p.isfinite().all() for p in params), name
        layouts = [optimizer.layout_of(p, group) for group in optimizer.param_groups for p in group["params"]]
        full = thalweg.create(name, params).memory().per_parameter
        assert (optimizer.memory().per_parameter < full) == any(layout.codecs for layout in layouts), name


def test_bytes() -> None:
    def each(name: str, state: str) -> float:
        params = [torch.nn.Parameter(torch.randn(512, 1024))]
        optimizer = thalweg.create(name, params, state=state, engine="foreach")
        promised = sum(optimizer.memory().state.values())
        params[0].grad = torch.ones_like(params[0])
        optimizer.step()
        held = sum(t.nbytes for k, t in optimizer.state[params[0]].items() if k != "step")
        assert held == promised
        return held / params[0].numel()

    assert each("adamw", "float32") == 8
    assert each("adamw", "bfloat16") == 4
    assert each("adamw", "int8") <= 2.1
    assert each("adamw", "int4") <= 1.1
    assert each("lion", "int8") <= 1.1
    assert each("muon", "int8") <= 1.1


@pytest.mark.parametrize("state", SMALL)
def test_resumes_bit_for_bit(state: str) -> None:
    params, optimizer = train("adamw", state=state)
    saved = copy.deepcopy(optimizer.state_dict())
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = thalweg.AdamW(copies, state=state, engine="foreach")
    resumed.load_state_dict(saved)
    for step in (6, 7):
        advance(optimizer, params, step)
        advance(resumed, copies, step)
    for p, q in zip(params, copies, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("before", CHOICES)
@pytest.mark.parametrize("after", CHOICES)
def test_checkpoints_convert(before: str, after: str) -> None:
    params, optimizer = train("adamw", state=before)
    other = thalweg.AdamW(params, state=after, engine="foreach")
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert other.param_groups[0]["state"] == after
    switched = thalweg.AdamW(params, state=after, engine="foreach")
    assert other.memory() == switched.memory()
    other.param_groups[0]["state"] = "float32"
    advance(other, params, 6)
    coarse = {"float32": 1e-6, "bfloat16": 8e-3, "int8": 0.05, "int4": 0.3}
    tolerance = coarse[before] + coarse[after]
    optimizer.param_groups[0]["state"] = "float32"
    advance(optimizer, params, 6)
    for p in params:
        there, here = other.state[p]["exp_avg"], optimizer.state[p]["exp_avg"]
        assert here.dtype == there.dtype == torch.float32
        assert (there - here).abs().max() <= tolerance * here.abs().max()


def test_groups_choose_for_themselves() -> None:
    table, matrix = torch.nn.Parameter(torch.randn(64, 256)), torch.nn.Parameter(torch.randn(64, 256))
    optimizer = thalweg.AdamW([{"params": [table], "state": "float32"}, {"params": [matrix]}], state="int8")
    for p in (table, matrix):
        p.grad = torch.randn_like(p)
    optimizer.step()
    assert optimizer.state[table]["exp_avg"].dtype == torch.float32
    assert optimizer.state[matrix]["exp_avg"].dtype == torch.uint8
    assert "state=int8" in str(optimizer)


def test_errors() -> None:
    p = torch.nn.Parameter(torch.randn(64, 256))
    with pytest.raises(ValueError, match="float32, bfloat16, int8, int4"):
        thalweg.AdamW([p], state="fp8")
    embedding = torch.nn.Embedding(64, 256, sparse=True)
    optimizer = thalweg.create("sparseadam", embedding.parameters(), state="int8")
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match="state='float32' or 'bfloat16'"):
        optimizer.step()
    params, optimizer = train("adamw", state="int8", steps=1)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["exp_avg_scale"] = torch.ones(3, 1)
    with pytest.raises(ValueError, match="codes of shape"):
        thalweg.AdamW(params).load_state_dict(saved)


def test_bfloat16_averages_do_not_stall() -> None:
    """A second moment with beta 0.999 moves by less than half a gap of bfloat16: to nearest, it would stand still."""
    p = torch.nn.Parameter(torch.zeros(64, 64))
    finals = {}
    for state in ("float32", "bfloat16"):
        optimizer = thalweg.AdamW([p], lr=0.0, state=state, engine="foreach")
        for g in [2.0] * 5 + [1.0] * 300:
            p.grad = torch.full_like(p, g)
            optimizer.step()
        finals[state] = optimizer.state[p]["exp_avg_sq"].float().mean().item()
    assert finals["bfloat16"] == pytest.approx(finals["float32"], rel=0.02)
    # To nearest: v = 0.02 after 5 steps rises by 0.001 a step until that is half a gap, near 0.25.
    nearest = torch.tensor(0.0)
    for g in [2.0] * 5 + [1.0] * 300:
        nearest = (0.999 * nearest + 0.001 * g * g).bfloat16().float()
    assert abs(nearest.item() - finals["float32"]) > 0.02 * finals["float32"]


@pytest.mark.parametrize("engine", ["reference", "foreach", "compiled"])
def test_kahan_follows_float32(engine: str) -> None:
    """Small steps add up in the compensation; parameter and compensation together have float32's course."""
    start = torch.linspace(0.5, 2.0, 4096).bfloat16()
    ends = {}
    for dtype, rounding in ((torch.float32, "nearest"), (torch.bfloat16, "kahan"), (torch.bfloat16, "nearest")):
        p = torch.nn.Parameter(start.to(dtype, copy=True))
        optimizer = thalweg.AdamW([p], lr=1e-4, weight_decay=0, engine=engine, rounding=rounding)
        for _ in range(60):
            p.grad = torch.ones_like(p)
            optimizer.step()
        ends[dtype, rounding] = p.detach().float()
        if rounding == "kahan":
            rest = optimizer.state[p]["compensation"]
            assert rest.dtype == torch.bfloat16
            together = p.detach().float() + rest.float() - start.float()
    true = ends[torch.float32, "nearest"] - start.float()
    half_a_gap = 2.0**-8  # of bfloat16 between one and two
    assert ((ends[torch.bfloat16, "kahan"] - start.float() - true).abs() <= half_a_gap * 1.01).all()
    assert torch.allclose(together, true, rtol=0.05)  # the compensation has eight bits itself
    assert (ends[torch.bfloat16, "nearest"] - start.float()).mean().abs() < 0.7 * true.mean().abs()
