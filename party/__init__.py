"""Beside the data: a party's node, its worker processes, its consent, its store and its reports."""
