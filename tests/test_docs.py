"""What the documents say is what the library does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import thalweg

ROOT = Path(__file__).parents[1]
PARTS = ("Args:", "State:", "Memory:", "Example:")


def test_readme_table_is_the_registry() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \| (.*) \| .* \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [name for name, _, _ in rows] == thalweg.list_optimizers()
    for name, stated, words in rows:
        recipe = thalweg.get(name).recipe
        if "to" not in stated:
            assert float(stated) == pytest.approx(recipe.state_bytes(), abs=5e-4), name
        if words.isdigit():
            assert int(words) == recipe.words(), name


def test_readme_snippets_run() -> None:
    """The README's Python blocks, in order, as written."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 5
    namespace: dict[str, object] = {"model": torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_the_snippet_on_sharding_runs() -> None:
    """In a process of its own, which is the one of its group."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "sharding.md").read_text(), re.DOTALL)
    code = block + "print(sum(s['momentum_buffer'].nbytes for s in opt.state.values() if 'momentum_buffer' in s))\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT / "src")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 2 * 64 * 128, "one byte a number"


@pytest.mark.parametrize("name", thalweg.list_optimizers())
def test_docstring_is_complete(name: str) -> None:
    entry = thalweg.get(name)
    doc = entry.cls.__doc__ or ""
    for part in PARTS:
        assert part in doc, f"{name}: the docstring has no {part!r}"
    assert "Equations" in doc
    for argument in entry.defaults:
        assert re.search(rf"^ +{argument}: ", doc, re.MULTILINE), f"{name}: {argument} is not documented"
    assert entry.source


@pytest.mark.parametrize("name", thalweg.list_optimizers())
def test_stated_words_and_bytes(name: str) -> None:
    """The docstring's words per element are those counted in the recorded graphs."""
    doc = re.sub(r"\s+", " ", thalweg.get(name).cls.__doc__ or "")
    found = re.search(r"Memory: (\d+) pass(?:es)?, (\d+) words per element", doc)
    recipe = thalweg.get(name).recipe
    if found is None:
        assert name == "muon", "state the words moved"
        return
    passes, words = int(found[1]), int(found[2])
    if name == "sgd":
        recipe = recipe.but(first=thalweg.SGD([torch.nn.Parameter(torch.ones(1))], momentum=0.9).recipe.first)
    assert (passes, words) == (recipe.passes(), recipe.words())


def test_printing_an_optimizer_shows_everything() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    text = str(thalweg.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1))
    for part in ("AdamW", "lr=0.0003", "weight_decay=0.1", "u = m/(sqrt(v) + eps)", "8 bytes per parameter", "1 pass"):
        assert part in text


def test_nothing_names_a_machine_or_a_package_host() -> None:
    """The repository is about the library alone."""
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "Makefile", ROOT / "pyproject.toml"]:
        assert "pypi.org" not in path.read_text(), path


def test_every_exported_name_is_there_and_importing_loads_nothing_else() -> None:
    assert set(thalweg._WHERE) | {"__version__"} | set(thalweg._MODULES) >= set(thalweg.__all__)
    for name in thalweg.__all__:
        assert getattr(thalweg, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'AdamV'"):
        thalweg.AdamV  # noqa: B018
    code = "import sys, torch, thalweg; print(sum(m.startswith('thalweg.') for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src")
    assert int(done.stdout) == 1, "only the version"
