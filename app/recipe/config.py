"""A run as one flat, frozen record; the command line is generated from it.

`RECIPE` fields say what is computed: two runs with the same recipe fields give the same network. The others say where
and how it is computed and may change at any resume.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from app.base.errors import UserError
from app.data.sources import data_help
from app.recipe.paper import DECAY_EPOCHS as PAPER_DECAYS
from app.recipe.paper import EPOCHS as PAPER_EPOCHS


def option(default: Any, group: str, text: str, *, choices: tuple[Any, ...] = (), free: bool = False) -> Any:
    """A field which is also a command line option; `free`: it does not change what is computed."""
    return field(default=default, metadata={"group": group, "text": text, "choices": choices, "free": free})


@dataclass(frozen=True)
class Config:
    """Every choice of a run. Rates are per step, lengths in epochs, minibatches in images."""

    recipe: str = option("digits", "recipe", "preset that the other options change", free=True)

    data: str = option(  # free, as a folder may have moved: what is in it is compared by its fingerprint
        "digits", "data", data_help(), free=True
    )
    skip_list: str = option(  # free like the data
        "", "data", "file of images to leave out; check-data --skip-list writes it", free=True
    )
    image_size: int = option(0, "data", "side of the images the network sees, in pixels; 0: the data's own")
    resize: int = option(
        0, "data", "shorter side before the central crop of validation, in pixels; 0: 256/224 of the image size"
    )
    shuffle: str = option("epoch", "data", "one for all workers (paper: epoch), or each", choices=("epoch", "worker"))
    augmentation: str = option("paper", "data", "of training images", choices=("paper", "none"))
    data_root: str = option(  # free like the data
        "", "data", "folder with the files of fashion-mnist, mnist, kmnist or cifar10", free=True
    )
    downsample: int = option(1, "data", "side in pixels of the blocks that are averaged, of these four data sets")
    synthetic_images: int = option(8192, "data", "training images of the synthetic data")
    synthetic_classes: int = option(1000, "data", "classes of the synthetic data")

    model: str = option("resnet8", "model", "network")
    width: int = option(16, "model", "channels of the first stage of the small networks")
    last_gamma: float = option(0.0, "model", "initial gamma of the last BN of each residual block (paper: 0)")
    fc_std: float = option(0.01, "model", "deviation of the last layer's initial weights")
    conv_fan: str = option("fan_out", "model", "fan of He's initialisation", choices=("fan_out", "fan_in"))
    bn_momentum: float = option(0.1, "model", "weight of a new step in BN's running statistics")
    bn_eps: float = option(1e-5, "model", "epsilon of BN")
    precise_bn: int = option(
        0, "model", "training images whose BN statistics replace the running ones before each evaluation; 0: none"
    )
    sync_bn: bool = option(False, "model", "BN statistics over all workers of a step (not the paper's choice)")

    epochs: int = option(PAPER_EPOCHS, "schedule", "passes over the training images")
    minibatch: int = option(256, "schedule", "kn, images of one step")
    per_worker: int = option(32, "schedule", "n, images that share BN statistics; k = kn / n workers")
    reference_lr: float = option(0.1, "schedule", "eta, the rate at the reference minibatch")
    reference_minibatch: int = option(256, "schedule", "minibatch whose rate is eta")
    scaling: str = option("linear", "schedule", "of eta with kn", choices=("linear", "sqrt", "none"))
    scaled: str = option("rate", "schedule", "what scaling and warmup multiply (paper: rate)", choices=("rate", "loss"))
    warmup: str = option("gradual", "schedule", "used for kn > reference", choices=("gradual", "constant", "none"))
    warmup_epochs: float = option(5.0, "schedule", "length of the warmup")
    schedule: str = option(
        "step",
        "schedule",
        "fall of the rate after the warmup: at the decay epochs (paper: step), or to zero at the end by"
        " a cosine or by a polynomial of degree 2",
        choices=("step", "cosine", "poly"),
    )
    decay_epochs: tuple[float, ...] = option((), "schedule", "default: 30, 60, 80 of 90 epochs, in proportion")
    decay_factor: float = option(0.1, "schedule", "of the rate at each of the decay epochs")

    optimizer: str = option(
        "sgd", "optimizer", "rule of the update (paper: sgd); lars: scaled layer by layer", choices=("sgd", "lars")
    )
    trust_coefficient: float = option(0.001, "optimizer", "eta of LARS, the trust in each layer's ratio of norms")
    label_smoothing: float = option(
        0.0, "optimizer", "share of each label that is spread evenly over all classes (paper: none)"
    )
    loss_divisor: str = option("kn", "optimizer", "of a worker's summed loss (paper: kn)", choices=("kn", "n"))
    momentum: float = option(0.9, "optimizer", "of SGD")
    nesterov: bool = option(True, "optimizer", "Nesterov's form of momentum")
    momentum_correction: bool = option(True, "optimizer", "of the velocity where the rate changes (paper: yes)")
    weight_decay: float = option(1e-4, "optimizer", "lambda, inside the gradient")
    decay_bn: bool = option(False, "optimizer", "weight decay also on BN's gamma and beta")
    precision: str = option("fp32", "optimizer", "of the arithmetic", choices=("fp32", "bf16", "fp16", "fp64"))
    compression: str = option("none", "optimizer", "of gradients on the wire", choices=("none", "fp16"))
    seed: int = option(0, "optimizer", "of the initial weights, the order and the augmentation")

    output: str = option("", "run", "folder the run leaves; default: a new one under runs/", free=True)
    resume: str = option("", "run", "folder of a run to go on with; auto: the newest under runs/", free=True)
    allow_change: tuple[str, ...] = option((), "run", "options that may differ at a resume, as A,B", free=True)
    checkpoint_every: str = option(
        "5m", "run", "steps, or a time such as 90s, 5m, 1h; 0: at epoch ends only", free=True
    )
    keep: int = option(2, "run", "checkpoints kept", free=True)
    commit_every: int = option(10, "run", "steps between the copies that an elastic run goes back to", free=True)
    stall_timeout: float = option(300.0, "run", "seconds without a step till the run is over; 0: never", free=True)
    device: str = option("auto", "run", "to compute on", choices=("auto", "cpu", "cuda"), free=True)
    collectives: str = option("auto", "run", "library", choices=("auto", "nccl", "mpi", "gloo"), free=True)
    ghost: str = option(
        "auto", "speed", "workers in one forward pass, each with its own BN: auto, off, or so many", free=True
    )
    channels_last: bool = option(False, "speed", "weights and activations in the order NHWC", free=True)
    fusion_mb: float = option(-1.0, "speed", "Horovod's fusion buffer in MiB; -1: Horovod's own", free=True)
    cycle_ms: float = option(
        -1.0, "speed", "milliseconds between Horovod's cycles; -1: by the network on CPUs", free=True
    )
    overlap: str = option(
        "auto", "speed", "gradients summed during the backward pass", choices=("auto", "on", "off"), free=True
    )
    allreduce: str = option("auto", "speed", "NCCL's algorithm", choices=("auto", "ring", "tree"), free=True)
    compile: bool = option(False, "speed", "compile the network by torch.compile", free=True)
    loader_processes: int = option(-1, "run", "per process, for decoding; -1: by a measurement", free=True)
    screen: str = option("lines", "run", "what it shows", choices=("lines", "quiet", "json"), free=True)
    log_every: int = option(10, "run", "steps between log lines", free=True)

    def __post_init__(self) -> None:
        if not self.decay_epochs:
            # Multiply first: 90 * 30 / 90 is exactly 30, and a decay must fall on its epoch's first step.
            object.__setattr__(self, "decay_epochs", tuple(self.epochs * d / PAPER_EPOCHS for d in PAPER_DECAYS))
        check(self)


def check(config: Config) -> None:
    """Raises UserError for values no run can have."""
    for name in ("epochs", "minibatch", "per_worker", "reference_minibatch", "reference_lr", "width", "bn_eps",
                 "decay_factor", "trust_coefficient", "synthetic_images", "synthetic_classes", "downsample",
                 "log_every", "keep", "commit_every"):  # fmt: skip
        if not getattr(config, name) > 0:
            raise UserError(f"{flag(name)} is {getattr(config, name)}: give a number above 0")
    for name in ("image_size", "resize", "warmup_epochs", "weight_decay", "fc_std", "seed", "stall_timeout",
                 "precise_bn"):  # fmt: skip
        if not getattr(config, name) >= 0:
            raise UserError(f"{flag(name)} is {getattr(config, name)}: give 0 or more")
    for name in ("momentum", "bn_momentum", "label_smoothing"):
        if not 0 <= getattr(config, name) <= 1:
            raise UserError(f"{flag(name)} is {getattr(config, name)}: give a number from 0 to 1")
    if config.nesterov and config.momentum == 0:
        raise UserError("--momentum is 0, and Nesterov's form needs some: add --no-nesterov")
    if config.minibatch % config.per_worker:
        low = config.minibatch - config.minibatch % config.per_worker
        near = " or ".join(str(m) for m in (low, low + config.per_worker) if m)
        raise UserError(
            f"--minibatch {config.minibatch} is not a multiple of --per-worker {config.per_worker}: try {near}"
        )
    interval(config.checkpoint_every)
    if config.ghost not in ("auto", "off") and not (config.ghost.isdecimal() and int(config.ghost) > 0):
        raise UserError(f"--ghost {config.ghost}: give auto, off, or a number of workers")
    for name in ("fusion_mb", "cycle_ms"):
        if getattr(config, name) < 0 and getattr(config, name) != -1:
            raise UserError(f"{flag(name)} is {getattr(config, name)}: give 0 or more, or -1 for Horovod's own")
    if config.sync_bn and config.ghost not in ("auto", "off"):
        raise UserError(
            f"--ghost {config.ghost} keeps workers' BN statistics apart, --sync-bn joins them: give one of them"
        )
    if config.precise_bn % config.per_worker:
        closest = config.per_worker * max(1, round(config.precise_bn / config.per_worker))
        raise UserError(
            f"--precise-bn {config.precise_bn} is not a multiple of --per-worker {config.per_worker}: try {closest}"
        )
    if config.sync_bn and config.precise_bn:
        raise UserError("--precise-bn measures statistics per worker, --sync-bn joins those of all: give one of them")
    unknown = [name for name in config.allow_change if name not in Config.__dataclass_fields__]
    if unknown:
        raise UserError(f"--allow-change knows no option {unknown[0]}")
    if list(config.decay_epochs) != sorted(config.decay_epochs) or min(config.decay_epochs) <= 0:
        raise UserError(f"--decay-epochs {config.decay_epochs} must rise and be above 0")


def interval(text: str) -> tuple[int, float]:
    """`100` as steps, `90s`, `5m`, `1h` as seconds: (steps, seconds), the other of them 0. Raises UserError."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    steps, seconds = 0, 0.0
    try:
        if text[-1:] in units:
            seconds = float(text[:-1]) * units[text[-1]]
        else:
            steps = int(text)
    except ValueError:
        steps = -1
    if steps < 0 or seconds < 0:
        raise UserError(f"--checkpoint-every {text}: give a number of steps, or a time such as 90s, 5m or 1h")
    return steps, seconds


def flag(name: str) -> str:
    """The option of a field."""
    return "--" + name.replace("_", "-")


def option_fields() -> list[Field[Any]]:
    """The fields in their order."""
    return list(fields(Config))


def default_of(name: str) -> Any:
    """The default of a field."""
    value = Config.__dataclass_fields__[name].default
    assert value is not MISSING
    return value


def differences(old: Config, new: Config) -> dict[str, str]:
    """The fields that change what is computed and differ, each with its option and both values in words."""
    return {
        f.name: f"{flag(f.name)} was {getattr(old, f.name)!r}, now {getattr(new, f.name)!r}"
        for f in fields(Config)
        if not f.metadata["free"] and getattr(old, f.name) != getattr(new, f.name)
    }


def check_same_recipe(old: Config, new: Config, what: str) -> None:
    """Raises UserError, naming the fields and what allows it, where `new` would not go on with the run of `old`."""
    found = {name: text for name, text in differences(old, new).items() if name not in new.allow_change}
    if found:
        raise UserError(
            f"{what} is of another recipe: {'; '.join(found.values())}"
            f" (to go on all the same: --allow-change {','.join(sorted({*found, *new.allow_change}))})"
        )


def to_json(config: Config) -> str:
    """All fields, indented."""
    return json.dumps(asdict(config), indent=2) + "\n"


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `asdict`. Raises UserError for a field this version does not know."""
    unknown = sorted(set(values) - set(Config.__dataclass_fields__))
    if unknown:
        raise UserError(f"this version knows no option {', '.join(map(flag, unknown))}: use the version that wrote it")
    known: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return Config(**known)


def read_config(path: Path) -> Config:
    """The config of a file. Raises UserError where it cannot be read."""
    try:
        return from_dict(json.loads(path.read_text()))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is no config of this program: {error}") from None
