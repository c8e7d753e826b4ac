"""Adam-mini: AdamW with one second moment for each block of a parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim.optimizer import ParamsT

from thalweg.optimizers.partition import Kind, Partitioned
from thalweg.recipes import ADAMW
from thalweg.registry import register
from thalweg.slots.blocks import SecondPerRow, SecondPerTensor

PER_ROW = ADAMW.but(second=SecondPerRow())
PER_TENSOR = ADAMW.but(second=SecondPerTensor())
BLOCKS = ("row", "tensor", "full", "head")

#: Part of a name -> block, the first that fits: how the authors partition transformers.
RULES: dict[str, str] = {
    **dict.fromkeys(("norm", "ln_"), "tensor"),
    "bias": "full",
    **dict.fromkeys(("q_proj", "k_proj", "wq", "wk", "query", "key"), "head"),
    **dict.fromkeys(("embed", "embd", "wte", "wpe", "lm_head", "output", "v_proj", "wv", "value"), "row"),
    **dict.fromkeys(("o_proj", "wo", "attn.proj", "feed_forward", "linear", "mlp"), "row"),
}
#: Which of the rules for heads are about keys, of which a model may have fewer.
KEYS = ("k_proj", "wk", "key")


@register(
    "adammini",
    source="arXiv 2406.16793",
    code="github.com/zyushun/Adam-mini",
    aliases=("adam_mini", "adam-mini"),
    recipe=PER_ROW,
)
class AdamMini(Partitioned):
    """Adam-mini: AdamW with one second moment for a whole row, attention head or tensor, which halves its memory.

    Equations::

        p <- p*(1 - lr*weight_decay)
        m <- betas[0]*m + (1-betas[0])*g
        v <- betas[1]*v + (1-betas[1])*mean(g^2 over the block)
        p <- p - lr*m/(1-betas[0]^t)/(sqrt(v/(1-betas[1]^t)) + eps)

    A block is a "row" (index of the first axis, axes after it flattened: an output neuron or token), a "head" (rows of
    equal number), the whole "tensor", or with "full" each entry by itself, which is AdamW.

    Args:
        params: ``(name, parameter)`` pairs, as ``model.named_parameters()`` or ``thalweg.create("adammini", model)``
            gives them, parameters or groups. Each group is split by name; a group may hold ``block`` instead.
        lr: learning rate, >= 0.
        betas: two numbers, 0 <= x < 1.
        eps: >= 0.
        weight_decay: >= 0.
        block: the block of every parameter; None for the rules.
        rules: part of a name -> block, tried in order before the built-in ones, which know the usual names of
            transformers: norms one block a tensor, biases AdamW, queries and keys by head, embeddings, head, values
            and projections by row.
        otherwise: the block where no rule fits or a parameter has no name. None: "row" from two axes on, else
            "tensor". The authors take "tensor", which is unstable where it meets a transformer's matrices.
        heads: number of heads in a query's weight; None lets rows stand in for heads, finer than published.
        kv_heads: of a key's weight, where it is another number.
        undecayed: parts of names whose weight decay is 0.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``.

    State: exp_avg, 4 bytes per parameter, and exp_avg_sq, a number for each block (for a head's rows one each, equal).
    Memory: 2 passes, 6 words per element.

    Raises:
        ValueError: a block that is none, "head" without ``heads``, or heads that do not divide a tensor's rows.

    Example:
        >>> import torch, thalweg
        >>> model = torch.nn.Linear(2, 2)
        >>> opt = thalweg.create("adammini", model, lr=0.1)
        >>> model(torch.ones(1, 2)).sum().backward(); opt.step()
        >>> [tuple(opt.state[p]["exp_avg_sq"].shape) for p in (model.weight, model.bias)]
        [(2, 1), (2,)]
    """

    consumed = ("block",)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        block: str | None = None,
        rules: Mapping[str, str] | None = None,
        otherwise: str | None = None,
        heads: int | None = None,
        kv_heads: int | None = None,
        undecayed: Sequence[str] = ("norm", "ln_", "bias"),
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        for name, count in (("heads", heads), ("kv_heads", kv_heads)):
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
                raise ValueError(f"Invalid {name}: {count!r}; legal is a whole number of at least 1, or None")
        self._block, self._rules, self._otherwise = block, {**(rules or {}), **RULES}, otherwise
        self._heads = {"head": heads, "key": kv_heads or heads}
        self._undecayed = tuple(undecayed)
        for name, value in (("block", block), ("otherwise", otherwise), *self._rules.items()):
            _check(name, value)
        recipes = {"row": PER_ROW, "tensor": PER_TENSOR, "full": ADAMW}
        recipes |= {k: ADAMW.but(second=SecondPerRow(heads=n)) for k, n in self._heads.items() if n}
        self.kinds = {k: Kind(r, {}) for k, r in recipes.items()}
        self.kinds |= {f"{k} undecayed": Kind(r, {"weight_decay": 0.0}) for k, r in recipes.items()}
        numbers: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, PER_ROW, maximize=maximize, **numbers, **options)

    def block_of(self, name: str, ndim: int) -> str:
        """The block that the rules give a parameter: one of "row", "tensor", "full", "head", or "key" for its heads."""
        rule = next((part for part in self._rules if part in name), None)
        if rule is None:
            return self._otherwise or ("row" if ndim >= 2 else "tensor")
        block = self._rules[rule]
        if block != "head" or ndim < 2:
            return block if block != "head" else "full"
        kind = "key" if rule in KEYS else "head"
        return kind if self._heads[kind] else "row"

    def kind_of(self, name: str, param: torch.Tensor, group: dict[str, Any]) -> str:
        given = group.get("block", self._block)
        kind = self.block_of(name, param.ndim) if given is None else str(_check("block", given))
        if kind in self._heads:
            count = self._heads[kind]
            if not count:
                raise ValueError(
                    f'block="head" needs heads, the number of attention heads, for {name or "a parameter"}'
                )
            if param.ndim < 2 or param.shape[0] % count:
                raise ValueError(
                    f"{count} heads do not divide the rows of {name or 'a parameter'} of shape {tuple(param.shape)};"
                    " give heads or kv_heads, or another block by rules={...}"
                )
        return f"{kind} undecayed" if any(part in name for part in self._undecayed) else kind

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_block", "_rules", "_otherwise", "_heads", "_undecayed")
        return {**super().__getstate__(), **{k: self.__dict__[k] for k in kept}}


def _check(name: str, block: Any) -> Any:
    if block is not None and block not in BLOCKS:
        raise ValueError(f"Invalid {name}: {block!r}; legal are {', '.join(map(repr, BLOCKS))}")
    return block
