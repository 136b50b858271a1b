"""Compare a config with the remarks and choices of the paper, and show where it follows them and where it deviates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.data.sources import fixed_size
from app.recipe import paper
from app.recipe.config import Config, flag
from app.recipe.data_size import resize
from app.recipe.plan import describe_late_decays
from app.recipe.schedule import SCHEDULES, warms_up

MOST = 8192  # the largest minibatch whose error in Figure 1 is as low as that of the paper's baseline, kn = 256
# The status of a choice: as in the paper, different from the paper, or not described in the paper.
FOLLOWED, DEVIATES, OPEN = "followed", "deviates", "open"


@dataclass(frozen=True)
class AuditFinding:
    """How a config relates to one remark or choice of the paper.

    Attributes:
        name: The name of the choice.
        section: The section of the paper.
        paper: What the paper does.
        status: FOLLOWED, DEVIATES or OPEN.
        here: What this run does.
    """

    name: str
    section: str
    paper: str
    status: str
    here: str


@dataclass(frozen=True)
class Choice:
    """A remark or choice of the paper.

    Attributes:
        name: The name of the choice.
        section: The section of the paper.
        paper: What the paper does.
        fields: The fields of the config that determine whether a run follows the paper in this choice.
        deviation: A function of the config and the number of training images. It returns how the config deviates, or ""
            if it follows the paper.
        here: What this program does if the config follows the paper.
    """

    name: str
    section: str
    paper: str
    fields: tuple[str, ...]
    deviation: Callable[[Config, int], str]
    here: str = "the same"


def _values(name: str, section: str, text: str, here: str = "the same", **expected: object) -> Choice:
    """Return a choice of the paper that is defined by the values of some fields of a config.

    Args:
        name, section, here: The attributes of `Choice`.
        text: The attribute `paper` of `Choice`.
        expected: The fields of the config, with the values that they have if the config follows the paper.
    """

    def deviation(config: Config, images: int) -> str:
        return ", ".join(
            f"{flag(k)} {_show(getattr(config, k))}" for k, v in expected.items() if getattr(config, k) != v
        )

    return Choice(name, section, text, tuple(expected), deviation, here)


def _show(value: object) -> str:
    return ",".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)


def _data(config: Config, images: int) -> str:
    return "" if images == paper.TRAINING_IMAGES else f"{config.data}, {images:,} training images"


def _model(config: Config, images: int) -> str:
    return "" if config.model in ("resnet50", "resnet101") else f"--model {config.model}"


def _minibatch(config: Config, images: int) -> str:
    return "" if config.minibatch <= MOST else f"kn = {config.minibatch}, where the paper's error is higher (Figure 1)"


def _warmup(config: Config, images: int) -> str:
    if config.minibatch <= config.reference_minibatch:
        return ""  # neither the paper nor this program has a warmup for such minibatches
    if warms_up(config) and config.warmup_epochs >= config.epochs:
        return f"--warmup-epochs {config.warmup_epochs:g}: the run ends at epoch {config.epochs}, in the warmup"
    if (config.warmup, config.warmup_epochs) == ("gradual", paper.WARMUP_EPOCHS):
        return ""
    row = paper.TABLE_1.get(config.warmup) if config.warmup != "gradual" else None
    text = f"--warmup {config.warmup}" + (f" over {config.warmup_epochs:g} epochs" if config.warmup != "none" else "")
    return text + (f" (Table 1 compares it: {row.error})" if row and config.minibatch == row.minibatch else "")


def _decays(config: Config, images: int) -> str:
    schedule = SCHEDULES[config.schedule]
    if not schedule.decays:
        source = f" ({schedule.source})" if schedule.source else ""
        return f"--schedule {config.schedule}{source}: the learning rate falls {schedule.text}"
    found = []
    # `audit` also accepts a config that no run can use, because the data set has fewer images than one minibatch.
    late = describe_late_decays(config, max(1, images // config.minibatch))
    if late or config.decays != tuple(map(float, paper.DECAY_EPOCHS)):
        found.append(f"--decay-epochs {_show(config.decays)}" + (f" ({late})" if late else ""))
    if config.decay_factor != paper.DECAY_FACTOR:
        found.append(f"--decay-factor {config.decay_factor}")
    return ", ".join(found)


def _image_size(config: Config, images: int) -> str:
    if config.image_size == 0:  # the default: 224 pixels, or the size of the images if the data set fixes it
        return "the size of the data set's images" if fixed_size(config.data) else ""
    return "" if config.image_size == paper.IMAGE_SIZE else f"--image-size {config.image_size}"


def _grey(config: Config, images: int) -> str:
    return "--grey: one channel" if config.grey else ""


def _beyond(config: Config, images: int) -> str:
    """Return a text that lists a config's options for methods that are not in the paper, or "" if it has none."""
    used = []
    if config.optimizer == "lars":
        used.append("--optimizer lars (You, Gitman and Ginsburg 2017)")
    for name, plain in BEYOND.items():
        if getattr(config, name) != plain:
            used.append(f"{flag(name)} {_show(getattr(config, name))}")
    if config.label_smoothing:
        used.append(f"--label-smoothing {config.label_smoothing:g} (Szegedy et al. 2016)")
    return "beyond this paper: " + ", ".join(used) if used else ""


# Options of methods that are not in the paper, with the values that turn them off.
BEYOND = {"init": "", "freeze": "none", "head_lr_factor": 1.0, "clip_grad_norm": 0.0, "ema": 0.0}
REMARKS = (
    _values("remark 1", "3", "scaling the loss is not the same as scaling the learning rate",
            "the learning rate is scaled, the loss and weight decay are not", scaled="rate"),
    _values("remark 2", "3", "momentum correction, if the learning rate is part of the velocity",
            "it is not part of it (equation 9), so no correction is needed", momentum_correction=True),
    _values("remark 3", "3", "the loss is divided by kn, not by n",
            "a worker's summed loss is divided by kn, and Horovod sums over the workers", loss_divisor="kn"),
    _values("remark 4", "3", "one shuffle of all images in each epoch, cut into k parts",
            "the shuffle depends on seed and epoch, not on the number of processes", shuffle="epoch"),
)  # fmt: skip
CHOICES = (
    Choice("data", "5.1", "ImageNet-1k, 1.28 million training images", ("data",), _data),
    Choice("model", "5.1", "ResNet-50 with the stride in the 3x3 convolution (or ResNet-101, Table 2c)", ("model",),
           _model),
    Choice("minibatch", "5.2", "up to 8k; the error is higher for larger ones", ("minibatch",), _minibatch),
    _values("per worker", "5.1", "n = 32", per_worker=paper.PER_WORKER),
    _values("reference", "5.1", "eta = 0.1 at 256", reference_lr=paper.REFERENCE_LR,
            reference_minibatch=paper.REFERENCE_MINIBATCH),
    _values("scaling", "2.1", "linear", scaling="linear"),
    Choice("warmup", "2.2", "gradual over 5 epochs, if kn is above 256", ("warmup", "warmup_epochs"), _warmup),
    _values("epochs", "5.1", "90", epochs=paper.EPOCHS),
    Choice("decays", "5.1", "learning rate times 1/10 at epochs 30, 60 and 80",
           ("schedule", "decay_epochs", "decay_factor"), _decays),
    Choice("beyond", "5.1", "SGD, plain labels", ("optimizer", "trust_coefficient", "label_smoothing", *BEYOND),
           _beyond),
    _values("momentum", "5.1", "0.9, in Nesterov's form", momentum=paper.MOMENTUM, nesterov=True),
    _values("weight decay", "5.1", "0.0001, not scaled", weight_decay=paper.WEIGHT_DECAY),
    _values("weight decay of BN", "5.1", "none on gamma and beta", decay_bn=False),
    _values("BN statistics", "2.3", "per worker, never across workers", sync_bn=False),
    _values("BN running average", "5.1", "momentum 0.9 (PyTorch's 0.1)", bn_momentum=paper.BN_MOMENTUM,
            precise_bn=0),
    _values("last gamma", "5.1", "0 in the last BN of each residual block", last_gamma=paper.LAST_GAMMA),
    _values("last layer", "5.1", "N(0, 0.01)", fc_std=paper.FC_STD),
    _values("augmentation", "5.1", "scale, aspect ratio and flip", augmentation="paper"),
    Choice("normalisation", "5.1", "by the mean and standard deviation of each colour", ("normalise", "grey"), _grey),
    Choice("image size", "5.1", "224 x 224", ("image_size",), _image_size),
    _values("arithmetic", "4", "4-byte floats, also between processes", precision="fp32", compression="none"),
)  # fmt: skip
# Fields about which the paper says nothing, and a text in which {} is replaced by the value of the field.
SILENT = {
    "resize": "validation images have a shorter side of {} pixels before the central crop",
    "conv_fan": "He's initialisation with {}",
    "bn_eps": "BN's epsilon is {}",
}
SILENT_ALWAYS = (
    ("running statistics", "they move towards the mean over the k workers of a step"),
    ("last partial minibatch", "it is left out; these are other images in each epoch"),
    ("bias of the last layer", "it starts at 0 and has weight decay"),
    ("colours", "they are not changed: no colour jitter, no lighting noise"),
)


def audit(config: Config, images: int) -> list[AuditFinding]:
    """Return findings: for each remark in section 3 of the paper, for each choice of the paper, and for open details.

    Open details are those that the paper does not describe.

    Args:
        config: The config to compare with the paper.
        images: The number of training images.
    """
    findings = []
    for choice in (*REMARKS, *CHOICES):
        deviation = choice.deviation(config, images)
        status = DEVIATES if deviation else FOLLOWED
        findings.append(AuditFinding(choice.name, choice.section, choice.paper, status, deviation or choice.here))
    values = {**vars(config), "resize": resize(config)}
    silent = [(name, text.format(_show(values[name]))) for name, text in SILENT.items()]
    return findings + [
        AuditFinding(name.replace("_", " "), "-", "does not say", OPEN, text)
        for name, text in (*silent, *SILENT_ALWAYS)
    ]


def audit_claim(config: Config, images: int) -> list[AuditFinding]:
    """Return the audit of a run whose recipe is called "paper-...", or an empty list for another recipe."""
    return audit(config, images) if config.recipe.startswith("paper-") else []


def in_short(findings: list[AuditFinding]) -> list[str]:
    """Return a summary of an audit: a line with the number of choices that are followed, then one for each deviation.

    The summary of an empty audit is empty.
    """
    if not findings:
        return []
    deviations = [f for f in findings if f.status == DEVIATES]
    decided = sum(f.status != OPEN for f in findings)
    lines = [f"audit: {decided - len(deviations)} of {decided} remarks and choices of the paper followed"]
    return lines + [f"  deviates: {f.name}: {f.here}; paper (section {f.section}): {f.paper}" for f in deviations]
