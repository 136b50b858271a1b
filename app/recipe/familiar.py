"""Names of options in other programs. If a user gives one, the message names the option of this program."""

from __future__ import annotations

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
    "--gpus": "-np before the command, as in `./run.sh -np 8 train`",
    "--nproc-per-node": "-np before the command, as in `./run.sh -np 8 train`",
    "--nproc_per_node": "-np before the command, as in `./run.sh -np 8 train`",
    "--world-size": "-np before the command, as in `./run.sh -np 8 train`",
}
BEFORE_THE_COMMAND = (
    "-np", "-H", "--hostfile", "--launcher", "--interface", "--ssh-port", "--ssh-identity", "--host-discovery-script",
    "--min-np", "--max-np", "--dry-run",
)  # fmt: skip


def familiar(name: str, program: str) -> str:
    """Return advice about an option that this program or this command does not have, or "" if there is none.

    Args:
        name: The option that the user gave.
        program: The start of the command line, `./run.sh COMMAND`.
    """
    if name in BEFORE_THE_COMMAND:
        start, _, command = program.partition(" ")
        value = "" if name == "--dry-run" else "..."
        return f"give it before the command, as in `{' '.join(filter(None, (start, name, value, command)))}`"
    return f"use {FAMILIAR[name]}" if name in FAMILIAR else ""
