"""The paper's tables and figures as data: the cells to train, the paper's result for each, and the paper's claims.

A cell is one row of a table: a config that is trained with several seeds. The config of a cell is a copy of the
*base*, which is the config of the baseline, with other values of some fields. Its minibatch is the reference minibatch
of the base times a factor. So the same definitions give the paper's own cells on ImageNet, and smaller minibatches on
other data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from app.recipe import paper
from app.recipe.config import Config
from app.recipe.presets import preset

# The large minibatch of the tables as a multiple of the baseline's minibatch: 32 in the paper (8192 / 256).
LARGE = paper.TABLE_1["gradual"].minibatch // paper.REFERENCE_MINIBATCH
# On these data sets the error already rises at a smaller minibatch than in the paper, so their large minibatch is a
# smaller multiple of the baseline's. docs/reproduce.md says how these multiples were chosen.
LARGE_OF = {"cluttered-digits": 8, "fashion-mnist": 16}
# The options of LARS for a data set. docs/notes/reproduce-trials.md says how they were chosen. For other data sets the
# learning rate is that of You et al. 2017.
LARS_OF: dict[str, dict[str, Any]] = {
    "fashion-mnist": {"reference_lr": 0.2, "scaling": "sqrt", "trust_coefficient": 0.01, "warmup_epochs": 2.0}
}
# The optimizers that `beyond` compares: the first word of the names of the rows, and the value of --optimizer.
SGD, LARS = "SGD", "LARS"
OPTIMIZERS = {SGD: "sgd", LARS: "lars"}
PRECISE_BN = "gradual warmup, precise BN"
SMALLEST_STEPS = 8  # Figure 1 leaves out a minibatch if an epoch would have fewer steps
PRECISE_BN_IMAGES = 8192  # the number of images from which precise BN measures BN's statistics, as in pycls


@dataclass(frozen=True)
class Cell:
    """One row of a table: a config that is trained with several seeds.

    Attributes:
        name: The name of the row.
        config: The config of the run with the first seed.
        paper: The paper's result, or None if the paper does not have this row.
    """

    name: str
    config: Config
    paper: paper.PublishedResult | None = None


@dataclass(frozen=True)
class Claim:
    """A statement of the paper that compares the errors of two cells, which are configs that were trained.

    Attributes:
        text: The statement in words.
        kind: "lower" if the error of `first` is lower than the error of `second`, "same" if the two are equivalent.
        first, second: The names of the cells.
        of: The error that is compared. "error" is the validation error at the end of the run. "training_error" is the
            training error at the end. "training_curve" and "validation_curve" are the errors after each epoch.
        since: The fraction of the run after which curves are compared.
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

    Attributes:
        title: The title of the results.
        cells: Returns the cells (the configs to train), given the config of the baseline and the number of training
            images.
        claims: Returns the paper's claims about these cells.
    """

    title: str
    cells: Callable[[Config, int], list[Cell]]
    claims: Callable[[list[Cell]], list[Claim]]


def large(base: Config) -> int:
    """Return the large minibatch of the tables, as a multiple of the reference minibatch."""
    return LARGE_OF.get(base.data, LARGE)


def at(base: Config, factor: float, **changes: Any) -> Config:
    """Return the config of the baseline with `factor` times its reference minibatch, and with the fields in `changes`.

    n, the number of images of a worker, is that of `base`, or the whole minibatch if this is smaller.
    """
    minibatch = int(base.reference_minibatch * factor)
    return replace(base, **{"minibatch": minibatch, "per_worker": min(base.per_worker, minibatch), **changes})


def baseline(base: Config) -> Cell:
    """Return the config to train for the baseline. All checkpoints are kept, to measure the gradient noise at them."""
    # There is a checkpoint at the end of each epoch, and one for each interruption. `keep` has room for as many
    # interruptions as epochs.
    config = replace(at(base, 1), keep=2 * base.epochs, checkpoint_every="0")
    return Cell("baseline", config, paper.TABLE_1["baseline"])


def gradual(base: Config) -> Cell:
    """Return the config to train for the paper's method: the large minibatch with gradual warmup."""
    return Cell("gradual warmup", at(base, large(base)), paper.TABLE_1["gradual"])


def table_1(base: Config, images: int) -> list[Cell]:
    """Return the configs to train for Table 1: the kinds of warmup at the large minibatch."""
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
    """Return the configs to train for Figures 1 and 3, one for each minibatch of the paper that is possible here.

    A minibatch is left out if it is smaller than n / 2, if it is not a whole number, or if an epoch would have fewer
    than SMALLEST_STEPS steps.
    """
    cells = []
    for row in paper.FIGURE_1:
        factor = row.minibatch / paper.REFERENCE_MINIBATCH
        minibatch = base.reference_minibatch * factor
        if base.per_worker <= 2 * minibatch and minibatch == int(minibatch) and minibatch * SMALLEST_STEPS <= images:
            config = baseline(base).config if factor == 1 else at(base, factor)
            cells.append(Cell(f"kn = {config.minibatch}", config, row))
    return cells


def figure_1_claims(cells: list[Cell]) -> list[Claim]:
    """Return the claims of Figure 1: the error stays the same up to the large minibatch and is higher above it."""
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
    """Return the configs to train for Table 2a: several values of eta, and other rules than linear scaling."""
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
    """Return the configs to train for Table 2b: the initial values of gamma in the last BN of each residual block."""
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
    """Return the configs to train for Figures 2, 3 and 4: those of Table 1 and Figure 1, and one with precise BN.

    The caption of Figure 4 says that the validation error is noisy because BN's running statistics are noisy. With
    precise BN, these statistics are computed from training images before each evaluation.
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
    # Section 5.2: the training curves match after 20 of 90 epochs, the validation curves after the second decay.
    Claim("Figures 2 and 4: the training curves coincide after 2/9 of the run", "same", "gradual warmup", "baseline",
          "training_curve", 20 / paper.EPOCHS),
    Claim("Figure 4: the validation curves coincide after 2/3 of the run", "same", "gradual warmup", "baseline",
          "validation_curve", 60 / paper.EPOCHS),
]  # fmt: skip


def remarks(base: Config, images: int) -> list[Cell]:
    """Return the configs to train for section 3: the paper's method, and one for each mistake that a remark names."""
    many = large(base)
    return [
        gradual(base),
        Cell("remarks 1, 3: the loss scaled, not the rate", at(base, many, scaled="loss")),
        Cell("remark 2: no momentum correction", at(base, many, momentum_correction=False)),
        Cell("remark 3: each loss divided by n", at(base, many, loss_divisor="n")),
        Cell("remark 4: each worker shuffles alone", at(base, many, shuffle="worker")),
    ]


def claims(base: Config, images: int) -> list[Cell]:
    """Return the paper's method, and configs with methods that are often wrongly said to be the paper's."""
    many = large(base)
    decay = base.weight_decay
    return [
        gradual(base),
        # With a single worker that has all images of the step, BN uses the statistics of all of them.
        Cell("BN over all workers", at(base, many, per_worker=gradual(base).config.minibatch)),
        Cell("weight decay times k", at(base, many, weight_decay=decay * many)),
        Cell("weight decay divided by k", at(base, many, weight_decay=decay / many)),
        Cell("square-root scaling", at(base, many, scaling="sqrt"), paper.TABLE_2A[7]),
    ]


def worse_than_gradual(cells: list[Cell]) -> list[Claim]:
    """Return the claims that the first config, which is the paper's method, is better than each of the others."""
    return [
        Claim(f"better than {cell.name}", "lower", cells[0].name, cell.name)
        for cell in cells[1:]
    ]  # fmt: skip


def lars(base: Config, factor: float) -> Config:
    """Return the config for LARS (You, Gitman and Ginsburg 2017) at `factor` times the reference minibatch.

    It differs from the paper's method at the same minibatch only in the optimizer and its trust coefficient, the
    learning rate and its scaling, and the length of the warmup.
    """
    published = {"reference_lr": preset("lars-32k")["reference_lr"]}
    return at(base, factor, optimizer=OPTIMIZERS[LARS], **LARS_OF.get(base.data, published))


def beyond(base: Config, images: int) -> list[Cell]:
    """Return the configs of Figure 1, which use SGD, and configs with LARS for the large minibatch and all above it."""
    cells = figure_1(base, images)
    return [replace(cell, name=f"{SGD}, {cell.name}") for cell in cells] + [
        Cell(f"{LARS}, {cell.name}", lars(base, cell.config.minibatch / base.reference_minibatch))
        for cell in cells
        if cell.config.minibatch >= large(base) * base.reference_minibatch
    ]


def beyond_claims(cells: list[Cell]) -> list[Claim]:
    """Return the claims that LARS is better than SGD above the large minibatch of the tables.

    There is no claim that LARS has the same error as the baseline. `breaks_of` in app/reproduce/results.py tests up to
    which minibatch this holds.
    """
    config = cells[0].config
    sizes = [cell.config.minibatch for cell in cells if cell.config.optimizer == OPTIMIZERS[LARS]]
    return [
        Claim(f"kn = {size}: LARS is better than SGD", "lower", f"{LARS}, kn = {size}", f"{SGD}, kn = {size}")
        for size in sizes
        if size > large(config) * config.reference_minibatch
    ]


def gradient_noise(base: Config, images: int) -> list[Cell]:
    """Return the config to train, the baseline. app/reproduce/noise.py measures the noise at its checkpoints.

    See McCandlish et al. 2018, arXiv 1812.06162.
    """
    return [baseline(base)]


EXPERIMENTS = {
    "table-1": Experiment("Table 1: warmup", table_1, lambda cells: TABLE_1_CLAIMS),
    "figure-1": Experiment("Figure 1: error against minibatch", figure_1, figure_1_claims),
    "table-2a": Experiment("Table 2a: learning rates", table_2a, lambda cells: TABLE_2A_CLAIMS),
    "table-2b": Experiment("Table 2b: gamma of the last BN", table_2b, lambda cells: TABLE_2B_CLAIMS),
    "figures-2-4": Experiment("Figures 2 to 4: curves", figures_2_4, lambda cells: FIGURES_2_4_CLAIMS),
    "remarks": Experiment("Section 3: the mistakes that the remarks warn of", remarks, worse_than_gradual),
    "claims": Experiment("What other descriptions of the paper recommend", claims, worse_than_gradual),
    "beyond": Experiment("Beyond the break: Figure 1 with LARS", beyond, beyond_claims),
    "gradient-noise": Experiment("The noise of the gradient", gradient_noise, lambda cells: []),
}
