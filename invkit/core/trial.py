"""Trial runs: training and inversion end after a few steps, so that a long run is known to reach its last line."""

from __future__ import annotations

import os

TRIAL = "INVKIT_TRIAL"
"""The environment variable with the most steps that a loop takes; without it, or empty, there is no limit."""


def is_trial() -> bool:
    """Whether loops are cut short: what they leave may not be kept.

    >>> is_trial()
    False
    """
    return bool(os.environ.get(TRIAL, "").strip())


def in_trial(steps: int) -> int:
    """``steps``, or in a trial run at most as many as the environment variable :data:`TRIAL` says.

    Raises:
        ValueError: If the variable is no whole number of at least 1.

    >>> in_trial(3000)
    3000
    """
    text = os.environ.get(TRIAL, "").strip()
    if not text:
        return steps
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{TRIAL} should be a whole number of steps, at least 1, not {text!r}")
    return min(steps, int(text))
