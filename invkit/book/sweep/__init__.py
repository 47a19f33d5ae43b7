"""A grid of runs on a cluster: its cells, the jobs that run them, and the table that gathers their numbers.

A notebook in a cell hands numbers over by :func:`measure` and keeps its place over a preemption by :func:`checkpoint`.
"""

from invkit.book.sweep.table import checkpoint, measure

__all__ = ["checkpoint", "measure"]
