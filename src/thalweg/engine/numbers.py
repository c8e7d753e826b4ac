"""The numbers of a tensor, worked out once a step instead of once for every few of its elements.

A formula mixes numbers (learning rates, norms that came back from a barrier) with tensors. In one loop over the
elements the compiler would repeat the arithmetic of the numbers, roots and divisions included, for every vector of
elements: it cannot know that what is stored does not change what is read. So a recorded graph first works out the
numbers that its elements need, puts them into one small tensor, and reads them from there.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx

#: What the compiler must be told, so that the small tensor is one: to copy what is joined, however little it is.
OPTIONS = {"max_pointwise_cat_inputs": 0}


def gather(graph: fx.Graph, sources: list[fx.Node]) -> None:
    """Change a recorded graph so; ``sources`` are the inputs that hold numbers, alone or in a vector."""
    found: dict[fx.Node, Tensor] = {}
    for node in sources:
        indexed = node.users and all(user.target is operator.getitem for user in node.users)
        found[node] = torch.ones(1 << 12 if indexed else ())
    worked = [node for node in graph.nodes if _number(node, found)]
    wanted = [
        node
        for node in worked
        if node.target is not operator.getitem
        and found[node].dtype == torch.float32
        and any(user not in found and user.op != "output" for user in node.users)
    ]
    if not wanted:
        return
    at = [node for node in graph.nodes if node.op == "placeholder"][-1]
    for node in worked:
        at.append(node)
        at = node
    with graph.inserting_after(at):
        together = graph.call_function(torch.stack, (wanted,))
    for j, node in reversed(list(enumerate(wanted))):
        with graph.inserting_after(together):
            item = graph.call_function(operator.getitem, (together, j))
        node.replace_all_uses_with(item, delete_user_cb=lambda user: user not in found and user is not together)


def _number(node: fx.Node, found: dict[fx.Node, Tensor]) -> bool:
    """Whether a node is a number that follows from numbers; if so, what kind it is is noted by trying it on ones."""
    inputs = node.all_input_nodes
    if node.op not in ("call_function", "call_method") or not inputs or any(n not in found for n in inputs):
        return False
    arguments, named = fx.node.map_arg((node.args, node.kwargs), lambda n: found[n])
    if node.op == "call_method":
        found[node] = getattr(arguments[0], str(node.target))(*arguments[1:], **named)
    else:
        found[node] = node.target(*arguments, **named)  # type: ignore[operator]
    return True
