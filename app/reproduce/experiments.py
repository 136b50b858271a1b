"""The paper's tables and figures as data: the cells to train, the paper's number for each, and the paper's claims.

Everything is stated relative to a *base*, the config of the baseline. Minibatches are multiples of its reference
minibatch. The same definitions therefore give the paper's own cells on ImageNet, and smaller ones on other data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from app.recipe import paper
from app.recipe.config import Config

LARGE = paper.TABLE_1["gradual"].minibatch // paper.REFERENCE_MINIBATCH  # the paper's large minibatch, 32 baselines'
# The same for data on which the error rises earlier (docs/reproduce.md says how it was settled).
LARGE_OF = {"cluttered-digits": 8, "fashion-mnist": 16}
PRECISE_BN = "gradual warmup, precise BN"
SMALLEST_STEPS = 8  # steps that an epoch must have for a minibatch to be part of Figure 1
PRECISE_BN_IMAGES = 8192  # as in pycls


@dataclass(frozen=True)
class Cell:
    """One row of a table: the config of its first seed, and the paper's row, None where the paper has none."""

    name: str
    config: Config
    paper: paper.PublishedResult | None = None


@dataclass(frozen=True)
class Claim:
    """What the paper says of two cells.

    kind: "lower": the error of `first` is lower than that of `second`; "same": they are equivalent.
    of: "error" (validation, at the end), "training_error" (at the end), or "training_curve" and "validation_curve",
    which must be the same at each epoch that begins when the fraction `since` of the run is over.
    """

    text: str
    kind: str
    first: str
    second: str
    of: str = "error"
    since: float = 0.0


@dataclass(frozen=True)
class Experiment:
    """A table or figure.

    title: names the paper's table or figure.
    cells: makes the cells from the base and the number of training images.
    claims: makes the paper's claims about these cells.
    """

    title: str
    cells: Callable[[Config, int], list[Cell]]
    claims: Callable[[list[Cell]], list[Claim]]


def large(base: Config) -> int:
    """Return the large minibatch of the tables, as a multiple of the reference minibatch."""
    return LARGE_OF.get(base.data, LARGE)


def at(base: Config, factor: float, **changes: Any) -> Config:
    """Return the base with `factor` times its reference minibatch. n stays, except for a minibatch smaller than n."""
    minibatch = int(base.reference_minibatch * factor)
    return replace(base, **{"minibatch": minibatch, "per_worker": min(base.per_worker, minibatch), **changes})


def baseline(base: Config) -> Cell:
    """The baseline. All its checkpoints are kept, as gradient-noise reads them."""
    config = replace(at(base, 1), keep=2 * base.epochs, checkpoint_every="0")  # twice, as interruptions add checkpoints
    return Cell("baseline", config, paper.TABLE_1["baseline"])


def gradual(base: Config) -> Cell:
    return Cell("gradual warmup", at(base, large(base)), paper.TABLE_1["gradual"])


def table_1(base: Config, images: int) -> list[Cell]:
    """Table 1: the kinds of warmup at the large minibatch."""
    others = [
        Cell(f"{'no' if warmup == 'none' else warmup} warmup", at(base, large(base), warmup=warmup), row)
        for warmup, row in paper.TABLE_1.items()
        if warmup in ("none", "constant")
    ]
    return [baseline(base), *others, gradual(base)]


TABLE_1_CLAIMS = [
    Claim("gradual warmup matches the baseline", "same", "gradual warmup", "baseline"),
    Claim("gradual warmup is better than none", "lower", "gradual warmup", "no warmup"),
    Claim("gradual warmup is better than constant", "lower", "gradual warmup", "constant warmup"),
    Claim("no warmup is better than constant", "lower", "no warmup", "constant warmup"),
]


def figure_1(base: Config, images: int) -> list[Cell]:
    """Figures 1 and 3: the error against the minibatch, for those of the paper's that the data have enough images."""
    cells = []
    for row in paper.FIGURE_1:
        factor = row.minibatch / paper.REFERENCE_MINIBATCH
        minibatch = base.reference_minibatch * factor
        if base.per_worker <= 2 * minibatch and minibatch == int(minibatch) and minibatch * SMALLEST_STEPS <= images:
            config = baseline(base).config if factor == 1 else at(base, factor)
            cells.append(Cell(f"kn = {config.minibatch}", config, row))
    return cells


def figure_1_claims(cells: list[Cell]) -> list[Claim]:
    """The error is flat up to the large minibatch of the tables (the paper's 8k) and higher beyond it."""
    largest = large(cells[0].config)
    first = next(cell.name for cell in cells if cell.config.minibatch == cell.config.reference_minibatch)
    claims = []
    for cell in cells:
        factor = cell.config.minibatch // cell.config.reference_minibatch
        if 1 < factor <= largest:
            claims.append(Claim(f"{factor} times the baseline's minibatch: the same error", "same", cell.name, first))
        elif factor > largest:
            claims.append(Claim(f"{factor} times the baseline's minibatch: worse", "lower", first, cell.name))
    return claims


def table_2a(base: Config, images: int) -> list[Cell]:
    """Table 2a: other learning rates, and other scaling rules than the linear one."""
    many, eta = large(base), base.reference_lr
    half, tenth, fifth = paper.TABLE_2A[:3]
    scaled_half, scaled, scaled_double, fixed, root = paper.TABLE_2A[3:]
    return [
        Cell("eta / 2", at(base, 1, reference_lr=eta / 2), half),
        Cell("eta", baseline(base).config, tenth),
        Cell("2 eta", at(base, 1, reference_lr=2 * eta), fifth),
        Cell("k eta / 2", at(base, many, reference_lr=eta / 2), scaled_half),
        Cell("k eta", gradual(base).config, scaled),
        Cell("2 k eta", at(base, many, reference_lr=2 * eta), scaled_double),
        Cell("eta, not scaled", at(base, many, scaling="none"), fixed),
        Cell("sqrt(k) eta", at(base, many, scaling="sqrt"), root),
    ]


TABLE_2A_CLAIMS = [
    Claim("linear scaling is better than a fixed rate", "lower", "k eta", "eta, not scaled"),
    Claim("linear scaling is better than the square root", "lower", "k eta", "sqrt(k) eta"),
    Claim("eta is better than eta / 2 at the baseline", "lower", "eta", "eta / 2"),
    Claim("eta and 2 eta match at the baseline", "same", "eta", "2 eta"),
    Claim("eta is better than eta / 2 when scaled", "lower", "k eta", "k eta / 2"),
    Claim("eta is better than 2 eta when scaled", "lower", "k eta", "2 k eta"),
]


def table_2b(base: Config, images: int) -> list[Cell]:
    """Table 2b: the gamma with which each residual block's last BN starts."""
    ones, zeros, large_ones, large_zeros = paper.TABLE_2B
    return [
        Cell("baseline, gamma 1", at(base, 1, last_gamma=1.0), ones),
        Cell("baseline, gamma 0", baseline(base).config, zeros),
        Cell("large, gamma 1", at(base, large(base), last_gamma=1.0), large_ones),
        Cell("large, gamma 0", gradual(base).config, large_zeros),
    ]


TABLE_2B_CLAIMS = [
    Claim("gamma 0 is better at the baseline", "lower", "baseline, gamma 0", "baseline, gamma 1"),
    Claim("gamma 0 is better at the large minibatch", "lower", "large, gamma 0", "large, gamma 1"),
]


def figures_2_4(base: Config, images: int) -> list[Cell]:
    """Figures 2, 3 and 4: curves of the runs of Table 1 and Figure 1, and one with BN statistics measured anew.

    Figure 4's caption explains noise of the validation error by running statistics that lag behind.
    """
    sizes = [cell for cell in figure_1(base, images) if cell.config.minibatch != base.reference_minibatch]
    count = min(PRECISE_BN_IMAGES, images) // base.per_worker * base.per_worker
    measured = Cell(PRECISE_BN, replace(gradual(base).config, precise_bn=count))
    return [*table_1(base, images), *sizes, measured]


FIGURES_2_4_CLAIMS = [
    Claim("Figure 2: gradual warmup ends at the baseline's training error", "same", "gradual warmup", "baseline",
          "training_error"),
    Claim("Figure 2: no warmup ends at a higher training error", "lower", "gradual warmup", "no warmup",
          "training_error"),
    Claim("Figure 2: constant warmup ends at a higher training error", "lower", "gradual warmup", "constant warmup",
          "training_error"),
    Claim("Figure 4: gradual warmup ends at the baseline's validation error", "same", "gradual warmup", "baseline"),
    # Section 5.2: the training curves match after 20 of 90 epochs, the validation curves after the second drop.
    Claim("Figures 2 and 4: the training curves coincide after 2/9 of the run", "same", "gradual warmup", "baseline",
          "training_curve", 20 / paper.EPOCHS),
    Claim("Figure 4: the validation curves coincide after 2/3 of the run", "same", "gradual warmup", "baseline",
          "validation_curve", 60 / paper.EPOCHS),
]  # fmt: skip


def remarks(base: Config, images: int) -> list[Cell]:
    """Section 3: the large minibatch with the mistake that each remark warns of."""
    many = large(base)
    return [
        gradual(base),
        Cell("remarks 1, 3: the loss scaled, not the rate", at(base, many, scaled="loss")),
        Cell("remark 2: no momentum correction", at(base, many, momentum_correction=False)),
        Cell("remark 3: each loss divided by n", at(base, many, loss_divisor="n")),
        Cell("remark 4: each worker shuffles alone", at(base, many, shuffle="worker")),
    ]


def claims(base: Config, images: int) -> list[Cell]:
    """What other descriptions of the paper recommend, and the paper does not."""
    many = large(base)
    decay = base.weight_decay
    return [
        gradual(base),
        # BN statistics over all workers of a step are those of a single worker that has all images of the step.
        Cell("BN over all workers", at(base, many, per_worker=gradual(base).config.minibatch)),
        Cell("weight decay times k", at(base, many, weight_decay=decay * many)),
        Cell("weight decay divided by k", at(base, many, weight_decay=decay / many)),
        Cell("square-root scaling", at(base, many, scaling="sqrt"), paper.TABLE_2A[7]),
    ]


def worse_than_gradual(cells: list[Cell]) -> list[Claim]:
    """Claims that the paper's way, the first cell, is better than each of the others."""
    return [
        Claim(f"better than {cell.name}", "lower", cells[0].name, cell.name)
        for cell in cells[1:]
    ]  # fmt: skip


def gradient_noise(base: Config, images: int) -> list[Cell]:
    """The noise of the gradient in the course of the baseline's runs: McCandlish et al. 2018, arXiv 1812.06162."""
    return [baseline(base)]


EXPERIMENTS = {
    "table-1": Experiment("Table 1: warmup", table_1, lambda cells: TABLE_1_CLAIMS),
    "figure-1": Experiment("Figure 1: error against minibatch", figure_1, figure_1_claims),
    "table-2a": Experiment("Table 2a: learning rates", table_2a, lambda cells: TABLE_2A_CLAIMS),
    "table-2b": Experiment("Table 2b: gamma of the last BN", table_2b, lambda cells: TABLE_2B_CLAIMS),
    "figures-2-4": Experiment("Figures 2 to 4: curves", figures_2_4, lambda cells: FIGURES_2_4_CLAIMS),
    "remarks": Experiment("Section 3: the mistakes that the remarks warn of", remarks, worse_than_gradual),
    "claims": Experiment("What other descriptions of the paper recommend", claims, worse_than_gradual),
    "gradient-noise": Experiment("The noise of the gradient", gradient_noise, lambda cells: []),
}
