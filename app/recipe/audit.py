"""What of the paper a config follows, and where it deviates: each remark and each choice, from the resolved values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.data.sources import fixed_size
from app.recipe import paper
from app.recipe.config import Config, flag
from app.recipe.data_size import resize
from app.recipe.schedule import SCHEDULES, warms_up

MOST = 8192  # images of a minibatch whose error is still the baseline's (Figure 1)
FOLLOWED, DEVIATES, OPEN = "followed", "deviates", "open"  # open: the paper does not say; ours is stated


@dataclass(frozen=True)
class AuditFinding:
    """One choice of the paper, and this run's: `status` is followed, deviates or open."""

    name: str
    section: str
    paper: str
    status: str
    here: str


@dataclass(frozen=True)
class Choice:
    """A choice of the paper. `deviation` says how a config (and its number of training images) deviates, "" if not."""

    name: str
    section: str
    paper: str
    fields: tuple[str, ...]
    deviation: Callable[[Config, int], str]
    here: str = "so"


def _values(name: str, section: str, text: str, here: str = "so", **expected: object) -> Choice:
    """A choice followed by a config whose fields have just these values."""

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
    return "" if config.minibatch <= MOST else f"kn = {config.minibatch}: the paper's own error rises (Figure 1)"


def _warmup(config: Config, images: int) -> str:
    if config.minibatch <= config.reference_minibatch:
        return ""  # none is used there
    if warms_up(config) and config.warmup_epochs >= config.epochs:
        return f"--warmup-epochs {config.warmup_epochs:g}: the run ends at epoch {config.epochs}, in the warmup"
    if (config.warmup, config.warmup_epochs) == ("gradual", paper.WARMUP_EPOCHS):
        return ""
    row = paper.TABLE_1.get(config.warmup) if config.warmup != "gradual" else None
    text = f"--warmup {config.warmup}" + (f" over {config.warmup_epochs:g} epochs" if config.warmup != "none" else "")
    return text + (f" (Table 1 compares it: {row.error})" if row and config.minibatch == row.minibatch else "")


def _decays(config: Config, images: int) -> str:
    found = []
    if config.decays != tuple(map(float, paper.DECAY_EPOCHS)):
        late = [epoch for epoch in config.decays if SCHEDULES[config.schedule].decays and epoch >= config.epochs]
        found.append(
            f"--decay-epochs {_show(config.decays)}"
            + (f" ({_show(tuple(late))}: never, as the run ends at {config.epochs})" if late else "")
        )
    if config.decay_factor != paper.DECAY_FACTOR:
        found.append(f"--decay-factor {config.decay_factor}")
    return ", ".join(found)


def _image_size(config: Config, images: int) -> str:
    if config.image_size == 0:  # not resolved by a run: 224 but for the data that come with one size
        return "the data's own" if fixed_size(config.data) else ""
    return "" if config.image_size == paper.IMAGE_SIZE else f"--image-size {config.image_size}"


def _grey(config: Config, images: int) -> str:
    return "--grey: one channel" if config.grey else ""


def _beyond(config: Config, images: int) -> str:
    """What came after this paper, with the papers that it is from."""
    used = []
    if SCHEDULES[config.schedule].source:
        used.append(f"--schedule {config.schedule} ({SCHEDULES[config.schedule].source})")
    if config.optimizer == "lars":
        used.append("--optimizer lars (You, Gitman and Ginsburg 2017)")
    for name, plain in BEYOND.items():
        if getattr(config, name) != plain:
            used.append(f"{flag(name)} {_show(getattr(config, name))}")
    if config.label_smoothing:
        used.append(f"--label-smoothing {config.label_smoothing:g} (Szegedy et al. 2016)")
    return "beyond this paper: " + ", ".join(used) if used else ""


# Options that the paper does not have, with the value that leaves them out.
BEYOND = {"init": "", "freeze": "none", "head_lr_factor": 1.0}
REMARKS = (
    _values("remark 1", "3", "scaling the loss is not scaling the rate", "the rate is scaled, the weight decay is not",
            scaled="rate"),
    _values("remark 2", "3", "momentum correction where the rate is in the velocity", "it is not (form 9): none needed",
            momentum_correction=True),
    _values("remark 3", "3", "the loss is divided by kn, not n", "a worker's sum over kn; Horovod sums the workers",
            loss_divisor="kn"),
    _values("remark 4", "3", "one shuffle an epoch, cut into k parts", "by seed and epoch, whatever the processes",
            shuffle="epoch"),
)  # fmt: skip
CHOICES = (
    Choice("data", "5.1", "ImageNet-1k, 1.28 million training images", ("data",), _data),
    Choice("model", "5.1", "ResNet-50, stride on the 3x3 (ResNet-101: Table 2c)", ("model",), _model),
    Choice("minibatch", "5.2", "up to 8k; beyond, the error rises", ("minibatch",), _minibatch),
    _values("per worker", "5.1", "n = 32", per_worker=paper.PER_WORKER),
    _values("reference", "5.1", "eta = 0.1 at 256", reference_lr=paper.REFERENCE_LR,
            reference_minibatch=paper.REFERENCE_MINIBATCH),
    _values("scaling", "2.1", "linear", scaling="linear"),
    Choice("warmup", "2.2", "gradual over 5 epochs, above kn = 256", ("warmup", "warmup_epochs"), _warmup),
    _values("epochs", "5.1", "90", epochs=paper.EPOCHS),
    Choice("decays", "5.1", "by 1/10 at epochs 30, 60 and 80", ("decay_epochs", "decay_factor"), _decays),
    Choice("beyond", "5.1", "step decay, SGD, plain labels", ("schedule", "optimizer", "trust_coefficient",
                                                              "label_smoothing", *BEYOND), _beyond),
    _values("momentum", "5.1", "0.9, Nesterov's", momentum=paper.MOMENTUM, nesterov=True),
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
    _values("arithmetic", "4", "4-byte floats, also on the wire", precision="fp32", compression="none"),
)  # fmt: skip
# Fields where the paper is silent, and what stands in for it.
SILENT = {
    "resize": "the central crop of validation, from a shorter side of {} pixels",
    "conv_fan": "He's initialisation by {}",
    "bn_eps": "BN's epsilon {}",
}
SILENT_ALWAYS = (
    ("running statistics", "moved by the mean over the k workers of a step"),
    ("last partial minibatch", "dropped, others each epoch"),
    ("bias of the last layer", "starts at 0, decays"),
    ("colours", "no jitter, no lighting noise"),
)


def audit(config: Config, images: int) -> list[AuditFinding]:
    """All remarks and choices, then what the paper leaves open; `images`: of training."""
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
    """The audit of a run that claims to be the paper's, as its recipe is named so; else nothing."""
    return audit(config, images) if config.recipe.startswith("paper-") else []


def in_short(findings: list[AuditFinding]) -> list[str]:
    """One line, and one for each deviation; nothing of nothing."""
    if not findings:
        return []
    deviations = [f for f in findings if f.status == DEVIATES]
    decided = sum(f.status != OPEN for f in findings)
    lines = [f"audit: {decided - len(deviations)} of {decided} remarks and choices of the paper followed"]
    return lines + [f"  deviates: {f.name}: {f.here}; paper (section {f.section}): {f.paper}" for f in deviations]
