"""Tasks on a user's data, and tasks that other packages offer: read from files that the tests write."""

from __future__ import annotations

import gzip
import itertools
import pickle
from pathlib import Path

import numpy
import pytest
import torch

from thalweg.lab.errors import LabError
from thalweg.lab.loading import GROUP, load_task, source_digest, task_names
from thalweg.lab.tasks import files

TASK = """
from thalweg.lab.tasks.surfaces import build_rosenbrock as build_task
nothing = 3
def broken():
    raise RuntimeError("boom")
"""


def write_idx(path: Path, values: numpy.ndarray) -> None:
    content = bytes([0, 0, 8, values.ndim]) + numpy.array(values.shape, ">u4").tobytes() + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """Files as published: one compressed, in a folder below."""
    chance = numpy.random.default_rng(0)
    (tmp_path / "raw").mkdir()
    for prefix, count, ending in (("train", 200, ".gz"), ("t10k", 30, "")):
        images, labels = chance.integers(0, 256, (count, 28, 28)), numpy.arange(count) % 10
        write_idx(tmp_path / "raw" / f"{prefix}-images-idx3-ubyte{ending}", images.astype("u1"))
        write_idx(tmp_path / "raw" / f"{prefix}-labels-idx1-ubyte{ending}", labels.astype("u1"))
    return tmp_path


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    """Pickles of protocol 2 with bytes for keys, as published."""
    chance = numpy.random.default_rng(0)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        data = chance.integers(0, 256, (40, 3072)).astype("u1")
        batch = {b"data": data, b"labels": [int(row[0]) % 10 for row in data]}
        (tmp_path / name).write_bytes(pickle.dumps(batch, protocol=2))
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "channels", "side", "sizes"), [("mnist", 1, 28, (180, 20, 30)), ("cifar10", 3, 32, (180, 20, 40))]
)
def test_published_image_files_become_a_task(
    kind: str, channels: int, side: int, sizes: tuple[int, ...], request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(kind)
    problem = load_task(f"{kind}:{folder}", steps=2).build(0)
    shapes = [tuple(problem.splits[part][0].shape) for part in ("train", "validation", "test")]  # type: ignore[attr-defined]
    assert shapes == [(size, channels, side, side) for size in sizes]
    train = problem.splits["train"][0]  # type: ignore[attr-defined]
    assert train.mean().item() == pytest.approx(0, abs=1e-4)
    assert train.std().item() == pytest.approx(1, abs=1e-2)
    for batch in itertools.islice(problem.batches(), 2):
        problem.loss(batch).backward()
    problem.model.eval()
    with torch.no_grad():
        assert 0 <= problem.evaluate("test")["accuracy"] <= 1


def test_pixels_and_labels_are_read_as_they_were_written(mnist: Path, cifar10: Path) -> None:
    labels = files.read_idx(mnist / "raw" / "t10k-labels-idx1-ubyte")
    assert labels.tolist() == [number % 10 for number in range(30)]
    images, labels = files.read_batch(cifar10 / "test_batch")
    assert (images[:, 0, 0, 0] % 10).tolist() == labels.tolist()


def test_a_text_file_becomes_a_task(tmp_path: Path) -> None:
    path = tmp_path / "my notes.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 100)
    task = load_task(f"text:{path}")
    assert task.name == "text-my-notes"
    assert "my notes.txt" in task.statement
    problem = task.build(0)
    assert problem.loss(next(iter(problem.batches()))).item() > 0
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(LabError, match="at least"):
        load_task(f"text:{tmp_path / 'short.txt'}")


def test_what_is_wrong_with_files_is_said(mnist: Path, cifar10: Path) -> None:
    labels = mnist / "raw" / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1])
    with pytest.raises(LabError, match="cut short"):
        load_task(f"mnist:{mnist}")
    labels.unlink()
    with pytest.raises(LabError, match="holds no t10k-labels-idx1-ubyte"):
        load_task(f"mnist:{mnist}")
    (cifar10 / "test_batch").write_bytes(pickle.dumps({b"data": print}))
    with pytest.raises(LabError, match="print"):
        load_task(f"cifar10:{cifar10}")
    for reference in ("mnist:nowhere", "cifar10:nowhere", "text:nowhere"):
        with pytest.raises(LabError, match="no such"):
            load_task(reference)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that offers tasks."""
    (tmp_path / "offered_tasks.py").write_text(TASK)
    information = tmp_path / "offered-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1.0\n")
    names = {"offered-valley": "build_task", "offered-broken": "broken", "offered-number": "nothing"}
    lines = [f"{name} = offered_tasks:{value}" for name, value in names.items()]
    (information / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines]))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_tasks_of_installed_packages_are_found_by_name(package: Path) -> None:
    assert load_task("offered-valley", steps=5).steps == 5
    assert "offered-valley" not in task_names()
    for name, message in (("offered-broken", "boom"), ("offered-number", "int"), ("offered-vally", "offered-valley")):
        with pytest.raises(LabError, match=message):
            load_task(name)


def test_a_task_of_ones_own_is_found_in_its_file(package: Path) -> None:
    path = package / "offered_tasks.py"
    assert load_task(f"{path}:build_task") == load_task(str(path))
    for reference, message in (
        (f"{path}:broken", "boom"),
        (f"{path}:nothing", "int"),
        (f"{path}:absent", "'absent'"),
        (f"{package / 'absent.py'}:build_task", "no such task file"),
        ("rosenbrok", "did you mean rosenbrock"),
        ("text", "text:PATH"),
    ):
        with pytest.raises(LabError, match=message):
            load_task(reference)


def test_a_digest_follows_what_a_user_may_change(mnist: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    for reference, changed in ((f"{path}:build_task", path), (f"text:{path}", path), (f"mnist:{mnist}", mnist / "new")):
        path.write_text(TASK)
        before = source_digest(reference)
        assert before is not None
        assert before == source_digest(reference)
        changed.write_text(TASK + "# changed")
        assert source_digest(reference) != before
    assert source_digest("digits") is None
