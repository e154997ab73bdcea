"""How Hypothesis searches: at random where people work, the same way each time where a change is let in.

What a random search finds becomes a named test; until then it must not stop somebody else's change.
"""

from __future__ import annotations

import os

from hypothesis import settings

# As for a worker (party/node.py): threads that wait in a loop are slow where several processes share few cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# No deadline: a machine that is busy with something else is no mistake of ours.
settings.register_profile("people", deadline=None)
settings.register_profile("gate", deadline=None, derandomize=True)
settings.load_profile("gate" if os.environ.get("CI") else "people")
