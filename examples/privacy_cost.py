"""What differential privacy costs eight shops that train one model: AUC by epsilon, each row hidden, sums masked.

python examples/privacy_cost.py
python examples/privacy_cost.py --out FOLDER    also draws FOLDER/privacy_cost.svg
"""

import argparse
import asyncio
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from tidegate.party.noise import discrete_gaussian
from tidegate.protocols.channel import PolicyError
from tidegate.protocols.horizontal import pooling
from tidegate.protocols.horizontal.logistic import LogisticModel
from tidegate.protocols.horizontal.private_logistic import ROW, Holder, Settings, multiplier_milli
from tidegate.protocols.horizontal.secure_sum import Cohort, Member
from tidegate.protocols.horizontal.task import Outcome, Site, terms_of
from tidegate.protocols.primitives.randomness import Randomness
from tidegate.protocols.simulate import memory_line

SHOPS, EACH, COLUMNS, RUNS, DELTA = 8, 1500, 12, 3, 1e-6
EPSILONS = (0.1, 0.3, 1.0, 3.0)

NAMES = tuple(f"shop-{number}" for number in range(SHOPS))

# Customers whose columns have something in common, in units of their own, and declared ranges with room to spare.
drawn = np.random.default_rng(1)
common = drawn.normal(size=(SHOPS * EACH, 1))
x = np.clip(0.5 * common + drawn.normal(size=(SHOPS * EACH, COLUMNS)), -4, 4)
ranges = np.tile([-5.0, 5.0], (COLUMNS, 1))
chance = 1 / (1 + np.exp(1.5 - x @ drawn.normal(scale=0.35, size=COLUMNS)))
y = (drawn.random(len(x)) < chance).astype(float)

# Every shop has its own customers, and holds a fifth of them out.
dealt = [(rows[EACH // 5 :], rows[: EACH // 5]) for rows in np.arange(len(x)).reshape(SHOPS, EACH)]
train, test = (np.concatenate([rows[part] for rows in dealt]) for part in (0, 1))
keys = {name: Ed25519PrivateKey.generate() for name in (*NAMES, "coordinator")}
public = {name: key.public_key().public_bytes_raw() for name, key in keys.items()}


def shop(number: int, settings: Settings, cohort: Cohort) -> Site:
    name, (own, held_out) = NAMES[number], dealt[number]
    return Site(
        name,
        cohort.names,
        settings,
        Holder(x[own], y[own], x[held_out], y[held_out], ranges=ranges, settings=settings),
        terms_of(cohort.contract, cohort.names, settings, ranges),
        Member(name, cohort, sign=keys[name].sign, randomness=Randomness.system()),
        # The share of each shop; what one other and the coordinator cannot take off are seven of eight.
        noise=lambda deviation, size: discrete_gaussian(deviation)(size),
    )


async def trained(settings: Settings, run: int) -> Outcome | None:
    """One run with masks and noise as in a campaign, over lines in memory; None where a shop is better off alone."""
    identities = {name: public[name] for name in NAMES}
    cohort = Cohort(bytes(32), run.to_bytes(16), identities, public["coordinator"])
    lines = {name: memory_line() for name in identities}
    outcome = None
    try:
        async with asyncio.TaskGroup() as group:
            coordinating = group.create_task(pooling.coordinate({name: line[0] for name, line in lines.items()}))
            for number, name in enumerate(identities):
                group.create_task(pooling.hold(lines[name][1], shop(number, settings, cohort)))
        outcome = coordinating.result()
    except* PolicyError:
        # Each tries the model on its own hold-out before it takes it.
        pass
    return outcome


def auc_at(epsilon: float) -> list[float]:
    settings = Settings(
        columns=COLUMNS,
        rounds=8,
        l2_milli=1000,
        clip_milli=1000,
        unit=ROW,
        multiplier_milli=multiplier_milli(epsilon, DELTA),
        clients=SHOPS,
        least_rows=500,
    )
    outcomes = [asyncio.run(trained(settings, run)) for run in range(RUNS)]
    models = [LogisticModel(outcome.model["theta"], ranges) for outcome in outcomes if outcome is not None]
    return [float(roc_auc_score(y[test], model.score(x[test]))) for model in models]


def clear(rows: np.ndarray) -> float:
    mean, scale = x[train].mean(axis=0), x[train].std(axis=0)
    model = LogisticRegression(max_iter=5000).fit((x[rows] - mean) / scale, y[rows])
    return float(roc_auc_score(y[test], model.decision_function((x[test] - mean) / scale)))


def draw(found: dict[float, list[float]], pooled: float, alone: float, path: Path) -> None:
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.errorbar(
        list(found),
        [float(np.mean(each)) for each in found.values()],
        [float(np.std(each)) for each in found.values()],
        marker="o",
        capsize=3,
        label=f"{SHOPS} shops, noise, {RUNS} runs",
    )
    axes.axhline(pooled, color="black", linewidth=1, label="pooled rows, no noise")
    axes.axhline(alone, color="grey", linestyle="--", linewidth=1, label="one shop alone, no noise")
    axes.set(xscale="log", xlabel=f"epsilon at delta {DELTA:g}", ylabel="AUC of all hold-outs")
    axes.set_xticks(list(found), [f"{epsilon:g}" for epsilon in found])
    axes.legend()
    figure.savefig(path)


parser = argparse.ArgumentParser(description="what differential privacy costs eight shops")
parser.add_argument("--out", type=Path, help="a folder for privacy_cost.svg")
out = parser.parse_args().out

pooled, alone = clear(train), float(np.mean([clear(own) for own, _ in dealt]))
found: dict[float, list[float]] = {}
for epsilon in EPSILONS:
    each = auc_at(epsilon)
    refused = f", {RUNS - len(each)} of {RUNS} models refused by a shop" if len(each) < RUNS else ""
    if each:
        found[epsilon] = each
        print(f"epsilon {epsilon:4g}: AUC {np.mean(each):.4f} (standard deviation {np.std(each):.4f}){refused}")
    else:
        print(f"epsilon {epsilon:4g}: none{refused}")
print(f"without noise, pooled rows {pooled:.4f}; one shop alone {alone:.4f} on average")
if out is not None:
    out.mkdir(parents=True, exist_ok=True)
    draw(found, pooled, alone, out / "privacy_cost.svg")
    print(out / "privacy_cost.svg")

assert np.mean(found[3.0]) > pooled - 0.005, "with little noise the model is nearly the pooled one"
