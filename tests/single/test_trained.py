"""Trained networks are read from files, used, and written in the formats of other programs."""

import json
import pickle
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from app.base.errors import CorruptImage, UserError
from app.commands import board, evaluate, export, predict
from app.data.sources import open_data_set
from app.data.splits import StoredSplit
from app.model.networks import make_network
from app.recipe.config import Config
from app.recipe.data_size import data_options
from app.recipe.models import MODELS
from app.trained import exports
from app.trained.preprocessing import facts_path
from app.trained.trained import architecture, in_words, load, validation_source
from app.training import checkpoint
from tests.support.networks import with_statistics


@pytest.fixture(scope="module")
def resnet50() -> nn.Module:
    return with_statistics(torchvision.models.resnet50(), 1)


@pytest.fixture(scope="module")
def weights(resnet50: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(resnet50.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the export of a small network with its JSON file."""
    path = tmp_path_factory.mktemp("small") / "small.pt"
    torch.save(with_statistics(make_network(Config(width=8), 1, 4, nn.BatchNorm2d), 1).state_dict(), path)
    facts = {"classes": ["a", "b", "c", "d"], "image_size": 8, "resize": 8, "mean": [0.5], "std": [0.25]}
    path.with_suffix(".json").write_text(json.dumps(facts))
    return path


def test_torchvisions_own_state_dict_gives_torchvisions_logits(resnet50: nn.Module, weights: Path) -> None:
    trained = load(str(weights))
    pixels = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        x = torchvision.transforms.functional.normalize(pixels.permute(0, 3, 1, 2) / 255, mean.tolist(), std.tolist())
        expected = resnet50(x)
        assert torch.equal(trained.network(x), expected)
        found = trained.forward_pass(torch.device("cpu")).logits(trained.network, pixels)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    assert trained.classes[:2] == ("tench", "goldfish")
    assert (trained.resize, trained.image_size, trained.data) == (256, 224, "")


def test_the_ways_to_hold_a_state_dict(resnet50: nn.Module, weights: Path, tmp_path: Path) -> None:
    state = resnet50.state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "b.pt")
    torch.save({"model": state, "epoch": 3}, tmp_path / "c.pt")
    torch.save({f"module._orig_mod.{name}": value for name, value in state.items()}, tmp_path / "d.pt")  # torch.compile
    for name in ("a.safetensors", "b.pt", "c.pt", "d.pt"):
        found = load(str(tmp_path / name)).network.state_dict()
        assert all(torch.equal(found[key], value) for key, value in state.items())


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if not entry.small])
def test_architectures(name: str) -> None:
    with torch.device("meta"):
        state = getattr(torchvision.models, name)().state_dict()
    assert architecture(state, Path("x")) == name


def test_an_image_is_prepared_as_validation_prepares_it(weights: Path, small: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    image = Image.fromarray(pixels)
    transforms = torchvision.transforms
    expected = transforms.CenterCrop(224)(transforms.Resize(256)(image))
    found = load(str(weights)).read(str(tmp_path / "image.png"))[0].numpy()
    assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 2
    grey = load(str(small)).read(str(tmp_path / "image.png"))
    expected_grey = np.asarray(transforms.CenterCrop(8)(transforms.Resize(8)(image)).convert("L")).astype(int)
    assert grey.shape == (1, 8, 8, 1)
    assert np.abs(grey[0, :, :, 0].numpy().astype(int) - expected_grey).max() <= 2


@pytest.mark.parametrize("opset", [18, 20])
def test_onnx(small: Path, tmp_path: Path, opset: int) -> None:
    trained = load(str(small))
    facts = exports.write_onnx(trained, tmp_path / "x.onnx", opset)
    assert facts["opset"] == opset
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    for n in (1, 7):
        images = torch.randn(n, 1, 8, 8)
        (found,) = session.run(None, {"images": images.numpy()})
        assert np.abs(found - trained.network(images).detach().numpy()).max() < 1e-4


def test_detectron2(resnet50: nn.Module, weights: Path, tmp_path: Path) -> None:
    """Names and values are those of detectron2's tools/convert-torchvision-to-d2.py. The test repeats its rules."""
    facts = exports.write_detectron2(load(str(weights)), tmp_path / "x.pkl")
    content = pickle.loads((tmp_path / "x.pkl").read_bytes())
    assert (content["__author__"], content["matching_heuristics"]) == ("torchvision", True)
    model = content["model"]
    for name, value in resnet50.state_dict().items():
        key = name if "layer" in name else "stem." + name
        for t in (1, 2, 3, 4):
            key = key.replace(f"layer{t}", f"res{t + 1}")
        for t in (1, 2, 3):
            key = key.replace(f"bn{t}", f"conv{t}.norm")
        key = key.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        assert np.array_equal(model.pop(key), value.numpy())
    assert not model
    assert facts["config"]["MODEL.PIXEL_MEAN"] == pytest.approx([123.675, 116.28, 103.53])
    assert facts["config"]["MODEL.RESNETS.DEPTH"] == 50
    assert exports.detectron2_name("layer1.0.downsample.1.running_var") == "res2.0.shortcut.norm.running_var"


def test_export_and_back(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for ending in ("pt", "safetensors"):
        path = tmp_path / f"out.{ending}"
        export.main([str(small), "--output", str(path)])
        assert str(path) in capsys.readouterr().out
        state = load_file(path) if ending == "safetensors" else torch.load(path, weights_only=True)
        assert all(torch.equal(state[name], value) for name, value in torch.load(small).items())
        again = load(str(path))
        assert (again.classes, again.mean, again.image_size) == (("a", "b", "c", "d"), (0.5,), 8)
    facts = {path.name: json.loads(path.read_text())["format"] for path in tmp_path.glob("out*.json")}
    assert facts == {"out.pt.json": "state_dict", "out.safetensors.json": "safetensors"}


@pytest.mark.parametrize("name", ["out.pt", "out.safetensors", "out.onnx"])
def test_an_export_onto_a_full_disk_leaves_the_earlier_one(name: str, small: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("earlier")
    for written in (path.with_name(f"{name}.tmp"), path.with_name(f"{name}.json.tmp")):
        written.symlink_to("/dev/full")  # the first file fails in the first round, and the second file in the second
        with pytest.raises(UserError, match=rf"--output {path} cannot be written: No space left on device"):
            export.main([str(small), "--output", str(path)])
        assert not written.is_symlink() and not facts_path(path).exists()
        if written.name == f"{name}.tmp":
            assert path.read_text() == "earlier"


def test_an_export_through_a_link_keeps_the_link(small: Path, tmp_path: Path) -> None:
    (tmp_path / "link.pt").symlink_to("target.pt")
    export.main([str(small), "--output", str(tmp_path / "link.pt")])
    assert (tmp_path / "link.pt").is_symlink() and torch.load(tmp_path / "target.pt")


def test_predict(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    x = torch.from_numpy((pixels / 255 - 0.5) / 0.25)[None, None].float()
    expected = load(str(small)).network(x).softmax(1)[0].detach()
    predict.main([str(small), str(tmp_path / "image.png"), "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert [c["name"] for c in shown["classes"]] == ["abcd"[i] for i in expected.argsort(descending=True)]
    assert shown["classes"][0]["probability"] == pytest.approx(float(expected.max()), abs=0.01)
    predict.main([str(small), str(tmp_path / "image.png"), "--top", "1"])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_classes_in_words(tmp_path: Path) -> None:
    assert in_words(("n1", "n2"), "") == ("n1", "n2")
    (tmp_path / "classes.json").write_text('{"n1": "cat, feline"}')
    assert in_words(("n1", "n2"), str(tmp_path)) == ("cat, feline (n1)", "n2")
    wnids = tuple(f"n{i:08}" for i in range(1000))
    assert in_words(wnids, "")[1] == "goldfish (n00000001)"


def test_an_export_knows_its_classes(small: Path, tmp_path: Path) -> None:
    """A folder of images with other class names than an exported network is refused, even if there are as many."""
    for split in ("train", "val"):
        for name in "abce":
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("L", (9, 9)).save(tmp_path / split / name / "1.png")
    trained = replace(load(str(small)), mean=(0.5,) * 3, std=(0.25,) * 3)
    with pytest.raises(UserError, match="number 3 is e, but it was d"):
        validation_source(trained, str(tmp_path), 0, 0, "")
    source = validation_source(replace(trained, classes_known=False), str(tmp_path), 0, 0, "")
    assert len(source.validation) == 4


def test_another_image_size_keeps_the_share_that_validation_sees(weights: Path, tmp_path: Path) -> None:
    trained = load(str(weights))
    for split in ("train", "val"):
        for number in range(1000):
            (tmp_path / split / f"{number:03}").mkdir(parents=True)
            (tmp_path / split / f"{number:03}" / "1.png").touch()
    for size, resize, expected in ((0, 0, 256), (28, 0, 32), (288, 0, 329), (28, 256, 256)):
        of_training = open_data_set(data_options(Config(data=str(tmp_path), image_size=size, resize=resize)))
        for source in (validation_source(trained, str(tmp_path), size, resize, ""), of_training):
            assert isinstance(source.validation, StoredSplit) and source.validation.resize == expected
            assert [line.split(" (")[0] for line in source.warnings] == (
                ["warning: validation uses only the central 11% of an image's shorter side"] if resize else []
            )


ODD = [
    None,
    0,
    -1,
    2**70,
    "text",
    [],
    {},
    [1],
    ["a"],
    [[1, 2, 3]],
    {"a": 1},
    torch.zeros(2),
    [torch.zeros(1)],
    float("nan"),
]


def test_crafted_checkpoints_are_one_line(small: Path, tmp_path: Path) -> None:
    """A checkpoint with missing or wrong parts, but with a right checksum, is read or refused in one line."""
    config = Config(width=8)
    model = torch.load(small)
    whole = {
        "format": checkpoint.FORMAT, "model": model, "momentum": [torch.zeros(2)], "loss_scale": [],
        "position": {"epoch": 1, "seen": 0}, "errors": [[0.5, 0.1]], "config": asdict(config),
        "classes": ["a", "b", "c", "d"], "fingerprint": "0" * 16, "image_size": 8, "mean": [0.5], "std": [0.25],
    }  # fmt: skip
    assert read_back(whole, tmp_path) == ""
    cases = [{name: value for name, value in whole.items() if name != gone} for gone in whole]
    cases += [whole | {name: value} for name in whole for value in ODD]
    cases += [whole | {"config": asdict(config) | {name: value}} for name in asdict(config) for value in ODD[3:6]]
    cases += [whole | {"model": model | {name: value}} for name in model for value in (torch.zeros(()), torch.zeros(3))]
    said = {read_back(case, tmp_path) for case in cases}
    assert len(said) > 30


def read_back(content: dict[str, object], folder: Path) -> str:
    """Write a checkpoint and load it. Return the error message, or "" if it is accepted."""
    content = content | {"checksum": checkpoint.digest(content)}
    torch.save(content, folder / "crafted.pt")
    try:
        load(str(folder / "crafted.pt"))
    except UserError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


def bad_files(folder: Path, small: Path) -> None:
    (folder / "text.pt").write_text("no tensors")
    (folder / "text.png").write_text("no image")
    (folder / "text.safetensors").write_text("no tensors")
    (folder / "empty").mkdir()
    (folder / "folder.pt").mkdir()
    torch.save(torch.zeros(3), folder / "tensor.pt")
    torch.save({"weight": torch.zeros(3)}, folder / "linear.pt")
    torch.save({"format": 99}, folder / "newer.pt")
    torch.save({"format": 1, "checksum": "?"}, folder / "changed.pt")
    torch.save({"x": Path()}, folder / "code.pt")
    state = torch.load(small)
    torch.save(state, folder / "alone.pt")
    torch.save({n: v for n, v in state.items() if not n.startswith("layer2")}, folder / "partial.pt")
    torch.save(state, folder / "beside.pt")
    (folder / "beside.json").write_text("{}")
    (folder / "plan.pt.json").write_text('{"images": 3}')
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/last.pt").touch()
    torch.save({"state_dict": 3}, folder / "odd.pt")
    torch.save(state | {"fc.weight": torch.zeros(())}, folder / "flat.pt")
    Image.effect_noise((90, 90), 99).save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:2000])


BAD = [  # command, options, a part of the message; {} is the folder of `bad_files`, {s} a good network
    (predict, "{}/none.pt {}/text.png", "No such file"),
    (predict, "{}/text.pt {}/text.png", "holds no tensors"),
    (predict, "{}/text.safetensors {}/text.png", "holds no tensors"),
    (predict, "{}/empty {}/text.png", "is not a run with a checkpoint"),
    (predict, "{}/tensor.pt {}/text.png", "holds no state_dict but a Tensor"),
    (predict, "{}/linear.pt {}/text.png", "is not a state_dict of torchvision's ResNets"),
    (predict, "{}/newer.pt {}/text.png", "format 99"),
    (predict, "{}/changed.pt {}/text.png", "checksum"),
    (predict, "{}/code.pt {}/text.png", "read safely"),
    (predict, "{}/alone.pt {}/text.png", "put the .json of its export next to it"),
    (predict, "{}/partial.pt {}/text.png", "is not a state_dict of torchvision's ResNets"),
    (predict, "{}/beside.pt {}/text.png", "not what export writes"),
    (predict, "{s} {}/text.png", "neither JPEG nor PNG"),
    (predict, "{s} {}/cut.png", "cannot decode the image"),
    (predict, "{s} {}/none.png {}/text.png {}/gone.png", "none.png (and 1 more): give the paths of JPEG or PNG files"),
    (predict, "{}/odd.pt {}/text.png", "holds no state_dict"),
    (predict, "{}/flat.pt {}/text.png", "its layers have other shapes"),
    (export, "{s} --output {}/plan.pt", "plan.pt.json, which is not an export"),
    (export, "{s} --output {s}", "overwrite the weights themselves"),
    (export, "{s} --output {}/checkpoints/last.pt", "overwrite the weights themselves"),
    (predict, "{s} {}/empty", "cannot decode the image"),
    (predict, "{s}", "required: IMAGE"),
    (predict, "{s} {}/text.png --top 0", "--top 0"),
    (predict, "{s} {}/text.png --tpo 3", "did you mean --top?"),
    (export, "{s}", "give --output FILE"),
    (export, "{s} --output {}/x.zip", "ends in .pt, .safetensors, .onnx, .pkl"),
    (export, "{s} --output {}/none/x.pt", "no folder"),
    (export, "{s} --output {}/folder.pt", "folder.pt is a folder: give a file"),
    (export, "{s} --output {}/x.pkl", "detectron2 has no resnet8"),
    (export, "{s} --output {}/x.onnx --opset 3", "--opset 3"),
    (export, "{}/none.pt --output {}/x.pt", "No such file"),
    (evaluate, "{}/none.pt", "there is no"),
    (evaluate, "{s} --resize -1", "below 0"),
    (evaluate, "{s} --device gpu", "give one of auto, cpu, cuda"),
    (evaluate, "", "required: WEIGHTS"),
    (board, "{}/empty", "contains no TensorBoard files"),
    (board, "{}/none", "no folder"),
    (board, "{}/empty --prot 3", "did you mean --port?"),
]


@pytest.mark.parametrize(("command", "options", "says"), BAD, ids=[f"{c.__name__} {o}" for c, o, _ in BAD])
def test_bad_input(command: object, options: str, says: str, small: Path, tmp_path: Path) -> None:
    bad_files(tmp_path, small)
    arguments = [part.replace("{}", str(tmp_path)).replace("{s}", str(small)) for part in options.split()]
    with pytest.raises(UserError) as error:
        command.main(arguments)  # type: ignore[attr-defined]
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == (3 if isinstance(error.value, CorruptImage) else 2)
