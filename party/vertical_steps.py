"""The steps of a campaign file between a brand and its media: their order, and the settings of each."""

from __future__ import annotations

from typing import Any

from tidegate.protocols.catalog import CATALOG, DEFAULT_PROTOCOL, STEPS, protocol_after
from tidegate.protocols.psi import doctor
from tidegate.wire.contract import FROM_MODEL, ROLES, Guards, Step

from . import models, policy
from .form import Form, listing, written
from .store import Campaign

# Steps that run with each media apart where there are several, and that use identifiers alone.
WITH_EACH = frozenset({"doctor", "match"})
TRAIN_STEPS, LOOKALIKE_STEPS, L2, SAMPLE, OTHERS = 8, 4, 10, 20_000, 10
MOST_SEGMENTS, STARTS, ITERATIONS = 8, 4, 20
AUDIENCE_KEYS = ("sizes", "people", "threshold")


class StepsForm(Form):
    """A campaign file whose steps run between a brand and its media."""

    def steps(self, guards: Guards, match: str, media: list[str], model: Campaign | None) -> tuple[Step, ...]:
        """The steps in the order of their tables; those of WITH_EACH for one media after the other."""
        raw = self.table("steps", STEPS)
        named = [name for name in raw if name in STEPS]
        if "steps" in self.raw and not named:
            self.wrong("steps", "at least one table like [steps.match]", "none")
        several, seeds = len(media) > 1, self.seeds()
        done: list[str] = []
        steps: list[Step] = []
        for name in named:
            apart = several and name in WITH_EACH
            after = protocol_after(match, name, several=several and not apart, seeds=seeds)
            protocol = {"doctor": DEFAULT_PROTOCOL["doctor"], "match": match}.get(name, after) or DEFAULT_PROTOCOL[name]
            missing = [
                need for need in CATALOG[protocol].needs if need not in done and not (need in FROM_MODEL and model)
            ]
            if missing:
                later = [need for need in missing if need in named]
                hint = "the steps run in the order of their tables" if later else f"add [steps.{missing[0]}]"
                if missing[0] in FROM_MODEL and not later:
                    hint += ", or name in [model] a campaign that has done it"
                self.wrong(f"steps.{name}", f"[steps.{missing[0]}] before it", "it later" if later else "none", hint)
            elif name not in WITH_EACH and after is None:
                self.no_such_step(name, match, media)
            done.append(name)
            settings = self.settings(name, protocol, raw, named, guards, model)
            steps += [Step(name, protocol, settings, each) for each in (media if apart else [""])]
        return tuple(steps)

    def no_such_step(self, name: str, match: str, media: list[str]) -> None:
        """Notes that a step does not run on what the match gives."""
        alignment, mode = CATALOG[match].alignment, CATALOG[match].mode
        if len(media) > 1:
            hint = "write a campaign for each media"
            self.wrong(f"steps.{name}", "one media with this step", f"{len(media)} ({listing(media)})", hint)
        elif alignment == "hidden":
            hint = 'its result shows the media who is in it; mode = "both" allows it'
            self.wrong(f"steps.{name}", "a match that both sides learn", f'mode "{mode}"', hint)
        else:
            hint = 'with mode = "both" both sides learn which rows match, with mode = "brand" the brand alone'
            self.wrong(f"steps.{name}", "a match that tells which rows match", f'mode "{mode}"', hint)

    def seeds(self) -> bool:
        label = self.raw.get("label")
        return isinstance(label, dict) and label.get("seeds") is True

    def settings(
        self, name: str, protocol: str, raw: dict[str, Any], named: list[str], guards: Guards, model: Campaign | None
    ) -> dict[str, int | list[int]]:
        known: tuple[str, ...] = {
            "doctor": ("sample",),
            "train": ("steps", "l2", "lookalike_steps", "balance", "early_stop", "importance"),
            "expand": (*AUDIENCE_KEYS, "control"),
            "segment": ("k", "most_k", "starts", "iterations", "brand_weight", "media_weight"),
        }.get(name, ())
        if CATALOG[protocol].mode == "epoch":
            known = ("prefix_bits",)
        if CATALOG[protocol].seeds:
            known = (*(each for each in known if each != "lookalike_steps"), "others_per_seed")
        own = self.table(f"steps.{name}", known, raw)
        if CATALOG[protocol].mode == "epoch":
            return {"prefix_bits": self.integer(own, "steps.match.prefix_bits", *policy.PREFIX_BITS, 0)}
        if name == "doctor":
            return {"sample": self.sample(own, guards)}
        if name == "segment":
            return self.segmenting(own)
        if name == "train":
            return self.training(own, named, guards, seeds=CATALOG[protocol].seeds)
        if name == "expand":
            if model is not None and "train" not in named and not models.trains_lookalike(model.contract):
                found = f"{model.short}, which trained none"
                self.wrong("model.campaign", "a campaign with a model for other people", found, "train with expand")
            control = self.integer(own, "steps.expand.control", *policy.CONTROL_PERCENT, 0)
            return {**self.audiences(own), "control_percent": control}
        return {}

    def training(
        self, own: dict[str, Any], named: list[str], guards: Guards, *, seeds: bool
    ) -> dict[str, int | list[int]]:
        steps = self.integer(own, "steps.train.steps", 1, policy.HARD_GUARDS.train_steps, TRAIN_STEPS)
        lookalike = 0
        if "expand" in named and not seeds:
            lookalike = self.integer(own, "steps.train.lookalike_steps", 1, 11, LOOKALIKE_STEPS)
        elif "lookalike_steps" in own and not seeds:
            self.wrong("steps.train.lookalike_steps", "it only with [steps.expand]", written(own["lookalike_steps"]))
        if steps + lookalike > guards.train_steps:
            taken = f"{steps}" + (f" and {lookalike} for the lookalike model" if lookalike else "")
            hint = "each optimiser step tells the brand something; a data set has a budget of 12"
            self.wrong(
                "steps.train.steps", f"at most {guards.train_steps} steps in all (guards.train_steps)", taken, hint
            )
        switches = {name: self.switch(own, f"steps.train.{name}") for name in ("balance", "early_stop", "importance")}
        settings: dict[str, int | list[int]] = {
            "steps": steps,
            "l2_milli": self.l2_milli(own),
            "lookalike_steps": lookalike,
        }
        if seeds:
            others = self.integer(own, "steps.train.others_per_seed", *policy.OTHERS_PER_SEED, OTHERS)
            settings["others_per_seed"] = others
        return {**settings, **switches}

    def segmenting(self, own: dict[str, Any]) -> dict[str, int | list[int]]:
        least, most = policy.SEGMENTS
        auto = own.get("k") == "auto"
        if "k" not in own:
            self.wrong("steps.segment.k", f'"auto", or a whole number from {least} to {most}', "nothing")
        if "most_k" in own and not auto:
            self.wrong("steps.segment.most_k", 'it only with k = "auto"', written(own["most_k"]))
        k = 0 if auto else self.integer(own, "steps.segment.k", least, most, least)
        weights = {}
        for side in ROLES:
            key, expected = f"steps.segment.{side}_weight", "a number from 0.001 to 1000, with three decimals at most"
            weights[f"{side}_weight"] = self.milli(own, key, 1, 10**6, expected, 1)
        return {
            "k": k,
            "most_k": self.integer(own, "steps.segment.most_k", least, most, MOST_SEGMENTS) if auto else max(k, least),
            "starts": self.integer(own, "steps.segment.starts", *policy.STARTS, STARTS),
            "iterations": self.integer(own, "steps.segment.iterations", *policy.ITERATIONS, ITERATIONS),
            **weights,
        }

    def sample(self, own: dict[str, Any], guards: Guards) -> int:
        sample = self.integer(own, "steps.doctor.sample", *policy.SAMPLE_ROWS, SAMPLE)
        if guards.count_noise * doctor.SPREAD > sample:
            least = f"at least {doctor.SPREAD} times guards.count_noise ({guards.count_noise})"
            self.wrong("steps.doctor.sample", least, str(sample), "the noise would drown what is counted")
        return sample

    def l2_milli(self, own: dict[str, Any]) -> int:
        """Thousandths, 0 for "auto"."""
        if own.get("l2") == "auto":
            return 0
        return self.milli(
            own, "steps.train.l2", 1, 10**9, '"auto", or a number from 0.001 to 1000000 with at most three decimals', L2
        )

    def audiences(self, own: dict[str, Any]) -> dict[str, int | list[int]]:
        """How large the audiences are, by one of the keys of AUDIENCE_KEYS."""
        given = [key for key in AUDIENCE_KEYS if key in own] or ["sizes"]
        if len(given) > 1:
            self.wrong("steps.expand", f"one of {listing(AUDIENCE_KEYS)}", listing(given))
        key = given[0]
        if key == "threshold":
            expected = "a probability from 0.001 to 0.999, with three decimals at most"
            return {"threshold_milli": [self.milli(own, "steps.expand.threshold", 1, 999, expected, 0) or 1]}
        low, high = policy.AUDIENCES[key]
        sizes = own.get(key, [5, 10, 20])
        whole = isinstance(sizes, list) and all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
        if not whole or not sizes or not all(low <= size <= high for size in sizes) or len(set(sizes)) != len(sizes):
            found = ", ".join(map(str, sizes)) if isinstance(sizes, list) else written(sizes)
            what = "percents" if key == "sizes" else "numbers of people"
            expected = f"a list of different whole {what} from {low} to {high}"
            self.wrong(f"steps.expand.{key}", expected, found or "an empty list")
            return {key: [low]}
        return {key: sorted(sizes)}
