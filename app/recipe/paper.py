"""All numbers that the paper published.

The paper is Goyal et al. 2017, "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", arXiv 1706.02677v2.

Errors are top-1 validation errors in %, as the mean and standard deviation over five runs. The error of a run is the
median of its last five epochs. None stands for a number that the paper does not print. Learning rates are those after
scaling, for a loss that is divided by kn.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Value:
    """The mean and the standard deviation over several runs."""

    mean: float
    std: float | None = None

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.std is None else f" +- {self.std:.2f}")


@dataclass(frozen=True)
class PublishedResult:
    """One row of a table: a ResNet trained with a minibatch of kn images and the learning rate `lr` after scaling."""

    name: str
    minibatch: int
    lr: float
    error: Value | None

    @property
    def workers(self) -> int:
        """The number of workers, k."""
        return self.minibatch // PER_WORKER


@dataclass(frozen=True)
class Detected:
    """One row of Table 3: the average precisions of Mask R-CNN on COCO in %."""

    name: str
    box_ap: Value
    mask_ap: Value


# Section 5.1: the recipe
PER_WORKER = 32
REFERENCE_MINIBATCH = 256
REFERENCE_LR = 0.1
EPOCHS = 90
DECAY_EPOCHS = (30, 60, 80)
DECAY_FACTOR = 0.1
WARMUP_EPOCHS = 5
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
BN_MOMENTUM = 0.1  # the weight of the new value, as in PyTorch; the paper's 0.9 is the weight of the old value
FC_STD = 0.01
LAST_GAMMA = 0.0
IMAGE_SIZE = 224
# ImageNet-1k. The paper says "~1.28 million" training images; this is the exact number.
TRAINING_IMAGES, VALIDATION_IMAGES, CLASSES = 1_281_167, 50_000, 1000

# Table 1: errors of ResNet-50 with each kind of warmup
TABLE_1 = {
    "baseline": PublishedResult("baseline (single server)", 256, 0.1, Value(23.60, 0.12)),
    "none": PublishedResult("no warmup", 8192, 3.2, Value(24.84, 0.37)),
    "constant": PublishedResult("constant warmup", 8192, 3.2, Value(25.88, 0.56)),
    "gradual": PublishedResult("gradual warmup", 8192, 3.2, Value(23.74, 0.09)),
}
# Section 5.2: errors of other implementations that the paper quotes for comparison
FB_RESNET_TORCH_ERROR, RESNET_PAPER_ERROR = 24.01, 24.7

# Figures 1 and 3: error against minibatch, with gradual warmup above 256. The error at 64 is plotted but not printed.
FIGURE_1 = (
    PublishedResult("64", 64, 0.025, None),
    PublishedResult("128", 128, 0.05, Value(23.49, 0.12)),
    PublishedResult("256", 256, 0.1, TABLE_1["baseline"].error),
    PublishedResult("512", 512, 0.2, Value(23.48, 0.09)),
    PublishedResult("1k", 1024, 0.4, Value(23.53, 0.08)),
    PublishedResult("2k", 2048, 0.8, Value(23.49, 0.11)),
    PublishedResult("4k", 4096, 1.6, Value(23.56, 0.12)),
    PublishedResult("8k", 8192, 3.2, TABLE_1["gradual"].error),
    PublishedResult("16k", 16384, 6.4, Value(24.79, 0.27)),
    PublishedResult("32k", 32768, 12.8, Value(27.55, 0.28)),
    PublishedResult("64k", 65536, 25.6, Value(33.96, 0.80)),
)

# Table 2a: learning rates. The caption gives 23.68 for kn = 256 and eta = 0.1 by mistake: it is the error at eta = 0.2.
TABLE_2A = (
    PublishedResult("0.05", 256, 0.05, Value(23.92, 0.10)),
    PublishedResult("0.10", 256, 0.1, TABLE_1["baseline"].error),
    PublishedResult("0.20", 256, 0.2, Value(23.68, 0.09)),
    PublishedResult("0.05 * 32", 8192, 1.6, Value(24.27, 0.08)),
    PublishedResult("0.10 * 32", 8192, 3.2, TABLE_1["gradual"].error),
    PublishedResult("0.20 * 32", 8192, 6.4, Value(24.05, 0.18)),
    PublishedResult("fixed 0.10", 8192, 0.1, Value(41.67, 0.10)),
    PublishedResult("0.10 * sqrt(32)", 8192, 0.1 * 32**0.5, Value(26.22, 0.03)),
)

# Table 2b: initial gamma of the last BN of each residual block
TABLE_2B = (
    PublishedResult("gamma 1", 256, 0.1, Value(23.84, 0.18)),
    PublishedResult("gamma 0", 256, 0.1, TABLE_1["baseline"].error),
    PublishedResult("gamma 1", 8192, 3.2, Value(24.11, 0.07)),
    PublishedResult("gamma 0", 8192, 3.2, TABLE_1["gradual"].error),
)

# Table 2c: ResNet-101, and its time on 256 GPUs
TABLE_2C = (
    PublishedResult("ResNet-101", 256, 0.1, Value(22.08, 0.06)),
    PublishedResult("ResNet-101", 8192, 3.2, Value(22.36, 0.09)),
)
RESNET101_MINUTES = 92.5

# Later results of other authors for comparison: ResNet-50 on ImageNet-1k, 90 epochs.
# You, Gitman and Ginsburg 2017, arXiv 1708.03888, the table of ResNet-50 with LARS: accuracy 72.3 % at kn = 32k and
# 73.0 % at kn = 256, with less augmentation than in Goyal et al. The learning rate is the value after the warmup.
LARS_32K = PublishedResult("You et al. 2017, LARS", 32768, 2.9, Value(27.7))
# NVIDIA DeepLearningExamples, ResNet-50 v1.5 for PyTorch: accuracy 77.12 +- 0.11 % in mixed precision.
NVIDIA_90 = PublishedResult("NVIDIA DeepLearningExamples", 2048, 2.048, Value(22.88, 0.11))
NVIDIA_90_PER_WORKER = 256

# Section 5.4, Figure 6: training on ImageNet-5k. The errors are those on the 1000 classes of ImageNet-1k.
IMAGENET_5K_IMAGES = 6_800_000
IMAGENET_5K = (
    PublishedResult("ImageNet-5k", 256, 0.1, Value(25.83)),
    PublishedResult("ImageNet-5k", 8192, 3.2, Value(26.09)),
)

# Table 3a: Mask R-CNN, starting from ResNet-50 networks that were trained with these minibatches
TABLE_3A = (
    Detected("256", Value(35.9, 0.1), Value(33.9, 0.1)),
    Detected("512", Value(35.8, 0.1), Value(33.8, 0.2)),
    Detected("1k", Value(35.9, 0.2), Value(33.9, 0.2)),
    Detected("2k", Value(35.9, 0.1), Value(33.9, 0.1)),
    Detected("4k", Value(35.8, 0.1), Value(33.8, 0.1)),
    Detected("8k", Value(35.8, 0.1), Value(33.9, 0.2)),
    Detected("16k", Value(35.1, 0.3), Value(33.2, 0.3)),
)

# Table 3b: Mask R-CNN. For each number of GPUs: ((minibatch, 1000 times the learning rate, iterations), average
# precision of boxes and of masks)
TABLE_3B = {
    1: ((2, 2.5, 1_280_000), Detected("1 GPU", Value(35.7), Value(33.6))),
    2: ((4, 5.0, 640_000), Detected("2 GPUs", Value(35.7), Value(33.7))),
    4: ((8, 10.0, 320_000), Detected("4 GPUs", Value(35.7), Value(33.5))),
    8: ((16, 20.0, 160_000), Detected("8 GPUs", Value(35.6), Value(33.6))),
}

GPUS_PER_SERVER = 8  # section 4
# Sections 1 and 5.5: the time of 90 epochs of ResNet-50. For 256 GPUs the paper only says "1 hour".
HOURS_ON_8_GPUS, HOURS_ON_256_GPUS = 29.0, 1.0
# Figures 7 and 8: the time of a step and of an epoch for kn from 256 to 11,264, with n = 32
FIGURE_7_GPUS, FIGURE_7_SERVERS, FIGURE_7_MINIBATCH = 352, 44, 11_264
FIGURE_7_STEP_INCREASE = 0.12  # the time of a step grows by this fraction from kn = 256 to 11,264
FIGURE_7_STEP_SECONDS = (0.20, 0.30)  # the ends of the figure's axis
FIGURE_7_EPOCH_SECONDS = (16 * 60, 30)  # "over 16 minutes" to "just 30 seconds"
FIGURE_8_EFFICIENCY = 0.9  # images/s on 352 GPUs, divided by 44 times the images/s on 8 GPUs

# Section 4: communication
PARAMETERS = 25e6  # the number of parameters of ResNet-50; the paper says 100 MB, at 4 bytes each
BACKWARD_SECONDS = 0.120  # the backward pass of ResNet-50 with n = 32 on one P100
NETWORK_BITS_PER_SECOND = 50e9
PEAK_BITS_PER_SECOND = 15e9  # the largest bandwidth of a server's network that the allreduce needs
NCCL_BYTES = 256e3  # inside a server, buffers of at least this size are summed by NCCL
HALVING_DOUBLING_SPEEDUP = 3  # the speed of halving-doubling divided by that of the ring, on 32 servers
