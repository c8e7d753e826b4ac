"""What every parameter of eight kinds of model is taken for, and what a plan does with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg
from thalweg.routing import ROLES, place


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, bias=False), nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(Block(8), Block(8))
        self.down = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 10)


class Attention(nn.Module):
    """Query, key and value in one projection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(width), Attention(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class GPT(nn.Module):
    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(50, 8), nn.Embedding(16, 8)
        self.h = nn.ModuleList(Layer(8) for _ in range(2))
        self.ln_f = nn.LayerNorm(8)
        self.lm_head = nn.Linear(8, 50, bias=False)
        if tied:
            self.lm_head.weight = self.wte.weight


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token, self.pos_embed = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(1, 17, 8))
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 10)


class RMS(nn.Module):
    """A norm of one's own, as T5 has."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class T5LayerNorm(RMS):
    pass


class T5Attention(nn.Module):
    def __init__(self, width: int, relative: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        if relative:
            self.relative_attention_bias = nn.Embedding(32, 2)


class T5Block(nn.Module):
    def __init__(self, width: int, relative: bool) -> None:
        super().__init__()
        self.attention, self.layer_norm = T5Attention(width, relative), T5LayerNorm(width)
        self.wi, self.wo = nn.Linear(width, 2 * width, bias=False), nn.Linear(2 * width, width, bias=False)


class T5(nn.Module):
    """Encoder and decoder over one shared table, which is the head too."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Embedding(40, 8)
        self.encoder = nn.ModuleList(T5Block(8, i == 0) for i in range(2))
        self.decoder = nn.ModuleList(T5Block(8, i == 0) for i in range(2))
        self.final_layer_norm = T5LayerNorm(8)
        self.lm_head = nn.Linear(8, 40, bias=False)
        self.lm_head.weight = self.shared.weight


class Experts(nn.Module):
    """Four experts in two stacked tensors, and their router."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, 4, bias=False)
        self.up = nn.Parameter(torch.randn(4, 2 * width, width))
        self.down = nn.Parameter(torch.randn(4, width, 2 * width))
        self.temperature = nn.Parameter(torch.ones(()))


class MoE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 8)
        self.layers = nn.ModuleList(Experts(8) for _ in range(2))
        self.out = nn.Linear(8, 30)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn, self.out = nn.Embedding(9, 4), nn.GRU(4, 6), nn.Linear(6, 9)
        self.lstm = nn.LSTM(6, 5)
        self.out2 = nn.Linear(5, 9)


#: Model -> how many parameters of each role, counted by hand.
EXPECTED: list[tuple[Callable[[], nn.Module], dict[str, int]]] = [
    (ResNet, {"stem": 1, "norm": 10, "conv": 5, "bias": 2, "head": 1}),
    (GPT, {"embedding": 2, "norm": 10, "fused": 2, "bias": 8, "matrix": 6}),
    (lambda: GPT(tied=False), {"embedding": 2, "norm": 10, "fused": 2, "bias": 8, "matrix": 6, "head": 1}),
    (ViT, {"embedding": 2, "stem": 1, "fused": 2, "matrix": 6, "bias": 10, "norm": 10, "head": 1}),
    (T5, {"embedding": 3, "matrix": 24, "norm": 5}),
    (MoE, {"embedding": 1, "matrix": 2, "expert": 4, "scalar": 2, "head": 1, "bias": 1}),
    (Recurrent, {"embedding": 1, "fused": 4, "bias": 6, "matrix": 1, "head": 1}),
    (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2),
        {"fused": 2, "matrix": 6, "bias": 8, "norm": 8},
    ),
]


@pytest.mark.parametrize(("make", "expected"), EXPECTED, ids=[str(i) for i in range(len(EXPECTED))])
def test_roles(make: Callable[[], nn.Module], expected: dict[str, int]) -> None:
    model = make()
    found = thalweg.roles(model)
    assert Counter(found.values()) == expected
    assert set(found.values()) <= ROLES.keys()
    distinct = {id(p) for p in model.parameters()}
    assert len(found) == len(distinct), "every parameter once"


def test_single_parameters() -> None:
    gpt = thalweg.roles(GPT())
    assert gpt["wte.weight"] == "embedding"
    assert "lm_head.weight" not in gpt
    assert gpt["h.0.attn.qkv.weight"] == "fused"
    assert gpt["h.0.attn.proj.weight"] == "matrix"
    vit = thalweg.roles(ViT())
    assert vit["cls_token"] == vit["pos_embed"] == "embedding"
    assert vit["encoder.layers.1.linear2.weight"] == "matrix"
    assert vit["head.weight"] == "head"
    t5 = thalweg.roles(T5())
    assert t5["encoder.0.attention.relative_attention_bias.weight"] == "embedding"
    assert t5["encoder.0.layer_norm.weight"] == "norm"
    parts = {p.name: p.parts for p in place(Recurrent())}
    assert parts["rnn.weight_ih_l0"] == 3
    assert parts["lstm.weight_hh_l0"] == 4
    assert {p.name: p.parts for p in place(MoE())}["layers.0.up"] == 4


def test_a_name_alone_does_not_make_a_fused_projection() -> None:
    model = nn.ModuleDict({"qkv": nn.Linear(4, 5), "c_attn": nn.Linear(4, 12), "other": nn.Linear(4, 12)})
    found = thalweg.roles(model)
    assert found["qkv.weight"] == "matrix"
    assert found["c_attn.weight"] == "fused"
    assert found["other.weight"] == "head"


def test_a_plan_and_its_table() -> None:
    plan = thalweg.route(MoE(), matrices={"recipe": thalweg.MUON, "lr": 0.02}, rest={"recipe": thalweg.ADAMW})
    text = str(plan)
    lines = text.splitlines()
    assert lines[0].split() == ["group", "roles", "tensors", "parameters", "recipe", "and", "options", "first"]
    experts = next(line for line in lines if "expert" in line)
    assert "MUON, lr=0.02, parts=4" in experts
    assert "weight_decay=0.0" in next(line for line in lines if "scalar" in line)
    opt = thalweg.Optimizer(plan)
    assert len(opt.param_groups) == len(plan) == len(lines) - 1


def test_frozen_parameters_are_left_out() -> None:
    model = ResNet()
    model.fc.requires_grad_(False)
    assert "fc.weight" not in thalweg.roles(model)


def test_assign_and_its_mistakes() -> None:
    assert thalweg.roles(MoE(), {"*.router.weight": "head"})["layers.1.router.weight"] == "head"
    with pytest.raises(ValueError, match=r"no role is named 'heads'.*head"):
        thalweg.roles(MoE(), {"*.router.weight": "heads"})
    with pytest.raises(ValueError, match="no parameter's name matches 'gate"):
        thalweg.roles(MoE(), {"gate*": "head"})
    with pytest.raises(ValueError, match=r"layers.0.temperature of shape \(\) is a scalar.*add rest=.*assign="):
        thalweg.route(MoE(), matrices={"recipe": thalweg.MUON}, embedding={}, head={}, bias={}, norm={})


def _steps(params: list[Tensor], groups: Any, grads: list[Tensor], **options: Any) -> None:
    opt = thalweg.Optimizer(groups, recipe=thalweg.MUON, lr=0.1, engine="reference", **options)
    for p, g in zip(params, grads, strict=True):
        p.grad = g.clone()
    opt.step()


@pytest.mark.parametrize("shape", [(12, 5), (3, 4, 5), (6, 4, 2, 3)])
def test_matrices_in_one_parameter_are_treated_one_by_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    parts = 3
    whole = nn.Parameter(torch.randn(shape, dtype=torch.float64))
    gradient = torch.randn(shape, dtype=torch.float64)
    pieces = [nn.Parameter(c.clone()) for c in whole.detach().chunk(parts)]
    gradients = list(gradient.chunk(parts))
    if shape[0] == parts:
        pieces = [nn.Parameter(c.detach().squeeze(0)) for c in pieces]
        gradients = [g.squeeze(0) for g in gradients]
    _steps([whole], [{"params": [whole], "parts": parts}], [gradient])
    _steps(list(pieces), pieces, gradients)
    joined = torch.cat([p.detach().reshape(shape[0] // parts, *shape[1:]) for p in pieces])
    torch.testing.assert_close(whole.detach(), joined, rtol=1e-12, atol=1e-12)


def test_parts_that_do_not_divide_are_named() -> None:
    p = nn.Parameter(torch.randn(4, 5))
    with pytest.raises(ValueError, match="parts=3 does not divide"):
        _steps([p], [{"params": [p], "parts": 3}], [torch.ones(4, 5)])


def test_muon_from_a_model_routes_fused_projections() -> None:
    opt = thalweg.create("muon", GPT(), ns_steps=3)
    held = {name: group for group in opt.param_groups for name in group["param_names"]}
    assert held["h.0.attn.qkv.weight"]["parts"] == 3
    assert held["h.0.mlp.0.weight"]["parts"] == 1
    assert "parts" not in held["wte.weight"]
