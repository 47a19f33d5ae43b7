"""What the book's own pages need: the runner of notebooks, its parameters, claims, recorded runs."""

from invkit.book.ledger.claims import Claims, load_claims
from invkit.book.numbers import over_seeds
from invkit.book.parameters import check_parameters
from invkit.book.record_file import record
from invkit.book.recorded import load_recorded, show_recorded
from invkit.book.statements import check
from invkit.book.sweep import checkpoint, measure

__all__ = [
    "Claims",
    "check",
    "check_parameters",
    "checkpoint",
    "load_claims",
    "load_recorded",
    "measure",
    "over_seeds",
    "record",
    "show_recorded",
]
