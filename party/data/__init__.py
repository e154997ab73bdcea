"""What a party does to its own table before a protocol sees a number of it."""
