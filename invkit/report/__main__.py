"""``python -m invkit.report NETWORK``: one HTML file on a network of one's own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from invkit.report.report import open_report


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m invkit.report", description="What a network has learnt, and what it gives away: one HTML file."
    )
    parser.add_argument("network", help="my_file:make_net, timm/NAME, torchvision/NAME or invkit/NAME")
    parser.add_argument("--weights", default="", help="safetensors, or a torch file of plain tensors")
    parser.add_argument("--data", default="", help="training images: folder:PATH, npz:PATH or a known set")
    parser.add_argument("--heldout", default="", help="images of the same origin that it never saw")
    parser.add_argument("--spec", default="", help="JSON with input, mean, std, classes (default: beside the weights)")
    parser.add_argument("--judge", default="", help="another network for the same classes")
    parser.add_argument("--judge-weights", default="", help="its weights")
    parser.add_argument("--classes", default="", help="numbers of the classes to draw, as in 3,7,12 (default: ten)")
    parser.add_argument("--minutes", type=float, default=10.0, help="time for all (default: 10)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the file (default: report.html)")
    parser.add_argument("--folder", type=Path, default=Path("build/report"), help="where finished sections are kept")
    parser.add_argument("--least", action="store_true", help="fewest steps of everything, to see that all runs")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 the file is written, 2 refused before any work."""
    given = vars(arguments().parse_args(argv))
    out, classes = given.pop("out"), given.pop("classes")
    try:
        report = open_report(**given, classes=[int(word) for word in classes.split(",") if word])
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report.run().write(out)
    print(f"report: {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
