"""Fine-tuning with a plan: Muon for hidden matrices, AdamW for the rest, a higher rate for the new head.

Run: python examples/finetune_routing.py
"""

import torch
from torch import nn

import thalweg

torch.manual_seed(0)


class Classifier(nn.Module):
    """A small transformer encoder with a fresh head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(tokens)).mean(1))


model = Classifier()
model.embed.requires_grad_(False)  # frozen, so the plan leaves it out
plan = thalweg.route(
    model,
    matrices={"recipe": thalweg.MUON, "lr": 2e-2},
    head={"recipe": thalweg.ADAMW, "lr": 1e-2},
    rest={"recipe": thalweg.ADAMW, "lr": 1e-3},
)
print(plan)
opt = thalweg.Optimizer(plan)

tokens = torch.randint(0, 20, (128, 12))
labels = (tokens[:, 0] > 9).long()
for step in range(100):
    loss = nn.functional.cross_entropy(model(tokens), labels)
    opt.zero_grad()
    loss.backward()
    opt.step()
    if step % 20 == 19:
        print(f"step {step + 1}: cross-entropy {loss.item():.4f}")

assert loss.item() < 0.2
