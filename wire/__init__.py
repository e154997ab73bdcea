"""What the two deployables say to each other: bytes, keys, contracts and sealed frames."""

import os

# Read when gRPC is loaded. It would otherwise print its own lines about a failed connection between ours.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
