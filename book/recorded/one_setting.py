"""Repeat the recorded runs of DeepInversion with one setting for every network: its defaults.

    INVKIT_DATA=FOLDER python book/recorded/one_setting.py cifar10
    INVKIT_DATA=FOLDER python book/recorded/one_setting.py small
    INVKIT_DATA=FOLDER python book/recorded/one_setting.py weights
    INVKIT_DATA=FOLDER python book/recorded/one_setting.py batches
    INVKIT_DATA=FOLDER python book/recorded/one_setting.py imagenet --target imagenet_efficientnet_lite0
    INVKIT_DATA=FOLDER python book/recorded/one_setting.py imagenet --target imagenet_tinydarknet
    INVKIT_DATA=FOLDER python book/recorded/one_setting.py methods --target imagenet_efficientnet_lite0
    INVKIT_DATA=FOLDER python book/recorded/one_setting.py methods --target imagenet_tinydarknet

No option of the method is set but in the rows that say so. ``FOLDER`` holds ``mnist.npz``, ``cifar10_4600.npz``,
``imagenet_photos/``, ``weights/`` and ``networks.py`` with the source of the networks that are not in the package.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run
from invkit.data.images import load_image, quantise
from invkit.metrics import accuracy, roughness

CIFAR = {"ResNet-20": "cifar10_resnet20", "ResNet-44": "cifar10_resnet44"}
ROBUST = "cifar10_resnet4b_robust"
IMAGENET = {
    "EfficientNet-Lite2": "imagenet_efficientnet_lite2",
    "SqueezeNet": "imagenet_squeezenet1_0",
    "Tiny Darknet": "imagenet_tinydarknet",
    "EfficientNet-Lite0": "imagenet_efficientnet_lite0",
}
# Classes of ImageNet that people can name, the first of which are shown.
CLASSES = (
    "volcano", "jay", "daisy", "goldfish", "flamingo", "pineapple", "school bus", "castle", "zebra", "monarch",
    "balloon", "strawberry", "giant panda", "pirate", "king penguin", "peacock", "Tibetan terrier", "tiger", "lemon",
    "fire engine", "red fox", "golden retriever", "tabby", "bald eagle", "African elephant", "sea anemone", "pizza",
    "cheeseburger", "jack-o'-lantern", "steam locomotive", "sports car", "tractor",
)  # fmt: skip


def ring(images: Tensor) -> float:
    """Mean brightness of the outermost pixels: a frame would show as a difference from that of real images."""
    inner = F.pad(torch.zeros(images.shape[-2] - 2, images.shape[-1] - 2), (1, 1, 1, 1), value=1).bool()
    return float(images.mean(1)[:, inner].mean())


def peak_memory() -> float:
    """The most that the process held so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def default(target: ik.Target, labels: Tensor, seed: int, smoke: bool, **changes: Any) -> Tensor:
    """Images by the defaults of DeepInversion, but for the ``changes``."""
    if smoke:
        changes |= {"steps": 1, "low_resolutions": ((0.5, 1),)}
    config = ik.DeepInversionConfig(**changes)
    return ik.deep_inversion(target, labels, config, generator=ik.seeded(seed)).images


@recorded_run(data=True, smoke={"images": 10, "seeds": 2, "real": 40})
def cifar10(run: Run, *, images: int = 64, seeds: int = 3, real: int = 600) -> None:
    """Two published networks for CIFAR-10, judged by each other and by a robust one; the report's setting beside."""
    data = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}")
    labels = torch.arange(images) % 10
    shown: dict[str, Tensor] = {}
    for name, file in CIFAR.items():
        target = run.network(file)
        verifiers = {other: run.network(f) for other, f in CIFAR.items() if other != name}
        judge = ik.Judge(
            target=target, verifiers=verifiers | {"robust net": run.network(ROBUST)}, real=data.test.images[:real]
        )
        methods: dict[str, Callable[[int], Tensor]] = {
            name: lambda seed, t=target: default(t, labels, seed, run.quick),
            f"{name}, report's setting": lambda seed, t=target: reported(t, labels, seed, run.quick),
        }
        for row, method in methods.items():
            for seed in range(seeds if row == name else 1):
                start = time.perf_counter()
                made = method(seed)
                seconds, memory = time.perf_counter() - start, peak_memory()
                scores = judge(made, labels)
                others = {"other ResNet": scores[next(iter(verifiers))], "robust net": scores["robust net"]}
                keys = {"own": scores["own"], **others, "Fréchet": scores["frechet"], "roughness": scores["tv"]}
                run.row(row, keys | {"ring": ring(quantise(made)), "seconds": seconds, "GiB": memory})
                shown.setdefault(row, made)
    genuine = data.heldout.per_class(-(-images // 10)).images
    order = torch.arange(len(genuine)).view(10, -1).T.flatten()[:images]
    genuine = genuine[order]
    scores = judge(genuine, labels)
    others = {"other ResNet": scores["ResNet-20"], "robust net": scores["robust net"]}
    keys = {"own": scores["own"], **others, "Fréchet": scores["frechet"], "roughness": scores["tv"]}
    run.row("real images", keys | {"ring": ring(genuine)})
    figure = show.image_rows(
        shown | {"real images": genuine},
        [target.spec.classes[int(y)] for y in labels[:10]],
        columns=10,
        numbers={row: f"{run.mean(row, 'robust net'):.0%}" for row in (*shown, "real images")},
        numbers_name="robust net",
    )
    run.record(
        "one_setting_cifar10",
        title=f"DeepInversion with its defaults: two networks for CIFAR-10, {images} images each",
        config={"defaults": ik.DeepInversionConfig(), "report": ik.DeepInversionConfig.paper(**SHORT)},
        seeds=seeds,
        claims=("di.verifier",),
        figure=figure,
        note=f"Scores after rounding to 8 bits. The report's setting is that of its ImageNet networks, one seed and "
        f"{SHORT['steps']} steps of its 20,000, with jitter in proportion. Fréchet distance to {real} test images in "
        "the other ResNet's features.",
    )


# Full-size steps that take as long as the default's 200 at half the size and 400 at the full one.
EQUAL_TIME = 450
# The report's setting at about the cost of ours; its jitter of 30 in 224 pixels is kept in proportion.
SHORT: dict[str, Any] = {"steps": 400, "jitter": 30 / 224}


def reported(target: ik.Target, labels: Tensor, seed: int, smoke: bool, **changes: Any) -> Tensor:
    """Images by the report's published setting, in its own units, with fewer steps."""
    config = ik.DeepInversionConfig.paper(**SHORT | changes | ({"steps": 1} if smoke else {}))
    return ik.deep_inversion(target, labels, config, generator=ik.seeded(seed)).images


@recorded_run(data=True, smoke={"images": 10, "seeds": 1, "training": 2})
def small(run: Run, *, images: int = 60, seeds: int = 3, training: int = 500) -> None:
    """Networks trained here for the built-in digits and for MNIST, judged by a residual network."""
    shown = {}
    for name, source in {"digits": "digits", "MNIST": f"npz:{run.data / 'mnist.npz'}"}.items():
        target, verifier, data = trained(run, source, training)
        labels = torch.arange(images) % 10
        for seed in range(seeds):
            start = time.perf_counter()
            made = default(target, labels, seed, run.quick)
            seconds = time.perf_counter() - start
            made = quantise(made)
            run.row(name, recognised(made, labels, target, {"verifier": verifier}) | {"seconds": seconds})
            shown.setdefault(name, F.interpolate(made, (28, 28), mode="nearest"))
        real = data.heldout.images[:600] if len(data.heldout) else data.test.images[:600]
        truth = data.heldout.labels[:600] if len(data.heldout) else data.test.labels[:600]
        run.row(f"{name}, real images", recognised(real, truth, target, {"verifier": verifier}))
    run.record(
        "one_setting_small",
        title=f"DeepInversion with its defaults: networks for digits of 16 pixels and for MNIST, {images} images each",
        config=ik.DeepInversionConfig(),
        seeds=seeds,
        figure=show.image_rows(
            shown, [str(k) for k in range(10)], columns=10,
            numbers={row: f"{run.mean(row, 'verifier'):.0%}" for row in shown}, numbers_name="verifier",
        ),
        note="The verifier is a residual network of another seed. Images are mirrored half of the time, as by "
        "default, though digits are not.",
    )  # fmt: skip


def trained(run: Run, source: str, steps: int) -> tuple[ik.Target, ik.Target, ik.DataSet]:
    """A network to invert, another that judges it, and the data of both."""
    data = ik.load_data(source)
    options = {"steps": steps, "warmup": 0} if run.quick else {"steps": steps}
    target = ik.load_or_train("bn_cnn", data, ik.ClassifierConfig.for_network("bn_cnn", **options))
    config = ik.ClassifierConfig.for_network("resnet20", **options)
    return target, ik.load_or_train("resnet20", data, config, width=8, seed=1), data


def recognised(
    images: Tensor, labels: Tensor, target: ik.Target, verifiers: Mapping[str, ik.Target]
) -> dict[str, float]:
    """Shares of the images that the network itself and others recognise, and how rough they are."""
    own = accuracy(target, images, labels)["top1"]
    return {
        "own": own,
        **{n: accuracy(v, images, labels)["top1"] for n, v in verifiers.items()},
        "roughness": roughness(images),
    }


@dataclass(frozen=True)
class Case:
    """A network to invert and the network that judges it, with the labels to ask for and the seeds to take."""

    target: ik.Target
    verifier: ik.Target
    labels: Tensor
    seeds: int

    def scores(self, images: Tensor) -> dict[str, float]:
        """How the verifier reads the images, rounded to 8 bits, and how rough the worst of them is."""
        images = quantise(images)
        seen = at_size(images, self.verifier)
        with torch.no_grad():
            probabilities = torch.cat([self.verifier(part).softmax(1) for part in seen.split(16)])
        of_label = probabilities[torch.arange(len(images)), self.labels]
        each = torch.tensor([roughness(image[None]) for image in images])
        return {
            "verifier": float((probabilities.argmax(1) == self.labels).double().mean()),
            "probability": float(of_label.mean()),
            "roughness": float(each.mean()),
            "worst / mean roughness": float(each.max() / each.mean()),
        }


def cases(run: Run, training: int, seeds: int) -> dict[str, Case]:
    """Six networks: two trained here, four published ones."""
    found: dict[str, Case] = {}
    twenty = torch.arange(20) % 10
    for name, source in {"digits": "digits", "MNIST": f"npz:{run.data / 'mnist.npz'}"}.items():
        target, verifier, _ = trained(run, source, training)
        found[name] = Case(target, verifier, twenty, seeds)
    for name, file in CIFAR.items():
        other = next(f for f in CIFAR.values() if f != file)
        found[name] = Case(run.network(file), run.network(other), twenty, seeds)
    judge = run.network("imagenet_efficientnet_lite2")
    for name in ("Tiny Darknet", "EfficientNet-Lite0"):
        target = run.network(IMAGENET[name])
        labels = torch.tensor([target.spec.classes.index(c) for c in CLASSES[: 2 if run.quick else 8]])
        found[name] = Case(target, judge, labels, 1)
    return found


# Half a minute on CIFAR's networks. Fewer steps than by default: many of them would hide what the weight does.
BRIEF: dict[str, Any] = {"steps": 80, "low_resolutions": ((0.5, 60),)}
FORMS: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {
    "relative": ({}, (1.0, 3.0, 10.0, 30.0, 100.0)),
    "relative, batch alone": ({"per_image": 0.0}, (1.0, 10.0, 100.0)),
    "norm": ({"form": "norm", "per_image": 0.0}, (1e-3, 1e-2, 1e-1, 1.0, 10.0)),
}


@recorded_run(data=True, smoke={"seeds": 1, "training": 2})
def weights(run: Run, *, seeds: int = 3, training: int = 500) -> None:
    """The penalty's weight over two decades and more, in three forms, on six networks."""
    for name, case in cases(run, training, seeds).items():
        for form, (changes, tested) in FORMS.items():
            for weight in tested[:: 4 if run.quick else 1]:
                for seed in range(case.seeds):
                    options = BRIEF | changes | {"batch_norm": weight}
                    made = default(case.target, case.labels, seed, run.quick, **options)
                    run.row(f"{name} | {form} | {weight:g}", case.scores(made))
    run.record(
        "one_setting_weights",
        title="How the penalty's weight matters: six networks, three forms, 60 + 80 steps",
        seeds=seeds,
        config=ik.DeepInversionConfig(**BRIEF),
        note=f"All else as by default; {seeds} seeds and 20 images each, one seed and 8 classes at 224 pixels. The "
        "verifier is another network: a small ResNet for digits, the other ResNet for CIFAR-10, EfficientNet-Lite2 for "
        "ImageNet.",
    )


@recorded_run(data=True, smoke={"seeds": 1})
def batches(run: Run, *, seeds: int = 3) -> None:
    """From one image to 256 in a batch: no image is given up as noise for the others' sake."""
    target, verifier = (run.network(file) for file in CIFAR.values())
    for size in (1, 2) if run.quick else (1, 8, 32, 128, 256):
        labels = torch.arange(size) % 10
        case = Case(target, verifier, labels, seeds)
        for form, changes in {"relative": {}, "relative, batch alone": {"per_image": 0.0}}.items():
            for seed in range(seeds if size < 200 else 1):
                images = default(target, labels, seed, run.quick, **BRIEF | changes)
                run.row(f"{form}, batch of {size}", case.scores(images))
    run.record(
        "one_setting_batches",
        title="DeepInversion from one image to 256 in a batch, ResNet-20 for CIFAR-10, 60 + 80 steps",
        seeds=seeds,
        config=ik.DeepInversionConfig(**BRIEF),
        note="All else as by default. The verifier is ResNet-44. An image given up as noise would be several times as "
        "rough as the mean of its batch.",
    )


# Plug-In Inversion as in chapter 3's run on three networks; more copies were recognised more often there.
PLUG_IN: dict[str, Any] = {"ensemble": 2, "steps": 100, "lr": 0.03, "tv": 0.02, "bf16": True}
# DeepDream with the most that could be seen of four classes that are not shown, of two dozen settings tried on Tiny
# Darknet: without jitter it is grain at any weight of smoothness.
DREAM: dict[str, Any] = {"lr": 0.1, "tv": 1.0, "jitter": 32}
FEW: dict[str, Any] = {"steps": 60, "low_resolutions": ((0.5, 60),)}


@dataclass
class Bench:
    """A network for ImageNet with its judges, and what every way has made of it so far."""

    run: Run
    name: str
    network: ik.Target
    judges: dict[str, ik.Target]
    labels: Tensor
    images: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, target: str, classes: int) -> Bench:
        """The bench of a network, asked for the first classes."""
        name = next(title for title, file in IMAGENET.items() if file == target)
        network = run.network(target)
        labels = torch.tensor([network.spec.classes.index(c) for c in CLASSES[:classes]])
        judges = {title: run.network(file) for title, file in IMAGENET.items() if file != target}
        return cls(run, name, network, judges, labels)

    def add(self, row: str, method: Callable[[], Tensor]) -> None:
        """One way's images, their scores, and what they cost."""
        start = time.perf_counter()
        made = method()
        spent = (time.perf_counter() - start) / 60
        self.images[row] = quantise(made)
        self.run.row(row, self.judged(self.images[row]) | {"minutes": spent, "GiB": peak_memory()})

    def judged(self, images: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """What the network and its judges make of the images."""
        return judged(images, self.labels if labels is None else labels, self.network, self.judges)


@recorded_run(data=True, smoke={"classes": 2, "columns": 2})
def imagenet(run: Run, *, target: str = "imagenet_efficientnet_lite0", classes: int = 32, columns: int = 4) -> None:
    """A network for ImageNet at 224 pixels by DeepInversion's defaults."""
    bench = Bench.of(run, target, classes)
    bench.add("DeepInversion", lambda: default(bench.network, bench.labels, 0, run.quick))
    picture(run, bench.name, bench.images["DeepInversion"], columns)


@recorded_run(data=True, smoke={"classes": 2})
def methods(run: Run, *, target: str = "imagenet_efficientnet_lite0", classes: int = 10) -> None:
    """Five ways to the same classes of a network for ImageNet, as many images in every batch."""
    bench = Bench.of(run, target, classes)
    bench.add("DeepInversion", lambda: default(bench.network, bench.labels, 0, run.quick))
    ways(bench, target)


def ways(bench: Bench, target: str) -> None:
    """The four other ways after DeepInversion, and the record of all five."""
    run, network, labels, quick = bench.run, bench.network, bench.labels, bench.run.quick
    plug_in = ik.PlugInConfig(**PLUG_IN | ({"steps": 1, "stages": 1, "bf16": False} if quick else {}))
    dream = ik.DeepDreamConfig(steps=1 if quick else EQUAL_TIME, **DREAM)
    generator = ik.seeded(0)
    bench.add("Plug-In Inversion", lambda: ik.plug_in_inversion(network, labels, plug_in, generator=generator).images)
    bench.add("then DeepInversion", lambda: refined(network, labels, bench.images["Plug-In Inversion"], quick, **FEW))
    bench.add("DeepDream", lambda: ik.class_inversion(network, labels, dream, generator=ik.seeded(0)).images)
    bench.add("DeepInversion, report's setting", lambda: reported(network, labels, 0, quick, steps=EQUAL_TIME))
    run.row("photographs", bench.judged(*photographs(run, network)))
    run.record(
        f"one_setting_{target.removeprefix('imagenet_')}_methods",
        title=f"{bench.name} at 224 pixels: five ways side by side, {len(labels)} classes",
        config={
            "DeepInversion": ik.DeepInversionConfig(),
            "Plug-In Inversion": plug_in,
            "DeepDream": dream,
            "then DeepInversion": FEW,
            "DeepInversion, report's setting": ik.DeepInversionConfig.paper(**SHORT | {"steps": EQUAL_TIME}),
        },
        # Drawn twice as sharp as the screen, so half the size keeps every pixel.
        figure=show.image_rows(bench.images, list(CLASSES[: len(labels)]), columns=len(labels), scale=0.5),
        photographs=True,
        note=f"One seed. Each way made its {len(labels)} images in one batch. DeepDream and the report's setting took "
        "as many steps as DeepInversion, counted at full size. Top-1 and top-5 of networks that took no part, after "
        "rounding to 8 bits. The photographs, some of other classes and not shown, may have been training images.",
    )


def refined(network: ik.Target, labels: Tensor, start: Tensor, smoke: bool, **changes: Any) -> Tensor:
    """DeepInversion from given images, with fewer steps."""
    changes |= {"steps": 1, "low_resolutions": ()} if smoke else {}
    return ik.deep_inversion(
        network, labels, ik.DeepInversionConfig(**changes), init=start, generator=ik.seeded(1)
    ).images


def at_size(images: Tensor, network: ik.Target) -> Tensor:
    """The images at the size that the network takes."""
    size = network.spec.size
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)


def judged(images: Tensor, labels: Tensor, network: ik.Target, judges: Mapping[str, ik.Target]) -> dict[str, float]:
    """What the network itself and the judges, each at its own size, make of the images."""
    scores = {"own": accuracy(network, images, labels, batch_size=16)["top1"]}
    for title, judge in judges.items():
        rates = accuracy(judge, at_size(images, judge), labels, batch_size=16)
        scores |= {f"{title} top-1": rates["top1"], f"{title} top-5": rates["top5"]}
    return scores | {"roughness": roughness(images)}


def photographs(run: Run, network: ik.Target) -> tuple[Tensor, Tensor]:
    """Real photographs of the classes, or the first of others where there is none, and their labels."""
    files = {
        f.stem.partition("_")[2].replace("_", " "): f for f in sorted((run.data / "imagenet_photos").glob("*.jpg"))
    }
    names = [c for c in CLASSES if c in files] + [c for c in files if c not in CLASSES]
    names = names[: 2 if run.quick else 64]
    labels = torch.tensor([network.spec.classes.index(c) for c in names])
    return torch.cat([load_image(files[c], size=network.spec.size) for c in names]), labels


def picture(run: Run, name: str, images: Tensor, columns: int) -> None:
    """The images at full size, and the first nine for the front page, as records of their own as soon as they exist."""
    file = next(file for title, file in IMAGENET.items() if title == name).removeprefix("imagenet_")
    for record, shown, across in (f"one_setting_{file}_front", 9, 3), (f"one_setting_{file}", len(images), columns):
        first = images[:shown]
        labels = list(CLASSES[: len(first)])
        figure = show.image_grid(first, labels, columns=across, scale=208 / images.shape[-1], pixelated=False)
        run.record(
            record,
            title=f"What {name} has learnt: DeepInversion with its defaults, {len(images)} classes in one batch",
            config=ik.DeepInversionConfig(),
            figure=figure,
            photographs=True,
            note=f"{'All' if len(first) == len(images) else 'The first'} {len(first)} of the batch. One seed.",
        )


if __name__ == "__main__":
    command_line(cifar10, small, weights, batches, imagenet, methods)
