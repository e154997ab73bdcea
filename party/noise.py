"""Integer noise for released counts, from a library made for it: OpenDP's discrete Gaussian sampler.

It draws from the operating system's randomness and is free of the floating-point holes of a rounded continuous sampler
(Canonne, Kamath, Steinke: The Discrete Gaussian for Differential Privacy, NeurIPS 2020).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from opendp.domains import atom_domain, vector_domain
from opendp.measurements import make_gaussian
from opendp.metrics import l2_distance
from opendp.mod import enable_features

IntArray = NDArray[np.int64]


def discrete_gaussian(scale: int) -> Callable[[int], IntArray]:
    """A source of independent integers with variance about scale^2; scale 0 gives zeros."""
    if scale == 0:
        return lambda n: np.zeros(n, np.int64)
    # OpenDP's prelude would bring scikit-learn with it, a second of every worker's start.
    enable_features("contrib")
    # OpenDP's int has 32 bits, and what does not fit ends at its limits without a word.
    space = vector_domain(atom_domain(T="i64")), l2_distance(T=float)
    mechanism = make_gaussian(*space, scale=float(scale))
    return lambda n: np.array(mechanism([0] * n), np.int64)
