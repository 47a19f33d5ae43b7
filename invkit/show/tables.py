"""Small tables of measured numbers."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.io.formats.style import Styler

# Scores as the field writes them, by the keys that runs have for them.
SCORES = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "auroc": "AUROC", "frechet": "Fréchet"}
KEY = re.compile(rf"\b({'|'.join(SCORES)})\b|^tv$")
MINUS = re.compile(r"(?<![\w.-])-(?=\.?\d)|(?<=\de)-(?=\d)")


def table(
    rows: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]], digits: int | None = None,
    corner: str = "images",
) -> Styler:  # fmt: skip
    """A table with one row per name and one column per score.

    Args:
        rows: By name a mapping from scores to numbers or texts, or a list of such mappings, one for each seed, which
            is shown as mean ± standard deviation. Names and heads are written as by :func:`heading`.
        digits: Digits after the point; by default three in a column of numbers below ten, and one fewer for each
            further digit before the point.
        corner: Heading of the names.

    Returns:
        A styled data frame, which a notebook shows as HTML.

    Raises:
        ValueError: Where there are no rows, or a list is empty.

    >>> table({"ours": [{"psnr": 20.0}, {"psnr": 22.0}]}).data["psnr"][0]
    '21.00 ± 1.41'
    """
    if not rows:
        raise ValueError("table was given no rows")
    if empty := [name for name, row in rows.items() if not isinstance(row, Mapping) and not row]:
        raise ValueError(f"table: row {empty[0]!r} is an empty list")
    lists = {name: [row] if isinstance(row, Mapping) else list(row) for name, row in rows.items()}
    columns = list(dict.fromkeys(column for row in lists.values() for column in row[0]))
    places = {column: _places(lists, column) if digits is None else digits for column in columns}
    texts = {name: {key: _text(row, key, places[key]) for key in row[0]} for name, row in lists.items()}
    frame = pd.DataFrame.from_dict(texts, orient="index", columns=columns)
    frame = frame.rename_axis(corner).reset_index()
    style = frame.style.hide(axis="index").format(na_rep="–").format(heading, subset=[corner])
    style = style.format_index(heading, axis="columns")
    return style.set_table_attributes('class="dataframe"')


def heading(name: str) -> str:
    """The name of a column or a row with its scores as the field writes them.

    >>> heading("psnr to another"), heading("photographs, frechet"), heading("tv"), heading("own")
    ('PSNR to another', 'photographs, Fréchet', 'roughness', 'own')
    """
    return KEY.sub(lambda key: SCORES.get(key[0], "roughness"), str(name))


def signed(text: str) -> str:
    """The same with a minus before negative numbers and exponents, at which no line breaks, as it may at a hyphen.

    >>> signed("-10 points, p 1.6e-12, pre-trained, ages 3-5, 2026-12-02")
    '−10 points, p 1.6e−12, pre-trained, ages 3-5, 2026-12-02'
    """
    return MINUS.sub("−", text)


def _text(seeds: Sequence[Mapping[str, Any]], column: str, places: int) -> str:
    """A cell: a text as it is, a whole number too, another number with so many digits after the point."""
    first = seeds[0][column]
    if len(seeds) == 1 and not isinstance(first, (float, np.floating)):
        return "–" if first is None else str(first)
    values = np.array([row[column] for row in seeds], float)
    return "–" if np.isnan(values).any() else f"{values.mean():.{places}f}{_spread(values, places)}"


def _places(lists: Mapping[str, Sequence[Mapping[str, Any]]], column: str) -> int:
    """How many digits after the point show about three of the largest number of a column."""
    numbers = [row[column] for seeds in lists.values() for row in seeds if column in row]
    sizes = [abs(float(v)) for v in numbers if isinstance(v, (int, float, np.number)) and np.isfinite(v)]
    whole = len(f"{max(sizes, default=0.0):.0f}")
    return max(0, 4 - whole)


def _spread(values: NDArray[np.float64], digits: int) -> str:
    return f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""


def table_body(
    rows: Mapping[str, Mapping[str, Any]] | Iterable[tuple[str, Mapping[str, Any]]], corner: str = ""
) -> str:
    """Head and body of an HTML table for pages that no notebook makes; what is no number or text is shown as one.

    Args:
        rows: The texts of the columns of each; a column may be missing in some rows, and one without a name has no
            heading.
        corner: Heading of the names.

    Returns:
        What stands between ``<table>`` and ``</table>``.

    >>> table_body({"ours": {"PSNR": 20}}).partition("</thead>")[2]
    '<tbody><tr><th scope="row">ours</th><td>20</td></tr></tbody>'
    """
    pairs = list(rows.items() if isinstance(rows, Mapping) else rows)
    columns = list(dict.fromkeys(column for _, row in pairs for column in row))
    first = f'<th scope="col">{html.escape(corner)}</th>' if corner else "<td></td>"
    heads = "".join(f'<th scope="col">{html.escape(heading(column))}</th>' for column in columns)
    head = f"<thead><tr>{first}{heads}</tr></thead>" if corner or any(columns) else ""
    lines = []
    for name, row in pairs:
        cells = "".join(f"<td>{html.escape(str(row.get(column, '')), quote=False)}</td>" for column in columns)
        lines.append(f'<tr><th scope="row">{html.escape(heading(name))}</th>{cells}</tr>')
    return f"{head}<tbody>{''.join(lines)}</tbody>"


def separate_tables(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """HTML tables of rows, as few as leave no two rows together that are measured by nothing in common.

    Rows that share a column, directly or by way of others, stay together, in the order of the first of each.

    >>> rows = {"teacher": {"accuracy": 1}, "round 1": {"bits": 0.5}, "student": {"accuracy": 0}}
    >>> separate_tables(rows).count("<table>")
    2
    """
    families: list[tuple[set[str], list[str]]] = []  # columns, and the names of the rows that have some of them
    for name, row in rows.items():
        alike = [family for family in families if not family[0].isdisjoint(row)]
        apart = [family for family in families if family[0].isdisjoint(row)]
        columns = set(row).union(*(family[0] for family in alike))
        names = [other for family in alike for other in family[1]] + [name]
        families = [*apart, (columns, names)]
    together = [{name: row for name, row in rows.items() if name in names} for _, names in families]
    together.sort(key=lambda part: list(rows).index(next(iter(part))))
    return "".join(f"<table>{table_body(part)}</table>" for part in together)
