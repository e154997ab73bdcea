"""The apps of a shop and of the coordinator, for Flower's own engines: `flwr run` and the Ray simulation.

The rows are the customers of COIL 2000 that ship with tidegate, dealt to the shops. Flower's engines deal shops to any
process, so nothing is signed or masked here: this is for research on data that may be in one place.
"""

from importlib import resources

import numpy as np
import pyarrow.parquet as pq

from tidegate.protocols.horizontal import pooling
from tidegate.protocols.horizontal.flower_grid import Context
from tidegate.protocols.horizontal.logistic import Holder, Settings
from tidegate.protocols.horizontal.task import Outcome, Site, terms_of

LABEL = "bought_caravan"
COLUMNS = tuple(
    f"{what}_{of}" for what in ("premium", "policies") for of in ("car", "fire", "boat", "private_third_party")
)


def customers() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns (n, d), label (n,) and declared ranges (d, 2) of all shops together."""
    with resources.files("tidegate.party.demo").joinpath("caravan.parquet").open("rb") as file:
        table = pq.read_table(file)
    x = np.column_stack([table[column].to_numpy().astype(float) for column in COLUMNS])
    # Premiums come in bands of 0 to 9, policies by their number.
    return x, table[LABEL].to_numpy().astype(float), np.tile([0.0, 12.0], (len(COLUMNS), 1))


def shop(number: int, shops: int, l2_milli: int) -> Site:
    """Every so manieth customer, a fifth of them held out."""
    x, y, ranges = customers()
    names = tuple(f"shop-{each}" for each in range(shops))
    settings = Settings(len(COLUMNS), l2_milli=l2_milli, secure=False, least_rows=500)
    rows = np.arange(number, len(x), shops)
    test, train = rows[::5], np.setdiff1d(rows, rows[::5])
    part = Holder(x[train], y[train], x[test], y[test], ranges=ranges, settings=settings)
    return Site(names[number], names, settings, part, terms_of(bytes(32), names, settings, ranges))


def load(context: Context) -> Site:
    number, shops = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    return shop(number, shops, int(context.run_config.get("l2-milli", 10_000)))


def show(outcome: Outcome) -> None:
    curves = outcome.curves
    print(
        f"{outcome.rounds} rounds, AUC of all hold-outs {curves['auc'][-1]:.4f}, loss {curves['loss'][-1]:.4f}",
        flush=True,
    )


client = pooling.client_app(load)
server = pooling.server_app(show, clients=10)
