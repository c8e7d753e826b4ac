"""The optimizer's step inside backward: the same weights, and gradients that never all exist at once.

Run: python examples/gradient_release.py
"""

import torch
from torch import nn

import thalweg
from thalweg.release import GradientRelease


class Watch:
    """The most gradient elements that existed whenever another gradient became final."""

    def __init__(self, model: nn.Module) -> None:
        self.params = list(model.parameters())
        self.most = 0
        for p in self.params:
            p.register_post_accumulate_grad_hook(self.look)

    def look(self, _: torch.Tensor) -> None:
        self.most = max(self.most, sum(p.grad.numel() for p in self.params if p.grad is not None))


def train(released: bool) -> tuple[nn.Module, int]:
    torch.manual_seed(0)
    model = nn.Sequential(*[layer for _ in range(16) for layer in (nn.Linear(64, 64), nn.Tanh())])
    watch = Watch(model)
    opt = thalweg.AdamW(model.parameters(), lr=1e-3, techniques=["agc"])  # clips tensor by tensor
    if released:
        GradientRelease(opt, pool=5000)  # a small pool for a small model; large models keep the default
    x = torch.randn(32, 64)
    for _ in range(20):
        (model(x) - x).square().mean().backward()
        opt.step()
        opt.zero_grad()
    return model, watch.most


ordinary, at_once = train(released=False)
released, left = train(released=True)
apart = max((p - q).abs().max().item() for p, q in zip(ordinary.parameters(), released.parameters(), strict=True))
print(f"gradient elements at the most: {at_once:,} in ordinary steps, {left:,} released")
print(f"largest difference of any weight after 20 steps: {apart:.1e}")
assert left <= 5000 + 64 * 64
assert apart <= 1e-6
