"""Tasks on image files of the user's, in the form in which their makers publish them: `mnist:DIR`, `cifar10:DIR`."""

from __future__ import annotations

import gzip
import io
import pickle
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thalweg.lab.errors import LabError, require_packages
from thalweg.lab.tasks.base import Task
from thalweg.lab.tasks.digits import NormalisedImages, residual_network
from thalweg.lab.tasks.supervised import Split, classification

VALIDATION = 0.1
"""Share of the training images, the last ones, that is held back for validation."""
EVALUATED = 2000
"""Validation images that are looked at during training, the first ones; the test is on all test images."""


def _find(folder: Path, name: str) -> Path:
    """A file by its published name, compressed or not, anywhere under a folder."""
    if not folder.is_dir():
        raise LabError(f"no such folder: {folder}; the task is given as mnist:DIR or cifar10:DIR")
    found = sorted(path for path in folder.rglob(f"{name}*") if path.name in (name, f"{name}.gz"))
    if not found:
        raise LabError(f"{folder} holds no {name} or {name}.gz, at no depth; nothing is downloaded, put it there")
    return found[0]


def _content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def read_idx(path: Path) -> Tensor:
    """The array of unsigned bytes in an idx file: 0, 0, 8, the number of axes; their lengths; the bytes.

    Raises:
        LabError: the file is no such file, or is cut short.
    """
    content = _content(path)
    axes = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    lengths = [int.from_bytes(content[start : start + 4], "big") for start in range(4, 4 + 4 * axes, 4)]
    size = int(torch.tensor(lengths).prod()) if lengths else 0
    if not size or len(content) != 4 + 4 * axes + size:
        raise LabError(f"{path} is not an idx file of unsigned bytes, or is cut short; fetch it again")
    return torch.frombuffer(bytearray(content[4 + 4 * axes :]), dtype=torch.uint8).view(lengths)


class _Arrays(pickle.Unpickler):
    """Reads pickles of arrays; refuses the rest, because a pickle may otherwise run what it likes."""

    LEGAL = frozenset({"_reconstruct", "ndarray", "dtype", "encode", "_frombuffer"})

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] not in ("numpy", "_codecs") or name not in self.LEGAL:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file needs")
        return super().find_class(module, name)


def read_batch(path: Path) -> Split:
    """Images (n, 3, 32, 32) of unsigned bytes and labels of one of CIFAR-10's Python batches.

    Raises:
        LabError: the file is no such file.
    """
    try:
        batch = _Arrays(io.BytesIO(_content(path)), encoding="bytes").load()
        return torch.from_numpy(batch[b"data"]).view(-1, 3, 32, 32), torch.tensor(batch[b"labels"])
    except Exception as error:
        raise LabError(f"{path} is not a batch of CIFAR-10's Python version: {error}") from error


def _splits(train: Split, test: Split) -> dict[str, Split]:
    """The last part of the training images held back; images as numbers around 0, standardised by the training part."""
    held = max(1, round(VALIDATION * len(train[1])))
    pixels = train[0][:-held].float() / 255
    mean, spread = pixels.mean((0, 2, 3), keepdim=True), pixels.std((0, 2, 3), keepdim=True)

    def standardised(images: Tensor) -> Tensor:
        return (images.float() / 255 - mean) / spread

    validation = train[0][-held:][:EVALUATED], train[1][-held:][:EVALUATED]
    return {
        "train": (standardised(train[0][:-held]), train[1][:-held]),
        "validation": (standardised(validation[0]), validation[1]),
        "test": (standardised(test[0]), test[1]),
    }


@lru_cache(maxsize=1)
def mnist(folder: Path) -> dict[str, Split]:
    """The four idx files ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-...``."""

    def part(prefix: str) -> Split:
        images = read_idx(_find(folder, f"{prefix}-images-idx3-ubyte"))
        labels = read_idx(_find(folder, f"{prefix}-labels-idx1-ubyte"))
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise LabError(f"{folder}: {tuple(images.shape)} images and {tuple(labels.shape)} labels do not match")
        return images[:, None], labels.long()

    return _splits(part("train"), part("t10k"))


@lru_cache(maxsize=1)
def cifar10(folder: Path) -> dict[str, Split]:
    """The pickles ``data_batch_1`` to ``data_batch_5`` and ``test_batch``."""
    batches = [read_batch(_find(folder, f"data_batch_{number}")) for number in range(1, 6)]
    train = torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])
    return _splits(train, read_batch(_find(folder, "test_batch")))


def _build(name: str, load: Callable[[], Mapping[str, Split]], channels: int, **task: Any) -> Task:
    require_packages("numpy")
    load()  # so that missing files are noticed before any worker starts

    def build(seed: int) -> NormalisedImages:
        return NormalisedImages(seed, load(), lambda: residual_network(channels, reductions=2), classification, 128)

    return Task(
        name=name,
        metric="accuracy",
        direction="max",
        build=build,
        split="The last tenth of the training images is held back, its first 2,000 for validation; all test images.",
        unit="%",
        **task,
    )


def build_mnist(folder: Path) -> Task:
    """The task ``mnist:DIR``."""
    return _build(
        "mnist",
        lambda: mnist(folder),
        1,
        statement="A small residual network with batch norm learns MNIST, seen about once.",
        limits="Nearly every optimizer gets there: it shows how soon.",
        target=0.97,
        steps=400,
        eval_every=40,
        seconds=16.0,
    )


def build_cifar10(folder: Path) -> Task:
    """The task ``cifar10:DIR``."""
    return _build(
        "cifar10",
        lambda: cifar10(folder),
        3,
        statement="A small residual network with batch norm learns CIFAR-10 for a little more than an epoch.",
        limits="One epoch of a small network: says nothing about the last per cent of a long training.",
        target=0.5,
        steps=400,
        eval_every=40,
        seconds=20.0,
    )
