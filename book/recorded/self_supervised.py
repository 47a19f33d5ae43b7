"""Repeat the recorded run on self-supervised features: a ResNet-20 that learnt without labels, run backwards.

    INVKIT_DATA=FOLDER python book/recorded/self_supervised.py

``FOLDER`` holds ``cifar10_4600.npz`` (4,000 training and 600 test images) and ``cifar10_jpeg_train.zip``, the training
images of CIFAR-10 as JPEG files, a folder for each class.

Three networks of one architecture for each seed: one learns from labels, one by contrast, as SimCLR does (Chen et al.
2020: two views of an image are to have like features, views of other images unlike ones), one learns nothing but the
statistics of its batch norms. Divide and conquer inverts all three at the same depths by the same settings, and learns
from the same real images: what differs is how the features came about. The verdict is drawn at the last block.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run, zipped_images
from invkit.data.images import quantise
from invkit.metrics import accuracy, baselines, in_batches, psnr, ssim
from invkit.networks.classifiers import build
from invkit.partition.chain import partition_network

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
WIDTH = 8  # channels after the first layer, half the usual
TEMPERATURE = 0.5  # of the contrast
SHOWN = (0, 1, 3, 6, 7, 8)  # classes in the picture
SMOKE = {"seeds": 1, "each": 4, "steps": 1, "batch": 8, "images": 8, "dci_steps": 1, "fine_tune_steps": 1, "test": 10}


@recorded_run(data=True, smoke=SMOKE)
def features(
    run: Run, *, seeds: int = 3, each: int = 1500, steps: int = 600, batch: int = 128, images: int = 1000,
    dci_steps: int = 50, fine_tune_steps: int = 25, test: int = 200,
) -> None:  # fmt: skip
    """PSNR of test images from features learnt by labels, by contrast and not at all, at every depth."""
    data = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}")
    learnt_from = zipped_images(run.data / "cifar10_jpeg_train.zip", CLASSES, each)
    pool = learnt_from.pixels, learnt_from.labels
    photos = data.test.per_class(test // 10)
    train = data.train
    config = ik.DCIConfig(
        steps=dci_steps, fine_tune_steps=fine_tune_steps, lr=3e-3, fine_tune_lr=5e-4, restarts=0, batch_size=16
    )
    for name, trivial in baselines(photos.images, photos.labels, train.images, train.labels).items():
        run.row(name, {"PSNR": psnr(quantise(trivial), photos.images)})
    ways: dict[str, Callable[[int], nn.Module]] = {
        "labels": lambda seed: by_labels(data.spec, pool, steps, batch, seed),
        "contrast": lambda seed: by_contrast(data.spec, pool[0], steps, batch, seed),
        "untrained": lambda seed: untrained(data.spec, pool[0], batch, seed),
    }
    rows = {"test images": shown(photos.images, photos.labels)}
    for seed in range(seeds):
        for way, learn in ways.items():
            module = learn(seed).eval()
            if way != "labels":
                read_out(module, train.images, train.labels, data.spec)
            target = run.uses(ik.Target(module, data.spec), way)
            run.row(way, {"top-1": accuracy(target, photos.images, photos.labels)["top1"]})
            chain = partition_network(target)
            # Behind the last block come the mean over positions and the linear layer, which was trained in one of them.
            blocks = ["conv1", *chain.names[1:-1]]
            chosen = train.images[torch.randperm(len(train), generator=ik.seeded(seed))[:images]]
            store: dict[int, Tensor] = {}

            def evaluate(inverse: Callable[..., Tensor], depth: int, chain=chain, store=store) -> dict[str, float]:  # type: ignore[no-untyped-def]
                store[depth] = quantise(
                    in_batches(lambda x: inverse(chain.read(x, depth)[-1], depth=depth), photos.images, 100, "cpu")
                )
                return {"PSNR": psnr(store[depth], photos.images)}

            ik.divide_and_conquer(chain, chosen, config, generator=ik.seeded(seed), evaluate=evaluate)
            for depth, name in enumerate(blocks, start=1):
                made = store[depth]
                columns = {"PSNR": psnr(made, photos.images), "SSIM": ssim(made, photos.images)}
                run.row(f"{depth} {name}, {way}", columns)
            if seed == 0:
                rows[way] = shown(store[len(blocks)], photos.labels)
    run.record(
        "self_supervised",
        title="Features learnt from labels, by contrast and not at all, inverted at equal depths: CIFAR-10",
        config={"divide and conquer": config, "training": {"steps": steps, "batch": batch, "width": WIDTH}},
        seeds=seeds,
        claims=("dci.self-supervised",),
        figure=show.image_rows(rows, [CLASSES[k] for k in SHOWN], columns=len(SHOWN), scale=2.0),
        note=f"A ResNet-20 of half the usual width, {steps} steps of {batch} of {len(pool[0]):,} training images (by "
        "contrast two views of each). Top-1 on the test images: of the network trained on labels its own, of the "
        f"others that of a linear layer on their features, which learnt from {len(train):,} labelled images. "
        f"{len(photos)} test images, inverses trained on {images:,} other real ones; by seed of network and inverses. "
        "Shown: the last block.",
    )


# --- three ways to come by features ---


def by_labels(spec: ik.ImageSpec, pool: tuple[Tensor, Tensor], steps: int, batch: int, seed: int) -> nn.Module:
    """Trained by cross-entropy on flipped and shifted images."""
    pixels, labels = pool
    module = build("resnet20", spec, width=WIDTH, seed=seed)

    def loss(chosen: Tensor, rng: torch.Generator) -> Tensor:
        return F.cross_entropy(module(spec.normalise(moved(pixels[chosen] / 255, rng, colour=False))), labels[chosen])

    return trained(module, loss, len(pixels), steps, batch, seed)


def by_contrast(spec: ik.ImageSpec, pixels: Tensor, steps: int, batch: int, seed: int) -> nn.Module:
    """Trained so that two views of an image have like features (NT-Xent, Chen et al. 2020, eq. 1)."""
    module = build("resnet20", spec, width=WIDTH, seed=seed)
    linear = module.linear
    width = linear.in_features
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))  # thrown away afterwards
    module.linear = head

    def loss(chosen: Tensor, rng: torch.Generator) -> Tensor:
        images = pixels[chosen] / 255
        views = torch.cat([moved(images, rng, colour=True), moved(images, rng, colour=True)])
        z = F.normalize(module(spec.normalise(views)).float())
        likeness = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf)
        return F.cross_entropy(likeness, torch.arange(len(z)).roll(len(chosen)))

    trained(module, loss, len(pixels), steps, batch, seed)
    module.linear = linear
    return module


def untrained(spec: ik.ImageSpec, pixels: Tensor, batch: int, seed: int) -> nn.Module:
    """As drawn, with the statistics of real images in its batch norms."""
    module = build("resnet20", spec, width=WIDTH, seed=seed).train()
    rng = ik.seeded(seed)
    with torch.no_grad():
        for _ in range(50):
            module(spec.normalise(pixels[torch.randint(len(pixels), (batch,), generator=rng)] / 255))
    return module


def trained(
    module: nn.Module, loss: Callable[[Tensor, torch.Generator], Tensor], count: int, steps: int, batch: int, seed: int
) -> nn.Module:  # fmt: skip
    """AdamW with half a cosine."""
    rng = ik.seeded(seed)
    optimizer = torch.optim.AdamW(module.train().parameters(), lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps + 1, pct_start=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(torch.randint(count, (batch,), generator=rng), rng).backward()
        optimizer.step()
        schedule.step()
    return module


def moved(images: Tensor, rng: torch.Generator, *, colour: bool) -> Tensor:
    """Each image flipped and shifted at random; with ``colour`` also cropped more closely, tinted or made grey."""
    n = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=rng)

    size = uniform(0.2, 1.0).sqrt() if colour else torch.ones(n)
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    room = 1 - size if colour else torch.full((n,), 0.25)  # of the grid, which reaches from -1 to 1
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = size * flip, size
    theta[:, :, 2] = uniform(-1, 1, 2) * room[:, None]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    if not colour:
        return images
    grey = images.mean(1, keepdim=True)
    strength = torch.where(uniform(0, 1) < 0.2, torch.zeros(n), uniform(0.6, 1.4))[:, None, None, None]
    images = grey + strength * (images - grey)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + uniform(0.6, 1.4, 1, 1, 1) * (images - mean)
    return (images * uniform(0.6, 1.4, 1, 1, 1) * uniform(0.9, 1.1, 3, 1, 1)).clamp(0, 1)


def read_out(module: nn.Module, images: Tensor, labels: Tensor, spec: ik.ImageSpec) -> None:
    """Fit the linear layer on the features of labelled images, and nothing else."""
    linear, module.linear = module.linear, nn.Identity()
    given = in_batches(lambda x: module(spec.normalise(x)), images, 500, "cpu")
    mean, std = given.mean(0), given.std(0) + 1e-6
    weight = torch.zeros(len(CLASSES), given.shape[1], requires_grad=True)
    bias = torch.zeros(len(CLASSES), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = F.linear((given - mean) / std, weight, bias)
        loss = F.cross_entropy(logits, labels) + 1e-3 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        linear.weight.copy_(weight / std)
        linear.bias.copy_(bias - (weight / std) @ mean)
    module.linear = linear


def shown(images: Tensor, labels: Tensor) -> Tensor:
    """The first image of each class that is shown."""
    return images[[labels.tolist().index(label) for label in SHOWN]]


if __name__ == "__main__":
    command_line(features)
