"""What a contract says, in sentences for the people who sign it: on the terminal, in the report, in comparisons."""

from __future__ import annotations

from tidegate.protocols.catalog import CATALOG
from tidegate.wire.contract import Contract

from .horizontal import rules


def terms(made: Contract) -> dict[str, str]:
    """A sentence for each thing that a contract settles beside parties, steps, guards and columns, under a short name.

    What a contract does not have is not in it.
    """
    found = {
        "Trained together": _federated(made),
        "Updates": _updates(made),
        "Matched on": ", ".join(key.kind for key in made.keys),
        "Who matched": _alignment(made),
        "Added up": _total(made),
        "Good customers": _label(made),
        "Held out to measure quality": _holdout(made),
        "Model": _model(made),
        "The coordinator plays a part": _helper(made),
        "Ranges": _ranges(made),
        "Differential privacy": _privacy(made),
        "Measured": _outcome(made),
        "Audit": _audit(made),
    }
    return {name: text for name, text in found.items() if text}


def _federated(made: Contract) -> str:
    if not made.is_horizontal:
        return ""
    settings, clients = made.steps[0].settings, len(made.parties)
    what = f"{settings['k']} groups" if "k" in settings else "one logistic regression"
    l2 = f", L2 penalty {whole(settings['l2_milli']) / 1000:g}" if "l2_milli" in settings else ""
    least = whole(settings["least_rows"])
    return (
        f"{what} over the rows of {clients} clients in at most {settings['rounds']} rounds{l2}; each enters {least:,} "
        "rows or more"
    )


def _updates(made: Contract) -> str:
    if not made.is_horizontal:
        return ""
    robust = rules.ROBUST[whole(made.steps[0].settings.get("robust", 0))]
    if robust == "none":
        return f"added up blindly: nobody sees a sum over fewer than all {len(made.parties)} clients"
    return f"in the clear to the coordinator, which takes their {robust}, so that outliers do not count"


def whole(setting: int | list[int]) -> int:
    """A setting that is one number, as the reader of contracts and the policy have checked."""
    return int(str(setting))


def _alignment(made: Contract) -> str:
    match = next((step for step in made.steps if step.step == "match"), None)
    if match is None or CATALOG[match.protocol].alignment != "hidden":
        return ""
    media = made.role("media")
    return f"{media.name} does not learn it; later steps run over all of its {media.data.rows:,} rows"


def _total(made: Contract) -> str:
    total = made.total
    if not total.column:
        return ""
    cap = total.cap / 10**total.decimals
    whose = " and ".join(party.name for party in made.parties if party.role == total.role)
    noise = made.guards.count_noise * cap
    return f'"{total.column}" of {whose}, each value cut to 0 to {cap:,}; the sum has noise of {noise:,}'


def _label(made: Contract) -> str:
    label = made.label
    if made.is_horizontal:
        return f'rows of all clients with "{label.column}" = "{label.positive}"' if label.column else ""
    brand = made.role("brand").name
    if label.seeds:
        return f"everybody in the data set of {brand}, told from people drawn among the media's others"
    if not label.column:
        return ""
    weight = f', each row counting as much as its "{label.weight}" says' if label.weight else ""
    return f'those of {brand} with "{label.column}" = "{label.positive}"{weight}'


def _holdout(made: Contract) -> str:
    if made.holdout.column:
        return f'rows with "{made.holdout.column}" = "{made.holdout.value}"'
    rows = "rows of each client" if made.is_horizontal else "matched rows"
    return f"{made.holdout.percent} % of the {rows}, drawn at random" if made.holdout.percent else ""


def _model(made: Contract) -> str:
    if not made.model:
        return ""
    if any(step.step == "assign" for step in made.steps):
        return f"the segments of campaign {made.model}"
    trains = any(step.step == "train" for step in made.steps)
    return f"training starts from that of campaign {made.model}" if trains else f"that of campaign {made.model}"


def _privacy(made: Contract) -> str:
    if not made.privacy.epsilon_milli:
        return ""
    epsilon = made.privacy.epsilon_milli / 1000
    figures = f"epsilon {epsilon:g}, delta 1e-{made.privacy.delta_exponent}"
    if not made.is_horizontal:
        return f"{figures}, for what training and insight release"
    settings = made.steps[0].settings
    unit = next(name for name, number in rules.UNITS.items() if number == settings["unit"])
    whose = {"row": "any one row", "client": "all rows of any one client"}[unit]
    clip = whole(settings["clip_milli"]) / 1000
    return f"{figures}, for {whose} in the whole training; the pull of each row is cut at {clip:g} times a usual one's"


def _helper(made: Contract) -> str:
    if not made.helper:
        return ""
    steps = ", ".join(step.name for step in made.steps if CATALOG[step.protocol].helper)
    return f"in {steps}, known by the key {made.helper[:16]}..."


def _ranges(made: Contract) -> str:
    shown = [f"{each.column} {each.low:g} to {each.high:g}" for each in made.ranges]
    return ", ".join(shown) + "; other values are cut to these" if shown else ""


def _outcome(made: Contract) -> str:
    outcome, unit = made.outcome, 10**made.outcome.decimals
    if not outcome.campaign:
        return ""
    bought = (
        f'those with "{outcome.converted}" = "{outcome.positive}"' if outcome.converted else "everybody in its data set"
    )
    spent = f'; spent: "{outcome.spend}", each value cut to 0 to {outcome.cap / unit:,}' if outcome.spend else ""
    cost = f"; the campaign cost {outcome.cost / unit:,}" if outcome.cost else ""
    who = f"audience {outcome.tier} of campaign {outcome.campaign} against its people left alone"
    return f"{who}; bought have, at {made.role('brand').name}, {bought}{spent}{cost}"


def _audit(made: Contract) -> str:
    return (
        f"{made.role('brand').name} keeps what an auditor needs to derive its part of each run again"
        if made.audit
        else ""
    )
