"""Large tensors whose rows are apart, taken piece by piece on the foreach engine."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import Parameter

import thalweg
from thalweg.engine import eager

CASES: dict[str, dict[str, Any]] = {
    "adamw": {},
    "sgd": {"momentum": 0.9, "nesterov": True},
    "schedulefree_adamw": {},
    "soap": {"max_precond_dim": 10, "precondition_frequency": 3},
}


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each piece that a step takes; pieces are of 60 elements."""
    taken: list[int] = []
    monkeypatch.setattr(eager, "CHUNK_ELEMENTS", 60)
    made = eager.Chunk.__init__

    def note(self: eager.Chunk, works: list[Any], *args: Any, **named: Any) -> None:
        made(self, works, *args, **named)
        if self.piece is not None:
            taken.append(len(works[0].param))

    monkeypatch.setattr(eager.Chunk, "__init__", note)
    return taken


def _stepped(name: str, shape: tuple[int, ...], engine: str, **options: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    param = Parameter(torch.randn(shape, dtype=torch.float64))
    opt = thalweg.create(name, [param], engine=engine, **options)
    for _ in range(8):
        param.grad = torch.randn(shape, dtype=torch.float64)
        opt.step()
    return {"param": param.detach(), **{k: v for k, v in opt.state[param].items() if isinstance(v, torch.Tensor)}}


@pytest.mark.parametrize("shape", [(41, 6), (25, 3, 4)])
@pytest.mark.parametrize("name", CASES)
def test_pieces_make_the_step_of_the_whole(name: str, shape: tuple[int, ...], pieces: list[int]) -> None:
    expected = _stepped(name, shape, "reference", **CASES[name])
    assert not pieces
    found = _stepped(name, shape, "foreach", **CASES[name])
    rows = 60 // (torch.Size(shape[1:]).numel())
    assert pieces[: -(-shape[0] // rows)] == [*[rows] * (shape[0] // rows), *[r for r in [shape[0] % rows] if r]]
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-11, atol=1e-12, msg=key)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("soap", {}),  # a basis along the first axis too
        ("soap", {"max_precond_dim": 10, "maximize": True}),  # products of another gradient than the parameter's
        ("soap", {"max_precond_dim": 10, "techniques": ["agc"]}),
        ("soap", {"max_precond_dim": 10, "normalize_grads": True}),
        ("lamb", {}),
        ("adafactor", {}),
        ("muon", {}),
    ],
)
def test_what_sees_more_than_rows_is_taken_whole(name: str, options: dict[str, Any], pieces: list[int]) -> None:
    _stepped(name, (41, 6), "foreach", **options)
    assert not pieces


def test_a_step_in_pieces_holds_little_memory() -> None:
    """A basis along the short axis alone: beside the pieces there are only the bases."""
    from thalweg.lab.bench_probes import peak_extra_bytes

    param = Parameter(torch.randn(60000, 64))
    param.grad = torch.randn_like(param)
    opt = thalweg.SOAP([param], precondition_frequency=1)
    for _ in range(2):
        opt.step()
    assert peak_extra_bytes(opt.step, "cpu") < param.numel() * param.element_size()
