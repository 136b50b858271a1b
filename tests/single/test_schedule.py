"""The learning rate at important iterations is that of the paper (section 5.1), for 1,281,167 images."""

from itertools import pairwise

import pytest

from app.base.errors import UserError
from app.recipe.config import Config
from app.recipe.plan import Position, check_processes, make_plan
from app.recipe.schedule import learning_rate

IMAGES, VALIDATION = 1_281_167, 50_000


def rate_at(config: Config, iteration: int) -> float:
    plan = make_plan(config, IMAGES, VALIDATION)
    epoch, step = divmod(iteration, plan.iterations_per_epoch)
    position = Position(epoch, step * plan.minibatch)
    assert plan.iteration_at(position) == iteration
    return learning_rate(config, plan.epochs_at(position))


@pytest.mark.parametrize(
    ("iteration", "rate"),
    [
        (0, 0.1),
        (1, 0.10397435897435897),  # each iteration adds (3.2 - 0.1) / 780
        (390, 1.65),
        (779, 3.196025641025641),
        (780, 3.2),  # the end of the warmup, after 5 epochs of 156 steps
        (4679, 3.2),
        (4680, 0.32),  # epoch 30
        (9359, 0.32),
        (9360, 0.032),  # epoch 60
        (12479, 0.032),
        (12480, 0.0032),  # epoch 80
        (14039, 0.0032),
    ],
)
def test_minibatch_8192(iteration: int, rate: float) -> None:
    assert rate_at(Config(minibatch=8192), iteration) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        # The rates at the end of the warmup, and after each quarter of the other 85 epochs.
        ("cosine", (3.2, 3.2 * (1 + 0.5**0.5) / 2, 1.6, 3.2 * (1 - 0.5**0.5) / 2, 0.0)),
        ("poly", (3.2, 3.2 * 9 / 16, 0.8, 0.2, 0.0)),
    ],
)
def test_schedules_beyond_the_paper_fall_from_the_warmups_end_to_zero(schedule: str, rates: tuple[float, ...]) -> None:
    config = Config(minibatch=8192, schedule=schedule)
    for quarter, rate in enumerate(rates):
        assert learning_rate(config, 5 + 85 * quarter / 4) == pytest.approx(rate, abs=1e-12)
    # All schedules have the same warmup.
    assert learning_rate(config, 2.5) == learning_rate(Config(minibatch=8192), 2.5)
    without = Config(minibatch=256, schedule=schedule)  # no warmup, as kn is the reference minibatch
    assert learning_rate(without, 0) == 0.1
    assert learning_rate(without, 45) == pytest.approx(0.05 if schedule == "cosine" else 0.025)


@pytest.mark.parametrize(
    ("iteration", "rate"),
    [
        (0, 0.1),
        (25_020, 0.1),  # after 5 epochs of 5,004 steps; there is no warmup
        (150_119, 0.1),
        (150_120, 0.01),
        (300_240, 0.001),
        (400_319, 0.001),
        (400_320, 0.0001),
        (450_359, 0.0001),
    ],
)
def test_minibatch_256(iteration: int, rate: float) -> None:
    assert rate_at(Config(minibatch=256), iteration) == pytest.approx(rate, rel=1e-12)


def test_the_increment_is_constant_over_epoch_ends() -> None:
    config = Config(minibatch=8192)
    rates = [rate_at(config, i) for i in range(781)]
    steps = [b - a for a, b in pairwise(rates)]
    assert min(steps) == pytest.approx(max(steps), rel=1e-9)


@pytest.mark.parametrize(
    ("minibatch", "eta"),
    [(64, 0.025), (128, 0.05), (256, 0.1), (512, 0.2), (1024, 0.4), (2048, 0.8), (4096, 1.6), (8192, 3.2),
     (16384, 6.4), (32768, 12.8), (65536, 25.6)],
)  # fmt: skip
def test_linear_scaling(minibatch: int, eta: float) -> None:
    assert make_plan(Config(minibatch=minibatch), IMAGES, VALIDATION).peak_lr == pytest.approx(eta, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "first", "fifth_epoch_less_one", "peak"),
    [
        ({"warmup": "constant"}, 0.1, 0.1, 3.2),
        ({"warmup": "none"}, 3.2, 3.2, 3.2),
        ({"scaling": "none"}, 0.1, 0.1, 0.1),
        ({"scaling": "sqrt"}, 0.1, 0.5650884, 0.5656854),  # the paper's Table 2a has 0.1 * sqrt(32)
        ({"warmup_epochs": 2.5}, 0.1, 3.2, 3.2),
    ],
)
def test_variants(options: dict[str, object], first: float, fifth_epoch_less_one: float, peak: float) -> None:
    config = Config(minibatch=8192, **options)  # type: ignore[arg-type]
    found = (rate_at(config, 0), rate_at(config, 779), rate_at(config, 780))
    assert found == pytest.approx((first, fifth_epoch_less_one, peak), rel=1e-6)


def test_decays_keep_their_fractions() -> None:
    assert Config(epochs=90).decays == (30.0, 60.0, 80.0)
    assert Config(epochs=18).decays == (6.0, 12.0, 16.0)
    assert Config(epochs=18, decay_epochs=(9.0,)).decays == (9.0,)


def test_plan_of_paper_8k() -> None:
    plan = make_plan(Config(minibatch=8192), IMAGES, VALIDATION)
    assert (plan.workers, plan.iterations_per_epoch, plan.iterations, plan.warmup_iterations) == (256, 156, 14_040, 780)
    assert plan.dropped_per_epoch == 1_281_167 - 156 * 8192 == 3_215


def test_refusals() -> None:
    with pytest.raises(UserError, match="larger than the data: 100 training images"):
        make_plan(Config(), 100, 10)
    plan = make_plan(Config(), IMAGES, VALIDATION)
    with pytest.raises(UserError, match=r"9 processes are more than the k = 8 workers .* at most 8"):
        check_processes(plan, Config(), 9)
    check_processes(plan, Config(), 3)
    with pytest.raises(UserError, match=r"--sync-bn needs one process for each of the k = 8 workers, and there are 3"):
        check_processes(plan, Config(sync_bn=True), 3)
    for bad in ({"minibatch": 100}, {"epochs": 0}, {"per_worker": -1}, {"reference_lr": 0.0}, {"momentum": 0.0}):
        with pytest.raises(UserError):
            Config(**bad)  # type: ignore[arg-type]
