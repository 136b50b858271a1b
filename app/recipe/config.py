"""The options of a run as one flat, immutable record. The command line is generated from it.

A field has a type, choices and limits. `check` compares every value with them, whether it comes from the command line,
from a file, from a run that is resumed, or from a checkpoint. A config is never changed afterwards. `Plan` has what
follows from a config and a data set, and `Run` has what follows from a config and the folder of a run.

The fields that are not `free` decide what is computed: if they and the images are equal in two runs, the runs train the
same network. The free fields decide where and how a run computes, and may be changed whenever the run is resumed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

from app.base.errors import UserError
from app.base.text import nearest
from app.data.published_sets import PUBLISHED
from app.data.sources import AUGMENTATIONS, data_help, fixed_size
from app.recipe.models import ALL_BUT_LAST, MODELS, STAGES, STEM
from app.recipe.paper import DECAY_EPOCHS as PAPER_DECAYS
from app.recipe.paper import EPOCHS as PAPER_EPOCHS
from app.recipe.schedule import SCHEDULES, WARMUPS

LARGEST = 2**63 - 1  # the largest number of any option: a signed integer of 8 bytes
WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


class Limits(NamedTuple):
    """The numbers that a field may have.

    Attributes:
        text: The description of these numbers, for messages.
        holds: Returns whether a number is one of them.
    """

    text: str
    holds: Callable[[float], bool]


ABOVE_0 = Limits("a number above 0", lambda value: value > 0)
FROM_0 = Limits("0 or more", lambda value: value >= 0)
FROM_0_TO_1 = Limits("a number from 0 to 1", lambda value: 0 <= value <= 1)
TO_1 = Limits("a number above 0, up to 1", lambda value: 0 < value <= 1)
BELOW_1 = Limits("0 or more, below 1", lambda value: 0 <= value < 1)
# Python refuses to wait for much longer times.
SECONDS = Limits("seconds from 0 to 1,000,000,000", lambda value: 0 <= value <= 1e9)
FROM_0_OR_HOROVODS = Limits("0 or more, or -1 for Horovod's default", lambda value: value >= 0 or value == -1)
FROM_0_OR_MEASURED = Limits("0 or more, or -1 for a measured number", lambda value: value >= 0 or value == -1)


def option(
    default: Any,
    group: str,
    text: str,
    *,
    choices: tuple[Any, ...] = (),
    limits: Limits | None = None,
    free: bool = False,
) -> Any:
    """Return a field that is also a command line option.

    Args:
        default: The default value.
        group: The heading under which `--help` shows the option.
        text: The help text.
        choices: All values that the field may have, or () if there are more than a few.
        limits: The numbers that the field may have.
        free: True if the field has no influence on the trained network.
    """
    return field(
        default=default, metadata={"group": group, "text": text, "choices": choices, "limits": limits, "free": free}
    )


@dataclass(frozen=True)
class Config:
    """All options of a run.

    Fields whose names end in `_epochs` are in epochs, and minibatches are numbers of images.
    """

    recipe: str = option("digits", "recipe", "preset of options; options on the command line override it", free=True)

    data: str = option(  # free, because a folder may be moved: its content is compared by a fingerprint instead
        "digits", "data", data_help(), free=True
    )
    skip_list: str = option(  # free, because the fingerprint of the data also depends on the skipped images
        "", "data", "file that lists images to leave out; check-data --skip-list writes such a file", free=True
    )
    stage: str = option(
        "",
        "data",
        "folder on a local disk of each host, to which the archives of --data are copied while the run reads them",
        free=True,
    )
    image_size: int = option(
        0,
        "data",
        "side in pixels of the images that the network gets; 0: the side of the data set's images, or 224 for a folder",
        limits=FROM_0,
    )
    resize: int = option(
        0,
        "data",
        "shorter side in pixels to which validation images are resized before their central crop; 0: 256/224 of the"
        " image size",
        limits=FROM_0,
    )
    shuffle: str = option(
        "epoch",
        "data",
        "who shuffles the training images in each epoch: epoch, one order for all workers (paper); worker, each worker"
        " has its own order of all images",
        choices=("epoch", "worker"),
    )
    augmentation: str = option(
        "paper",
        "data",
        "augmentation of training images: " + "; ".join(f"{name}, {each.text}" for name, each in AUGMENTATIONS.items()),
        choices=tuple(AUGMENTATIONS),
    )
    normalise: str = option(
        "imagenet",
        "data",
        "values by which the images of a folder are normalised: imagenet, the mean and standard deviation of ImageNet's"
        " images (paper); data, the mean and standard deviation of the folder's training images, measured once",
        choices=("imagenet", "data"),
    )
    grey: bool = option(False, "data", "read the images of a folder as one grey channel (paper: three colours)")
    data_root: str = option(  # free, because a folder may be moved: its files are compared by checksums instead
        "", "data", "folder with the files of fashion-mnist, mnist, kmnist or cifar10", free=True
    )
    downsample: int = option(
        1,
        "data",
        "side in pixels of the square blocks that are averaged to one pixel, for fashion-mnist, mnist, kmnist and"
        " cifar10",
        limits=ABOVE_0,
    )
    synthetic_images: int = option(8192, "data", "number of training images of the synthetic data", limits=ABOVE_0)
    synthetic_classes: int = option(1000, "data", "number of classes of the synthetic data", limits=ABOVE_0)

    model: str = option("resnet8", "model", f"network to train: {', '.join(MODELS)}", choices=tuple(MODELS))
    width: int = option(
        16, "model", "number of channels in the first stage of the networks for small images", limits=ABOVE_0
    )
    init: str = option(
        "",
        "model",
        "weights to start from: a file in torchvision's format (.pth, .pt, .safetensors), a run, or one of its"
        " checkpoints (paper: random weights)",
    )
    freeze: str = option(
        "none",
        "model",
        "part of the network that training does not change, including its BN statistics: stem or a stage, each with"
        " everything before it; features, everything except the last layer; none, no part",
        choices=("none", STEM, *STAGES, ALL_BUT_LAST),
    )
    last_gamma: float = option(0.0, "model", "initial gamma of the last BN of each residual block (paper: 0)")
    fc_std: float = option(
        0.01, "model", "standard deviation of the last layer's initial weights (paper: 0.01)", limits=FROM_0
    )
    conv_fan: str = option(
        "fan_out", "model", "mode of He's initialisation, as in torch.nn.init", choices=("fan_out", "fan_in")
    )
    bn_momentum: float = option(
        0.1, "model", "weight of a new step's statistics in BN's running statistics (paper: 0.1)", limits=FROM_0_TO_1
    )
    bn_eps: float = option(1e-5, "model", "number that BN adds to each variance", limits=ABOVE_0)
    precise_bn: int = option(
        0,
        "model",
        "number of training images from which BN's statistics are computed before each evaluation; 0: use the running"
        " statistics",
        limits=FROM_0,
    )
    sync_bn: bool = option(
        False, "model", "share BN statistics among all workers of a step (paper: each worker has its own)"
    )

    epochs: int = option(PAPER_EPOCHS, "schedule", "number of passes over the training images", limits=ABOVE_0)
    minibatch: int = option(
        256, "schedule", "number of images in one step on all processes together, kn", limits=ABOVE_0
    )
    per_worker: int = option(
        32, "schedule", "number of images that share BN statistics, n; a step has k = kn / n workers", limits=ABOVE_0
    )
    reference_lr: float = option(0.1, "schedule", "learning rate at the reference minibatch, eta", limits=ABOVE_0)
    reference_minibatch: int = option(256, "schedule", "minibatch at which the learning rate is eta", limits=ABOVE_0)
    scaling: str = option(
        "linear", "schedule", "how the learning rate grows with the minibatch", choices=("linear", "sqrt", "none")
    )
    scaled: str = option(
        "rate",
        "schedule",
        "what is multiplied by the factors of --scaling and --warmup: rate, the learning rate (paper); loss, the loss",
        choices=("rate", "loss"),
    )
    warmup: str = option(
        "gradual",
        "schedule",
        "warmup of the learning rate, only for minibatches larger than the reference minibatch: "
        + "; ".join(f"{name}, {warmup.text}" for name, warmup in WARMUPS.items()),
        choices=tuple(WARMUPS),
    )
    warmup_epochs: float = option(5.0, "schedule", "length of the warmup in epochs", limits=FROM_0)
    schedule: str = option(
        "step",
        "schedule",
        "how the learning rate falls after the warmup: "
        + "; ".join(f"{name}, {schedule.text}" for name, schedule in SCHEDULES.items()),
        choices=tuple(SCHEDULES),
    )
    decay_epochs: tuple[float, ...] = option(
        (),
        "schedule",
        "epochs at which the learning rate falls (default: 30, 60 and 80 of 90 epochs, in proportion to --epochs)",
    )
    decay_factor: float = option(
        0.1, "schedule", "factor by which the learning rate is multiplied at each of the decay epochs", limits=TO_1
    )

    optimizer: str = option(
        "sgd",
        "optimizer",
        "algorithm that updates the weights: sgd (paper), or lars, which scales the step of each layer",
        choices=("sgd", "lars"),
    )
    trust_coefficient: float = option(
        0.001,
        "optimizer",
        "number by which LARS multiplies the ratio of the norms of a layer's weights and gradient",
        limits=ABOVE_0,
    )
    label_smoothing: float = option(
        0.0,
        "optimizer",
        "share of each label's probability that is spread evenly over all classes (paper: none)",
        limits=FROM_0_TO_1,
    )
    head_lr_factor: float = option(
        1.0,
        "optimizer",
        "factor by which the last layer's learning rate is multiplied, for use with --init",
        limits=ABOVE_0,
    )
    clip_grad_norm: float = option(
        0.0,
        "optimizer",
        "largest norm of a step's gradient, to which a larger gradient is scaled down; 0: no limit (paper: none)",
        limits=FROM_0,
    )
    ema: float = option(
        0.0,
        "optimizer",
        "decay of a moving average of the weights; this average is evaluated and exported too; 0: no average (paper:"
        " none)",
        limits=BELOW_1,
    )
    loss_divisor: str = option(
        "kn", "optimizer", "number by which the sum of the images' losses is divided (paper: kn)", choices=("kn", "n")
    )
    momentum: float = option(0.9, "optimizer", "momentum of SGD (paper: 0.9)", limits=FROM_0_TO_1)
    nesterov: bool = option(True, "optimizer", "use Nesterov's form of momentum (paper: yes)")
    momentum_correction: bool = option(
        True, "optimizer", "correct the momentum when the learning rate changes (paper: yes)"
    )
    weight_decay: float = option(1e-4, "optimizer", "weight decay, lambda, added to the gradient", limits=FROM_0)
    decay_bn: bool = option(False, "optimizer", "apply weight decay to BN's gamma and beta too (paper: no)")
    precision: str = option(
        "fp32", "optimizer", "number format of the computation", choices=("fp32", "tf32", "bf16", "fp16", "fp64")
    )
    compression: str = option(
        "none", "optimizer", "number format in which gradients are sent; none: not converted", choices=("none", "fp16")
    )
    seed: int = option(
        0, "optimizer", "seed of the initial weights, the order of images and the augmentation", limits=FROM_0
    )

    output: str = option("", "run", "folder to write the run to (default: a new one under runs/)", free=True)
    resume: str = option("", "run", "folder of a run to continue; auto: the newest run under runs/", free=True)
    allow_change: tuple[str, ...] = option(
        (),
        "run",
        "names of options that may differ from those of the run that is resumed; with data, the images may differ too",
        free=True,
    )
    checkpoint_every: str = option(
        "5m", "run", "steps between checkpoints, or a time such as 90s, 5m, 1h; 0: only at the end of epochs", free=True
    )
    keep: int = option(2, "run", "number of checkpoints to keep", limits=ABOVE_0, free=True)
    keep_best: bool = option(
        False, "run", "keep the checkpoint with the lowest validation error too, as best.pt", free=True
    )
    commit_every: int = option(
        10,
        "run",
        "steps between copies of the state in memory, to which an elastic run goes back after a failure",
        limits=ABOVE_0,
        free=True,
    )
    stall_timeout: float = option(
        300.0, "run", "seconds without a step after which the run is ended; 0: never", limits=SECONDS, free=True
    )
    device: str = option("auto", "run", "device to compute on", choices=("auto", "cpu", "cuda"), free=True)
    collectives: str = option(
        "auto",
        "run",
        "library that sums the gradients of all processes",
        choices=("auto", "nccl", "mpi", "gloo"),
        free=True,
    )
    ghost: str = option(
        "auto",
        "speed",
        "number of workers in one forward pass, each with its own BN statistics; auto: chosen by the size of their"
        " activations; off: 1",
        free=True,
    )
    channels_last: bool = option(False, "speed", "store weights and activations in the order NHWC", free=True)
    fusion_mb: float = option(
        -1.0,
        "speed",
        "size of Horovod's fusion buffer in MiB; -1: Horovod's default",
        limits=FROM_0_OR_HOROVODS,
        free=True,
    )
    cycle_ms: float = option(
        -1.0,
        "speed",
        "milliseconds between two times at which Horovod looks for tensors to sum; -1: Horovod's default, or on CPUs a"
        " number that depends on the size of the neural network",
        limits=FROM_0_OR_HOROVODS,
        free=True,
    )
    overlap: str = option(
        "auto", "speed", "whether gradients are summed during the backward pass", choices=("auto", "on", "off"),
        free=True,
    )  # fmt: skip
    allreduce: str = option(
        "auto", "speed", "algorithm by which gradients are summed on GPUs",
        choices=("auto", "ring", "tree", "hierarchical"), free=True,
    )  # fmt: skip
    compile: bool = option(False, "speed", "compile each residual stage with torch.compile", free=True)
    loader_processes: int = option(
        -1,
        "run",
        "number of loader processes (they decode images) for each process; -1: measure how many are needed",
        limits=FROM_0_OR_MEASURED,
        free=True,
    )
    screen: str = option(
        "lines",
        "run",
        "what the run prints: lines, text about the training; quiet, only the result; json, the lines of log.jsonl and"
        " the result",
        choices=("lines", "quiet", "json"),
        free=True,
    )
    log_every: int = option(10, "run", "steps between lines of the log", limits=ABOVE_0, free=True)

    def __post_init__(self) -> None:
        check(self)

    @property
    def decays(self) -> tuple[float, ...]:
        """The epochs at which the learning rate falls. The default is the paper's, in proportion to `epochs`."""
        # Multiply before dividing: 90 * 30 / 90 is exactly 30, and a decay must begin at the first step of its epoch.
        return self.decay_epochs or tuple(self.epochs * epoch / PAPER_EPOCHS for epoch in PAPER_DECAYS)


TYPES = get_type_hints(Config)


def check(config: Config) -> None:
    """Raise UserError if the value of a field is not allowed, or if the values of two fields do not fit together."""
    for f in fields(Config):
        check_value(f, getattr(config, f.name))
    check_together(config)


def check_value(f: Field[Any], value: Any) -> None:
    """Raise UserError if a value has another type than a field, is not one of its choices or is outside its limits."""
    kind = TYPES[f.name]
    if kind in WORDS:
        check_type(f.name, value, kind)
    elif not isinstance(value, tuple):
        raise UserError(f"{flag(f.name)} is {shown(value)}: give a list")
    else:
        for item in value:
            check_type(f.name, item, get_args(kind)[0])
    choices, limits = f.metadata["choices"], f.metadata["limits"]
    if choices and value not in choices:
        raise UserError(f"{flag(f.name)} is {shown(value)}: {nearest(value, choices)}")
    if limits and not limits.holds(value):
        raise UserError(f"{flag(f.name)} is {shown(value)}: give {limits.text}")


def check_type(name: str, value: Any, kind: type) -> None:
    """Raise UserError if a value has the wrong type, is nan or too large, or is text that no file name can have."""
    fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if not fits:
        raise UserError(f"{flag(name)} is {shown(value)}: give {WORDS[kind]}")
    if kind in (int, float) and not -LARGEST <= value <= LARGEST:  # nan fails too
        raise UserError(f"{flag(name)} is {shown(value)}: give {WORDS[kind]} up to {LARGEST}")
    if kind is str:
        try:
            usable = b"\0" not in os.fsencode(value)
        except UnicodeEncodeError:
            usable = False
        if not usable:
            raise UserError(f"{flag(name)} is {shown(value)}: give text without characters that no file name can have")


def shown(value: object) -> str:
    """Return a value as one line of at most 60 characters, for messages."""
    text = value if isinstance(value, str) and value.isprintable() and value else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_together(config: Config) -> None:
    """Raise UserError if values that are valid on their own do not fit each other."""
    if config.nesterov and config.momentum == 0:
        raise UserError("--momentum is 0, and Nesterov's form needs a momentum above 0: add --no-nesterov")
    if config.minibatch % config.per_worker:
        low = config.minibatch - config.minibatch % config.per_worker
        near = " or ".join(str(m) for m in (low, low + config.per_worker) if m)
        raise UserError(
            f"--minibatch {config.minibatch} is not a multiple of --per-worker {config.per_worker}: try {near}"
        )
    if config.precise_bn % config.per_worker:
        closest = config.per_worker * max(1, round(config.precise_bn / config.per_worker))
        raise UserError(
            f"--precise-bn {config.precise_bn} is not a multiple of --per-worker {config.per_worker}: try {closest}"
        )
    if config.freeze != "none" and not config.init:
        raise UserError("--freeze keeps the initial weights, and random weights are of no use: give --init too")
    stages = STAGES[: len(MODELS[config.model].blocks)]
    if config.freeze in STAGES and config.freeze not in stages:
        raise UserError(f"--freeze {config.freeze}: {config.model} has no such stage; its last stage is {stages[-1]}")
    if config.freeze in (ALL_BUT_LAST, stages[-1]) and config.precise_bn:
        raise UserError("--precise-bn measures BN's statistics, and --freeze keeps all of them: give one of them")
    if config.sync_bn and config.precise_bn:
        raise UserError(
            "--precise-bn measures the BN statistics of each worker, and --sync-bn those of all workers together:"
            " give one of them"
        )
    if config.ghost not in ("auto", "off") and not (
        config.ghost.isascii() and config.ghost.isdecimal() and 0 < len(config.ghost) < 10 and int(config.ghost) > 0
    ):
        raise UserError(f"--ghost is {shown(config.ghost)}: give auto, off, or a number of workers")
    if config.sync_bn and config.ghost not in ("auto", "off"):
        raise UserError(
            f"--ghost {config.ghost} is for BN statistics per worker, and --sync-bn joins them: give one of them"
        )
    interval(config.checkpoint_every)
    unknown = [name for name in config.allow_change if name not in Config.__dataclass_fields__]
    if unknown:
        raise UserError(
            f"--allow-change: there is no option {shown(unknown[0])}: give names such as epochs or minibatch"
        )
    if list(config.decays) != sorted(set(config.decays)) or config.decays[0] <= 0:
        given = ",".join(f"{epoch:g}" for epoch in config.decay_epochs)
        raise UserError(f"--decay-epochs {given}: give numbers above 0, each larger than the one before")


def check_used(config: Config, given: Collection[str]) -> None:
    """Raise UserError if an option of the command line has no effect.

    Options without effect are allowed in recipes and config files. They may have lost their effect because the command
    line overrides another option.

    Args:
        config: The config of the command line.
        given: The names of the options that were given.
    """
    for name, (option, value) in unused(config).items():
        if name in given and getattr(config, name) != default_of(name):
            raise UserError(f"{flag(name)} has no effect with {option} {value}: leave it out, or give another {option}")


def unused(config: Config) -> dict[str, tuple[str, str]]:
    """Return the fields that have no effect in a config, each with the option that is the reason, and its value."""
    # Options for folders of images are allowed with synthetic images too, because users measure the speed without
    # reading files by changing only --data to "synthetic" in a command.
    fields_of = {
        ("--data", config.data): {
            "resize": fixed_size(config.data) is None,
            "normalise": fixed_size(config.data) is None,
            "data_root": config.data in PUBLISHED,
            "synthetic_images": config.data == "synthetic",
            "synthetic_classes": config.data == "synthetic",
        },
        ("--model", config.model): {"width": MODELS[config.model].small},
        ("--warmup", config.warmup): {"warmup_epochs": config.warmup != "none"},
        ("--schedule", config.schedule): {
            "decay_epochs": SCHEDULES[config.schedule].decays,
            "decay_factor": SCHEDULES[config.schedule].decays,
        },
        ("--optimizer", config.optimizer): {"trust_coefficient": config.optimizer == "lars"},
    }
    return {name: given for given, names in fields_of.items() for name, used in names.items() if not used}


def interval(text: str) -> tuple[int, float]:
    """Return the interval of --checkpoint-every as (steps, seconds). One of the two numbers is 0.

    `100` means steps. `90s`, `5m` and `1h` are times. Raises UserError for other text.
    """
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    steps, seconds = 0, 0.0
    try:
        if text[-1:] in units:
            seconds = float(text[:-1]) * units[text[-1]]
        else:
            steps = int(text)
    except ValueError:
        steps = -1
    if not (0 <= steps <= LARGEST and 0 <= seconds <= LARGEST):  # nan fails too
        raise UserError(f"--checkpoint-every {shown(text)}: give a number of steps, or a time such as 90s, 5m or 1h")
    return steps, seconds


def flag(name: str) -> str:
    """Return the option of a field: `--reference-lr` for `reference_lr`."""
    return "--" + name.replace("_", "-")


def option_fields() -> list[Field[Any]]:
    """Return the fields of `Config` in their order."""
    return list(fields(Config))


def default_of(name: str) -> Any:
    """Return the default of a field."""
    value = Config.__dataclass_fields__[name].default
    assert value is not MISSING
    return value


def to_json(config: Config) -> str:
    """Return all fields as indented JSON."""
    return json.dumps(asdict(config), indent=2) + "\n"


def from_dict(values: Any) -> Config:
    """Return the config for a dictionary of fields, such as `asdict` returns. Absent fields have their defaults.

    Raises:
        UserError: `values` is not a dictionary of fields, or a field cannot have its value.
    """
    if not isinstance(values, dict):
        raise UserError(f"a config is an object with the names and values of options, not {shown(values)}")
    unknown = sorted(str(name) for name in values if name not in Config.__dataclass_fields__)
    if unknown:
        names = shown(", ".join(map(flag, unknown)))
        raise UserError(f"this version has no option {names}: use the version of this program that wrote it")
    known: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return Config(**known)


def read_config(path: Path) -> Config:
    """Return the config in a JSON file. Raises UserError if it cannot be read or if a field cannot have its value."""
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a config of this program: {error}") from None
    try:
        return from_dict(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
