"""What an evaluation counts, against a plain loop; and that it needs no table of all classes for each batch."""

import torch

from app.runs.evaluation import Evaluation
from app.training.evaluation import counted_cells

CLASSES, IMAGES = 12, 200


def test_counts() -> None:
    generator = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(IMAGES, CLASSES, generator=generator), torch.arange(IMAGES) % CLASSES
    counts = torch.zeros(CLASSES, CLASSES + 1, dtype=torch.int64)
    for batch in (slice(0, 130), slice(130, IMAGES)):
        cells = counted_cells(logits[batch], labels[batch], CLASSES)
        counts.view(-1).index_add_(0, cells, torch.ones_like(cells))
    found = Evaluation(counts[:, :-1], counts[:, -1], 0.0)
    ranks = [sorted(range(CLASSES), key=lambda c: -row[c]).index(label)
             for row, label in zip(logits.tolist(), labels.tolist(), strict=True)]  # fmt: skip
    assert found.images == IMAGES
    assert found.top1_error == sum(rank > 0 for rank in ranks) / IMAGES
    assert found.top5_error == sum(rank > 4 for rank in ranks) / IMAGES


def test_a_batch_counts_its_own_images_only() -> None:
    labels = torch.tensor([0, 21_840])
    cells = counted_cells(torch.eye(2, 21_841), labels, 21_841)  # ImageNet-21k
    assert cells.tolist()[:2] == [0, 21_840 * 21_842 + 1] and len(cells) <= 4
