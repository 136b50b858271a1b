"""The published numbers stand once in app/recipe/paper.py, as the fact sheet shared/paper.md has them."""

import re
from pathlib import Path

import pytest

from app.recipe import paper
from app.recipe.config import from_dict
from app.recipe.paper import PublishedResult, Value
from app.recipe.presets import PRESETS, preset
from app.recipe.schedule import peak_lr

SHEET = Path(__file__).resolve().parents[2].parent / "shared" / "paper.md"
NUMBER = r"(\d\d\.\d+) ?± ?(\d?\.\d+)"


@pytest.fixture(scope="module")
def sheet() -> str:
    if not SHEET.is_file():
        pytest.skip("the fact sheet shared/paper.md is not beside this checkout")
    return SHEET.read_text()


def section(sheet: str, start: str, end: str) -> str:
    return sheet[sheet.index(start) : sheet.index(end)]


def numbers(text: str) -> list[Value]:
    return [Value(float(mean), float(std)) for mean, std in re.findall(NUMBER, text.replace("*", ""))]


def errors(rows: tuple[PublishedResult, ...]) -> list[Value]:
    return [row.error for row in rows if row.error]


def test_table_1(sheet: str) -> None:
    rows = re.findall(
        rf"^\| (baseline|no|constant|gradual).*?\| (\d+) \| 32 \| (\w+) \| ([\d.]+) \| {NUMBER} \|$",
        section(sheet, "### 2.1", "### 2.2").replace("**", ""),
        re.M,
    )
    ours = [(t.workers, t.minibatch, t.lr, t.error) for t in paper.TABLE_1.values()]
    theirs = [
        (int(k), {"256": 256, "8k": 8192}[kn], float(lr), Value(float(m), float(s))) for _, k, kn, lr, m, s in rows
    ]
    assert len(theirs) == 4
    assert ours == theirs
    assert f"fb.resnet.torch {paper.FB_RESNET_TORCH_ERROR}" in sheet
    assert f"original ResNet paper {paper.RESNET_PAPER_ERROR}" in sheet


def test_figure_1(sheet: str) -> None:
    rows = re.findall(r"^\| (\d+k?) \| ([\d.]+) \| (.*?) \|$", section(sheet, "### 2.2", "### 2.3"), re.M)
    theirs = [(name, float(lr), (numbers(error) or [None])[0]) for name, lr, error in rows]
    assert len(theirs) == 11
    assert [(row.name, row.lr, row.error) for row in paper.FIGURE_1] == theirs
    assert [row.minibatch for row in paper.FIGURE_1] == [2**i for i in range(6, 17)]


def test_table_2(sheet: str) -> None:
    text = section(sheet, "### 2.3", "### 2.4")
    a, b, c = (line for line in text.splitlines() if line[:3] in ("(a)", "(b)", "(c)"))
    assert errors(paper.TABLE_2A) == numbers(a)
    assert errors(paper.TABLE_2B) == numbers(b)
    assert errors(paper.TABLE_2C) == numbers(c)
    assert f"{paper.RESNET101_MINUTES} min" in c
    assert [row.lr for row in paper.TABLE_2A] == pytest.approx([0.05, 0.1, 0.2, 1.6, 3.2, 6.4, 0.1, 0.5656854])


def test_imagenet_5k(sheet: str) -> None:
    text = section(sheet, "### 2.4", "### 2.5")
    assert [float(x) for x in re.findall(r": (\d\d\.\d\d) %", text)] == [
        row.error.mean for row in paper.IMAGENET_5K if row.error
    ]
    assert f"{paper.IMAGENET_5K_IMAGES / 1e6:g} M images" in text


def test_table_3(sheet: str) -> None:
    text = section(sheet, "### 2.5", "### 2.6")
    a = re.findall(r"(\d+k?) (\d\d\.\d)±(\.\d)/(\d\d\.\d)±(\.\d)", text)
    assert [(r.name, r.box_ap.mean, r.box_ap.std, r.mask_ap.mean, r.mask_ap.std) for r in paper.TABLE_3A] == [
        (name, *map(float, values)) for name, *values in a
    ]
    b = re.findall(r"(\d) GPU kn=(\d+) (?:eta )?([\d.]+)e-3, ([\d.]+ [Mk])[^:]*: ([\d.]+)/([\d.]+\d)", text)
    size = {"M": 1e6, "k": 1e3}
    assert [(gpus, *setting, row.box_ap.mean, row.mask_ap.mean) for gpus, (setting, row) in paper.TABLE_3B.items()] == [
        (int(g), int(kn), float(lr), round(float(it.split()[0]) * size[it.split()[1]]), float(box), float(mask))
        for g, kn, lr, it, box, mask in b
    ]
    assert (len(a), len(b)) == (7, 4)


def test_times_and_hardware(sheet: str) -> None:
    for text in (
        f"256-batch on 8 P100: {paper.HOURS_ON_8_GPUS:g} h",
        f'8k on 256 P100: "{paper.HOURS_ON_256_GPUS:g} hour"',
        f"rises only {100 * paper.FIGURE_7_STEP_INCREASE:g} %",
        f"to {paper.FIGURE_7_MINIBATCH:,} (44x; {paper.FIGURE_7_GPUS} GPUs, {paper.FIGURE_7_SERVERS} servers)",
        f"axis {paper.FIGURE_7_STEP_SECONDS[0]:.2f}–{paper.FIGURE_7_STEP_SECONDS[1]:.2f} s",
        f'"over {paper.FIGURE_7_EPOCH_SECONDS[0] // 60} min" to ~{paper.FIGURE_7_EPOCH_SECONDS[1]} s',
        f"~{100 * paper.FIGURE_8_EFFICIENCY:g} % efficiency",
        f"{paper.PARAMETERS / 1e6:g}e6 params",
        f"backprop {1000 * paper.BACKWARD_SECONDS:g} ms",
        f"{paper.NETWORK_BITS_PER_SECOND / 1e9:g} Gbit Ethernet",
        f"~{paper.PEAK_BITS_PER_SECOND / 1e9:g} Gbit/s peak",
        f"buffers >= {paper.NCCL_BYTES / 1e3:g} KB",
        f"{paper.HALVING_DOUBLING_SPEEDUP}x faster than ring",
        f"Big Basin, {paper.GPUS_PER_SERVER} P100",
    ):
        assert text in sheet, text


def test_recipe(sheet: str) -> None:
    text = section(sheet, "### 1.1", "### 1.2")
    for part in (
        f"| {paper.EPOCHS}, for every minibatch size |",
        f"| {paper.PER_WORKER}, fixed always",
        f"eta = {paper.REFERENCE_LR} * kn/{paper.REFERENCE_MINIBATCH}",
        f"x1/10 at epochs {', '.join(map(str, paper.DECAY_EPOCHS))}",
        f"after {paper.WARMUP_EPOCHS} epochs",
        f"m = {paper.MOMENTUM}",
        "lambda = 1e-4",
        f"`momentum={paper.BN_MOMENTUM}` in PyTorch",
        f"N(0, {paper.FC_STD})",
        f"{paper.IMAGE_SIZE}x{paper.IMAGE_SIZE} random crop",
        "last BN of each residual block: 0",
        f"{paper.VALIDATION_IMAGES:,} val",
    ):
        assert part in text, part
    assert (paper.WEIGHT_DECAY, paper.DECAY_FACTOR, paper.LAST_GAMMA) == (1e-4, 0.1, 0.0)
    assert f"{paper.TRAINING_IMAGES:,}/8192" in sheet


@pytest.mark.parametrize("row", paper.FIGURE_1, ids=lambda row: row.name)
def test_presets_of_figure_1(row: PublishedResult) -> None:
    config = from_dict(preset(f"paper-{row.name}"))
    assert (config.minibatch, config.per_worker, config.epochs, config.model) == (row.minibatch, 32, 90, "resnet50")
    assert peak_lr(config) == pytest.approx(row.lr, rel=1e-12)
    assert str(row.error or "") in PRESETS[f"paper-{row.name}"][0]


@pytest.mark.parametrize(
    ("name", "warmup", "error"),
    [("paper-8k-no-warmup", "none", "24.84 +- 0.37"), ("paper-8k-constant-warmup", "constant", "25.88 +- 0.56")],
)
def test_presets_of_table_1(name: str, warmup: str, error: str) -> None:
    text, fields = PRESETS[name]
    assert fields == {"data": "imagenet", "model": "resnet50", "minibatch": 8192, "warmup": warmup}
    assert error in text
