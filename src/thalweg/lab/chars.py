"""The task `chars`: a tiny character-level transformer on the English of CPython's own help topics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thalweg.lab.tasks import Task

CONTEXT = 48
BATCH = 12
WIDTH = 64
HEADS = 4
LAYERS = 2
WINDOWS = 64


@lru_cache(maxsize=1)
def load_splits() -> tuple[dict[str, Tensor], int]:
    """The text as character numbers, cut into three consecutive parts, and the alphabet's size."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    text = "".join(char if char.isascii() else "?" for char in text)
    alphabet = sorted(set(text))
    number = {char: index for index, char in enumerate(alphabet)}
    codes = torch.tensor([number[char] for char in text])
    first, second = int(len(codes) * 0.8), int(len(codes) * 0.9)
    return {"train": codes[:first], "validation": codes[first:second], "test": codes[second:]}, len(alphabet)


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


class Characters:
    """One seeded attempt; see `thalweg.lab.tasks.Problem`."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.order = torch.Generator().manual_seed(seed)
        self.splits, alphabet = load_splits()
        self.model = Transformer(alphabet)

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


def build_task() -> Task:
    """The task as the registry hands it out."""
    return Task(
        name="chars",
        statement="A two-layer character transformer learns Python's own help texts (460,000 characters).",
        metric="loss",
        direction="min",
        target=2.4,
        steps=200,
        build=Characters,
        split="The text's first 80 % for training, the next 10 % for validation, the last 10 % for test.",
        eval_every=10,
        unit="nats/char",
    )
