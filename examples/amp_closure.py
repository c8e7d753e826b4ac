"""Mixed precision with a closure: an optimizer that needs the loss, under autocast and a gradient scaler.

The closure only computes the loss; ``thalweg.amp.step`` scales it, skips steps whose gradient overflowed, and hands
the unscaled loss to the optimizer. L-BFGS works the same way.

Run: python examples/amp_closure.py
"""

import torch
from torch import nn

import thalweg

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
x = torch.randn(256, 8, device=device)
y = (x[:, :1] - 0.5 * x[:, 1:2]).tanh()

model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)).to(device)
opt = thalweg.MoMoAdam(model.parameters(), lr=1e-2)
# On the CPU half precision is bfloat16, which needs no scaler; it is here to show the loop.
scaler = torch.amp.GradScaler(device, init_scale=2.0**10)
half = torch.float16 if device == "cuda" else torch.bfloat16


def closure() -> torch.Tensor:
    with torch.autocast(device, dtype=half):
        out = model(x)
    return nn.functional.mse_loss(out.float(), y)


for step in range(200):
    loss = thalweg.amp.step(scaler, opt, closure)
    if step % 50 == 49:
        print(f"step {step + 1}: loss {loss.item():.5f}, scale {scaler.get_scale():g}")

assert loss.item() < 0.02
