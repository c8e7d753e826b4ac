"""Data-parallel training with uneven micro-batches on every process.

Run: torchrun --nproc_per_node 2 examples/ddp.py
"""

import os

import torch
import torch.distributed as dist
from torch import nn

import thalweg

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)  # the same model everywhere
model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1)))
opt = thalweg.AdamW(model.parameters(), lr=1e-2)
sums = thalweg.Accumulator(model)

generator = torch.Generator().manual_seed(1 + rank)  # other data on every process
for step in range(60):
    sizes = torch.randint(1, 20, (3,), generator=generator).tolist()
    opt.zero_grad()
    for size in sums.over(sizes):
        x = torch.randn(size, 10, generator=generator)
        y = x[:, :1] - x[:, 1:2]
        with sums.sync:  # gradients travel at the last micro-batch only
            loss_sum = (model(x) - y).square().sum()
            sums.backward(loss_sum, count=size)
    loss = sums.finish()  # over all micro-batches of all processes
    opt.step()
    if rank == 0 and step % 20 == 19:
        print(f"step {step + 1}: mean loss {loss:.4f} over {world} processes", flush=True)

weights = torch.cat([p.detach().flatten() for p in model.parameters()])
others = [torch.empty_like(weights) for _ in range(world)]
dist.all_gather(others, weights)
assert all(torch.equal(weights, other) for other in others), "replicas must not drift apart"
assert loss < 1.0
dist.barrier()  # nobody leaves while another still listens
dist.destroy_process_group()
os._exit(0)  # gloo's threads may outlive the interpreter, which then aborts
