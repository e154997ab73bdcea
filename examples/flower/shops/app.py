"""The apps of a shop and of the coordinator, for Flower's own engines: the Ray simulation and `flwr run`.

The rows are the customers of COIL 2000 that ship with tidegate, dealt to the shops. Flower's engines give a shop's
messages to any process, so nothing is signed or masked there: they are for research on data that may be in one place.
"""

from importlib import resources

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tidegate.protocols.horizontal import pooling
from tidegate.protocols.horizontal.flower_grid import ClientApp, Context
from tidegate.protocols.horizontal.logistic import Holder, Settings
from tidegate.protocols.horizontal.secure_sum import Member
from tidegate.protocols.horizontal.task import Outcome, Site, terms_of

FloatArray = NDArray[np.float64]

LABEL = "bought_caravan"
COLUMNS = tuple(
    f"{what}_{of}" for what in ("premium", "policies") for of in ("car", "fire", "boat", "private_third_party")
)


def customers() -> tuple[FloatArray, FloatArray, FloatArray]:
    """Columns (n, d), label (n,) and declared ranges (d, 2) of all shops together."""
    with resources.files("tidegate.party.demo").joinpath("caravan.parquet").open("rb") as file:
        table = pq.read_table(file)
    x = np.column_stack([table[column].to_numpy().astype(float) for column in COLUMNS])
    # Premiums come in bands of 0 to 9, policies by their number.
    return x, table[LABEL].to_numpy().astype(float), np.tile([0.0, 12.0], (len(COLUMNS), 1))


def names(shops: int) -> tuple[str, ...]:
    return tuple(f"shop-{number}" for number in range(shops))


def rows_of(number: int, shops: int, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A shop of so many has every so manieth customer, and holds a fifth of them out."""
    rows = np.arange(number, n, shops)
    return np.setdiff1d(rows, rows[::5]), rows[::5]


def shop(number: int, shops: int, *, rounds: int = 20, l2_milli: int = 10_000, member: Member | None = None) -> Site:
    """What a shop brings to a run; with keys, its sums are hidden."""
    x, y, ranges = customers()
    settings = Settings(len(COLUMNS), rounds=rounds, l2_milli=l2_milli, secure=member is not None, least_rows=500)
    train, test = rows_of(number, shops, len(x))
    part = Holder(x[train], y[train], x[test], y[test], ranges=ranges, settings=settings)
    cohort = names(shops)
    return Site(cohort[number], cohort, settings, part, terms_of(bytes(32), cohort, settings, ranges), member)


def client_app(rounds: int = 20, l2_milli: int = 10_000) -> ClientApp:
    """The app of any shop: which one it is, Flower tells it, and its run config may have other settings."""

    def load(context: Context) -> Site:
        number, shops = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
        told = context.run_config
        return shop(number, shops, rounds=int(told.get("rounds", rounds)), l2_milli=int(told.get("l2-milli", l2_milli)))

    return pooling.client_app(load)


def show(outcome: Outcome) -> None:
    auc, loss = outcome.curves["auc"][-1], outcome.curves["loss"][-1]
    print(f"{outcome.rounds} rounds, loss {loss:.4f}, AUC of all hold-outs {auc:.4f}", flush=True)


client = client_app()
server = pooling.server_app(show)
