"""What a process can tell about an optimizer: graphs compiled, cache used, memory held, words moved."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from thalweg.engine import family
from thalweg.engine.native import build

ADAMW_WORDS = 7.0
"""Words that a fused AdamW moves per element: reads p, g, m, v and writes p, m, v."""


def graph_count() -> int:
    """Graphs compiled in this process so far, by the library or through torch.compile; loads no compiler to ask."""
    module = sys.modules.get("torch._dynamo.utils")
    return family.compiled + (0 if module is None else int(module.counters["stats"]["unique_graphs"]))


def cache_state() -> str:
    """What the compilers' on-disk caches gave this process: ``cold``, ``warm``, ``mixed``, or ``none`` (unused)."""
    module = sys.modules.get("torch._dynamo.utils")
    counters: dict[str, Any] = {} if module is None else module.counters
    inductor, autograd = counters.get("inductor", {}), counters.get("aot_autograd", {})
    hits = build.found + inductor.get("fxgraph_cache_hit", 0) + autograd.get("autograd_cache_hit", 0)
    misses = build.made + inductor.get("fxgraph_cache_miss", 0) + inductor.get("fxgraph_cache_bypass", 0)
    if hits and misses:
        return "mixed"
    if hits:
        return "warm"
    return "cold" if misses or graph_count() else "none"


def _walk(events: Sequence[Any]) -> Iterator[Any]:
    for event in events:
        yield event
        yield from _walk(event.children)


def peak_extra_bytes(step: Callable[[], None], device: str = "cpu") -> int:
    """The most memory that one step holds beyond what lives before it.

    On CUDA the allocator's own peak. On CPU the running sum of every allocation and release that the profiler records
    from torch's allocator, which generated C++ kernels use as well: exact to the byte, where sampling the process's
    resident size sees neither short-lived nor recycled blocks. Scratch that a BLAS library allocates is not seen.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    profiler: Any = profile.profiler
    allocation = torch._C._profiler._EventType.Allocation
    changes = [
        (event.start_time_ns, event.typed[1].alloc_size)
        for event in _walk(profiler.kineto_results.experimental_event_tree())
        if event.typed[0] == allocation
    ]
    held = peak = 0
    for _, change in sorted(changes, key=lambda item: item[0]):
        held += change
        peak = max(peak, held)
    return peak


def synchronize(device: str) -> None:
    """Wait until the device has done all it was told; a processor has when a call returns."""
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(device)


def host_seconds(step: Callable[[], None], device: str, repeats: int = 20) -> float:
    """How long a step keeps the host, whatever the device still has to do: the median of some steps."""
    times = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    synchronize(device)
    return statistics.median(times)


def copy_bytes_per_s(device: str, numbers: int = 1 << 26, repeats: int = 10) -> float:
    """Bytes read and written by a second of copying from one float32 tensor to another."""
    source = torch.ones(numbers, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        synchronize(device)

    copy()
    return 2 * source.nbytes / host_seconds(copy, device, repeats)


#: Pairs of a step and one whose products are timed.
PAIRS = 3
PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn::_linear_pointwise"})
"""Operators that multiply matrices and call no other of these."""


def over_products(step: Callable[[], None]) -> float | None:
    """The time of a step on a CPU over the time of the matrix products in one; ``None`` where it has none.

    The median of pairs of neighbours, as a shared machine's speed drifts: one is timed whole, of the other one the
    products, by the profiler, which itself takes time for every small operation.
    """
    ratios = []
    for _ in range(PAIRS):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            step()
        products = sum(event.cpu_time_total for event in profile.key_averages() if event.key in PRODUCTS) / 1e6
        if not products:
            return None
        start = time.perf_counter()
        step()
        ratios.append((time.perf_counter() - start) / products)
    return statistics.median(ratios)


def state_bytes(opt: Optimizer) -> int:
    """What the optimizer says it holds; for a plain torch optimizer the sum over its state's tensors, lists and all."""
    declared = getattr(opt, "state_bytes", None)
    if callable(declared):
        return int(declared())
    return _held(list(opt.state.values()))


def _held(value: Any) -> int:
    """Bytes of the tensors in nested lists and dicts; of a tensor subclass, those of the tensors it is made of."""
    if isinstance(value, torch.Tensor):
        flatten = getattr(value, "__tensor_flatten__", None)
        return value.nbytes if flatten is None else sum(_held(getattr(value, part)) for part in flatten()[0])
    if isinstance(value, dict):
        return sum(map(_held, value.values()))
    return sum(map(_held, value)) if isinstance(value, (list, tuple)) else 0


def words_per_element(opt: Optimizer) -> float | None:
    """Words read and written per parameter element and step as the optimizer declares; ``None`` where it does not."""
    declared = getattr(opt, "words_per_element", None)
    words = declared() if callable(declared) else None
    return None if words is None else float(words)
