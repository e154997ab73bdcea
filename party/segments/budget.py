"""How often people may be assigned to segments with one partner: what each time tells adds up. Needs no libraries."""

from __future__ import annotations

from tidegate.wire.contract import Contract, Step

STEPS = ("segment", "assign")
KIND, MOST = "segment passes", 2000
"""For one state of a data set, over all campaigns. Each pass tells either side at most log2(k) bits a person. How much
of the other's columns can be had from many is not known, so the limit is a judgement: about three campaigns that choose
k, or twenty that name it."""
MOST_K = 10
SAMPLE_STARTS, SAMPLE_ITERATIONS = 3, 10
"""On each half of the sample on which k is chosen."""


def partners(contract: Contract, party: str, step: Step) -> list[str]:
    """Towards whom a party's data set spends in a step: all others where each learns what comes out, else its peer."""
    if step.step in STEPS or contract.is_horizontal:
        return [other.name for other in contract.members(step) if other.name != party]
    return [contract.peer(party, step).name]


def passes(step: Step) -> int:
    """How often a step may assign everybody or a sample, at most."""
    if step.step == "assign":
        return MOST_K
    k, most_k, starts, iterations = (int(str(step.settings[name])) for name in ("k", "most_k", "starts", "iterations"))
    sampled = 0 if k else (most_k - 1) * (2 * min(starts, SAMPLE_STARTS) * min(iterations, SAMPLE_ITERATIONS) + 2)
    return sampled + starts * iterations + (k or most_k)
