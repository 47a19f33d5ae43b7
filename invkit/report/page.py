"""A report as one HTML file that needs nothing else: no script, no request, pictures inside."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import invkit
from invkit.core.files import atomic_path
from invkit.report.case import Case
from invkit.report.section import Section, table_html, written

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5b6470; --line: #d5dae0; --card: #f5f7f9; --link: #0b57d0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --soft: #a8b0ba; --line: #3a4149; --card: #1f242a; --link: #8ab4f8; }
  .inv-chart img { filter: invert(.93) hue-rotate(180deg); }
}
body { font: 1rem/1.55 system-ui, sans-serif; color: var(--ink); max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { margin-top: 2.6rem; font-size: 1.3rem; }
h3 { font-size: 1rem; margin-bottom: .3rem; } a { color: var(--link); }
.summary { background: var(--card); border-left: 4px solid var(--link); padding: .6rem 1rem; }
.summary li { margin: .45rem 0; } .soft, figcaption { color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: top; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; background: #fff; }
@media print { body { max-width: none; } h2 { break-after: avoid; } figure, table { break-inside: avoid; } }
"""
LIMITS = (
    "A report looks for what these methods find within its time. That a section finds nothing does not show that "
    "nothing is there: an attacker with more time, more data or another method may find it. Intervals are of 95% "
    "and cover the images; those that say so cover networks trained anew. Images drawn from the weights show what the "
    "network answers to, and are no photographs of anyone."
)
CARE = (
    "Invert networks that you own or may test. Drawn images and nearest training images may show people or "
    "confidential things: treat this file as you would the training images themselves, and tell those whose data leak "
    "before you tell others."
)


def write_page(
    path: str | Path,
    case: Case,
    sections: Mapping[str, Section],
    summary: Sequence[str],
    notes: Sequence[str],
    cost: Mapping[str, Mapping[str, Any]],
) -> Path:
    """Write the page; ``OSError`` where that cannot be done, and then an older one stays.

    Args:
        path: The file.
        case: The network.
        sections: By name, in order.
        summary: Sentences for the top.
        notes: What was noticed on opening.
        cost: Seconds by section.

    Returns:
        The path.
    """
    path = Path(path)
    name = html.escape(case.target.name)
    parts = [
        f"<h1>What {name} has learnt, and what it gives away</h1>",
        f'<p class="soft">{time.strftime("%Y-%m-%d")} · invkit {invkit.__version__} · torch {torch.__version__} · '
        f"network {case.target.fingerprint()} · seed {case.seed}</p>",
        '<section class="summary" aria-label="Summary"><ul>',
        *(f"<li>{written(sentence)}</li>" for sentence in summary),
        "</ul></section>",
        *(f"<p>{written(note)}</p>" for note in notes),
        f"<p>{written(given(case))}</p>",
        *(_headed(section) for section in sections.values()),
        "<h2>Cost and limits</h2>",
        table_html(cost),
        f"<p>{LIMITS}</p><h2>Responsible use</h2><p>{CARE}</p>",
    ]
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>{name}: a report</title><style>{STYLE}</style></head>'
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def given(case: Case) -> str:
    """What the report had to go on, and what more would add."""
    train, heldout = case.pair.train, case.pair.heldout
    had = ["the weights"]
    if train is not None:
        had.append(f"{len(train):,} training images")
    if heldout is not None:
        had.append(f"{len(heldout):,} held-out images")
    if case.judge is not None:
        had.append(f"the judge {case.judge.name}")
    missing = []
    if train is None:
        missing.append("training images would show whether it leaks them, and what would help")
    if heldout is None:
        missing.append("images that it never saw would tell learning by heart from learning")
    if case.judge is None:
        missing.append("a judge would tell whether others see in the drawn images what the network sees")
    more = f" More could be said with more: {'; '.join(missing)}." if missing else ""
    return f"This report had {', '.join(had)}.{more}"


def _headed(section: Section) -> str:
    heading = f'<h2 id="{html.escape(section.name)}">{html.escape(section.title)}</h2>'
    return f"<section>{heading}{section.to_html()}</section>"
