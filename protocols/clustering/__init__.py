"""Groups of people over columns that stay with their holders."""
