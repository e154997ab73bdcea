"""The report of a campaign at one party: one offline page for people, one JSON file for programs."""

from .build import build

__all__ = ["build"]
