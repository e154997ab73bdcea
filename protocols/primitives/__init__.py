"""Values that refuse to be invalid."""
