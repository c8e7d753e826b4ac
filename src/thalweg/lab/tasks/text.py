"""Tasks that predict the next character: `chars`, `gru`, and `text:FILE` for a text of the user's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thalweg.lab.errors import LabError
from thalweg.lab.tasks.base import Task

CONTEXT = 48
BATCH = 12
WIDTH = 64
HEADS = 4
LAYERS = 2
WINDOWS = 64
SPLIT = "The text's first 80 % for training, the next 10 % for validation, the last 10 % for test."


@dataclass(frozen=True)
class Corpus:
    """A text as character numbers in three consecutive parts, and its alphabet."""

    splits: Mapping[str, Tensor]
    alphabet: str


def corpus(text: str) -> Corpus:
    """Cut a text into its parts; every character that is not ASCII counts as '?'."""
    codes = torch.frombuffer(bytearray(text.encode("ascii", "replace")), dtype=torch.uint8).long()
    known, codes = codes.unique(return_inverse=True)
    first, second = int(len(codes) * 0.8), int(len(codes) * 0.9)
    splits = {"train": codes[:first], "validation": codes[first:second], "test": codes[second:]}
    return Corpus(splits, bytes(known.tolist()).decode())


@lru_cache(maxsize=1)
def help_texts() -> Corpus:
    """The help topics that come with Python."""
    from pydoc_data.topics import topics

    return corpus("\n".join(topics[name] for name in sorted(topics)))


@lru_cache(maxsize=1)
def user_text(path: Path) -> Corpus:
    """A file of the user's."""
    if not path.is_file():
        raise LabError(f"no such text file: {path}; the task is given as text:FILE")
    text = path.read_text(encoding="utf-8", errors="replace")
    least = 10 * (CONTEXT + WINDOWS)
    if len(text) < least:
        raise LabError(f"{path} has {len(text)} characters; the task needs at least {least:,} to hold parts of it back")
    return corpus(text)


class Block(nn.Module):
    """Attention and a feed-forward layer, each normalised first and added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(WIDTH)
        self.queries_keys_values = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.projection = nn.Linear(WIDTH, WIDTH, bias=False)
        self.before_feed_forward = nn.LayerNorm(WIDTH)
        self.feed_forward = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, hidden: Tensor) -> Tensor:
        batch, length, _ = hidden.shape
        parts = self.queries_keys_values(self.before_attention(hidden)).view(batch, length, 3, HEADS, WIDTH // HEADS)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        hidden = hidden + self.projection(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        return hidden + self.feed_forward(self.before_feed_forward(hidden))


class Transformer(nn.Module):
    """Characters in, scores of the next character out."""

    def __init__(self, alphabet: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(alphabet, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.scores = nn.Linear(WIDTH, alphabet, bias=False)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.05)

    def forward(self, codes: Tensor) -> Tensor:
        positions = torch.arange(codes.shape[1])
        hidden = self.blocks(self.characters(codes) + self.positions(positions))
        return self.scores(self.norm(hidden))


class Recurrent(nn.Module):
    """The same by a gated recurrent layer."""

    def __init__(self, alphabet: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(alphabet, WIDTH)
        self.layer = nn.GRU(WIDTH, 2 * WIDTH, batch_first=True)
        self.scores = nn.Linear(2 * WIDTH, alphabet)
        nn.init.normal_(self.characters.weight, std=0.5)

    def forward(self, codes: Tensor) -> Tensor:
        hidden, _ = self.layer(self.characters(codes))
        return self.scores(hidden)


class Characters:
    """One seeded attempt; see `thalweg.lab.tasks.Problem`."""

    def __init__(self, seed: int, texts: Corpus, model: Callable[[int], nn.Module]) -> None:
        torch.manual_seed(seed)
        self.order = torch.Generator().manual_seed(seed)
        self.splits = texts.splits
        self.model = model(len(texts.alphabet))

    def batches(self) -> Iterator[Tensor]:
        """Windows from random places of the training text."""
        text = self.splits["train"]
        window = torch.arange(CONTEXT + 1)
        while True:
            starts = torch.randint(len(text) - CONTEXT, (BATCH, 1), generator=self.order)
            yield text[starts + window]

    def loss(self, batch: Tensor) -> Tensor:
        """Cross-entropy in nats per character."""
        scores = self.model(batch[:, :-1])
        return F.cross_entropy(scores.flatten(0, 1), batch[:, 1:].flatten())

    def evaluate(self, split: str) -> Mapping[str, float]:
        """The loss on windows spread evenly over the split, always the same ones."""
        text = self.splits[split]
        starts = torch.linspace(0, len(text) - CONTEXT - 1, WINDOWS).long()[:, None]
        return {"loss": self.loss(text[starts + torch.arange(CONTEXT + 1)]).item()}


def build_chars() -> Task:
    """The task `chars`."""
    return Task(
        name="chars",
        statement="A two-layer character transformer learns Python's own help texts: attention and layer norm.",
        limits="Some hundred steps reach spelling, not language: nothing about long training or large models.",
        metric="loss",
        direction="min",
        target=2.45,
        steps=250,
        build=lambda seed: Characters(seed, help_texts(), Transformer),
        split=SPLIT,
        eval_every=25,
        unit="nats/char",
        seconds=3.5,
    )


def build_gru() -> Task:
    """The task `gru`."""
    return Task(
        name="gru",
        statement="A gated recurrent network learns Python's own help texts: one matrix used at 48 steps of time.",
        limits="48 steps of time are too few for gradients to explode or vanish much.",
        metric="loss",
        direction="min",
        target=2.0,
        steps=150,
        build=lambda seed: Characters(seed, help_texts(), Recurrent),
        split=SPLIT,
        eval_every=15,
        unit="nats/char",
        seconds=2.5,
    )


def build_user_text(path: Path) -> Task:
    """The task ``text:FILE``: `chars` on a file of the user's."""
    texts = user_text(path)
    return replace(
        build_chars(),
        name="text-" + re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem),
        statement=f"The character transformer of the task chars learns {path.name}.",
        limits="The target is that of the task chars; another text may need another.",
        build=lambda seed: Characters(seed, texts, Transformer),
    )
