"""The same apps in Flower's simulation, which plays the shops in processes of Ray on this machine.

python examples/flower/simulate.py --shops 10
"""

import argparse
import os
import sys
from pathlib import Path

# Ray's processes look for the apps where this one does; Ray and Flower report to nobody.
HERE = str(Path(__file__).parents[2])
sys.path.insert(0, HERE)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (HERE, os.environ.get("PYTHONPATH"))))
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from examples.flower.shops import app  # noqa: E402  # after the path

from tidegate.protocols.horizontal import pooling  # noqa: E402  # sets what keeps Flower quiet, so before Flower

wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
wanted.add_argument("--shops", type=int, default=10)
wanted.add_argument("--rounds", type=int, default=20)
wanted.add_argument("--cpus", type=int, default=2)
wanted.add_argument("--folder", help="where Ray keeps its files while it runs (default: its own)")
given = wanted.parse_args()

from flwr.simulation import run_simulation  # noqa: E402  # as above

ray = {"num_cpus": given.cpus, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
run_simulation(
    server_app=pooling.server_app(app.show, clients=given.shops),
    client_app=app.client_app(rounds=given.rounds),
    num_supernodes=given.shops,
    backend_config={
        "init_args": ray | ({"_temp_dir": given.folder} if given.folder else {}),
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
    },
)
