"""Every script in ``examples/`` runs, as its first lines say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import thalweg

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


def test_there_are_examples() -> None:
    assert {p.stem for p in EXAMPLES} >= {"plain_loop", "amp_closure", "accumulation", "ddp", "finetune_routing"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example(path: Path) -> None:
    found = re.search(r"^Run: (.*)$", path.read_text(), re.MULTILINE)
    if found is None:
        pytest.skip(f"{path.name} is a task file for thalweg race, not a script; tests/lab runs it")
    program, *rest = found[1].split()
    module = {"python": [], "torchrun": ["-m", "torch.distributed.run"]}[program]
    env = {**os.environ, "PYTHONPATH": str(Path(thalweg.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *module, *rest], cwd=path.parents[1], env=env, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip(), "an example shows something"
