"""A network as a chain of blocks, and the features between them."""

from invkit.partition.chain import Block, Chain, partition_network
from invkit.partition.feature_store import FeatureStore

__all__ = ["Block", "Chain", "FeatureStore", "partition_network"]
