"""Named lists of parameter shapes for the step benchmark.

A step's cost depends on the shapes and the number of the tensors only, so the sets are generated from the
architectures: no model code, download or third-party package is needed to measure on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

Shapes = list[tuple[str, tuple[int, ...]]]


def gpt2_small() -> Shapes:
    """GPT-2 small as OpenAI released it: 148 tensors (head tied to ``wte``), linear weights stored (in, out)."""
    width = 768
    shapes: Shapes = [("transformer.wte.weight", (50257, width)), ("transformer.wpe.weight", (1024, width))]
    for block in range(12):
        prefix = f"transformer.h.{block}"
        for name, shape in (
            ("ln_1.weight", (width,)),
            ("ln_1.bias", (width,)),
            ("attn.c_attn.weight", (width, 3 * width)),
            ("attn.c_attn.bias", (3 * width,)),
            ("attn.c_proj.weight", (width, width)),
            ("attn.c_proj.bias", (width,)),
            ("ln_2.weight", (width,)),
            ("ln_2.bias", (width,)),
            ("mlp.c_fc.weight", (width, 4 * width)),
            ("mlp.c_fc.bias", (4 * width,)),
            ("mlp.c_proj.weight", (4 * width, width)),
            ("mlp.c_proj.bias", (width,)),
        ):
            shapes.append((f"{prefix}.{name}", shape))
    shapes += [("transformer.ln_f.weight", (width,)), ("transformer.ln_f.bias", (width,))]
    return shapes


def resnet50() -> Shapes:
    """ResNet-50 with torchvision's names and order: 161 tensors, most of them small (batch norms)."""
    shapes: Shapes = []

    def conv_and_norm(conv: str, norm: str, out: int, into: int, kernel: int) -> None:
        shapes.append((f"{conv}.weight", (out, into, kernel, kernel)))
        shapes.extend([(f"{norm}.weight", (out,)), (f"{norm}.bias", (out,))])

    conv_and_norm("conv1", "bn1", 64, 3, 7)
    into = 64
    for stage, (blocks, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), start=1):
        for block in range(blocks):
            prefix = f"layer{stage}.{block}"
            conv_and_norm(f"{prefix}.conv1", f"{prefix}.bn1", width, into, 1)
            conv_and_norm(f"{prefix}.conv2", f"{prefix}.bn2", width, width, 3)
            conv_and_norm(f"{prefix}.conv3", f"{prefix}.bn3", 4 * width, width, 1)
            if block == 0:
                conv_and_norm(f"{prefix}.downsample.0", f"{prefix}.downsample.1", 4 * width, into, 1)
            into = 4 * width
    shapes += [("fc.weight", (1000, into)), ("fc.bias", (1000,))]
    return shapes


def tiny() -> Shapes:
    """A small convolutional network: 10 tensors, 14,058 elements; a step is overhead, not memory traffic."""
    return [
        ("conv1.weight", (16, 3, 3, 3)),
        ("conv1.bias", (16,)),
        ("conv2.weight", (32, 16, 3, 3)),
        ("conv2.bias", (32,)),
        ("norm.weight", (32,)),
        ("norm.bias", (32,)),
        ("hidden.weight", (64, 128)),
        ("hidden.bias", (64,)),
        ("head.weight", (10, 64)),
        ("head.bias", (10,)),
    ]


#: What looks like a hidden matrix by its axes and is none: embeddings, first convolutions, heads.
EDGES = frozenset({"transformer.wte.weight", "transformer.wpe.weight", "conv1.weight", "fc.weight", "head.weight"})

PARAMETER_SETS: dict[str, Callable[[], Shapes]] = {"gpt2-small": gpt2_small, "resnet50": resnet50, "tiny": tiny}


def parameter_set(name: str) -> Shapes:
    """The named set's ``(name, shape)`` pairs.

    >>> len(parameter_set("resnet50"))
    161
    """
    if name not in PARAMETER_SETS:
        raise ValueError(f"unknown parameter set {name!r}; the sets are {', '.join(PARAMETER_SETS)}")
    return PARAMETER_SETS[name]()


def is_hidden(name: str, shape: Sequence[int]) -> bool:
    """Whether a parameter of a set is a hidden matrix: what Muon is for.

    >>> is_hidden("transformer.h.0.mlp.c_fc.weight", (768, 3072)), is_hidden("transformer.wpe.weight", (1024, 768))
    (True, False)
    """
    return len(shape) >= 2 and name not in EDGES


def routed(optimizer: str, named: list[tuple[str, Any]]) -> Any:
    """A set's parameters as that optimizer takes them: for Muon, hidden matrices and the rest, which goes to AdamW."""
    import thalweg

    if not thalweg.get(optimizer).cls.needs_model:
        return named
    hidden = [(name, param) for name, param in named if is_hidden(name, param.shape)]
    rest = [(name, param) for name, param in named if not is_hidden(name, param.shape)]
    return [{"params": hidden}, *([{"params": rest, "recipe": thalweg.ADAMW}] if rest else [])]


def replicated(shapes: Shapes, times: int) -> Shapes:
    """The set ``times`` over, under distinct names: more tensors of the same shapes."""
    return [(f"copy{copy}.{name}", shape) for copy in range(times) for name, shape in shapes]


def count_elements(shapes: Shapes) -> int:
    """The number of elements in a set.

    >>> count_elements(tiny())
    14058
    """
    return sum(prod(shape) for _, shape in shapes)
