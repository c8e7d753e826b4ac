"""torch.optim's namesakes on a small convolutional network: same weights, and checkpoints load both ways in mid-run."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg

STEPS = 50
TOLERANCE = 1e-5
ADAM = {"lr": 2e-3, "betas": (0.85, 0.98), "eps": 1e-7, "weight_decay": 0.02}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.05, "weight_decay": 0.01}),
    "sgd-momentum": ("SGD", {"lr": 0.02, "weight_decay": 0.01, "momentum": 0.9}),
    "sgd-dampening": ("SGD", {"lr": 0.02, "weight_decay": 0.01, "momentum": 0.9, "dampening": 0.4}),
    "sgd-nesterov": ("SGD", {"lr": 0.02, "weight_decay": 0.01, "momentum": 0.9, "nesterov": True}),
    "adagrad": ("Adagrad", {"lr": 0.02, "lr_decay": 0.01, "weight_decay": 0.01, "initial_accumulator_value": 0.1}),
    "rmsprop": ("RMSprop", {"lr": 1e-3, "alpha": 0.95, "weight_decay": 0.01}),
    "rmsprop-momentum": ("RMSprop", {"lr": 1e-3, "alpha": 0.95, "momentum": 0.8}),
    "rmsprop-centered": ("RMSprop", {"lr": 1e-3, "alpha": 0.95, "eps": 1e-3, "centered": True, "momentum": 0.5}),
    "adadelta": ("Adadelta", {"lr": 0.7, "rho": 0.95, "eps": 1e-5, "weight_decay": 0.01}),
    "asgd": ("ASGD", {"lr": 0.05, "lambd": 0.01, "alpha": 0.6, "t0": 20, "weight_decay": 0.01}),
    "rprop": ("Rprop", {"lr": 1e-3, "etas": (0.6, 1.1), "step_sizes": (1e-5, 0.01)}),
    "adam": ("Adam", ADAM),
    "adam-amsgrad": ("Adam", {**ADAM, "amsgrad": True}),
    "adamw": ("AdamW", ADAM),
    "adamw-amsgrad": ("AdamW", {**ADAM, "amsgrad": True}),
    "nadam": ("NAdam", {**ADAM, "momentum_decay": 0.01}),
    "radam": ("RAdam", ADAM),
    "radam-decoupled": ("RAdam", {**ADAM, "decoupled_weight_decay": True}),
    "adamax": ("Adamax", ADAM),
    "adam-maximize": ("Adam", {**ADAM, "lr": 1e-4, "maximize": True}),
}
RUNS = [(case, "foreach") for case in CASES] + [("adamw", "compiled"), ("sgd-momentum", "compiled")]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Convolutions of a few numbers spend their time waiting for each other's threads (``_same_start`` undoes this)."""
    torch.set_num_threads(1)


def _network() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def _batch(t: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(t)
    return torch.randn(16, 1, 8, 8, generator=generator), torch.randint(0, 10, (16,), generator=generator)


class _Pair:
    """Two copies of a network: the first computes the gradients, by a true forward and backward, for both."""

    def __init__(self, case: str, engine: str) -> None:
        self.name, self.options = CASES[case]
        self.engine = engine
        self.nets = [_network(), _network()]
        self.opts = [self.make("torch", self.nets[0]), self.make("thalweg", self.nets[1])]
        self.start = copy.deepcopy(self.nets[0].state_dict())

    def make(self, library: str, net: nn.Module) -> Any:
        if library == "torch":
            return getattr(torch.optim, self.name)(net.parameters(), **self.options)
        return getattr(thalweg, self.name)(net.parameters(), engine=self.engine, **self.options)

    def train(self, steps: range) -> None:
        lead, follow = self.nets
        for t in steps:
            inputs, labels = _batch(t)
            lead.zero_grad()
            nn.functional.cross_entropy(lead(inputs), labels).backward()
            for p, q in zip(lead.parameters(), follow.parameters(), strict=True):
                assert p.grad is not None
                q.grad = p.grad.clone()
            for group in (g for opt in self.opts for g in opt.param_groups):
                group["lr"] = self.options["lr"] * (1 - t / (2 * STEPS))
            for opt in self.opts:
                opt.step()

    def error(self) -> float:
        """The worst difference relative to a tensor's largest entry."""
        worst = 0.0
        for p, q in zip(self.nets[0].parameters(), self.nets[1].parameters(), strict=True):
            p, q = p.detach(), q.detach()
            error = float((p - q).abs().max() / p.abs().max())
            worst = max(worst, float("inf") if error != error else error)
        return worst

    def swap(self, source: int, library: str) -> None:
        """Replace the other optimizer by a new one of ``library`` that goes on from a checkpoint of ``source``."""
        file = io.BytesIO()
        torch.save({"net": self.nets[source].state_dict(), "opt": self.opts[source].state_dict()}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        target = 1 - source
        self.nets[target] = _network()
        self.nets[target].load_state_dict(saved["net"])
        self.opts[target] = self.make(library, self.nets[target])
        self.opts[target].load_state_dict(saved["opt"])


@pytest.mark.parametrize(("case", "engine"), RUNS)
def test_same_weights(case: str, engine: str, record_property: Any) -> None:
    pair = _Pair(case, engine)
    pair.train(range(1, STEPS + 1))
    record_property("error", pair.error())
    assert pair.error() <= TOLERANCE
    for name, p in pair.nets[1].named_parameters():
        assert (p - pair.start[name]).abs().max() > 1e-4, name


@pytest.mark.parametrize(("case", "engine"), RUNS)
@pytest.mark.parametrize("source", [0, 1], ids=["from-torch", "to-torch"])
def test_checkpoints_load_in_mid_run(case: str, engine: str, source: int, record_property: Any) -> None:
    """The one goes on where the other stopped; the loaded state is taken up, not begun anew."""
    pair = _Pair(case, engine)
    pair.train(range(1, STEPS // 2 + 1))
    pair.swap(source, "thalweg" if source == 0 else "torch")
    assert pair.error() == 0
    pair.train(range(STEPS // 2 + 1, STEPS + 1))
    record_property("error", pair.error())
    assert pair.error() <= TOLERANCE
    if len(pair.opts[0].state_dict()["state"]) and case != "sgd":
        again = _Pair(case, engine)
        again.nets = copy.deepcopy(pair.nets)
        again.opts = [pair.make("torch", again.nets[0]), pair.make("thalweg", again.nets[1])]
        again.opts[source].load_state_dict(pair.opts[source].state_dict())
        again.train(range(1, 11))
        assert again.error() > TOLERANCE, "a fresh optimizer does as well: the checkpoint's state plays no part"


@pytest.mark.parametrize("case", ["adamw", "sgd-momentum", "rmsprop"])
def test_own_gradients(case: str) -> None:
    """Each copy on gradients of its own, as in use: the same losses."""
    pair = _Pair(case, "foreach")
    losses: list[list[float]] = [[], []]
    for t in range(1, STEPS + 1):
        inputs, labels = _batch(t)
        for net, opt, seen in zip(pair.nets, pair.opts, losses, strict=True):
            opt.zero_grad()
            loss = nn.functional.cross_entropy(net(inputs), labels)
            loss.backward()
            opt.step()
            seen.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[0][0] != losses[0][-1]
