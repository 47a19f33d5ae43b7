"""Small tables of measured numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler


def table(rows: Mapping[str, Mapping[str, Any]], digits: int = 3, corner: str = "images") -> Styler:
    """One row per name, one column per score, numbers to ``digits`` places; ``corner`` heads the names.

    Raises ``ValueError`` where there are no rows.
    """
    if not rows:
        raise ValueError("table was given no rows")
    frame = pd.DataFrame.from_dict({k: dict(v) for k, v in rows.items()}, orient="index")
    frame = frame.rename_axis(corner).reset_index()
    return frame.style.hide(axis="index").format(precision=digits, na_rep="–").set_table_attributes('class="dataframe"')
