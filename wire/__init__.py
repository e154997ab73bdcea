"""What the two deployables say to each other: bytes, keys, contracts and sealed frames."""
