"""loss.png: training and held-out loss over the steps."""

from collections.abc import Sequence
from pathlib import Path

from danlu.files import atomic_file
from danlu.train.metrics import Record


def draw_loss(records: Sequence[Record], path: Path) -> None:
    """Write the loss curves of `records` as a PNG image; nothing if there is no step."""
    from matplotlib.figure import Figure  # slow to import

    trained = [(record["step"], record["loss"]) for record in records if "loss" in record]
    held_out = [(r["step"], r["held_out_loss"]) for r in records if "held_out_loss" in r]
    if not trained:
        return
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*trained, strict=True), linewidth=1.0, label="training")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), marker="o", markersize=3, label="held out")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per target token)")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")
