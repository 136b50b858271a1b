"""Pictures, drawn without a display."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

MOST_NAMES = 40  # classes that are named on an axis


def figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches."""
    drawn = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn


def confusion_figure(confusion: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Rows are labels, columns predictions; each cell the fraction of its label's images. Few classes show counts."""
    count = len(classes)
    drawn = figure(6.4, 5.6)
    axes = drawn.add_subplot()
    fractions = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    drawn.colorbar(
        axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1), ax=axes, label="fraction of the label's images"
    )
    axes.set(xlabel="predicted", ylabel="label")
    if count <= MOST_NAMES:
        names = [name if len(name) <= 16 else name[:15] + "…" for name in classes]
        axes.set_xticks(range(count), names, rotation=90 if max(map(len, names)) > 3 else 0)
        axes.set_yticks(range(count), names)
    if count <= MOST_NAMES // 2:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            colour = "white" if fractions[row, column] > 0.5 else "black"
            axes.text(column, row, str(confusion[row, column]), ha="center", va="center", fontsize=8, color=colour)
    return drawn


def to_png(drawn: Figure) -> bytes:
    """The file's bytes; the same each time, without a date."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def to_pixels(drawn: Figure) -> NDArray[np.uint8]:
    """uint8 [h, w, 3]."""
    canvas = drawn.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
