"""Divide-and-conquer inversion: its losses by hand, what training and its parts are worth, resuming, refusals."""

import dataclasses
import functools
import gc

import numpy as np
import pytest
import torch
from torch import nn

from invkit.core.results import DivergedError
from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.data.datasets import load_data
from invkit.methods.dci import DCI, DCIConfig, divide_and_conquer
from invkit.metrics.quality import psnr
from invkit.networks.inverse import ChainInverse
from invkit.networks.loading import load_target
from invkit.partition.chain import partition_network
from invkit.partition.feature_store import FeatureStore

SPEC = ImageSpec(channels=1, size=(8, 8), mean=(0.4,), std=(0.3,), classes=tuple("abc"))
QUICK = DCIConfig(steps=6, fine_tune_steps=4, restarts=1, batch_size=4, lr=4e-3, checkpoint_every=2, log_every=2)


@pytest.fixture(scope="module")
def target():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.LeakyReLU(0.1)]
        layers += [nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)]
        return Target(nn.Sequential(*layers), SPEC, "small")


@pytest.fixture(scope="module")
def chain(target):
    return partition_network(target)


@pytest.fixture(scope="module")
def images():
    """Smooth images: blurred noise, stretched to [0, 1]."""
    noise = torch.rand(64, 1, 8, 8, generator=seeded(0))
    smooth = nn.functional.avg_pool2d(noise, 3, 1, 1)
    return ((smooth - smooth.amin()) / (smooth.amax() - smooth.amin())).contiguous()


def weights(inverse):
    return inverse.state_dict()


def same(one, two):
    one, two = weights(one), weights(two)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_the_losses_by_hand(target, chain, images):
    x = images[:4]
    inverse = ChainInverse.untrained(chain, 3, seeded(1))
    learner = DCI(chain, inverse, 2, QUICK, alpha=0.25)
    terms = learner.losses([x, *chain.read(x)])
    layers = target.module
    norm = (x - 0.4) / 0.3
    u1 = layers[:3](norm)
    u2 = layers[3:5](u1)
    back1 = inverse.blocks[1](u2)
    back0 = inverse.blocks[0](back1)
    v1 = layers[:3]((back0 - 0.4) / 0.3)
    v2 = layers[3:5](v1)
    v3, u3 = layers[5:](v2), layers[5:](u2)
    n = x.numel()
    torch.testing.assert_close(terms["layer"], (u1 - back1).abs().sum() / n)
    torch.testing.assert_close(terms["image"], (x - back0).abs().sum() / n)
    apart = (u1 - v1).abs().sum() + (u2 - v2).abs().sum() + (u3 - v3).abs().sum()
    torch.testing.assert_close(terms["cycle"], 0.25 * apart / n)


def test_alpha_gives_the_terms_a_similar_size(chain, images):
    batch = [images[:8], *chain.read(images[:8])]
    learner = DCI(chain, ChainInverse.untrained(chain, 3, seeded(1)), 2, QUICK)
    assert learner.prepare(batch) == learner.alpha > 0
    terms = {name: float(term.detach()) for name, term in learner.losses(batch).items()}
    assert terms["cycle"] == pytest.approx((terms["layer"] + terms["image"]) / 2, rel=1e-4)
    fixed = DCI(chain, ChainInverse.untrained(chain, 3, seeded(1)), 2, dataclasses.replace(QUICK, alpha=1e-7))
    assert fixed.prepare(batch) == 1e-7
    none = DCI(chain, ChainInverse.untrained(chain, 3, seeded(1)), 2, dataclasses.replace(QUICK, cycle=0))
    assert none.prepare(batch) == 0
    assert set(none.losses(batch)) == {"image", "layer"}


def test_who_learns_when(chain):
    inverse = ChainInverse.untrained(chain, 3, seeded(0))

    def learning(depth, **options):
        DCI(chain, inverse, depth, QUICK, **options)
        return [all(p.requires_grad for p in block.parameters()) for block in inverse.blocks]

    assert learning(2) == [False, True, False]
    assert learning(2, phase="fine_tune") == [True, True, False]


def test_the_schedule_is_the_papers():
    paper = DCIConfig.for_profile("paper")
    schedule = paper.schedule("train", 1)
    assert (schedule.steps, schedule.schedule, schedule.period) == (3000, "restarts", 750)
    assert (paper.lr, paper.fine_tune_lr) == (1e-3, 1e-4)
    assert paper.phases(1) == ("train",)
    assert paper.phases(2) == ("train", "fine_tune")
    whole = dataclasses.replace(paper, end_to_end=True)
    assert whole.schedule("train", 4).steps == 4 * 3000 + 3 * 3000
    assert whole.phases(4) == ("train",)
    assert DCIConfig.for_profile("ci").steps < DCIConfig.for_profile("book").steps


LONGER = dataclasses.replace(QUICK, steps=60, fine_tune_steps=30, batch_size=16, restarts=0)


@pytest.fixture(scope="module")
def trained(chain, images):
    """Inverses of all depths, how they came about, and their PSNR on images they were not shown."""
    test = images[48:]
    features = chain.read(test)

    def score(inverse, k):
        return {"psnr": psnr(inverse(features[k - 1], depth=k), test)}

    return divide_and_conquer(chain, images[:48], LONGER, generator=seeded(0), evaluate=score)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_without_fine_tuning_as_many_steps_are_taken(chain, images, depth):
    def steps_of(config):
        seen = []
        config = dataclasses.replace(config, stages=depth, restarts=0)
        divide_and_conquer(chain, images, config, callbacks=[lambda step: seen.append(1)])
        return len(seen)

    alone = QUICK.without_fine_tuning(depth)
    assert not alone.fine_tune
    assert steps_of(QUICK) == QUICK.total_steps(depth) == depth * 6 + (depth - 1) * 4
    assert abs(steps_of(alone) - steps_of(QUICK)) <= depth / 2


def test_training_lowers_the_error_and_the_untrained_are_much_worse(chain, images, trained):
    inverse, result = trained
    assert [s.depth for s in result.stages] == [1, 2, 3]
    assert [s.name for s in result.stages] == list(chain.names)
    assert (result.stopped, result.seed, result.config["steps"]) == ("steps", 0, 60)
    for stage in result.stages:
        history = stage.fits["train"].history
        assert np.mean(history["total"][-5:]) < (0.5, 0.5, 0.8)[stage.depth - 1] * np.mean(history["total"][:2])
        total = np.array(history["image"]) + history["layer"] + history["cycle"]
        np.testing.assert_allclose(total, history["total"], rtol=1e-4)
    scores = [s.metrics["psnr"] for s in result.stages]
    assert scores[0] > 26
    assert scores[0] > scores[2]  # three numbers do not hold an image
    test = images[48:]
    features = chain.read(test)
    untrained = ChainInverse.untrained(chain, 3, seeded(0)).requires_grad_(False)
    for k in (1, 2):
        assert psnr(untrained(features[k - 1], depth=k), test) < scores[k - 1] - 8
    assert not any(p.requires_grad for p in inverse.parameters())


def test_ablations(chain, images):
    run = functools.partial(divide_and_conquer, chain, images[:48])
    quick = dataclasses.replace(QUICK, stages=2)
    whole, how = run(dataclasses.replace(quick, end_to_end=True), generator=seeded(0))
    (stage,) = how.stages
    assert (stage.depth, len(stage.fits["train"].history["image"])) == (2, 6 + 6 + 4)
    assert set(stage.fits["train"].history) == {"image", "cycle", "total"}
    assert len(whole) == 2
    _, how = run(dataclasses.replace(quick, fine_tune=False, cycle=0), generator=seeded(0))
    assert [set(s.fits) for s in how.stages] == [{"train"}, {"train"}]
    assert [s.loss_weights for s in how.stages] == [{"cycle": 0}] * 2


def test_same_seed_same_bits_cached_or_not_in_memory_or_mapped(chain, images, tmp_path):
    odd = images[:10]  # not a multiple of the batch
    run = functools.partial(divide_and_conquer, chain)
    first = run(odd, QUICK, generator=seeded(0))[0]
    for change in ({"cache": False}, {"cache_bytes": 0}, {}):
        other = run(odd, dataclasses.replace(QUICK, **change), generator=seeded(0), scratch=tmp_path)[0]
        assert same(first, other), change
    assert not same(first, run(odd, QUICK, generator=seeded(1))[0])
    assert not list(tmp_path.rglob("*.bin"))  # the mapped cache goes with its run


class Lazy:
    """Images that are read one by one, beside their labels."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], 0


def test_images_from_anywhere(chain, images, tmp_path):
    pixels = images[:10].mul(255).byte()
    np.save(tmp_path / "pixels.npy", pixels.numpy())
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    rows = torch.tensor([7, 2])
    wanted = FeatureStore(chain, pixels, batch_size=4).batch(rows)
    for source in (mapped, Lazy(pixels)):
        store = FeatureStore(chain, source, batch_size=4, limit=0, folder=tmp_path)
        assert all(torch.equal(a, b) for a, b in zip(store.batch(rows), wanted, strict=True))
        assert store.digest() == FeatureStore(chain, pixels, batch_size=4).digest()
    passes = [torch.cat([b[0] for b in store.batches(seeded(0))]) for _ in range(2)]
    assert torch.equal(*passes)
    assert len(passes[0]) == 8


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [3, 6, 9, 14, 16, 20])  # in the middle of phases, and where stages and phases meet
def test_resuming_gives_the_same_bits(chain, images, tmp_path, at):
    run = functools.partial(divide_and_conquer, chain, images[:12], QUICK)
    whole, how = run(generator=seeded(3))
    calls = 0

    def kill(step):
        nonlocal calls
        calls += 1
        if calls == at + 1:
            raise Killed

    with pytest.raises(Killed):
        run(generator=seeded(3), checkpoint=tmp_path, callbacks=[kill])
    again, then = run(generator=seeded(3), checkpoint=tmp_path)
    assert same(whole, again)
    for one, two in zip(how.stages, then.stages, strict=True):
        assert one.loss_weights == two.loss_weights
        assert {k: f.history for k, f in one.fits.items()} == {k: f.history for k, f in two.fits.items()}
    assert {p.name for p in tmp_path.glob("*.pt")} == {f"stage_0{k}.pt" for k in (1, 2, 3)}
    assert same(ChainInverse.load(tmp_path / "stage_03"), whole)
    third, _ = run(generator=seeded(3), checkpoint=tmp_path)  # all is there: nothing is trained
    assert same(third, whole)


def test_callbacks_and_interrupts_stop_in_a_stage(chain, images):
    def stop(step):
        return True

    inverse, result = divide_and_conquer(chain, images[:8], QUICK, callbacks=[stop])
    assert (result.stopped, len(result.stages), len(inverse)) == ("callback", 1, 3)

    def interrupt(step):
        raise KeyboardInterrupt

    assert divide_and_conquer(chain, images[:8], QUICK, callbacks=[interrupt])[1].stopped == "interrupted"


def test_a_folder_of_another_run_is_refused(target, chain, images, tmp_path):
    run = functools.partial(divide_and_conquer, checkpoint=tmp_path, generator=seeded(0))
    quick = dataclasses.replace(QUICK, stages=1)
    run(chain, images[:8], quick)
    other = Target(nn.Sequential(nn.Conv2d(1, 6, 3, 2), nn.Flatten(), nn.Linear(54, 3)), SPEC, "other")
    with pytest.raises(
        ValueError, match=rf"another run: target.*differ \(target there: small \({target.fingerprint()}\), here: other"
    ):
        run(other, images[:8], quick)
    with pytest.raises(ValueError, match=r"another run: images.* differ"):
        run(chain, images[8:16], quick, generator=seeded(0))
    with pytest.raises(ValueError, match="another run: config"):
        run(chain, images[:8], dataclasses.replace(quick, lr=0.1), generator=seeded(0))
    (tmp_path / "stage_01.pt").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"stage_01.pt is not a readable stage .*delete it"):
        run(chain, images[:8], quick, generator=seeded(0))


def test_bad_images_and_configs_are_refused(chain, images):
    for bad, says in (
        (images[:, :, :4], r"\(4, 8\) pixels; the network takes \(8, 8\)"),
        (images.expand(-1, 3, -1, -1), "3 channels"),
        (images[:0], r"images .*\(0, 1, 8, 8\)"),
        (images * 255, r"must lie in \[0, 1\], not .*211"),
    ):
        with pytest.raises(ValueError, match=says):
            divide_and_conquer(chain, bad, QUICK)
    with pytest.raises(ValueError, match=r"depth must lie in 1..3, the blocks of small, not 9"):
        divide_and_conquer(chain, images, dataclasses.replace(QUICK, stages=9))
    for change in (
        {"steps": 0}, {"fine_tune_steps": 1}, {"lr": 0.0}, {"fine_tune_lr": -1.0}, {"restarts": -1}, {"alpha": -1.0},
        {"batch_size": 0}, {"cycle": -1.0}, {"stages": 0}, {"cache_bytes": -1}, {"log_every": 0},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(change))):
            dataclasses.replace(QUICK, **change)
    with pytest.raises(ValueError, match="ci, book, paper, not 'fast'"):
        DCIConfig.for_profile("fast")


def test_a_stage_that_diverges_is_named(chain, images):
    with pytest.raises(DivergedError, match=r"stage 1 \('2', train\) did not train: the term"):
        divide_and_conquer(chain, images[:8], dataclasses.replace(QUICK, lr=1e38, steps=40))


def test_a_full_disk_is_named(chain, images, monkeypatch, tmp_path):
    import shutil

    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr("invkit.partition.feature_store.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"the features take .* GB and .*name another folder"):
        divide_and_conquer(chain, images, dataclasses.replace(QUICK, cache_bytes=0), scratch=tmp_path)
    assert not list(tmp_path.iterdir())


def test_steps_and_stages_hold_no_memory(chain, images):
    def tensors():
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    def alive(config):
        before = tensors()
        kept = divide_and_conquer(chain, images[:8], config, generator=seeded(0))
        return tensors() - before if kept else 0

    few, many = (alive(dataclasses.replace(QUICK, steps=n, log_every=100)) for n in (4, 40))
    assert few == many


@pytest.mark.parametrize(
    ("name", "cut", "units", "widths", "stages"),
    [
        ("torchvision/resnet18", None, [1] * 10, {None}, 2),
        (
            "torchvision/resnet50",
            ["maxpool", "layer1", "layer2", "layer3", "layer4"],
            [1, 3, 4, 6, 3],
            {None, 64, 128, 256, 512},
            1,
        ),
        ("timm/repvgg_a0", None, [1] * 23, {None}, 2),
    ],
)
def test_the_networks_of_the_paper(name, cut, units, widths, stages):
    chain = partition_network(load_target(name, weights=None), cut)
    assert [b.depth for b in chain.blocks] == units
    assert {b.width for b in chain.blocks} == widths
    assert [b.residual for b in chain.blocks[1:-1]] == [name.startswith("torchvision")] * (len(units) - 2)
    photos = torch.rand(2, 3, 224, 224, generator=seeded(0))
    config = DCIConfig(steps=1, fine_tune_steps=1, restarts=0, batch_size=2, stages=stages)
    inverse, result = divide_and_conquer(chain, photos, config)
    assert result.stopped == "steps"
    features = chain.read(photos)
    assert inverse(features[stages - 1]).shape == photos.shape
    deepest = ChainInverse.untrained(chain, len(chain), seeded(0))
    with torch.no_grad():
        assert deepest(features[-1][:1]).shape == (1, 3, 224, 224)


def test_a_published_network_on_real_images(data_folder):
    target = load_target("invkit/resnet20", weights=data_folder / "weights/cifar10_resnet20.safetensors")
    data = load_data(f"npz:{data_folder / 'cifar10_4600.npz'}")
    test = data.test.images[:50]
    chain = partition_network(target)
    config = DCIConfig(steps=50, fine_tune_steps=20, lr=3e-3, fine_tune_lr=5e-4, restarts=0, batch_size=16, stages=2)
    inverse, _ = divide_and_conquer(chain, data.train.pixels[:200], config, generator=seeded(0))
    with torch.no_grad():
        found = psnr(inverse(chain.read(test, 2)[1]), test)
    grey = psnr(test.mean((2, 3), keepdim=True).expand_as(test), test)
    assert found > grey + 5  # 14 dB; a channel that is dead in the first block once cost all of it
