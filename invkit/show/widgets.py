"""Sliders and buttons over pictures that work twice: live in Jupyter, and in the published page without a kernel.

A cell that ends with :class:`Frames`, :class:`Choices` or :func:`explore` puts both renderings into its output.
Jupyter shows the ipywidgets one; the book drops it and keeps the ``text/html``: an ``<input type="range">``, or
buttons, over frames that were drawn when the notebook ran. No ids, no randomness and no library are involved, so
any number of them fit on a page, and a page opened from disk works too. Without JavaScript one frame and its label
stay, with a line that says so.
"""

from __future__ import annotations

import html
import json
import warnings
from collections.abc import Callable, Sequence
from string import Formatter
from typing import Any, Self

import ipywidgets
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from invkit.show.picture import css_size, data_uri, img_tag, render_png, webp

HEAVY = 1_000_000  # bytes: a page should stay below it

# The frame in the page's source is not stored again: its address is read from the image itself. Where a page has a form
# of each frame for a phone, it stands in the <source> beside the image. A frame that cannot be loaded says so in words,
# or the one before it would pass for it.
PLACE = """(function () {
  var figure = document.currentScript.closest("figure"), image = figure.querySelector("img");
  var source = figure.querySelector("source"), readout = figure.querySelector("output");
  var frames = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
  var first = frames.find(function (frame) { return !frame.src; }), now = first;
  first.src = image.src;
  if (source) first.narrow = { src: source.srcset, width: source.width, height: source.height };
  function place(frame) {
    now = frame;
    image.width = frame.width; image.height = frame.height;
    image.src = frame.src; image.alt = frame.alt;
    if (!source) return;
    var form = frame.narrow || frame;
    source.width = form.width; source.height = form.height; source.srcset = form.src;
  }
  image.addEventListener("error", function () {
    var control = figure.querySelector("input");
    image.alt = readout.textContent = "this frame is missing: " + now.label;
    readout.hidden = false;
    if (control) control.setAttribute("aria-valuetext", image.alt);
  });
"""

SLIDER = """
  var slider = figure.querySelector("input");
  slider.addEventListener("input", function () {
    var frame = frames[+slider.value];
    place(frame);
    readout.textContent = frame.label; slider.setAttribute("aria-valuetext", frame.label);
  });
  slider.hidden = false;
})();"""

# The words of the frame that is shown stay for print, where there are no buttons.
BUTTONS = """
  var buttons = figure.querySelectorAll("button");
  buttons.forEach(function (button, index) {
    button.addEventListener("click", function () {
      place(frames[index]);
      readout.textContent = frames[index].label; readout.hidden = true;
      buttons.forEach(function (other) { other.setAttribute("aria-pressed", other === button); });
    });
    button.hidden = false;
  });
  readout.hidden = true;
})();"""


class Frames:
    """Pictures behind one slider, drawn beforehand; warns when they weigh over a megabyte.

    Args:
        frames: Encoded images, PNG or WebP.
        labels: A short read-out for each.
        alts: An alt text for each.
        title: Name of the slider.
        start: Index of the frame shown first.

    Raises:
        ValueError: If the three differ in length or hold nothing, if an alt text is empty, or for a start that is no
            frame.
    """

    def __init__(
        self, frames: Sequence[bytes], labels: Sequence[str], alts: Sequence[str], title: str, start: int = 0
    ) -> None:
        if not len(frames) == len(labels) == len(alts) > 0:
            raise ValueError(f"{len(frames)} frames, {len(labels)} labels and {len(alts)} alt texts do not match")
        if not all(alt.strip() for alt in alts):
            raise ValueError("an alt text is empty: say in a sentence what each frame shows")
        if not 0 <= start < len(frames):
            raise ValueError(f"start is {start}, but the frames are numbered 0 to {len(frames) - 1}")
        self.frames, self.labels, self.alts = list(frames), list(labels), list(alts)
        self.title, self.start = title, start
        weight = sum(map(len, frames)) * 4 // 3  # as base64
        if weight > HEAVY:
            warnings.warn(f"the frames of {title!r} weigh {weight / 1e6:.1f} MB: draw fewer or smaller", stacklevel=2)

    @classmethod
    def render(
        cls,
        draw: Callable[[Any], Figure],
        values: Sequence[Any],
        *,
        title: str,
        label: str = "{}",
        alt: str | None = None,
        start: int = 0,
    ) -> Self:
        """Frames of ``draw(value)`` for each of some values.

        Args:
            draw: Draws a figure of a value.
            values: The values.
            title: Name of the slider, or of the row of buttons.
            label: Format string of a value, as in ``"λ = {:g}"``.
            alt: The same for the alt text; that of a figure drawn by :mod:`invkit.show` follows it. Where it has no
                field for the value, the title and the frame's label stand in front: no two stops sound alike.
            start: Index of the frame shown first.

        Returns:
            The slider or the buttons, for the end of a cell.

        Raises:
            ValueError: If a figure has no alt text.

        >>> import torch
        >>> from invkit.show import image_grid
        >>> frames = Frames.render(lambda v: image_grid(torch.full((1, 1, 8, 8), v)), [0.0, 1.0], title="grey")
        >>> frames.labels
        ['0.0', '1.0']
        >>> frames.alts[1]
        'grey, 1.0: One image.'
        """
        labels = [label.format(value) for value in values]
        drawn = [picture(draw, v, alt, name=f"{title}, {words}") for v, words in zip(values, labels, strict=True)]
        return cls([frame for frame, _ in drawn], labels, [text for _, text in drawn], title, start)

    def _repr_html_(self) -> str:
        sizes = [css_size(frame) for frame in self.frames]
        records = [
            {"label": label, "alt": alt, "width": w, "height": h}
            | ({} if i == self.start else {"src": data_uri(frame)})
            for i, (frame, label, alt, (w, h)) in enumerate(
                zip(self.frames, self.labels, self.alts, sizes, strict=True)
            )
        ]
        control, script = self._control()
        data = json.dumps(records).replace("<", r"\u003c")  # so that no label can close the script element
        return (
            f'<figure class="inv-frames">{img_tag(self.frames[self.start], self.alts[self.start])}'
            f"<figcaption>{control}<noscript>{self._scriptless()}</noscript></figcaption>"
            f'<script type="application/json">{data}</script>'
            f"<script>{PLACE}{script}</script></figure>"
        )

    def _scriptless(self) -> str:
        """What readers miss whose browser runs no scripts."""
        return f"Without scripts this shows only frame {self.start + 1} of {len(self.frames)}."

    def _control(self) -> tuple[str, str]:
        """What stands below the picture, and the script that makes it work."""
        now, title = html.escape(self.labels[self.start]), html.escape(self.title)
        # autocomplete: on reload a browser would restore the slider but not the image.
        slider = (
            f'<input type="range" min="0" max="{len(self.frames) - 1}" step="1" value="{self.start}" '
            f'aria-valuetext="{now}" autocomplete="off" hidden>'
        )
        return f'<label>{title} {slider}</label> <output aria-live="off">{now}</output>', SLIDER

    def widget(self) -> ipywidgets.Widget:
        """The live control for Jupyter."""
        return _live(self.title, self.labels, self.start, self._show, continuous=True)

    def _show(self, index: int) -> str:
        return img_tag(self.frames[index], self.alts[index])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        plain = f"{self.title}: {len(self.frames)} frames, {self.labels[0]} to {self.labels[-1]}"
        live = self.widget()._repr_mimebundle_()
        return {**live, "text/plain": plain, "text/html": self._repr_html_()}


class Choices(Frames):
    """Pictures of which a row of buttons chooses one, for two or three states without an order, as on and off.

    Takes what :class:`Frames` takes; the title names the row of buttons, the labels are the buttons.

    >>> import torch
    >>> from invkit.show import image_grid
    >>> grey = {"black": torch.zeros(1, 1, 8, 8), "white": torch.ones(1, 1, 8, 8)}
    >>> Choices.render(lambda name: image_grid(grey[name]), grey, title="ground").labels
    ['black', 'white']
    """

    def _control(self) -> tuple[str, str]:
        buttons = "".join(
            f'<button type="button" aria-pressed="{str(i == self.start).lower()}" hidden>{html.escape(label)}</button>'
            for i, label in enumerate(self.labels)
        )
        now, title = html.escape(self.labels[self.start]), html.escape(self.title)
        return f"<fieldset><legend>{title}</legend>{buttons}<output>{now}</output></fieldset>", BUTTONS

    def widget(self) -> ipywidgets.Widget:
        """The live control for Jupyter."""
        buttons = ipywidgets.ToggleButtons(
            options=[(label, i) for i, label in enumerate(self.labels)], value=self.start, description=self.title,
            style={"description_width": "initial", "button_width": "auto"},
        )  # fmt: skip
        return _shown_by(buttons, self.start, self._show)


class Explorer(Frames):
    """Frames that are drawn anew in Jupyter, for any of ``values``; the page shows those drawn beforehand."""

    draw: Callable[[Any], Figure]
    values: list[Any]
    first: int
    formats: tuple[str, str | None]

    def widget(self) -> ipywidgets.Widget:
        """The live control: every stop of the slider calls ``draw`` and keeps what it drew."""
        cache: dict[int, str] = {}

        def show(index: int) -> str:
            if index not in cache:
                name = f"{self.title}, {labels[index]}"
                cache[index] = img_tag(*picture(self.draw, self.values[index], self.formats[1], name=name))
            return cache[index]

        labels = [self.formats[0].format(value) for value in self.values]
        return _live(self.title, labels, self.first, show, continuous=False)


def explore(
    draw: Callable[[Any], Figure],
    values: Sequence[Any],
    *,
    title: str,
    recorded: Sequence[Any] | None = None,
    label: str = "{}",
    alt: str | None = None,
) -> Explorer:
    """A slider that calls ``draw(value)`` live in Jupyter; the page shows frames that were drawn beforehand.

    Args:
        draw: Draws a figure of a value.
        values: The slider's stops.
        title: Name of the slider.
        recorded: Those of the values that are drawn right away, by default at most seven, spread evenly.
        label: Format string of a value.
        alt: The same for the alt text, see :meth:`Frames.render`.

    Returns:
        The slider, for the end of a cell.

    Raises:
        ValueError: If one of ``recorded`` is not among ``values``.

    >>> import torch
    >>> from invkit.show import image_grid
    >>> explorer = explore(lambda v: image_grid(torch.full((1, 1, 8, 8), v)), [0.0, 0.5, 1.0], title="grey",
    ...                    recorded=[0.0, 1.0])
    >>> len(explorer.frames), len(explorer.values)
    (2, 3)
    """
    stops = list(values)
    if recorded is None:
        recorded = [stops[i * (len(stops) - 1) // 6] for i in range(7)] if len(stops) > 7 else stops
    others = [value for value in recorded if value not in stops]
    if others:
        raise ValueError(f"explore: recorded {others} are not among the values {stops}")
    frames = Frames.render(draw, list(recorded), title=title, label=label, alt=alt)
    explorer = Explorer(frames.frames, frames.labels, frames.alts, title)
    explorer.draw, explorer.values, explorer.first = draw, stops, stops.index(recorded[0])
    explorer.formats = (label, alt)
    return explorer


def picture(
    draw: Callable[[Any], Figure], value: Any, alt: str | None = None, *, name: str = ""
) -> tuple[bytes, str]:  # fmt: skip
    """``draw(value)`` as WebP without loss, and its alt text.

    Args:
        draw: Draws a figure of a value.
        value: The value.
        alt: Format string of the alt text; that of the figure follows it.
        name: What stands in front of an alt text that would otherwise be the same for every value.

    Raises:
        ValueError: If the figure has no alt text.
    """
    figure = draw(value)
    parts = [alt and alt.format(value), getattr(figure, "alt", None)]
    if not any(parts):
        raise ValueError("the figure has no alt text: give alt='… {} …', or draw with a function of invkit.show")
    tells_value = any(field is not None for _, field, _, _ in Formatter().parse(alt or ""))
    text = ": ".join(filter(None, parts if tells_value else [name, *parts]))
    frame = webp(render_png(figure))
    plt.close(figure)
    return frame, text


def _live(
    title: str, labels: Sequence[str], start: int, show: Callable[[int], str], *, continuous: bool
) -> ipywidgets.Widget:
    options = [(label, i) for i, label in enumerate(labels)]
    slider = ipywidgets.SelectionSlider(
        options=options, value=start, description=title, continuous_update=continuous,
        style={"description_width": "initial"}, layout={"width": "32em", "max_width": "100%"},
    )  # fmt: skip
    return _shown_by(slider, start, show)


def _shown_by(control: ipywidgets.Widget, start: int, show: Callable[[int], str]) -> ipywidgets.Widget:
    """The control below the picture of the frame that it chooses."""
    # An HTML widget, since ipywidgets' own image has no alt text.
    picture_widget = ipywidgets.HTML(show(start))

    def change(event: Any) -> None:
        try:
            picture_widget.value = show(event["new"])
        except Exception as error:  # an error in a callback is lost in Jupyter's log unless it is shown
            picture_widget.value = f"<pre role='alert'>{html.escape(f'{type(error).__name__}: {error}')}</pre>"

    control.observe(change, "value")
    return ipywidgets.VBox([picture_widget, control])
