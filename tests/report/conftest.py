"""A network as a reader might have it: a Python file, weights, a specification, a folder of images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torchvision.utils import save_image

import invkit as ik

SOURCE = """
from torch import nn


def make_net():
    layers = []
    for inner, outer in ((1, 16), (16, 32)):
        layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.BatchNorm2d(outer), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


class Answers(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.body, self.answer = make_net(), answer

    def forward(self, images):
        return self.answer(self.body(images))


def make_tuple():
    return Answers(lambda logits: (logits.mean(), logits))


def make_mapping():
    return Answers(lambda logits: {"hidden": logits[:, :3], "logits": logits})


def make_nothing():
    return Answers(lambda logits: {"hidden": logits[:, :3]})


def make_many():
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 5000))


def make_text():
    return "a network"
"""
ABOUT = {"input": [1, 16, 16], "mean": [0.3], "std": [0.35], "classes": [str(digit) for digit in range(10)]}


def write_images(folder: Path, split: ik.Split) -> None:
    """One folder for each class."""
    for number, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        (folder / str(int(label))).mkdir(parents=True, exist_ok=True)
        save_image(image, folder / str(int(label)) / f"{number:03d}.png")


def train(home: Path, images: torch.Tensor, labels: torch.Tensor, name: str, steps: int = 150, seed: int = 0) -> Path:
    """A network that learns some images by heart, in plain PyTorch; the file of its weights, specification beside."""
    torch.manual_seed(seed)
    scope: dict = {}
    exec(SOURCE, scope)
    net = scope["make_net"]()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(net((images - 0.3) / 0.35), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(net.eval().state_dict(), home / f"{name}.pt")
    (home / f"{name}.json").write_text(json.dumps(ABOUT))
    return home / f"{name}.pt"


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder: ``my_file.py``, ``my.pt``, ``my.json``, and ``images``, 20 that it was trained on and 40 others."""
    home = tmp_path_factory.mktemp("reader")
    (home / "my_file.py").write_text(SOURCE)
    digits = ik.load_data("digits").train
    digits = digits[torch.randperm(len(digits), generator=ik.seeded(1))]  # neighbours are of one hand
    write_images(home / "images/train", digits[:20])
    write_images(home / "images/test", digits[20:60])
    train(home, digits.images[:20], digits.labels[:20], "my")
    return home


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with relative paths meant from it."""
    monkeypatch.setenv("INVKIT_START", str(home))
    return home
