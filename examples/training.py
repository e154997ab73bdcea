"""Blind training in one process: two tables, one model, compared with the pooled model in the clear.

python examples/training.py
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from tidegate.protocols.blind.logistic import Settings, brand, fit_alone, media
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import simulate

# 6,000 people whose tastes show in 8 columns of the brand and 8 of the media; the label depends on all of them.
rng = np.random.default_rng(7)
tastes = rng.normal(size=(6000, 4))
x = tastes @ rng.normal(size=(4, 16)) + 1.5 * rng.normal(size=(6000, 16))
x = (x - x.mean(axis=0)) / x.std(axis=0)
y = (rng.random(6000) < 1 / (1 + np.exp(2.0 - x @ rng.normal(size=16) * 0.4))).astype(float)
x_brand, x_media = x[:, :8], x[:, 8:]
train, test = slice(0, 4000), slice(4000, 6000)

settings = Settings(steps=8, l2=1.0)
of_brand, of_media = simulate(
    lambda line: brand(line, x_brand[train], y[train], settings=settings, randomness=Randomness.system()),
    lambda line: media(line, x_media[train], settings=settings, randomness=Randomness.system()),
)

# A score needs both sides' parts. Here they are added in the clear; `examples/scoring.py` adds them blind.
joint = of_brand.model.own_part(x_brand[test]) + of_media.columns(x_media[test]) / 2**6 @ of_brand.model.media_weights
alone = fit_alone(x_brand[train], y[train], settings.l2).own_part(x_brand[test])
pooled = LogisticRegression(C=1 / settings.l2).fit(x[train], y[train]).decision_function(x[test])

auc = {name: roc_auc_score(y[test], z) for name, z in (("alone", alone), ("joint", joint), ("pooled", pooled))}
print(f"AUC of the brand alone {auc['alone']:.4f}, joint and blind {auc['joint']:.4f}, pooled {auc['pooled']:.4f}")
assert abs(auc["joint"] - auc["pooled"]) < 5e-4
