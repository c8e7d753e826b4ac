"""The plain training loop: swap one line, and print what the optimizer does.

Run: python examples/plain_loop.py
"""

import torch
from torch import nn

import thalweg

torch.manual_seed(0)
x = torch.linspace(-1, 1, 256).unsqueeze(1)
y = torch.sin(3 * x)

model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
opt = thalweg.AdamW(model.parameters(), lr=3e-2, weight_decay=0.01)  # was: torch.optim.AdamW(...)
schedule = thalweg.schedules.Cosine(480).warmup(20).attach(opt)
print(opt)

for step in range(500):
    loss = (model(x) - y).square().mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    schedule.step()
    if step % 100 == 99:
        print(f"step {step + 1}: mean squared error {loss.item():.5f}")

assert loss.item() < 0.01
