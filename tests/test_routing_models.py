"""Roles in the models of transformers and timm, with random weights; skipped, with the reason, where absent."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

import thalweg


def _transformers() -> Any:
    return pytest.importorskip("transformers", reason="transformers is not installed: its own classes are not routed")


def _timm() -> Any:
    return pytest.importorskip("timm", reason="timm is not installed: its own classes are not routed")


def test_gpt2_with_its_tied_head() -> None:
    t = _transformers()
    model = t.GPT2LMHeadModel(t.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=40, n_positions=8))
    found = thalweg.roles(model)
    # Conv1D keeps its weights the other way round, so that its fused projection is not split.
    assert Counter(found.values()) == {"embedding": 2, "norm": 10, "matrix": 8, "bias": 8}
    assert found["transformer.wte.weight"] == "embedding"


def test_t5() -> None:
    t = _transformers()
    config = t.T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=40)
    found = thalweg.roles(t.T5ForConditionalGeneration(config))
    assert found["shared.weight"] == "embedding"
    held = Counter(found.values())
    assert held["norm"] == 12
    assert held["matrix"] == 2 * (4 + 2) + 2 * (8 + 2)
    assert set(held) <= {"embedding", "norm", "matrix", "head"}


def test_llama() -> None:
    t = _transformers()
    config = t.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=40
    )
    found = thalweg.roles(t.LlamaForCausalLM(config))
    assert Counter(found.values()) == {"embedding": 1, "matrix": 14, "norm": 5, "head": 1}
    assert found["lm_head.weight"] == "head"


def test_vit() -> None:
    t = _transformers()
    config = t.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=4
    )
    found = thalweg.roles(t.ViTForImageClassification(config))
    held = Counter(found.values())
    assert held["stem"] == 1
    assert held["embedding"] == 2
    assert held["matrix"] == 12
    assert found["classifier.weight"] == "head"


def test_timm_resnet_and_vit() -> None:
    timm = _timm()
    resnet = thalweg.roles(timm.create_model("resnet18", num_classes=5))
    assert Counter(resnet.values()) == {"stem": 1, "conv": 19, "norm": 40, "head": 1, "bias": 1}
    vit = thalweg.roles(timm.create_model("vit_tiny_patch16_224", num_classes=5))
    assert vit["blocks.0.attn.qkv.weight"] == "fused"
    assert vit["cls_token"] == vit["pos_embed"] == "embedding"
    assert vit["head.weight"] == "head"
