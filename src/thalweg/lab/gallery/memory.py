"""What training holds in memory, in each precision."""

from __future__ import annotations

from matplotlib.figure import Figure

from thalweg.accounting import PRECISIONS, state_bytes
from thalweg.lab.gallery.style import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, Facts, figure, label, picture

OPTIMIZERS = ("sgd", "adafactor", "lion", "adamw", "ademamix")
#: The precisions' names as they fit beside a bar; the order is that of ``accounting.PRECISIONS``.
SHORT = (
    "float32, or autocast",
    "bfloat16, state in float32",
    "half, float32 master weights",
    "the same, gradients in float32",
    "the same, both kinds of gradients",
    "bfloat16 throughout",
)


@picture("mixed_precision")
def mixed_precision() -> tuple[Figure, Facts]:
    """The memory of mixed-precision training: weights, gradients, master weights and the optimizer's state."""
    state = {name: state_bytes(name) for name in OPTIMIZERS}
    totals = {p.name: {name: p.total(state[name]) for name in OPTIMIZERS} for p in PRECISIONS}
    whole, master = totals[PRECISIONS[0].name]["adamw"], totals[PRECISIONS[2].name]["adamw"]
    drawn = figure(
        10,
        4.9,
        f"Mixed precision with master weights saves nothing: {master:.0f} bytes a parameter, as float32's {whole:.0f}",
        "Bytes per parameter in training with AdamW; activations, which do shrink, are not counted. "
        "Right: the totals with other optimizers.",
    )
    bars, table = drawn.subplots(1, 2, width_ratios=(1.5, 1), sharey=True)
    kinds = {"weights": BLUE, "gradients": GREEN, "master": PURPLE, "state": ORANGE}
    for row, precision in enumerate(PRECISIONS):
        kept = state["adamw"] * precision.state_item / 4
        left = 0.0
        for (kind, colour), size in zip(
            kinds.items(), (precision.weights, precision.gradients, precision.master, kept), strict=True
        ):
            bars.barh(row, size, left=left, color=colour, height=0.62, edgecolor="white")
            if size:
                bars.text(left + size / 2, row, f"{size:g}", ha="center", va="center", color="white", weight="bold")
            if row == 3 and size:
                label(bars, left + size / 2, -0.42, kind, colour, xytext=(0, 0), ha="center", va="bottom")
            left += size
        bars.text(left + 0.3, row, f"{left:g}", va="center", weight="bold", color=INK)
    bars.set_yticks(range(len(SHORT)), SHORT, color=INK)
    bars.set(xlabel="bytes per parameter", xlim=(0, 21.5), ylim=(len(SHORT) - 0.5, -0.9))
    bars.grid(axis="y", visible=False)
    for column, name in enumerate(OPTIMIZERS):
        table.text(column, -0.42, name, ha="center", va="bottom", size=8.5, color=INK if name != "adamw" else ORANGE)
        for row, precision in enumerate(PRECISIONS):
            total = totals[precision.name][name]
            table.text(column, row, f"{total:.3g}", ha="center", va="center", color=INK if name != "adamw" else ORANGE)
    table.set(xlim=(-0.6, len(OPTIMIZERS) - 0.4), xticks=[])
    table.tick_params(left=False)
    table.spines[:].set_visible(False)
    table.grid(False)
    table.set_xlabel("total bytes per parameter, by optimizer", color=MUTED)
    facts = {f"{p.name}: with AdamW": f"{totals[p.name]['adamw']:g} bytes per parameter" for p in PRECISIONS}
    facts.update({f"state of {name}, float32": f"{size:.3g} bytes per parameter" for name, size in state.items()})
    return drawn, facts
