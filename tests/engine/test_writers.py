"""Whatever writes files, on a disk that is full and into places that are none: one clear sentence, nothing lost."""

import errno
import os

import pytest
import torch
from torch import nn

from invkit.core.results import InversionResult
from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.data.datasets import load_data
from invkit.engine.classifier import ClassifierConfig, load_or_train
from invkit.engine.gan import GANConfig, load_or_train_gan, train_gan
from invkit.engine.synthesis import synthesise
from invkit.methods.dci import DCIConfig, divide_and_conquer
from invkit.methods.deepinversion import DeepInversionConfig, deep_inversion
from invkit.networks.inverse import ChainInverse
from invkit.networks.masked import save_masks
from invkit.partition.chain import partition_network
from invkit.testing import tiny_target


def small_chain():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten())
        network.append(nn.Linear(384, 3))
    spec = ImageSpec(channels=1, size=(8, 8), mean=(0.4,), std=(0.3,), classes=tuple("abc"))
    return partition_network(Target(network, spec, "small"))


def inversion(path):
    config = DeepInversionConfig(steps=4, log_every=1, checkpoint_every=1)
    return deep_inversion(tiny_target(), [0, 1, 2, 3] * 4, config, generator=seeded(0), checkpoint=path).images


def classifier(path):
    data = load_data("digits", size=8, limit=40)
    config = ClassifierConfig(steps=3, warmup=1, shift=0, batch_size=8, checkpoint_every=1)
    return load_or_train("bn_cnn", data, config, width=4, folder=path, device="cpu").module.state_dict()


GAN = GANConfig(steps=2, width=4, latent=4, batch_size=4, discriminator_steps=1, checkpoint_every=1, log_every=1)


def gan(path):
    return train_gan(load_data("digits", limit=40), GAN, device="cpu", checkpoint=path)[0].generator.state_dict()


def kept_gan(path):
    return load_or_train_gan(load_data("digits", limit=40), GAN, folder=path, device="cpu").generator.state_dict()


def inverse(path):
    config = DCIConfig(steps=3, fine_tune_steps=2, restarts=1, batch_size=4, checkpoint_every=1, log_every=1)
    images = torch.rand(12, 1, 8, 8, generator=seeded(0))
    return divide_and_conquer(small_chain(), images, config, generator=seeded(0), checkpoint=path)[0].state_dict()


def noise(count, generator):
    fields = {"images": torch.rand(count, 3, 40, 40, generator=generator), "labels": None, "best_step": 0, "seed": 0}
    fields |= {"history": {"total": (1.0,)}, "config": {}, "seconds": 1.0, "device": "cpu", "stopped": "steps"}
    return InversionResult(**fields)


def result(path):
    noise(4, seeded(0)).save(path)


def chain_inverse(path):
    ChainInverse.untrained(small_chain(), 2, seeded(0)).save(path)


def images(path):
    synthesise(tiny_target(size=(40, 40)), 4, path, lambda labels, g: noise(len(labels), g), batch_size=2)


FILES = {
    "deep_inversion": inversion,
    "train_gan": gan,
    "save_masks": lambda path: save_masks({"layer": torch.ones(9000, dtype=torch.bool)}, path),
}
FOLDERS = {
    "load_or_train": classifier,
    "load_or_train_gan": kept_gan,
    "divide_and_conquer": inverse,
    "InversionResult.save": result,
    "ChainInverse.save": chain_inverse,
    "synthesise": images,
}
WRITERS = FILES | FOLDERS


def same(one, two):
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    return one is two is None or torch.equal(one, two)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_sentence_and_the_next_run_goes_on(tmp_path, file_limit, name):
    with file_limit(3000), pytest.raises(OSError, match=r"^\[Errno 27\] cannot write [^ ]*: File too large") as caught:
        WRITERS[name](tmp_path / "x.bin")
    assert caught.value.errno == errno.EFBIG
    assert "what was finished before is kept" in str(caught.value)
    assert not list(tmp_path.rglob(".*"))
    again = WRITERS[name](tmp_path / "x.bin")
    assert same(again, WRITERS[name](tmp_path / "other.bin"))


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_the_place_of_a_file_is_one_sentence(tmp_path, name):
    with pytest.raises(IsADirectoryError, match=r"is a folder"):
        FILES[name](tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_in_the_place_of_a_folder_is_one_sentence(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"cannot (write|keep) .*file"):
        WRITERS[name](tmp_path / "file" / "x.bin")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["deep_inversion", "train_gan"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04half"])
def test_a_damaged_checkpoint_is_one_sentence(tmp_path, name, content):
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.bin is not a readable checkpoint"):
        FILES[name](tmp_path / "x.bin")
    assert (tmp_path / "x.bin").read_bytes() == content
