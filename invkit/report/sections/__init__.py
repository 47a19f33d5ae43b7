"""The questions of a report, one file each: a function from a case and some seconds to a section."""

from invkit.report.sections.classes import classes
from invkit.report.sections.depth import depth
from invkit.report.sections.drawn import drawn
from invkit.report.sections.identity import identity
from invkit.report.sections.leak import leak
from invkit.report.sections.remedies import remedies

__all__ = ["classes", "depth", "drawn", "identity", "leak", "remedies"]
