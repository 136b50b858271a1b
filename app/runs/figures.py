"""Draw figures without a display."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

MOST_NAMES = 40  # the largest number of classes whose names are written on an axis


@dataclass(frozen=True)
class Curve:
    """A curve of a figure."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False

    def covers(self, other: Curve) -> bool:
        """Return whether this curve has the same points and style as the other one, and so would be drawn over it."""
        return self.dashed == other.dashed and list(self.x) == list(other.x) and list(self.y) == list(other.y)


def figure(width: float, height: float) -> Figure:
    """Return an empty figure. Its width and height are in inches."""
    drawn = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn


def confusion_figure(confusion: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Return a figure of the confusion matrix.

    It shows the fraction of each label's images (rows) for which each class was predicted (columns). The axes show the
    names of up to MOST_NAMES classes. The cells contain numbers of images if there are at most MOST_NAMES / 2 classes.

    Args:
        confusion: The confusion matrix, int64 [classes, classes].
        classes: The names of the classes.
    """
    count = len(classes)
    drawn = figure(6.4, 5.6)
    axes = drawn.add_subplot()
    fractions = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    drawn.colorbar(
        axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1), ax=axes, label="fraction of the label's images"
    )
    axes.set(xlabel="predicted", ylabel="label")
    if count <= MOST_NAMES:
        names = [shown(name) for name in classes]
        axes.set_xticks(range(count), names, rotation=90 if max(map(len, names)) > 3 else 0, parse_math=False)
        axes.set_yticks(range(count), names, parse_math=False)
    if count <= MOST_NAMES // 2:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            colour = "white" if fractions[row, column] > 0.5 else "black"
            axes.text(column, row, str(confusion[row, column]), ha="center", va="center", fontsize=8, color=colour)
    return drawn


def shown(name: str) -> str:
    """Return the name of a class, shortened for an axis."""
    name = readable(name)
    return name if len(name) <= 16 else name[:15] + "…"


def readable(name: str) -> str:
    """Return a file name in which bytes that are not valid UTF-8 are replaced by escapes, so that it can be drawn."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def to_png(drawn: Figure) -> bytes:
    """Return a figure as a PNG file. The file contains no date, so the same figure always gives the same bytes."""
    buffer = io.BytesIO()
    with quiet_about_glyphs():
        drawn.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def to_pixels(drawn: Figure) -> NDArray[np.uint8]:
    """Return the pixels of a figure, uint8 [height, width, 3]."""
    canvas = drawn.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    with quiet_about_glyphs():
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


@contextlib.contextmanager
def quiet_about_glyphs() -> Iterator[None]:
    """Suppress matplotlib's warnings about characters that its font lacks. matplotlib draws boxes for them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def curves_figure(title: str, label: str, curves: Sequence[Curve], *, log_scale: bool = False) -> Figure:
    """Return a figure of curves over epochs.

    If several curves are equal, each of them is drawn wider than the next one, so that all of them are visible.

    Args:
        title: The title of the figure.
        label: The label of the y axis.
        curves: The curves. Those with the same name have the same colour. Dashed curves are not in the legend.
        log_scale: Whether the y axis is logarithmic.
    """
    drawn = figure(7.2, 4.2)
    axes = drawn.add_subplot()
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(curve.name for curve in curves))}
    for number, curve in enumerate(curves):
        covering = sum(other.covers(curve) for other in curves[number + 1 :])
        name = re.sub("^_", " _", readable(curve.name))  # matplotlib leaves labels that begin with _ out of the legend
        style = {"linestyle": "--", "linewidth": 1.0} if curve.dashed else {"label": name, "linewidth": 1.8}
        style["linewidth"] += 2.5 * covering  # type: ignore[operator]
        marker = "o" if len(curve.x) == 1 else None
        axes.plot(curve.x, curve.y, color=colours[curve.name], marker=marker, **style)  # type: ignore[arg-type]
    axes.set(xlabel="epochs", ylabel=label, title=title)
    axes.grid(alpha=0.3)
    if log_scale:
        axes.set_yscale("log")
    if colours:
        for text in axes.legend(fontsize=8).get_texts():
            text.set_parse_math(False)  # names of runs may contain $
    return drawn
