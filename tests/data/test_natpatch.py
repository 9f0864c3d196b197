import importlib.util

import pytest
import torch

from optbench.data import natpatch
from optbench.data.spec import DataSpec
from optbench.errors import UserError

INSTALLED = all(importlib.util.find_spec(package) for package in ("skimage", "sklearn", "PIL"))


@pytest.mark.skipif(not INSTALLED, reason="scikit-image, scikit-learn or Pillow is not installed")
def test_real_photographs():
    raw = natpatch.load("nowhere", examples=200, validation=50)
    assert [len(split) for split in (raw.train, raw.validation, raw.test)] == [200, 50, 2000]
    assert raw.spec == DataSpec("image", (3, 32, 32), 10)
    assert raw.test.targets.bincount().tolist() == [200] * 10
    again = natpatch.load("nowhere", examples=200, validation=50)
    assert torch.equal(raw.train.inputs, again.train.inputs)
    other = natpatch.load("nowhere", examples=200, validation=50, generation_seed=1)
    assert not torch.equal(raw.train.inputs, other.train.inputs)


def coordinates(package, name):
    """A picture whose pixels tell where they are (row, column) and which picture it is."""
    picture = list(natpatch.PHOTOGRAPHS.values()).index((package, name))
    row, column = torch.meshgrid(torch.arange(250), torch.arange(200), indexing="ij")
    return torch.stack((row, column, torch.full((250, 200), picture))).to(torch.uint8)


def test_splits_come_from_disjoint_regions(monkeypatch):
    monkeypatch.setattr(natpatch, "_photograph", coordinates)
    raw = natpatch.load("nowhere", examples=1000, validation=500)
    cells = {}
    for name in ("train", "validation", "test"):
        split = getattr(raw, name)
        corner = split.inputs[:, :, 0, 0].long()
        # A crop is a piece of the picture: every pixel is where its coordinates say, in the picture of its class.
        expected_rows = (corner[:, 0, None] + torch.arange(32))[:, :, None].expand(-1, 32, 32)
        expected_columns = (corner[:, 1, None] + torch.arange(32))[:, None, :].expand(-1, 32, 32)
        assert torch.equal(split.inputs[:, 0].long(), expected_rows)
        assert torch.equal(split.inputs[:, 1].long(), expected_columns)
        assert torch.equal(corner[:, 2], split.targets)
        # First and last pixel are in the same cell of 64 x 64.
        assert torch.equal(corner[:, :2] // 64, split.inputs[:, :2, -1, -1].long() // 64)
        cells[name] = {tuple(cell) for cell in torch.cat((corner[:, :2] // 64, corner[:, 2:]), dim=1).tolist()}
    assert not cells["train"] & cells["test"]
    assert not cells["train"] & cells["validation"]
    assert not cells["validation"] & cells["test"]
    # 3 x 3 cells of each of 10 pictures: 2 for testing, 1 for validation, 6 for training.
    assert [len(cells[name]) for name in ("train", "validation", "test")] == [60, 10, 20]


def test_missing_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"skimage/data/astronaut\.png is not installed: pip install 'optbench\[natpatch\]'"
    ):
        natpatch.load("nowhere")
