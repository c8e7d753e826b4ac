"""Compile an optimizer's Triton kernels for an accelerator that need not be here: ``triton_offline adamw:int8``.

Prints of each what its code uses: registers, bytes of stack, and instructions that move four numbers at a time.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from torch.nn import Parameter
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import thalweg
from thalweg.engine import native
from thalweg.engine.triton import chunk

TARGET = GPUTarget("cuda", 90, 32)
TYPES = {torch.float32: "*fp32", torch.float64: "*fp64", torch.int32: "*i32", torch.int64: "*i64"}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def used(function: Any, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """What a kernel's code uses when it is launched with these arguments."""
    given = dict(zip(function.arg_names, arguments, strict=True))
    signature = {name: TYPES[a.dtype] if torch.is_tensor(a) else "constexpr" for name, a in given.items()}
    constants = {name: a for name, a in given.items() if not torch.is_tensor(a)}
    made = triton.compile(ASTSource(function, signature, constants), target=TARGET, options={"num_warps": chunk.WARPS})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        told = subprocess.run(
            [str(TOOLS / "cuobjdump"), "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", told)
    assert found, told
    vectors = len(re.findall(r"(?:ld|st)\.global[.\w]*\.v4", made.asm["ptx"]))
    return {
        "name": function.__name__,
        "registers": int(found.group(1)),
        "stack": int(found.group(2)),
        "vectors": vectors,
    }


def main(spec: str) -> None:
    """Take a step in which kernels are compiled rather than launched."""
    name, _, state = spec.partition(":")
    kernels: list[dict[str, Any]] = []
    native.key = lambda work: None  # type: ignore[attr-defined]
    chunk.DEVICES.add("cpu")

    def launch(self: Any, function: Any, programs: int, *arguments: Any, stored: bool = False) -> None:
        kernels.append(used(function, arguments))

    chunk.Chunk.launch = launch  # type: ignore[method-assign]
    p = Parameter(torch.zeros(64, 768))
    p.grad = torch.zeros_like(p)
    options = {"state": state} if state else {}
    thalweg.create(name, [p], engine="compiled", lr=0.1, **options).step(loss=1.0)
    print(json.dumps(kernels))


if __name__ == "__main__":
    main(sys.argv[1])
