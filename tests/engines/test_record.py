"""What is recorded: hand-counted memory traffic, measuring graphs that store nothing, and slots of one's own."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import Parameter

import thalweg
from engines.rig import NAMES
from thalweg.engine.record import Structure, barriers, layout, record
from thalweg.hyper import flatten, join
from thalweg.recipe import Recipe
from thalweg.slots import L2, Average, Debiased, OverSqrt, Slot, State, largest, mean, total
from thalweg.square import square_shape

#: Words per element and passes, counted by hand: what must be read (parameter, gradient, state) and written back.
COUNTED: dict[str, tuple[int, int]] = {
    "sgd": (3, 1),  # p g | p
    "adagrad": (5, 1),  # p g s | p s
    "rmsprop": (5, 1),  # p g v | p v
    "rmspropv2": (5, 1),
    "adadelta": (7, 1),  # p g v d | p v d
    "sparseadam": (7, 1),  # of a dense gradient
    "asgd": (4, 1),  # p g | p ax: a copy until averaging begins
    "rprop": (7, 1),  # p g prev size | p prev size
    "adam": (7, 1),  # p g m v | p m v
    "adamw": (7, 1),
    "nadam": (7, 1),
    "radam": (7, 1),
    "adamax": (7, 1),  # p g m u | p m u
    "adam_atan2": (7, 1),
    "sadam": (9, 1),  # p g m v max | p m v max
    "adamwarmup": (7, 1),
    "diffgrad": (9, 1),  # p g m v q | p m v q
    "adamomentum": (7, 1),
    "adax": (7, 1),
    "lion": (5, 1),  # p g m | p m
    "adalo": (5, 1),
    "sgds": (5, 1),
    "lamb": (4 + 7, 2),  # both norms: p g m v ; then Adam's
    "adams": (2 + 7, 2),  # the mean of v: g v ; then Adam's
    "lars": (2 + 5, 2),  # both norms: p g ; then momentum's
    "larc": (2 + 5, 2),
    "adamcpr": (7, 1),  # Adam's, as long as kappa is not known
    "adamw2": (1 + 3 + 7, 3),  # the singular values: p ; g m v ; then Adam's
    "nsgda": (3 + 5, 2),  # the norm, with L2: p g m ; then momentum's
    "adafactor": (2 + 1 + 3, 3),  # rows and columns of g, and rms of p: p g ; rms of u: g ; then p g | p
    "adafactor_torch": (2 + 1 + 3, 3),
    "adafactor_bv": (1 + 5, 2),  # rows and columns: g ; then momentum's
    "sm3": (5, 1),  # momentum's; the covers are maxima of what it divides by
    "smmf": (3, 1),  # p g | p, a bit read and one written; the sums are those of what it makes on its way
    "amos": (1 + 3, 2),  # the mean of g^2: g ; then p g | p
    "muon": (2 + 5, 2),  # the matrix: g b ; then p g b | p b
    # g, m and the step turned: g Q Q ; g m Q Q ; v Q Q ; products: g ; then p g m v L R | p m v L R
    "soap": (3 + 4 + 3 + 1 + 11, 5),
    "schedulefree_sgd": (5, 1),  # p g z | p z
    "schedulefree_adamw": (7, 1),  # p g v z | p v z
    "schedulefree_radam": (7, 1),
    "prodigy": (4 + 9, 2),  # both sums: p g s p0 ; then p g m v s | p m v s
    "dadapt_adam": (4 + 9, 2),  # both sums, with L2: p g s v ; then p g m v s | p m v s
    "dog": (3 + 3, 2),  # norms: p g p0 ; then p g | p
    "ldog": (3 + 3, 2),
    "momo": (3 + 5, 2),  # sums: p g m ; then p g m | p m
    "momo_adam": (4 + 7, 2),  # sums: p g m v ; then Adam's
    "am_msgd": (3 + 5, 2),  # sums, with L2: p g m ; then momentum's
    "am_adamw": (4 + 7, 2),  # sums: p g m v ; then Adam's
    "stableadamw": (2 + 7, 2),  # how far g exceeds v: g v ; then Adam's
    "adopt": (7, 1),
    "ademamix": (9, 1),  # p g m n v | p m n v
    "adabelief": (7, 1),
    "mars": (2 + 9, 2),  # the norm of c: g last ; then p g m v last | p m v last
    "adammini": (1 + 5, 2),  # mean squares of rows: g ; then p g m | p m
    "adamnorm": (2 + 7, 2),  # |g|, with L2: p g ; then Adam's
    "adabeliefnorm": (2 + 7, 2),
    "radamnorm": (1 + 7, 2),  # without L2
    "diffgradnorm": (2 + 9, 2),  # |g|, with L2: p g ; then p g q m v | p q m v
    "pnm": (6, 1),  # p g m n | p, and m or n
    "adapnm": (10, 1),  # p g m n v w | p, m or n, v w
    "adama": (7, 1),
    "fcgd": (2 + 10 + 1 + 10, 1),  # p g and ten past | p and ten past
    "adagl": (2 + 12 + 1 + 12, 1),
}
#: State that is set when it is made and never written again.
READ_ONLY: dict[str, set[str]] = {"amos": {"scale"}}
#: Options that change the count.
WITH_OPTIONS: list[tuple[str, dict[str, Any], int, int]] = [
    ("sgd", {"momentum": 0.9}, 5, 1),
    ("sgd", {"momentum": 0.9, "nesterov": True}, 5, 1),
    ("sgd", {"momentum": 0.9, "lr_inside": True}, 5, 1),
    ("rmsprop", {"momentum": 0.9, "lr_inside": True, "eps_inside": True, "initial_square_avg": 1.0}, 7, 1),
    ("rmspropv2", {"momentum": 0.9}, 7, 1),
    ("rmsprop", {"momentum": 0.9}, 7, 1),
    ("rmsprop", {"momentum": 0.9, "centered": True}, 9, 1),
    ("adam", {"amsgrad": True}, 9, 1),
    ("adam", {"amsgrad": True, "amsgrad_convention": "optax"}, 9, 1),
    ("sadam", {"amsgrad": False}, 7, 1),
    ("diffgrad", {"legacy": True}, 7, 1),
    ("adams", {"amsgrad": True}, 3 + 9, 2),
    ("lamb", {"adapt": False}, 7, 1),
    ("lamb", {"max_grad_norm": 1.0}, 1 + 4 + 7, 3),  # the model's norm: g
    ("lars", {"momentum": 0}, 2 + 3, 2),
    ("lars", {"weight_decay": 0}, 5, 1),  # not adapted
    ("larc", {"momentum": 0}, 2 + 3, 2),
    ("adamcpr", {"kappa_init_method": "dependent"}, 4 + 7, 2),  # R(p) after the step: p g m v
    ("adamcpr", {"kappa_init_method": "uniform", "reg_function": "std"}, 4 + 4 + 7, 3),  # its mean first
    ("adamw2", {"sigma": ("power", 2)}, 7, 1),
    ("nsgda", {"scope": "global"}, 8, 2),
    ("adafactor", {"beta1": 0.9}, 2 + 1 + 5, 3),
    ("adafactor", {"lr": 1e-3, "relative_step": False, "scale_parameter": False}, 1 + 1 + 3, 3),
    ("dadapt_adam", {"decouple": True}, 3 + 9, 2),
    ("dog", {"outer": thalweg.PolynomialAverage()}, 3 + 5, 2),
    ("adamw", {"techniques": ["ema"]}, 9, 1),
    ("adafactor", {"factored": False}, 3 + 5, 2),  # rms of u and of p: p g v ; then p g v | p v
    ("adafactor_bv", {"momentum": None}, 1 + 3, 2),
    ("sm3", {"momentum": 0}, 3, 1),
    ("smmf", {"beta": None}, 3, 1),
    ("amos", {"momentum": 0.9}, 1 + 5, 2),
    ("amos", {"slots": "full"}, 7, 1),  # p g v b | p v b
    ("adamw", {"techniques": ["factored"]}, 1 + 5, 2),  # rows and columns: g ; their mean: nothing ; then p g m | p m
    ("adamw", {"techniques": ["sm3"]}, 5, 1),
    ("adamw", {"techniques": ["smmf"]}, 5, 1),
    ("adamw", {"outer": thalweg.ScheduleFree()}, 9, 1),
    ("adamw", {"outer": thalweg.Lookahead(5, 0.5)}, 7, 1),  # without a pull; with one it is 9
    ("adamw", {"outer": thalweg.Lookahead(2, 0.5)}, 9, 1),
    ("adamw", {"outer": thalweg.Lookahead(2, 0.5, "pullback")}, 11, 1),  # p g m v slow slow_m | the same but g
    ("adamw", {"outer": thalweg.Lookahead(2, 0.5, "reset")}, 9, 1),
    ("schedulefree_adamw", {"inner_momentum": 0.9}, 9, 1),
    ("schedulefree_adamw", {"paper": True}, 7, 1),
    ("ademamix", {"betas": (0.0, 0.999, 0.9999)}, 7, 1),
    ("adabelief", {"amsgrad": True}, 9, 1),
    ("mars", {"amsgrad": True}, 2 + 11, 2),
    ("mars", {"optimize_1d": True}, 11, 2),
    ("adammini", {"block": "tensor"}, 6, 2),
    ("adammini", {"block": "full"}, 7, 1),
    ("adammini", {"block": "head", "heads": 2}, 6, 2),
    ("adamnorm", {"amsgrad": True}, 2 + 9, 2),
    ("adamnorm", {"decoupled_weight_decay": True}, 1 + 7, 2),
    ("adapnm", {"amsgrad": False}, 8, 1),
]


def _scalars(recipe: Recipe) -> tuple[list[tuple[str, str]], Structure]:
    h = {**flatten(join(recipe.hypers())), **recipe.group_numbers, "k": 1, "loss_count": 1}
    numbers, flags = layout(recipe.scalars(h, 2, dict(recipe.numbers), (8, 8)))
    return numbers, Structure(flags, shape=(1, 1))


@pytest.mark.parametrize("name", NAMES)
def test_words_and_passes(name: str) -> None:
    assert name in COUNTED, "count its words by hand"
    recipe = thalweg.get(name).recipe
    assert (recipe.words(), recipe.passes()) == COUNTED[name]


@pytest.mark.parametrize(("name", "options", "words", "passes"), WITH_OPTIONS)
def test_words_with_options(name: str, options: dict[str, Any], words: int, passes: int) -> None:
    opt = thalweg.get(name).cls([Parameter(torch.zeros(8, 8))], **options)
    assert (opt.recipe.words(), opt.recipe.passes()) == (words, passes)
    assert opt.words_per_element() == words


def test_words_are_averaged_over_the_elements() -> None:
    matrix, vector = Parameter(torch.zeros(30)), Parameter(torch.zeros(10))
    opt = thalweg.Optimizer([{"params": [matrix], "recipe": "lion"}, {"params": [vector], "recipe": "adamw"}])
    assert opt.words_per_element() == (30 * 5 + 10 * 7) / 40


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_measuring_stores_nothing(name: str, count: int) -> None:
    """No graph but the last one writes, and that one writes the parameter and each state once."""
    recipe = thalweg.get(name).recipe
    numbers, structure = _scalars(recipe)
    if recipe.scope in ("row", "matrix"):
        count = 1
    for barrier in range(len(barriers(recipe, (1, 1)))):
        graph, _ = record(recipe, numbers, structure, count, barrier)
        called = [n.target for n in graph.module.graph.nodes if n.op == "call_method"]
        assert graph.stores == ()
        assert not [t for t in called if t.endswith("_")]
    expected = {("param", i) for i in range(count)}
    roles = recipe.state((8, 8)).keys() - READ_ONLY.get(name, set())
    expected |= {("state", i, role) for i in range(count) for role in roles}
    written: set[tuple[Any, ...]] = set()
    for values in itertools.product([False, True], repeat=len(structure.flags)):
        flags = tuple((place, key, on) for (place, key, _), on in zip(structure.flags, values, strict=True))
        graph, _ = record(recipe, numbers, replace(structure, flags=flags), count, None)
        assert len(graph.stores) == len(set(graph.stores))
        called = [n.target for n in graph.module.graph.nodes if n.op == "call_method"]
        assert called.count("copy_") == len(graph.stores)
        assert set(graph.stores) >= {("param", i) for i in range(count)}
        written |= set(graph.stores)
    copies = {role for role, spec in recipe.state((8, 8)).items() if spec.fill == "param"}
    assert written <= expected
    assert {key[2] for key in expected - written} <= copies, (
        "only a copy of where a parameter started may stay as it is"
    )


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_read_in_vain(name: str) -> None:
    """Our own kernels would ask memory for it."""
    recipe = thalweg.get(name).recipe
    numbers, structure = _scalars(recipe)
    structure = replace(structure, shape=(1, 1) if recipe.scope == "row" else (1,), native=True)
    _, kinds = record(recipe, numbers, structure, 1, None)
    for barrier in (*range(len(kinds)), None):
        graph, _ = record(recipe, numbers, structure, 1, barrier)
        idle = [n for n in graph.module.graph.nodes if not n.users and n.op != "output" and n.target != "copy_"]
        assert idle == []
    if name == "dog":
        assert ("state", 0, "p0") not in graph.inputs, "its update does not need the anchor"


MEASURED = [n for n in NAMES if (r := thalweg.get(n).recipe).scope != "matrix" and barriers(r, (1, 1))]


@pytest.mark.parametrize("name", ["lamb", "larc", "nsgda", "adafactor", "adams", "schedulefree_adamw"])
def test_numbers_are_worked_out_before_the_elements(name: str) -> None:
    """What follows from numbers alone is computed apart from the tensors, which read it from one place."""
    recipe = thalweg.get(name).recipe
    numbers, structure = _scalars(recipe)
    structure = replace(structure, shape=(1, 1) if recipe.scope == "row" else (1,))
    graph, _ = record(recipe, numbers, structure, 1, None)
    small: dict[Any, bool] = {}  # and whether it took arithmetic
    inputs = iter(graph.inputs)
    for node in graph.module.graph.nodes:
        if node.op == "placeholder":
            key = next(inputs)
            if key == ("scalars",) or (key[0] == "answer" and len(key) == 3):
                small[node] = False
        elif node.all_input_nodes and all(n in small for n in node.all_input_nodes):
            # What is true or false is cheap, and of another kind than the numbers in the vector.
            small[node] = node.target not in (operator.getitem, torch.stack, operator.and_, operator.gt)
    repeated = [n for n, worked in small.items() if worked and any(user not in small for user in n.users)]
    assert repeated == []
    assert any(small.values()) or name == "schedulefree_adamw"


@pytest.mark.parametrize("name", MEASURED)
def test_a_measuring_graph_changes_no_input(name: str) -> None:
    recipe = thalweg.get(name).recipe
    numbers, structure = _scalars(recipe)
    structure = replace(structure, shape=recipe.alike((4, 5)))
    found = barriers(recipe, structure.shape)
    for barrier in range(len(found)):
        graph, _ = record(recipe, numbers, structure, 1, barrier)
        inputs = []
        for kind, *rest in graph.inputs:
            specs = recipe.state((4, 5))
            shape = (4, 5) if kind != "state" else specs[rest[1]].shape or (4, 5)
            if kind == "scalars":
                shape = (max(len(numbers), 1),)
            elif kind == "answer":
                over = found[rest[0]][rest[1]].over
                rows, columns = square_shape((4, 5)) if recipe.squared else (4, 5)
                shape = ((rows,) if over == -1 else (columns,)) if isinstance(over, int) else (1,)
            dtype = specs[rest[1]].dtype if kind == "state" else None
            inputs.append((torch.rand(shape) + 0.5).to(dtype or torch.float32))
        copies = [t.clone() for t in inputs]
        graph.module(*inputs)
        assert all(torch.equal(a, b) for a, b in zip(inputs, copies, strict=True))


# ------------------------------------------------------------------------------------------------ slots of one's own


@dataclass(frozen=True, repr=False)
class Belief(Average):
    """Variance of the gradient around its own mean (AdaBelief, arXiv 2010.07468)."""

    def __call__(self, x: Any, h: Any, g: Any) -> Any:
        return super().__call__(x, h, g - x["exp_avg"])


@dataclass(frozen=True, repr=False)
class Centralised(Slot):
    """The gradient less its mean over the tensor."""

    scope = "tensor"

    def __call__(self, x: Any, h: Any, g: Any) -> Any:
        middle = yield mean(g)
        return g - middle


@dataclass(frozen=True, repr=False)
class Kept(Slot):
    """Keeps averages of row and column sums of g^2, over their total and beside it, and the step's size; SGD else."""

    scope = "row"

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        if len(shape) < 2:
            return {"whole": State(shape=())}
        rows, columns = State.along(shape, (0, None)), State.along(shape, (None, 1))
        return {"rows": rows, "columns": columns, "top": columns, "whole": State(shape=())}

    def __call__(self, x: Any, h: Any, g: Any) -> Any:
        squares = g * g
        if len(x.shape) > 1:
            rows, columns, whole = yield total(squares, (1,)), total(squares, (0,)), total(squares)
            x["rows"] = x["rows"] * 0.5 + rows / whole
            x["columns"] = torch.where(columns > 0, columns / whole, 1.0)
            x["top"] = yield largest(g.abs(), (0,))
        size = yield mean(squares)
        x["whole"] = x["whole"] + size.reshape(())
        return g


@dataclass(frozen=True, repr=False)
class Twice(Slot):
    """Asks for two things, one after the other, that do not depend on each other, and then for one that does."""

    scope = "tensor"

    def __call__(self, x: Any, h: Any, g: Any) -> Any:
        middle = yield mean(g)
        size = yield mean(x.param * x.param)
        apart = yield mean((g - middle) * (g - middle))
        return (g - middle) * size / apart


def _train(cls: Any, engine: str, step: Callable[[Any, Any, int, dict[str, Any]], Any], **hyper: Any) -> float:
    """The worst error of ten float64 steps over two tensors against ``step(p, g, t, state)`` in NumPy."""
    random = np.random.default_rng(0)
    values = [random.normal(size=(4, 5)), random.normal(size=6)]
    params = [Parameter(torch.tensor(v)) for v in values]
    opt = cls(params, engine=engine, **hyper)
    states: list[dict[str, Any]] = [{}, {}]
    for t in range(1, 11):
        for i, p in enumerate(params):
            g = random.normal(size=values[i].shape)
            p.grad = torch.tensor(g)
            values[i] = step(values[i], g, t, states[i])
        opt.step()
    return max(np.abs(p.detach().numpy() - v).max() / np.abs(v).max() for p, v in zip(params, values, strict=True))


@pytest.mark.parametrize("engine", ["reference", "foreach", "compiled"])
def test_adabelief_in_ten_lines(engine: str, few: None) -> None:
    belief = Belief("exp_avg_sq", Debiased("betas.1", 0.999), power=2)
    recipe = thalweg.ADAMW.but(flow=thalweg.flows.first_then_second, second=belief, ratio=OverSqrt(eps=1e-6))
    cls = thalweg.define("BeliefExample", recipe, lr=0.02)

    def step(p: Any, g: Any, t: int, s: dict[str, Any]) -> Any:
        s["m"] = 0.8 * s.get("m", 0.0) + 0.2 * g
        s["v"] = 0.95 * s.get("v", 0.0) + 0.05 * (g - s["m"]) ** 2
        m, v = s["m"] / (1 - 0.8**t), s["v"] / (1 - 0.95**t)
        return p * (1 - 0.02 * 0.1) - 0.02 * m / (np.sqrt(v) + 1e-6)

    assert _train(cls, engine, step, betas=(0.8, 0.95), weight_decay=0.1) <= 1e-12
    assert "adabelief" in thalweg.list_optimizers()
    assert recipe.words() == 7


@pytest.mark.parametrize("engine", ["reference", "foreach", "compiled"])
def test_a_reduction_of_ones_own(engine: str, few: None) -> None:
    cls = thalweg.define("CentralisedSGD", Recipe(gradient=Centralised(), coupled=None), lr=0.1)

    def step(p: Any, g: Any, t: int, s: dict[str, Any]) -> Any:
        return p - 0.1 * (g - g.mean())

    assert _train(cls, engine, step) <= 1e-12
    assert Recipe(gradient=Centralised()).words() == 1 + 3
    assert Recipe(gradient=L2()).passes() == 1


@pytest.mark.parametrize("engine", ["reference", "foreach", "compiled"])
def test_what_is_only_stored_needs_no_pass_of_its_own(engine: str, few: None) -> None:
    """Sums of rows and columns, a maximum, and what follows from them, are worked out with the update."""
    recipe = Recipe(gradient=Kept(), coupled=None)
    cls = thalweg.define("KeptSGD", recipe, lr=0.1)
    p, q = Parameter(torch.zeros(5, 7, dtype=torch.float64)), Parameter(torch.zeros(6, dtype=torch.float64))
    opt = cls([p, q], engine=engine)
    rows, size = np.zeros((5, 1)), 0.0
    for t in range(3):
        g = np.random.default_rng(t).normal(size=(5, 7))
        p.grad, q.grad = torch.tensor(g), torch.ones(6, dtype=torch.float64)
        opt.step()
        s = g * g
        rows, size = rows * 0.5 + s.sum(1, keepdims=True) / s.sum(), size + s.mean()
        expected = {"rows": rows, "columns": s.sum(0, keepdims=True) / s.sum(), "top": np.abs(g).max(0, keepdims=True)}
        for role, value in {**expected, "whole": np.array(size)}.items():
            np.testing.assert_allclose(opt.state[p][role].numpy(), value, rtol=1e-12, err_msg=role)
        assert opt.state[q]["whole"] == t + 1
    assert (recipe.words(), recipe.passes()) == (3, 1)


@pytest.mark.parametrize("engine", ["reference", "foreach", "compiled"])
def test_what_is_independent_is_measured_together(engine: str, few: None) -> None:
    recipe = Recipe(gradient=Twice(), coupled=None)
    cls = thalweg.define("TwiceSGD", recipe, lr=0.1)

    def step(p: Any, g: Any, t: int, s: dict[str, Any]) -> Any:
        return p - 0.1 * (g - g.mean()) * (p * p).mean() / g.var()

    assert _train(cls, engine, step) <= 1e-12
    assert (recipe.words(), recipe.passes()) == (2 + 1 + 3, 3)
