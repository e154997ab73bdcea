"""How many bytes each side of a blind step sends, from its sizes alone: for people who decide whether to run it.

Counted are ciphertexts and keys; what goes along with them is less than a thousandth. Nothing else can make a step send
more or less, which is why in hidden alignment the bytes say nothing of who matched.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..primitives.bfv import PUBLIC_KEY_BYTES, RESULT_BYTES, SUM_BYTES, UPLOAD_BYTES
from ..primitives.packing import block_count
from .fourier import HARMONICS


@dataclass(frozen=True)
class Traffic:
    """Bytes from the brand to the media, and back."""

    up: int
    down: int

    @property
    def both(self) -> int:
        return self.up + self.down


def of_training(rows: int, brand_columns: int, media_columns: int, steps: int) -> Traffic:
    """One model by logistic.py: the brand's columns once, then in each step weights, Fourier factors and residuals."""
    blocks = block_count(rows)
    each_up = (media_columns + (2 * HARMONICS + 1) * blocks) * UPLOAD_BYTES
    each_down = 2 * blocks * RESULT_BYTES + (brand_columns + media_columns) * SUM_BYTES
    return Traffic(PUBLIC_KEY_BYTES + brand_columns * blocks * UPLOAD_BYTES + steps * each_up, steps * each_down)


def of_scores(rows: int, media_columns: int) -> Traffic:
    """One score for each row by scoring.py."""
    return Traffic(PUBLIC_KEY_BYTES + media_columns * UPLOAD_BYTES, block_count(rows) * RESULT_BYTES)


def of_sums(rows: int, columns: int, vectors: int) -> Traffic:
    """The products of so many columns with so many vectors, as insight and measure have them."""
    return Traffic(PUBLIC_KEY_BYTES + vectors * block_count(rows) * UPLOAD_BYTES, vectors * columns * SUM_BYTES)
