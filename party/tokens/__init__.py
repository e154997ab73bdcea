"""Tokens of an epoch on disk: those that a media makes ahead, and those that a brand keeps from run to run.

    HOME/tokens/own/DATASET/PARTNER/EPOCH/    as media: the key, the tokens, what was spent of the budget
    HOME/tokens/of/PARTNER/DATASET/EPOCH/     as brand: the partner's tokens, and those of our own identifiers

In either folder epoch.json says which files count; it is replaced in one piece, after the files that it names are on
disk. So who is killed finds the state before or the one after. Files are for their owner alone (0600) and hold no
identifier: tokens, row numbers, and pseudonyms under a secret of the folder.
"""
