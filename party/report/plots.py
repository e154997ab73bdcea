"""The report's plots as inline SVG: same facts, same bytes; text stays text, colours follow the page's light or dark.

matplotlib draws with stand-in colours, each of which is then replaced by a variable of the page's style sheet. Nothing
that came from data is ever drawn as text here: matplotlib would read a `$` in it as mathematics.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.style import context
from matplotlib.ticker import MaxNLocator

from .markup import NBSP, Html, text
from .wording import at, share

INK, SOFT, LINE, CARD = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
JOINT, ALONE, TRUTH = "#0a0b05", "#0a0b06", "#0a0b07"
_VARIABLES = {
    INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)", CARD: "var(--card)",
    JOINT: "var(--joint)", ALONE: "var(--alone)", TRUTH: "var(--truth)",
}  # fmt: skip
_SETTINGS = {
    "svg.hashsalt": "tidegate", "svg.fonttype": "none", "font.size": 11, "path.simplify": False,
    "text.color": INK, "axes.labelcolor": SOFT, "axes.edgecolor": LINE, "xtick.color": SOFT, "ytick.color": SOFT,
    "axes.grid": True, "axes.labelpad": 8, "axes.axisbelow": True, "grid.color": LINE, "grid.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    "xtick.major.size": 0, "ytick.major.size": 0, "legend.frameon": False,
    "lines.solid_capstyle": "round", "lines.solid_joinstyle": "round",
}  # fmt: skip
_WIDE, _HIGH = 5.6, 3.7


def gains(train: Mapping[str, Any]) -> Html:
    """Share of good customers found against share of customers taken, for each model."""
    curves = at(train, "gains_curve") or {}
    with context(["default", _SETTINGS]):
        figure, axes = _figure()
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, dashes=(3, 3), label="taken blindly")
        for name, colour, label in (("brand_only", ALONE, "your columns alone"), ("joint", JOINT, "joint model")):
            if curves.get(name):
                x, y = zip(*curves[name], strict=True)
                axes.plot(x, y, color=colour, linewidth=2.4, label=label)
        at_tenth = [_value_at(curves[name], 0.1) for name in ("brand_only", "joint") if curves.get(name)]
        axes.plot([0.1, 0.1], [0, max(at_tenth, default=0)], color=INK, linewidth=0.9, dashes=(1, 2))
        for name, colour in (("brand_only", ALONE), ("joint", JOINT)):
            if curves.get(name):
                axes.plot(0.1, _value_at(curves[name], 0.1), "o", color=colour, markeredgecolor=CARD, markersize=7)
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.set(xlabel="customers taken, best-scored first", ylabel="good customers found")
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], _percents([0, 0.25, 0.5, 0.75, 1]))
        axes.set_xticks([0, 0.1, 0.25, 0.5, 0.75, 1], _percents([0, 0.1, 0.25, 0.5, 0.75, 1]))
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], loc="lower right")
        said = [
            f"{label} find {share(_value_at(curves[name], 0.1))} of the good customers in the best-scored tenth"
            for name, label in (("joint", "The joint model would"), ("brand_only", "your columns alone would"))
            if curves.get(name)
        ]
        return _svg(figure, "gains", "Gains curve. " + "; ".join(said) + ".")


def scores(histogram: Mapping[str, Any], name: str, who: str) -> Html:
    """How many people have which score; `edges` are probabilities, drawn so that equal odds ratios are equally wide."""
    edges, counts = histogram["edges"], histogram["counts"]
    total = sum(counts) or 1
    with context(["default", _SETTINGS]):
        figure, axes = _figure()
        logits = _is_even_in_logits(edges)
        place = [_logit(edge) for edge in edges] if logits else list(edges)
        widths = [right - left for left, right in itertools.pairwise(place)]
        heights = [number / total for number in counts]
        axes.bar(place[:-1], heights, widths, align="edge", color=JOINT, edgecolor=CARD, linewidth=0.8)
        axes.grid(visible=False, axis="x")
        if logits:
            rates = _readable(place[0], place[-1])
            axes.set_xticks([_logit(rate) for rate in rates], [_fine_percent(rate) for rate in rates])
        elif edges[0] >= 0 and edges[-1] <= 1:
            axes.xaxis.set_major_formatter(_tick)
        axes.yaxis.set_major_formatter(_tick)
        axes.set(xlabel="score: chance to be a good customer", ylabel=f"share of {who}")
        middle = _fine_percent(_median(edges, counts))
        return _svg(figure, name, f"Histogram of the scores of {who}; half of them score under {middle}.")


def expansion(sizes: Sequence[Mapping[str, Any]]) -> Html:
    """Rate of good customers against the size of the audience: expected, and true where that is known."""
    percents = [size["percent"] for size in sizes]
    with context(["default", _SETTINGS]):
        figure, axes = _figure()
        said = []
        for key, base_key, colour, style, label in (
            ("expected_rate", "expected_base_rate", JOINT, "o-", "expected"),
            ("true_rate", "true_base_rate", TRUTH, "D-", "true (demo only)"),
        ):
            known = [(size["percent"], size[key]) for size in sizes if size.get(key) is not None]
            if not known:
                continue
            x, y = zip(*known, strict=True)
            axes.plot(x, y, style, color=colour, linewidth=2.4, markersize=7, markeredgecolor=CARD, label=label)
            said.append(f"{label}: " + ", ".join(f"{share(rate)} at {percent:.3g} %" for percent, rate in known))
            base = sizes[0].get(base_key)
            if base is not None:
                blind = f"{label}, blind pick"
                axes.plot([0, 2 * max(percents)], [base, base], color=colour, linewidth=1.2, dashes=(3, 3), label=blind)
        axes.set_xticks(percents, [f"{percent:.3g}{NBSP}%" for percent in percents])
        axes.set_xlim(0, max(percents) * 1.08)
        axes.set_ylim(0, axes.get_ylim()[1] * 1.1)
        axes.yaxis.set_major_formatter(_tick)
        axes.set(xlabel="audience, share of the media’s other people", ylabel="good customers in it")
        figure.subplots_adjust(top=0.83)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.03, 1.0), ncols=2)
        return _svg(figure, "expansion", "Audience size against quality. " + "; ".join(said) + ".")


def segment_sizes(sizes: Sequence[int]) -> Html:
    """A bar for each segment, by its number."""
    total = sum(sizes) or 1
    places = list(range(1, len(sizes) + 1))
    with context(["default", _SETTINGS]):
        figure, axes = _figure()
        bars = axes.barh(places, [size / total for size in sizes], height=0.66, color=JOINT)
        axes.bar_label(bars, [f"{size:,}" for size in sizes], padding=6, color=INK)
        axes.grid(visible=False, axis="y")
        axes.set_yticks(places, [str(place) for place in places])
        axes.set_ylim(len(sizes) + 0.6, 0.4)
        axes.set_xlim(0, max(sizes) / total * 1.18)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.xaxis.set_major_formatter(_tick)
        axes.set(xlabel="share of the people", ylabel="segment")
        said = ", ".join(f"segment {place}: {size:,}" for place, size in zip(places, sizes, strict=True))
        return _svg(figure, "segment-sizes", f"People in each segment. {said}.")


def segment_choice(curve: Sequence[Mapping[str, Any]], chosen: int, strong: float) -> Html:
    """How surely each number of segments is found again, with the line above which that counts."""
    x, y = [point["k"] for point in curve], [point["strength"] for point in curve]
    with context(["default", _SETTINGS]):
        figure, axes = _figure()
        axes.axhline(strong, color=SOFT, linewidth=1.2, dashes=(3, 3))
        axes.plot(x, y, "o-", color=JOINT, linewidth=2.4, markersize=7, markeredgecolor=CARD)
        axes.plot(chosen, y[x.index(chosen)], "o", color=TRUTH, markersize=11, markeredgecolor=CARD)
        axes.set_xticks(x, [str(each) for each in x])
        axes.set_ylim(0, 1.05)
        axes.set(xlabel="number of segments", ylabel="found again in the other half")
        said = ", ".join(f"{k}: {strength:.2f}" for k, strength in zip(x, y, strict=True))
        return _svg(
            figure, "segment-choice", f"How surely each number of segments is found again. {said}. {chosen} taken."
        )


def rounds(curves: Sequence[tuple[str, Sequence[float]]], name: str, unit: str) -> Html:
    """One number a round for each of up to two curves, the first of them first in importance."""
    with context(["default", _SETTINGS]):
        figure, axes = _figure()
        for (label, values), colour in zip(curves, (JOINT, ALONE), strict=False):
            marked = "o-" if len(values) <= _MARKED_ROUNDS else "-"
            turns = range(1, len(values) + 1)
            axes.plot(turns, values, marked, color=colour, linewidth=2.4, markeredgecolor=CARD, label=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.set(xlabel="round", ylabel=unit)
        if len(curves) > 1:
            axes.legend()
        said = "; ".join(f"{label}: {values[0]:.4g} to {values[-1]:.4g}" for label, values in curves)
        return _svg(figure, name, f"Round by round, {unit}. {said}, in {len(curves[0][1])} rounds.")


_MARKED_ROUNDS = 30
_RATES = (0.01, 0.1, 0.001, 0.5, 0.9, 0.99, 0.0001, 0.999, 0.03, 0.3, 0.003, 0.7, 0.02, 0.05, 0.2, 0.005, 0.6, 0.4)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDE, _HIGH), facecolor="none")
    figure.subplots_adjust(left=0.16, right=0.965, bottom=0.15, top=0.97)
    axes = figure.add_subplot(facecolor="none")
    return figure, axes


def _svg(figure: Figure, name: str, alternative: str) -> Html:
    """The figure as an inline <svg> whose ids cannot collide with those of another plot on the page."""
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn = out.getvalue().decode()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'\b(id="|xlink:href="#|url\(#)', lambda found: f"{found[1]}{name}-", drawn)
    for stand_in, variable in _VARIABLES.items():
        drawn = drawn.replace(stand_in, variable)
    opening = rf'<svg \1 role="img" aria-label="{text(alternative)}">'
    drawn = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', opening, drawn, count=1)
    return Html(drawn.replace("xlink:href", "href").strip())


def _tick(value: float, _: float) -> str:
    return f"{100 * value:.4g}{NBSP}%"


def _readable(low: float, high: float) -> list[float]:
    """The rates to write at an axis of log-odds from low to high, roundest first, as many as do not touch."""
    chosen: list[float] = []
    for rate in _RATES:
        apart = all(abs(_logit(rate) - _logit(other)) > (high - low) / 9 for other in chosen)
        if low <= _logit(rate) <= high and apart:
            chosen.append(rate)
    return sorted(chosen)


def _percents(fractions: Sequence[float]) -> list[str]:
    return [f"{100 * fraction:.0f}{NBSP}%" for fraction in fractions]


def _fine_percent(rate: float) -> str:
    return f"{100 * rate:.3g}{NBSP}%"


def _logit(rate: float) -> float:
    rate = min(max(rate, 1e-13), 1 - 1e-13)
    return math.log(rate / (1 - rate))


def _is_even_in_logits(edges: Sequence[float]) -> bool:
    """Whether probability edges were cut evenly in log-odds rather than evenly."""
    if len(edges) < 3 or edges[0] <= 0 or edges[-1] >= 1:
        return False
    return not math.isclose(edges[1] - edges[0], edges[-1] - edges[-2], rel_tol=1e-6)


def _median(edges: Sequence[float], counts: Sequence[float]) -> float:
    """Upper edge of the bin in which half of the people are reached."""
    reached, half = 0.0, sum(counts) / 2
    for edge, number in zip(edges[1:], counts, strict=True):
        reached += number
        if reached >= half:
            return edge
    return edges[-1]


def _value_at(curve: Sequence[Sequence[float]], x: float) -> float:
    """The curve's height at x, on the straight line between its points."""
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if x0 <= x <= x1:
            return y0 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return curve[-1][1] if curve else 0.0
