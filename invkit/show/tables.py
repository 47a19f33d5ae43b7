"""Small tables of measured numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.io.formats.style import Styler


def table(
    rows: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]], digits: int = 3, corner: str = "images"
) -> Styler:
    """One row per name, one column per score, numbers to ``digits`` places; ``corner`` heads the names.

    A row that is a list of such mappings, one for each seed, is told as mean ± standard deviation. Raises
    ``ValueError`` where there are no rows, or a list is empty.
    """
    if not rows:
        raise ValueError("table was given no rows")
    told = {k: dict(v) if isinstance(v, Mapping) else _over_seeds(k, v, digits) for k, v in rows.items()}
    frame = pd.DataFrame.from_dict(told, orient="index")
    frame = frame.rename_axis(corner).reset_index()
    return frame.style.hide(axis="index").format(precision=digits, na_rep="–").set_table_attributes('class="dataframe"')


def _over_seeds(name: str, rows: Sequence[Mapping[str, Any]], digits: int) -> dict[str, str]:
    if not rows:
        raise ValueError(f"table: row {name!r} is an empty list")
    columns = {key: np.array([row[key] for row in rows], float) for key in rows[0]}
    return {key: f"{v.mean():.{digits}f}" + _spread(v, digits) for key, v in columns.items()}


def _spread(values: NDArray[np.float64], digits: int) -> str:
    return f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
