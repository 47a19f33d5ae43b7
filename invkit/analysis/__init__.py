"""What an inversion tells of a network: comparisons, probes of logits, planes and codes of features."""

from invkit.analysis import logits
from invkit.analysis.compare import Comparison, Run, compare
from invkit.analysis.feature_space import FeaturePlane, Regions, cluster_counts, decision_regions, tsne
from invkit.analysis.grid import best_row, grid_points, grid_search, local_maxima
from invkit.analysis.logit_probe import LogitProbe
from invkit.analysis.seed_rows import Lead, SeedRows
from invkit.analysis.sparse_autoencoder import (
    SparseAutoencoder,
    SparseAutoencoderConfig,
    code_overlap,
    sparse_autoencoder,
)
from invkit.analysis.tune import Tuned, tune
from invkit.analysis.weight_equation import HiddenLayer, Solution, solve_for_images, train_to_the_end

__all__ = [
    "Comparison",
    "FeaturePlane",
    "HiddenLayer",
    "Lead",
    "LogitProbe",
    "Regions",
    "Run",
    "SeedRows",
    "Solution",
    "SparseAutoencoder",
    "SparseAutoencoderConfig",
    "Tuned",
    "best_row",
    "cluster_counts",
    "code_overlap",
    "compare",
    "decision_regions",
    "grid_points",
    "grid_search",
    "local_maxima",
    "logits",
    "solve_for_images",
    "sparse_autoencoder",
    "train_to_the_end",
    "tsne",
    "tune",
]
