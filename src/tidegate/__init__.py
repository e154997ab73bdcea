"""tidegate: find out together who your best customers look like, without showing each other a row."""

__version__ = "0.1.0"
