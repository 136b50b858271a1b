"""The sizes that `plan` computes without torch are right.

The numbers of parameters and multiplications are those of the real networks, and the numbers of images are those of
the real data sets.
"""

import pytest
import torch
from torch import nn

from app.base.errors import UserError
from app.data.sources import open_source
from app.forecast.model_size import memory_of, network_size, trained_size
from app.model.freeze import freeze
from app.model.networks import make_network
from app.recipe.config import Config
from app.recipe.data_size import data_size

# The numbers of parameters in torchvision's documentation, for 1000 classes.
DOCUMENTED = {
    "resnet18": 11689512,
    "resnet34": 21797672,
    "resnet50": 25557032,
    "resnet101": 44549160,
    "resnet152": 60192808,
    "resnext50_32x4d": 25028904,
    "resnext101_32x8d": 88791336,
    "wide_resnet50_2": 68883240,
    "wide_resnet101_2": 126886696,
}


@pytest.mark.parametrize("model", DOCUMENTED)
def test_documented_parameters(model: str) -> None:
    assert network_size(Config(model=model), 224, 3, 1000).parameters == DOCUMENTED[model]


def products(network: nn.Module, channels: int, side: int) -> int:
    """Return the number of multiplications in the convolutions, computed from the shapes of their outputs."""
    counts = []

    def count(module: nn.Conv2d, _: object, output: torch.Tensor) -> None:
        counts.append(output.numel() * module.weight[0].numel())

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d)]
    network.eval()(torch.zeros(1, channels, side, side))
    network.train()
    for hook in hooks:
        hook.remove()
    return sum(counts)


@pytest.mark.parametrize(
    ("model", "side", "channels"),
    [
        ("resnet8", 8, 1),
        ("resnet14", 20, 1),
        ("resnet20", 33, 3),
        ("resnet18", 64, 3),
        ("resnet50", 75, 3),
        ("resnext50_32x4d", 32, 3),
        ("wide_resnet50_2", 32, 3),
    ],
)
def test_against_the_network(model: str, side: int, channels: int) -> None:
    config = Config(model=model, width=12)
    network = make_network(config, channels, 10, nn.BatchNorm2d)
    size = network_size(config, side, channels, 10)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    parameters = list(network.parameters())
    assert size.parameters == sum(p.numel() for p in parameters)
    assert size.statistics == sum(2 * m.num_features for m in norms)
    assert size.tensors == len(parameters) + 1
    assert size.products == pytest.approx(products(network, channels, side))
    images = 4
    assert size.activations == pytest.approx(kept_bytes(network, images, channels, side) / 4 / images, rel=0.05)


@pytest.mark.parametrize("model", ["resnet20", "resnet18", "resnet50"])
@pytest.mark.parametrize("part", ["stem", "layer1", "layer2", "layer3", "features"])
def test_frozen_parts_need_no_gradients_and_keep_nothing(model: str, part: str) -> None:
    config = Config(model=model, width=12, init="weights.pth", freeze=part)
    network = make_network(config, 3, 10, nn.BatchNorm2d)
    freeze(network, part)
    size = trained_size(config, 75, 3, 10)
    parameters = [p for p in network.parameters() if p.requires_grad]
    assert size.parameters == sum(p.numel() for p in parameters)
    assert size.tensors == len(parameters) + 1
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.weight.requires_grad]
    assert size.statistics == sum(2 * m.num_features for m in norms)
    assert size.activations == pytest.approx(kept_bytes(network, 4, 3, 75) / 4 / 4, rel=0.05)
    whole = network_size(config, 75, 3, 10)
    memory = memory_of(config, whole, size)
    assert memory.parameters == 4 * (whole.parameters + whole.statistics)
    assert memory.gradients == 4 * (size.parameters + size.statistics) and memory.momentum == 4 * size.parameters
    assert memory.activations == 32 * 4 * size.activations


def kept_bytes(network: nn.Module, images: int, channels: int, side: int) -> int:
    """Return the number of bytes that autograd keeps after a forward pass, without parameters and buffers."""
    own = {t.untyped_storage().data_ptr() for t in [*network.parameters(), *network.buffers()]}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(torch.randn(images, channels, side, side))
    return sum(storage.nbytes() for storage in kept.values())


def test_memory() -> None:
    size = network_size(Config(model="resnet50"), 224, 3, 1000)
    memory = memory_of(Config(model="resnet50"), size, size)
    assert memory.momentum == 4 * 25557032
    assert memory.gradients == memory.parameters == 4 * (25557032 + 53120)
    assert memory.activations == 32 * 4 * size.activations
    assert memory_of(Config(model="resnet50", precision="fp64"), size, size).total == 2 * memory.total


def test_unknown_network() -> None:
    with pytest.raises(UserError, match=r"--model is resnet51: did you mean resnet"):
        network_size(Config(model="resnet51"), 224, 3, 1000)


@pytest.mark.parametrize("data", ["digits", "cluttered-digits", "synthetic"])
def test_data_sizes(data: str) -> None:
    config = Config(data=data, image_size=0 if "digits" in data else 32, synthetic_images=100, synthetic_classes=7)
    source = open_source(
        data, image_size=config.image_size, augmentation="none", synthetic_images=100, synthetic_classes=7
    )
    size = data_size(config)
    assert (size.images, size.validation_images) == (len(source.train), len(source.validation))
    assert (size.classes, size.channels, size.image_size) == (len(source.classes), source.channels, source.image_size)
