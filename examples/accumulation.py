"""Gradient accumulation over uneven micro-batches that equals the one large batch.

Dividing each micro-batch's mean loss by the number of micro-batches does not: it weighs the samples of a small
micro-batch more. Here both are compared with the large batch.

Run: python examples/accumulation.py
"""

import torch
from torch import nn

import thalweg

torch.manual_seed(0)
x, y = torch.randn(64, 10), torch.randint(0, 3, (64,))
sizes = [29, 3, 17, 15]
micro_batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 3))


def gradient() -> torch.Tensor:
    found = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    return found


nn.functional.cross_entropy(model(x), y).backward()
large = gradient()

for inputs, labels in micro_batches:
    (nn.functional.cross_entropy(model(inputs), labels) / len(sizes)).backward()
naive = gradient()

sums = thalweg.Accumulator(model)
for inputs, labels in sums.over(micro_batches):
    sums.backward(nn.functional.cross_entropy(model(inputs), labels, reduction="sum"), count=len(labels))
mean_loss = sums.finish()
exact = gradient()

print(f"mean of means: off by {(naive - large).norm() / large.norm():.1%} of the gradient")
print(f"Accumulator:   off by {(exact - large).norm() / large.norm():.1e}; mean loss {mean_loss:.4f}")
assert torch.allclose(exact, large, rtol=1e-4, atol=1e-7)
