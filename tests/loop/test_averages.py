"""Batch norms recalibrated for averaged weights, and bytes per parameter against what training really holds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import thalweg
from thalweg.accounting import PRECISIONS, precision_table


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 1))


def _batches(count: int = 8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(16, 5, generator=generator) for _ in range(count)]


def test_statistics_are_those_of_the_averaged_weights() -> None:
    model = _model()
    opt = thalweg.SGD(model.parameters(), lr=0.3, techniques=[thalweg.EMA(0.8)])
    for x in _batches():
        opt.zero_grad()
        (model(x) - 1).square().mean().backward()
        opt.step()
    opt.eval()
    norm = model[1]
    stale = norm.running_mean.clone()
    modes = [m.training for m in model.modules()]
    assert thalweg.recalibrate(model, _batches()) == 8
    inputs = torch.stack([model[0](x) for x in _batches()])
    torch.testing.assert_close(norm.running_mean, inputs.mean((0, 1)))
    torch.testing.assert_close(norm.running_var, inputs.var(1).mean(0))
    assert not torch.equal(norm.running_mean, stale)
    assert [m.training for m in model.modules()] == modes
    assert norm.momentum == 0.1


def test_a_model_is_saved_with_its_average_and_training_goes_on() -> None:
    model = _model()
    opt = thalweg.AdamW(model.parameters(), lr=0.01, outer=thalweg.EMA(0.5))
    for x in _batches(3):
        opt.zero_grad()
        (model(x) - 1).square().mean().backward()
        opt.step()
    training = [p.detach().clone() for p in model.parameters()]
    opt.eval()
    saved = model.state_dict()
    assert not all(torch.equal(p, q) for p, q in zip(training, model.parameters(), strict=True))
    copy = _model()
    copy.load_state_dict(saved)
    opt.train()
    assert all(torch.equal(p, q) for p, q in zip(training, model.parameters(), strict=True))


def test_averaged_and_back() -> None:
    model = _model()
    opt = thalweg.SGD(model.parameters(), lr=0.3, outer=thalweg.PolynomialAverage(1.0))
    for x in _batches(4):
        opt.zero_grad()
        (model(x) - 1).square().mean().backward()
        opt.step()
    training = {k: v.clone() for k, v in model.state_dict().items()}
    inside: dict[str, torch.Tensor] = {}

    def evaluate() -> None:
        with thalweg.averaged(opt, model, _batches()):
            inside.update({k: v.clone() for k, v in model.state_dict().items()})
            raise KeyError("evaluation failed")

    with pytest.raises(KeyError):
        evaluate()
    assert not torch.equal(inside["0.weight"], training["0.weight"])
    assert not torch.equal(inside["1.running_mean"], training["1.running_mean"])
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in training.items())
    opt.step()
    with pytest.raises(ValueError, match="no batches"), thalweg.averaged(opt, model):
        pass


def test_nothing_to_recalibrate_and_nothing_to_do_it_with() -> None:
    assert thalweg.recalibrate(nn.Linear(2, 2), iter(())) == 0
    model = _model()
    model(torch.randn(9, 5))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="no batches"):
        thalweg.recalibrate(model, [])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "adafactor", "rmsprop"])
@pytest.mark.parametrize("precision", [0, 1], ids=["float32", "bfloat16"])
def test_bytes_are_those_that_training_holds(name: str, precision: int) -> None:
    """The set-ups that the library runs by itself: weights, gradients and state, weighed after a step."""
    dtype = (torch.float32, torch.bfloat16)[precision]
    p = nn.Parameter(torch.randn(512, 1024).to(dtype))
    opt = thalweg.create(name, [p], engine="foreach")
    p.grad = torch.randn_like(p)
    opt.step()
    tensors = [p, p.grad, *(t for t in opt.state[p].values() if t.ndim)]
    held = sum(t.nbytes for t in tensors) / p.numel()
    assert precision_table(name)[precision][1] == pytest.approx(held, abs=1e-9)


def test_the_table_of_adam() -> None:
    """The bytes that are quoted for Adam: 16, 12, 16, 18, 20 and 8."""
    assert [total for _, total in precision_table("adam")] == [16, 12, 16, 18, 20, 8]
    assert len(PRECISIONS) == 6
