"""``Optimizer``: parameter groups, validation, ``step``, modes, and the torch contract. The maths is in the recipes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg import storage
from thalweg.codecs import CHOICES, Layout
from thalweg.engine import captured, compiled, eager, processes
from thalweg.engine.upload import capturing
from thalweg.engine.work import Rule, Work
from thalweg.hyper import flatten, join, spread, suggest, validate
from thalweg.recipe import Recipe, with_techniques
from thalweg.rounding import seed, stalled
from thalweg.sharding import is_sharded
from thalweg.slots.base import Slot

if TYPE_CHECKING:
    from thalweg.accounting import Memory

#: Keys of torch's own groups. They are kept so that checkpoints load both ways; see ``_check_flags``.
FLAGS: dict[str, Any] = {
    "maximize": False,
    "foreach": None,
    "capturable": False,
    "differentiable": False,
    "fused": None,
}
#: Keys that schedulers, trainers and checkpoints put into groups, and that no recipe reads.
FOREIGN = frozenset(
    (
        *("params", "param_names", "recipe", "train_mode", "name", "group_name", "lr_scale", "use_fallback"),
        *("initial_lr", "max_lr", "min_lr", "swa_lr", "base_momentum", "max_momentum"),
    )
)
#: Keys that schedulers cycle in every group, read or not; let through in groups that have been through one already.
CYCLED = frozenset(("momentum", "betas"))
ROUNDINGS = ("nearest", "stochastic", "kahan")
ENGINES = ("auto", "compiled", "foreach", "reference")
#: The step at which half-precision parameters are looked at, once, for whether they move at all.
STALL_STEP = 10
HALVES = frozenset((torch.bfloat16, torch.float16))
#: Parameter elements from which ``engine="auto"`` compiles; below, a compiler costs more than it ever gives back.
COMPILE_FROM = 1 << 20


#: A group with its recipe, and those of its parameters that are to move.
Chosen = tuple[dict[str, Any], Recipe, list[Tensor]]


class Optimizer(torch.optim.Optimizer):
    """Any recipe over any parameter groups: ``Optimizer(groups, recipe=ADAMW, lr=3e-4, outer=Lookahead())``.

    Args:
        params: parameters, ``(name, parameter)`` pairs, or groups. A group may hold its own ``recipe``.
        recipe: the update rule of groups that name none; a ``Recipe`` or the name of a registered optimizer.
        techniques: slots, or names from ``thalweg.list_techniques()``, added to every group's recipe in this order:
            ``[Centralise(), AGC(0.01), "cautious"]``.
        outer: an outer method (``Lookahead``, ``ScheduleFree``) around every group's recipe.
        engine: "auto" (compiled from 2^20 elements on where there is a compiler, else foreach), "compiled",
            "foreach" or "reference".
        state: how state is stored, for all groups that do not say otherwise: "float32", "bfloat16", "int8" or "int4"
            (4, 2, 1 and half a byte a number; see ``thalweg.codecs``). Tensors of fewer than 4096 elements, copies of
            weights, and sums over rows or columns stay as they are.
        rounding: how bfloat16 parameters are stored: "nearest"; "stochastic", which lets steps through that are
            smaller than the gaps between bfloat16 numbers; or "kahan", which keeps what is lost in two more bytes.
        maximize: ascend instead of descend.
        capturable: work the step's numbers out on the parameters' device, so that a captured step (a CUDA graph) can be
            replayed without this library: rates that are tensors on the device are read anew in each replay, other
            numbers stay as they are when it is captured. Take at least one ordinary step before.
        hyper: numbers of the recipe, such as ``lr`` or ``betas``; ranges and defaults are the slots' (lr 1e-3,
            weight_decay 0), not those of a named optimizer with the same recipe.

    Raises:
        ValueError: a number out of range, an unknown option, or one that this recipe does not read.
        TypeError: a value of the wrong type.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> opt = thalweg.Optimizer([p], recipe=thalweg.ADAMW, lr=0.1, weight_decay=0.1)
        >>> p.grad = torch.tensor([0.5, -0.5])
        >>> opt.step()
        >>> p.detach()
        tensor([ 0.8900, -1.8800])
    """

    needs_model: ClassVar[bool] = False
    #: The groups (by id) whose numbers have moved in this step already; see ``thalweg.GradientRelease``.
    _advanced: Collection[int] = ()

    def __init__(
        self,
        params: ParamsT,
        recipe: Recipe | str | None = None,
        *,
        techniques: Sequence[Slot | str] = (),
        outer: Slot | None = None,
        engine: str = "auto",
        state: str = "float32",
        rounding: str = "nearest",
        **hyper: Any,
    ) -> None:
        if engine not in ENGINES:
            raise ValueError(f"Invalid engine: {engine!r}; legal are {', '.join(ENGINES)}")
        if rounding not in ROUNDINGS:
            raise ValueError(f"Invalid rounding: {rounding!r}; legal are {', '.join(ROUNDINGS)}")
        if outer is not None and not isinstance(outer, Slot):
            raise TypeError(f"outer must be a slot such as Lookahead(5, 0.5), got {outer!r}")
        if isinstance(params, (set, frozenset)):
            raise TypeError("params must have an order: a set was given; pass a list")
        self.engine = engine
        self.rounding = rounding
        self.outer = outer
        self.techniques = tuple(map(find_technique, techniques))
        self._recipes: dict[str, Recipe] = {}
        self._default_recipe = None if recipe is None else find_recipe(recipe)
        self._compiled = compiled.Engine()
        self._given = frozenset(hyper)
        numbers = {} if self._default_recipe is None else join(self._default_recipe.hypers())
        super().__init__(params, {**FLAGS, "state": state, **numbers, **hyper})
        legal = self._option_names().union(numbers, *(join(self.recipe_of(g).hypers()) for g in self.param_groups))
        for name in hyper.keys() - legal:
            raise ValueError(
                f"{type(self).__name__} has no option {name!r}, or none of its recipes reads it." + suggest(name, legal)
            )

    def _option_names(self) -> set[str]:
        """Names of options that any group may hold, beyond the numbers its recipe reads."""
        return {*FLAGS, "state"}

    def recipe_of(self, group: Mapping[str, Any]) -> Recipe:
        """The recipe of a group, from its options as they are now."""
        return self._recipes[group["recipe"]]

    def layout_of(self, param: Tensor, group: Mapping[str, Any]) -> Layout:
        """How the state of a parameter of this group is stored."""
        recipe = self.recipe_of(group)
        return storage.layout(recipe, param, group["state"], self.rounding)

    @property
    def recipe(self) -> Recipe:
        """The recipe, where all groups share one; ``recipe_of(group)`` otherwise."""
        found = {self.recipe_of(group) for group in self.param_groups}
        if len(found) > 1:
            raise AttributeError(f"the {len(self.param_groups)} groups have {len(found)} recipes; use recipe_of(group)")
        return found.pop()

    def _choose_recipe(self, group: dict[str, Any]) -> Recipe:
        chosen = group.pop("recipe", None) or self._default_recipe
        if chosen is None:
            raise ValueError("this group has no recipe: give one in the group, or Optimizer(..., recipe=...)")
        return with_techniques(find_recipe(chosen), self.techniques, self.outer)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group. Its options are checked first; nothing is added if one is not legal."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, got {type(param_group).__name__}")
        group = dict(param_group)
        names = self._option_names()
        used = "initial_lr" in group or isinstance(group.get("recipe"), str)
        foreign = FOREIGN | CYCLED if used else FOREIGN
        for key in names & self.defaults.keys():
            group.setdefault(key, self.defaults[key])
        recipe = self._choose_recipe(group)
        hypers = recipe.hypers()
        legal = join(hypers).keys() | names
        taken = ", or a technique has taken the place of what reads it" if self.techniques else ""
        for key in group.keys() - legal - foreign - recipe.group_numbers.keys():
            if not key.startswith("_"):
                raise ValueError(
                    f"{type(self).__name__}: a parameter group has no option {key!r}{taken}." + suggest(key, legal)
                )
        for key, value in join(hypers).items():
            group.setdefault(key, self.defaults[key] if key in self._given else value)
        self._check_options(group)
        group.update(validate(group, hypers))
        if group["capturable"] and (why := captured.obstacle(recipe, group)):
            raise ValueError(
                f"capturable=True does not work with {type(self).__name__} here: {why}; leave it False, and take the"
                " step outside of the captured graph"
            )
        group |= {"recipe": recipe.spec, "_stored": group["state"]}
        relative = next((g for g in self.param_groups if _settled_numbers(recipe, self.recipe_of(g))), {})
        shared = {key: relative[key] for key in _settled_numbers(recipe, recipe) if relative}
        for key, value in {**recipe.group_numbers, **shared}.items():
            group.setdefault(key, value)
        if recipe.outer is not None and recipe.outer.has_modes:
            group.setdefault("train_mode", True)
        for key, value in group.items():
            if isinstance(value, Tensor) and key != "params":
                group[key] = value.clone()
        # torch fills a group from ``defaults``; what this group's recipe does not read must not get there.
        everything = self.defaults
        self.defaults = {k: v for k, v in everything.items() if k in legal}
        try:
            super().add_param_group(group)
        finally:
            self.defaults = everything
        self._recipes[recipe.spec] = _SPECS[recipe.spec] = recipe

    def _check_options(self, group: Mapping[str, Any]) -> None:
        for key in ("maximize", "capturable", "differentiable"):
            if not isinstance(group[key], bool):
                raise TypeError(f"{key} must be True or False, got {group[key]!r}")
        if group["state"] not in CHOICES:
            raise ValueError(f"Invalid state: {group['state']!r}; legal are {', '.join(CHOICES)}")
        if group["differentiable"]:
            raise ValueError("differentiable=True is not supported yet; leave it False")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, loss: Any = None) -> Any:
        """Take one step; return the closure's loss.

        ``loss``: this step's loss (a number or one-element tensor) for optimizers that use it; others ignore it.
        A closure's return value serves as the loss where none is given.
        """
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        self._take_step(result if loss is None else loss)
        return result

    def _take_step(self, loss: Any) -> None:
        groups = [(g, self.recipe_of(g), [p for p in g["params"] if p.grad is not None]) for g in self.param_groups]
        groups = [entry for entry in groups if entry[2]]
        if not groups:
            return
        if capturing(groups[0][2][0].device) and not all(group["capturable"] for group, _, _ in groups):
            raise RuntimeError(
                "step() is being captured with capturable=False: replays would repeat this step's count and rates;"
                " build the optimizer with capturable=True"
            )
        for group, recipe, params in groups:
            for p in params:
                if p.grad.layout != torch.strided:
                    self._check_sparse(p, recipe, group)
        if self._is_rehearsal(groups):
            for group, recipe, params in groups:
                list(self._laid_out(params, recipe, group, group))
            return
        for group, _, _ in groups:
            if not group.get("train_mode", True):
                raise RuntimeError(
                    "step() in eval mode: the parameters hold the averaged weights; call optimizer.train() first"
                )
        saved = [{k: _kept(g[k]) for k in recipe.group_numbers} for g, recipe, _ in groups]
        try:
            self._advance(groups, loss)
            self._move(groups)
        except Exception:
            for (group, _, _), values in zip(groups, saved, strict=True):
                captured.put(group, values)
            raise

    def _advance(self, groups: Sequence[Chosen], loss: Any) -> None:
        """Move the groups' own numbers, once per group and step."""
        groups = [entry for entry in groups if id(entry[0]) not in self._advanced]
        value = None
        if any(recipe.needs_loss for _, recipe, _ in groups) and loss is not None:
            value = _as_number(loss)
        for group, recipe, params in groups:
            if group["capturable"]:
                captured.advance(group, recipe, params[0].device)
                continue
            for key in recipe.group_numbers:
                if isinstance(group[key], Tensor):  # from a checkpoint of captured steps
                    group[key] = group[key].item()
            for _, slot in recipe.slots():
                slot.advance(group, value)

    def _move(self, groups: Sequence[Chosen]) -> None:
        """Step on these parameters of groups that have advanced: parameters, state and counts."""
        works, rows, steps, hosts = self._prepare(groups)
        half = self._half_precision(works) if self.rounding == "nearest" else []
        before = [p.clone() for p in half]
        if rows:
            eager.run([r.work for r in rows], many=self.engine_in_use != "reference")
        self._run(works)
        for r in rows:
            r.put()
        for (group, recipe, _), host in zip(groups, hosts, strict=True):
            captured.put(group, {key: host[key] for key in recipe.group_numbers})
        for (_, recipe, _), host in zip(groups, hosts, strict=True):
            if _settled_numbers(recipe, recipe):  # groups without a gradient in this step keep up
                for group in self.param_groups:
                    captured.put(group, {key: host[key] for key in _settled_numbers(recipe, self.recipe_of(group))})
        for numbers, states in steps:
            for key, value in numbers.items():
                targets = [state[key] for state in states]
                vector = isinstance(value, Tensor)
                values = list(value) if vector else [torch.tensor(value, dtype=torch.float64)] * len(targets)
                torch._foreach_copy_(targets, values)
        if half and (share := stalled(before, half)) > 0.5:
            warnings.warn(
                f"thalweg: {share:.0%} of the elements of half-precision parameters did not move in step"
                f" {STALL_STEP}: their steps are smaller than the gaps between such numbers and are lost."
                " Use rounding='stochastic' with bfloat16, a larger lr, or float32 parameters",
                RuntimeWarning,
                stacklevel=4,
            )

    def _check_sparse(self, param: Tensor, recipe: Recipe, group: Mapping[str, Any]) -> None:
        """Refuse a gradient that is not dense, unless the recipe can leave alone what it does not name."""
        assert param.grad is not None
        if group["capturable"]:
            raise RuntimeError(
                "capturable=True does not support sparse gradients, whose sizes are known on the host only"
            )
        known = param.grad.layout == torch.sparse_coo
        why = recipe.sparse_obstacle(flatten(group), storage.real_shape(param)) if known else "only COO ones can be"
        if why is not None:
            raise RuntimeError(
                f"{type(self).__name__} does not support sparse gradients here: {why};"
                " build embeddings with sparse=False"
            )
        if self.layout_of(param, group).blockwise:
            raise RuntimeError(
                f"{type(self).__name__} does not support sparse gradients with state={group['state']!r}, whose blocks"
                " reach over rows; give this group state='float32' or 'bfloat16'"
            )

    def _laid_out(
        self, params: Sequence[Tensor], recipe: Recipe, group: Mapping[str, Any], h: Mapping[str, Any]
    ) -> Iterator[tuple[Layout, list[Tensor]]]:
        """How each parameter's state is stored, and the state, made where it is missing. Refuses a sharded parameter
        whose step is not that of its parts.
        """
        known: dict[Any, Layout] = {}  # most parameters are like another
        for p in params:
            sharded = is_sharded(p)
            like = p.shape, p.dtype, p.placements if sharded else None  # type: ignore[attr-defined]
            if like not in known:
                if sharded:
                    self._check_sharded(p, recipe)
                known[like] = storage.layout(recipe, p, group["state"], self.rounding)
            kept = known[like]
            yield kept, storage.tensors(self.state[p], p, recipe, kept, h)

    def _check_sharded(self, param: Tensor, recipe: Recipe) -> None:
        """Refuse a sharded parameter whose step is not that of its parts."""
        shape = storage.real_shape(param)
        why = processes.obstacle(recipe, shape if recipe.scope == "matrix" else recipe.alike(shape))
        if why is not None:
            raise RuntimeError(
                f"{type(self).__name__} cannot step on sharded parameters (DTensor) here: {why}; leave this"
                f" parameter of shape {tuple(param.shape)} whole, or give it another optimizer"
            )

    def _half_precision(self, works: list[Work]) -> list[Tensor]:
        """The half-precision parameters that take their ``STALL_STEP``-th step now, to see whether they move."""
        owners = {w.owner for w in works if w.param.dtype in HALVES}
        groups = [group for group in self.param_groups if not group["capturable"]] if owners else []
        params = [p for group in groups for p in group["params"] if id(p) in owners]
        return [p for p in params if self.state[p]["step"].item() == STALL_STEP - 1]

    def _is_rehearsal(self, groups: Sequence[Chosen]) -> bool:
        """Whether this is the empty step that checkpoint tools take to make state appear: fresh, lr 0, gradients 0."""
        return (
            not self._advanced
            and not any(p in self.state and self.state[p] for _, _, params in groups for p in params)
            and all(g.get("lr") is not None and float(g["lr"]) == 0 for g, _, _ in groups)
            and not any(storage.any_gradient(p) for _, _, params in groups for p in params)
        )

    def _prepare(
        self, groups: Sequence[Chosen]
    ) -> tuple[list[Work], list[storage.Rows], captured.Steps, list[dict[str, Any]]]:
        """Every parameter that moves as a work, or the rows of it that a sparse gradient names as one; what numbers
        become, and in which states; and each group's options, flattened. Changes nothing, but makes the state that is
        missing.
        """
        works: list[Work] = []
        rows: list[storage.Rows] = []
        steps: captured.Steps = []
        hosts: list[dict[str, Any]] = []
        places: dict[Tensor, int] = {}
        if self.rounding == "stochastic" or any(group["state"] == "bfloat16" for group, _, _ in groups):
            places = {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        for group, recipe, params in groups:
            options = {k: v for k, v in group.items() if k != "params"}
            h = (spread if group["capturable"] else flatten)(options)
            hosts.append(h)
            if group.setdefault("_stored", group["state"]) != group["state"]:
                self._recode(group)
            start = recipe.numbers
            rules: dict[Any, tuple[Rule, list[Any]]] = {}
            if group["capturable"]:
                more, become = self._captured(group, recipe, params, h, len(hosts), places)
                works += more
                steps += become
                continue
            for p, (kept, tensors) in zip(params, self._laid_out(params, recipe, group, h), strict=True):
                state = self.state[p]
                t = int(state["step"].item()) + 1
                numbers = {k: state[k].item() for k in start} if start else {}
                shape = storage.real_shape(p) if recipe.sized else None
                at = (t, shape, *numbers.values())
                if at not in rules:
                    rule = Rule.of(recipe, recipe.scalars(h, t, numbers, shape), group["maximize"], h, len(hosts))
                    rules[at] = rule, []
                    steps.append(({"step": t, **numbers}, rules[at][1]))
                rule, states = rules[at]
                states.append(state)
                drawn = None
                if kept.seeded:
                    drawn = seed(t, places[p])
                if (grad := p.grad).layout == torch.strided:  # type: ignore[union-attr]
                    works.append(storage.work(p, grad, tensors, kept, rule, p, drawn))  # type: ignore[arg-type]
                else:
                    rows.append(storage.Rows(p, tensors, kept, rule, drawn))
        return works, rows, steps, hosts

    def _captured(
        self,
        group: Mapping[str, Any],
        recipe: Recipe,
        params: list[Tensor],
        h: dict[str, Any],
        index: int,
        places: Mapping[Tensor, int],
    ) -> tuple[list[Work], captured.Steps]:
        """The works of a group in a step that can be captured, and what numbers become."""
        laid = list(self._laid_out(params, recipe, group, h))
        members = [
            captured.Member(
                self.state[p],
                p.device,
                storage.real_shape(p) if recipe.sized else None,
                places[p] if kept.seeded else None,
            )
            for p, (kept, _) in zip(params, laid, strict=True)
        ]
        rules, steps = captured.rules(recipe, h, group["maximize"], index, members)
        pairs = zip(params, laid, rules, strict=True)
        works = [
            storage.work(p, p.grad, tensors, kept, rule, p, drawn)  # type: ignore[arg-type]
            for p, (kept, tensors), (rule, drawn) in pairs
        ]
        return works, steps

    def _recode(self, group: dict[str, Any]) -> None:
        """Store the group's state as its option ``state`` now says."""
        for p in group["params"]:
            if self.state.get(p):
                storage.recode(self.state[p], p, self.recipe_of(group), self.layout_of(p, group))
        group["_stored"] = group["state"]

    def _run(self, works: list[Work]) -> None:
        engine = self.engine_in_use
        if engine == "compiled":
            self._compiled.run(works, strict=self.engine == "compiled")
            if self._compiled.failed:
                _warn_once(self._compiled.failed)
        else:
            eager.run(works, many=engine == "foreach")

    @property
    def engine_in_use(self) -> str:
        """The engine that ``engine`` stands for with these parameters, on this machine."""
        if self.engine != "auto":
            return self.engine
        params = [p for group in self.param_groups for p in group["params"]]
        sizes = accumulate(p.numel() for p in params)
        if not any(total >= COMPILE_FROM for total in sizes):
            return "foreach"
        missing = self._compiled.failed
        missing = missing or next((m for d in {p.device for p in params} if (m := compiled.available(d))), None)
        if missing is None:
            return "compiled"
        _warn_once(missing)
        return "foreach"

    def train(self, mode: bool = True) -> Optimizer:
        """Put the weights that gradients are taken at into the parameters; does nothing without averaged iterates."""
        for group in self.param_groups:
            if group.get("train_mode", mode) != mode:
                outer = self.recipe_of(group).outer
                assert outer is not None
                with torch.no_grad():
                    for p in group["params"]:
                        if "step" in self.state.get(p, {}):
                            outer.turn(p, self.state[p], mode)
                group["train_mode"] = mode
        return self

    def eval(self) -> Optimizer:
        """Put the averaged weights into the parameters, for evaluation and for saving the model."""
        return self.train(False)

    def state_bytes(self) -> int:
        """Bytes of all state tensors that exist now (they are made at the first step)."""
        return sum(t.nbytes for s in self.state.values() for t in s.values() if isinstance(t, Tensor))

    def memory(self) -> Memory:
        """What training holds in memory, in bytes by role; also before the first step.

        Example:
            >>> import torch, thalweg
            >>> opt = thalweg.AdamW(torch.nn.Linear(1024, 1024).parameters(), state="int8")
            >>> print(opt.memory())
                                        bytes  per parameter
            weights                 4,198,400          4.000
            gradients               4,198,400          4.000
            exp_avg_sq              1,052,672          1.003
            exp_avg_sq_scale           16,384          0.016
            exp_avg                 1,052,672          1.003
            exp_avg_scale              16,384          0.016
            total                  10,534,912         10.037
        """
        from thalweg.accounting import memory

        return memory(self)

    def words_per_element(self) -> float:
        """Elements read and written per parameter element and step, averaged over the parameters."""
        sizes = [(self.recipe_of(g), sum(p.numel() for p in g["params"])) for g in self.param_groups]
        return sum(r.words() * n for r, n in sizes) / max(sum(n for _, n in sizes), 1)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} (engine {self.engine})"]
        for i, group in enumerate(self.param_groups):
            recipe = self.recipe_of(group)
            count = sum(p.numel() for p in group["params"])
            known = [
                *join(recipe.hypers()),
                *sorted(self._option_names() - FLAGS.keys() - {"state"} - join(recipe.hypers()).keys()),
                "maximize",
                *(["state"] if group["state"] != "float32" else []),
            ]
            values = ", ".join(f"{k}={group[k]:g}" if isinstance(group[k], float) else f"{k}={group[k]}" for k in known)
            lines += [f"group {i}: {len(group['params'])} tensors, {count:,} parameters; {values}", str(recipe)]
            if group["state"] != "float32":
                sizes = (storage.sizes(p, recipe, self.layout_of(p, group)) for p in group["params"])
                held = sum(sum(size.values()) for size in sizes) / max(count, 1)
                lines.append(f"  stored as {group['state']}: {held:.3g} bytes per parameter")
        return "\n".join(lines)

    def __getstate__(self) -> dict[str, Any]:
        """What pickle and deepcopy keep: torch's three, and the recipes and options. Plans are made anew."""
        kept = ("engine", "rounding", "outer", "techniques", "_recipes", "_default_recipe", "_given")
        return {**super().__getstate__(), **{k: self.__dict__[k] for k in kept}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._compiled = compiled.Engine()
        for group in self.param_groups:
            for key in self._option_names() & self.defaults.keys():
                group.setdefault(key, self.defaults[key])
        for values in self.state.values():
            if "step" in values:
                values["step"] = storage.as_step(values["step"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this optimizer, or of torch.optim's of the same name.

        The checkpoint is checked first; one that does not fit (other recipe, shapes, missing or extra state) raises a
        ValueError that names the first misfit and changes nothing. State keeps the library's dtypes, and shares no
        memory with ``state_dict``.
        """
        loading = storage.Loading(self)
        before = self.register_load_state_dict_pre_hook(loading.check)
        after = self.register_load_state_dict_post_hook(loading.restore, prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()


@cache
def _settled_numbers(recipe: Recipe, other: Recipe) -> tuple[str, ...]:
    """The group numbers that slots of the one recipe settle over the model together with those of the other."""
    shared = (slot for place, slot in recipe.coupled_slots if (place, slot) in other.coupled_slots)
    return tuple(key for slot in shared if slot.couples == "model" for key in slot.group_numbers)


def _kept(number: Any) -> Any:
    return number.clone() if isinstance(number, Tensor) else number


def _as_number(loss: Any) -> float:
    try:
        return float(loss)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"loss must be one number, got {loss!r}; reduce it with .mean()") from None


#: Recipes by the line that stands for them in groups, so that groups can be given to another optimizer.
_SPECS: dict[str, Recipe] = {}


def find_recipe(recipe: Recipe | str) -> Recipe:
    """A recipe, or the recipe of a registered name."""
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, str) and recipe in _SPECS:
        return _SPECS[recipe]
    if isinstance(recipe, str):
        from thalweg.registry import get

        return get(recipe).recipe
    raise TypeError(f"recipe must be a Recipe or the name of an optimizer, got {recipe!r} of {type(recipe).__name__}")


def find_technique(technique: Slot | str) -> Slot:
    """A slot, or the slot of a registered technique's name with its defaults."""
    if isinstance(technique, Slot):
        return technique
    if isinstance(technique, str):
        from thalweg.techniques import get

        return get(technique).slot()
    raise TypeError(f"a technique is a slot such as Centralise(), or a name, got {technique!r}")


_warned: set[str] = set()


def _warn_once(missing: str) -> None:
    if missing not in _warned:
        _warned.add(missing)
        warnings.warn(
            f"thalweg: {missing}, so the foreach engine is used, which is slower; engine='foreach' silences this",
            RuntimeWarning,
            stacklevel=4,
        )
