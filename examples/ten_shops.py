"""Ten shops train one model of who buys, in one process: sums are hidden, and the model is the pooled one.

python examples/ten_shops.py
The same shops on Flower's own engines: python examples/flower/simulate.py, flwr run examples/flower --stream
"""

import asyncio
import sys
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from tidegate.protocols.horizontal import pooling
from tidegate.protocols.horizontal.logistic import LogisticModel
from tidegate.protocols.horizontal.secure_sum import Cohort, Member
from tidegate.protocols.horizontal.task import Outcome
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import memory_line

sys.path.insert(0, str(Path(__file__).parent.parent))
from examples.flower.shops import app

SHOPS = 10
keys = {name: Ed25519PrivateKey.generate() for name in (*app.names(SHOPS), "coordinator")}
public = {name: key.public_key().public_bytes_raw() for name, key in keys.items()}
# In a campaign the contract's hash, the run and the keys come from what all have signed.
cohort = Cohort(bytes(32), bytes(16), {name: public[name] for name in app.names(SHOPS)}, public["coordinator"])


async def main() -> Outcome:
    lines = {name: memory_line() for name in app.names(SHOPS)}
    async with asyncio.TaskGroup() as group:
        coordinating = group.create_task(pooling.coordinate({name: line[0] for name, line in lines.items()}))
        for number, name in enumerate(app.names(SHOPS)):
            member = Member(name, cohort, sign=keys[name].sign, randomness=Randomness.system())
            group.create_task(pooling.hold(lines[name][1], app.shop(number, SHOPS, member=member)))
    return coordinating.result()


outcome = asyncio.run(main())

x, y, ranges = app.customers()
train, test = (np.concatenate([app.rows_of(each, SHOPS, len(x))[part] for each in range(SHOPS)]) for part in (0, 1))
mean, scale = x[train].mean(axis=0), x[train].std(axis=0)
pooled = LogisticRegression(C=1 / 10, tol=1e-10, max_iter=5000).fit((x[train] - mean) / scale, y[train])
one = app.rows_of(0, SHOPS, len(x))[0]
alone = LogisticRegression(C=1 / 10, max_iter=5000).fit((x[one] - mean) / scale, y[one])

u = (x[test] - mean) / scale
scores = {
    "one shop alone": alone.decision_function(u),
    "ten shops": LogisticModel(outcome.model["theta"], ranges).score(x[test]),
}
scores["pooled rows"] = pooled.decision_function(u)
auc = {name: roc_auc_score(y[test], score) for name, score in scores.items()}
print("AUC of " + ", ".join(f"{name} {value:.4f}" for name, value in auc.items()))
print("loss by round: " + " ".join(f"{value:.4f}" for value in outcome.curves["loss"]))
assert abs(auc["ten shops"] - auc["pooled rows"]) < 5e-4
