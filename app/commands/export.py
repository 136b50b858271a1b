"""`export`: write a trained network in a format that other programs read."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from app.base.errors import UserError
from app.recipe.options import Parser
from app.runs.layout import CHECKPOINTS

FORMATS = {
    "state_dict": (".pt", "a state_dict with torchvision's names, for torch.load"),
    "safetensors": (".safetensors", "the same state_dict, for safetensors"),
    "onnx": (".onnx", "ONNX for any batch size, checked with onnxruntime"),
    "detectron2": (".pkl", "the backbone of a detector, only from a network for ImageNet"),
}


def make_parser() -> Parser:
    formats = "\n".join(f"  {name:12} {ending:13} {text}" for name, (ending, text) in FORMATS.items())
    parser = Parser(
        prog="./run.sh export",
        description="Write a trained network for other programs. A JSON file next to the output names the classes and"
        " says how to prepare images. For a run with --ema, the averaged weights are written too, as NAME.ema.SUFFIX.",
        epilog=f"formats:\n{formats}\n\nexample: ./run.sh export runs/digits-20260101-120000 --output digits.onnx",
    )
    add = parser.add_argument
    add(
        "weights",
        metavar="WEIGHTS",
        help="a run's folder, a checkpoint, or a torchvision state_dict (.pt, .safetensors)",
    )
    add("--output", metavar="FILE", help="file to write; its suffix determines the format")
    add("--opset", type=int, default=18, help="version of the ONNX operator set, 18 to 23 (default: 18)")
    return parser


def parse(argv: Sequence[str]) -> Namespace:
    """Return the options. Their attribute `format` is the format of --output. Raises UserError."""
    options = make_parser().parse(argv)
    endings = {ending: name for name, (ending, _) in FORMATS.items()}
    if not options.output:
        raise UserError("give --output FILE, which ends in " + ", ".join(endings))
    path = Path(options.output)
    if path.suffix not in endings:
        raise UserError(f"--output {path}: give a file that ends in {', '.join(endings)}")
    if not path.parent.is_dir():
        raise UserError(f"--output {path}: there is no folder {path.parent}")
    if not 18 <= options.opset <= 23:
        raise UserError(f"--opset {options.opset}: give 18 to 23")
    _refuse_to_overwrite(path, Path(options.weights))
    options.format = endings[path.suffix]
    return options


def _refuse_to_overwrite(path: Path, weights: Path) -> None:
    """Raise UserError if --output or the JSON file next to it would replace something that is not an export."""
    if path.is_dir():
        raise UserError(f"--output {path} is a folder: give a file")
    if path.exists() and ((weights.exists() and path.samefile(weights)) or path.absolute().parent.name == CHECKPOINTS):
        raise UserError(f"--output {path} would overwrite the weights themselves: give another file")
    facts = path.with_name(f"{path.name}.json")
    if facts.exists():
        try:
            content = json.loads(facts.read_text())
        except (OSError, ValueError, RecursionError):
            content = None
        if not isinstance(content, dict) or not {"classes", "format", "image_size"} <= set(content):
            raise UserError(f"--output {path} would overwrite {facts}, which is not an export: give another file")


def main(argv: Sequence[str]) -> None:
    """Run the command. Raises UserError."""
    options = parse(argv)

    from app.trained import exports
    from app.trained.preprocessing import facts_path
    from app.trained.trained import load

    trained, path = load(options.weights), Path(options.output)
    networks = {path: trained}
    if trained.average is not None:
        networks[path.with_name(f"{path.stem}.ema{path.suffix}")] = trained.averaged()
    for file, network in networks.items():
        facts = network.preprocessing() | {"format": options.format}
        try:
            if options.format == "onnx":
                facts |= exports.write_onnx(network, file, options.opset)
            elif options.format == "detectron2":
                facts |= exports.write_detectron2(network, file)
            elif options.format == "safetensors":
                exports.write_safetensors(network, file)
            else:
                exports.write_state_dict(network, file)
            exports.write_file(facts_path(file), (json.dumps(facts, indent=2) + "\n").encode())
        except OSError as error:
            raise UserError(f"--output {file} cannot be written: {error.strerror or error}") from None
        print(f"{file}: {facts['model']}, {len(network.classes)} classes; {facts_path(file)} says how to use it")
