"""What is minimised: losses, image priors, the batch-norm penalty, and an objective put together from them."""

from invkit.objectives import losses, priors
from invkit.objectives.batch_norm import BatchNormPenalty
from invkit.objectives.ensemble import Ensemble
from invkit.objectives.hooked_penalty import hooked_penalty
from invkit.objectives.moments import Moments, batch_statistics
from invkit.objectives.objective import Batch, Gradient, Objective, Term

__all__ = [
    "Batch",
    "BatchNormPenalty",
    "Ensemble",
    "Gradient",
    "Moments",
    "Objective",
    "Term",
    "batch_statistics",
    "hooked_penalty",
    "losses",
    "priors",
]
