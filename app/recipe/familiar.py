"""Names of options in other programs. If a user gives one, the message names the option of this program."""

from __future__ import annotations

from collections.abc import Collection

# Options of torchvision, timm, pycls, Composer or torchrun, and the option to use here.
FAMILIAR = {
    "--lr": "--reference-lr, the learning rate at --reference-minibatch images",
    "--learning-rate": "--reference-lr, the learning rate at --reference-minibatch images",
    "--base-lr": "--reference-lr, the learning rate at --reference-minibatch images",
    "--batch-size": "--minibatch, the images of a step for all processes together",
    "-b": "--minibatch, the images of a step for all processes together",
    "--train-batch-size": "--minibatch, the images of a step for all processes together",
    "--batches-per-allreduce": "--minibatch; how many workers a process computes follows from it",
    "--grad-accum-steps": "--minibatch; how many workers a process computes follows from it",
    "--workers": "--loader-processes, the processes that decode images",
    "--num-workers": "--loader-processes, the processes that decode images",
    "-j": "--loader-processes, the processes that decode images",
    "--wd": "--weight-decay",
    "--opt": "--optimizer",
    "--arch": "--model",
    "-a": "--model",
    "--data-path": "--data",
    "--data-dir": "--data",
    "--train-dir": "--data, a folder with train/ and val/",
    "--output-dir": "--output",
    "--amp": "--precision bf16 or --precision fp16",
    "--fp16": "--precision fp16",
    "--fp16-allreduce": "--compression fp16",
    "--torchcompile": "--compile",
    "--model-ema": "--ema, the decay of the average",
    "--model-ema-decay": "--ema",
    "--clip-grad": "--clip-grad-norm",
    "--pretrained": "--init, a file of weights or a run",
    "--initial-checkpoint": "--init, a file of weights or a run",
    "--weights": "--init, a file of weights or a run",
    "--no-cuda": "--device cpu",
    "--lr-warmup-epochs": "--warmup-epochs",
    "--lr-step-size": "--decay-epochs",
    "--lr-gamma": "--decay-factor",
    "--decay-milestones": "--decay-epochs",
    "--img-size": "--image-size",
    "--checkpoint-dir": "--output",
}
_DECODERS = "--processes, the processes that decode images"
# Each key is a command and an option of `train` that the command lacks. The value names the option to use instead.
OTHERWISE = {
    ("check-data", "--loader-processes"): _DECODERS,
    ("pack", "--loader-processes"): _DECODERS,
    ("prepare-imagenet", "--loader-processes"): _DECODERS,
    ("scaling", "--minibatch"): "--per-worker, the images of a process; the minibatch follows from it and from --np",
}
# The options of other programs for the number of processes, which is -np here.
PROCESSES = ("--gpus", "--nproc-per-node", "--nproc_per_node", "--world-size")
BEFORE_THE_COMMAND = (
    "-np", "-H", "--hostfile", "--launcher", "--interface", "--ssh-port", "--ssh-identity", "--host-discovery-script",
    "--min-np", "--max-np", "--dry-run",
)  # fmt: skip
DISTRIBUTED = ("train", "evaluate", "benchmark", "doctor")  # the commands for which a launcher can start processes


def familiar(name: str, program: str, options: Collection[str]) -> str:
    """Return advice about an option that this program or this command does not have, or "" if there is none.

    Args:
        name: The option that the user gave.
        program: The start of the command line, `./run.sh COMMAND`.
        options: The options that the command has.
    """
    start, _, command = program.partition(" ")
    if name in PROCESSES and command in DISTRIBUTED:
        return f"use -np before the command, as in `{start} -np 8 {command}`"
    if name in PROCESSES or name in BEFORE_THE_COMMAND:
        return _launch_option(name, start, command, options)
    if name not in FAMILIAR:
        return ""
    ours = FAMILIAR[name]
    option = ours.split()[0].strip(",;")
    if (command, option) in OTHERWISE:
        return f"use {OTHERWISE[command, option]}"
    return f"use {ours}" if option in options else f"leave it out, because {command} has no such option"


def _launch_option(name: str, start: str, command: str, options: Collection[str]) -> str:
    """Return advice about an option of the launcher that the user gave after the command."""
    if command in DISTRIBUTED:
        value = "" if name == "--dry-run" else "..."
        return f"give it before the command, as in `{' '.join(filter(None, (start, name, value, command)))}`"
    if name in PROCESSES:
        name = "-np"
    if name == "-np":
        for own in ("--np", "--processes"):
            if own in options:
                return f"use {own}, which `{start} {command} --help` explains"
    if "--launch" in options and name != "--dry-run":
        return f"give it in --launch, as in `{start} {command} --launch '{name} ...'`"
    return f"leave it out, because {command} is a single process"
