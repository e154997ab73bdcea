"""Work on values that the worker cannot read."""
