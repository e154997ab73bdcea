"""Steps between clients that all hold the same columns of different people."""
