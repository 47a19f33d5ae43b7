"""One report on a network of one's own: what it has learnt, and what it gives away.

>>> from invkit.report import open_report
>>> report = open_report("invkit/bn_cnn", "none", spec=str(_spec), least=True)  # doctest: +SKIP
>>> report.run().write("report.html")  # doctest: +SKIP

``python -m invkit.report --help`` does the same from a shell.
"""

from invkit.report.case import Case
from invkit.report.contestants import Contestant, feature_contestants, label_contestants, load_method, named
from invkit.report.images import Pair, Pictures, open_images
from invkit.report.network import Opened, open_network
from invkit.report.report import SECTIONS, Report, open_report
from invkit.report.section import Section

__all__ = [
    "SECTIONS",
    "Case",
    "Contestant",
    "Opened",
    "Pair",
    "Pictures",
    "Report",
    "Section",
    "feature_contestants",
    "label_contestants",
    "load_method",
    "named",
    "open_images",
    "open_network",
    "open_report",
]
