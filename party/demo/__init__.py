"""A whole campaign on this machine: the records that ship with the package, and a runner that plays all three sides."""
