"""The report says what the steps left, to people and to programs, and nothing in the data can break its page."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tidegate.party import calibration, quality
from tidegate.party.report import build, wording
from tidegate.protocols import catalog
from tidegate.protocols.channel import ConfigError
from tidegate.wire.contract import (
    VERSION,
    Contract,
    ContractParty,
    DataSet,
    Guards,
    Holdout,
    Key,
    Label,
    Privacy,
    Step,
)

HOSTILE = "</style></title><script>alert(1)</script>\"'&<img src=x onerror=alert(2)>\u202e\x00$x^2$"
STEPS = ("match", "insight", "train", "score", "expand")


def contract(column: str = "bought") -> Contract:
    parties = tuple(
        ContractParty(role, role, digit * 64, DataSet(f"{role}_data", 5000, digit * 64))
        for role, digit in (("brand", "a"), ("media", "b"))
    )
    return Contract(
        version=VERSION,
        software="0.1.0",
        campaign="spring",
        nonce="0" * 32,
        created_s=1_760_000_000,
        expires_s=1_760_600_000,
        parties=parties,
        keys=(Key("phone"), Key("email")),
        label=Label(column, "1"),
        features={"brand": ("age_band",), "media": ("sport",)},
        holdout=Holdout("", "", 30),
        steps=tuple(
            Step(step, catalog.DEFAULT_PROTOCOL[step], {"sizes": [5, 10]} if step == "expand" else {}) for step in STEPS
        ),
        guards=Guards(floor=100, seeds=100, train_steps=12, count_noise=10, score_levels=20),
        learns={"media": ("nothing but sizes",), "coordinator": ("who talks to whom",)},
    )


def counted(label: str, people: int, positives: int, index: float) -> dict[str, Any]:
    """A bin as the step insight leaves it."""
    odds = (positives / 400) / ((people - positives) / 3600)
    return {
        "label": label, "people": people, "matched": people, "positives": positives, "parts": 1, "index": index,
        "index_interval": [index - 5, index + 5], "woe": math.log(odds), "woe_interval": [-1.0, 1.0],
    }  # fmt: skip


def brand_facts(name: str = "sport", gain: float = 0.8) -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(3)
    y = (rng.random(3000) < 0.1).astype(int)
    alone = rng.normal(size=y.size) + 0.5 * y - 2.5
    joint = alone + gain * y
    rates = np.sort(calibration.calibrate(y, joint).rates(joint[:2600]))[::-1]
    shared = {"run": "00", "seconds": 1.25, "sent": 2_000_000, "received": 3_000}
    facts: dict[str, dict[str, Any]] = {
        "match": {
            "brand_rows": 5000, "media_rows": 5000, "size": 4000, "floor": 100,
            "by_key": {"phone": 3000, "email": 1000},
            "own_by_key": {"phone": 4000, "email": 4100}, "peer_by_key": {"phone": 4200, "email": 4300},
        },
        "insight": {
            "base_rate": 0.1, "matched": 4000, "positives": 400, "noise": 10, "withheld": ["region"],
            "features": [
                {"name": f"dull_{i}", "iv": 0.003, "iv_interval": [0.0, 0.01], "iv_chance": 0.01,
                 "strength": "nothing clear",
                 "bins": [counted("some", 3900, 392, 100.5), counted("more", 100, 8, 80.0)]}
                for i in range(8)
            ] + [
                {"name": name, "iv": 0.62, "iv_interval": [0.5, 0.7], "iv_chance": 0.01, "strength": "very strong",
                 "bins": [counted(f"often {name}", 1200, 300, 250.0), counted("never", 2800, 100, 36.0)]},
            ],
        },
        "train": {
            "rows": {"train": 1000, "holdout": 3000}, "positives": {"train": 110, "holdout": int(y.sum())},
            "steps": 8, "l2": 10.0, "weights": [{"name": name, "weight": -0.4}, {"name": "age_band", "weight": 0.2}],
            **quality.compare(y, {"brand_only": alone, "joint": joint, "media_only": rng.normal(size=y.size) + y}),
        },
        "score": {"rows": 4000, "levels": 20, "histogram": quality.histogram(joint)},
        "expand": {
            "pool": 2600, "floor": 100, "histogram": quality.histogram(alone),
            "sizes": [
                {"percent": percent, "people": people, "expected_rate": float(rates[:people].mean()),
                 "expected_lift": float(rates[:people].mean() / rates.mean())}
                for percent, people in ((5, 130), (10, 260))
            ],
        },
    }  # fmt: skip
    return {step: {"step": step, **shared, "learned": [f"something of {step}"], **one} for step, one in facts.items()}


def media_facts() -> dict[str, dict[str, Any]]:
    shared = {"run": "00", "seconds": 1.0, "sent": 10, "received": 20}
    match = {**brand_facts()["match"], "learned": ["that many matched"]}
    sizes = [{"percent": 5, "people": 130}, {"percent": 10, "people": 260}]
    return {
        "match": match,
        "insight": {**shared, "learned": ["nothing new"], "features": 3, "rows": 4000},
        "train": {**shared, "learned": ["the split"], "rows": {"train": 1000, "holdout": 3000}, "features": 3},
        "score": {**shared, "learned": ["that rows were scored"], "rows": 4000},
        "expand": {**shared, "learned": ["who is in which audience"], "pool": 2600, "sizes": sizes},
    }


def written(folder: Path, facts: dict[str, dict[str, Any]]) -> Path:
    for step, one in facts.items():
        (folder / step).mkdir(parents=True)
        (folder / step / "facts.json").write_text(json.dumps(one))
    return folder


EXTRA = {
    "media_facts": media_facts(),
    "pooled": {"auc": 0.8123, "log_loss": 0.21},
    "expand_truth": {
        "base_rate": 0.06,
        "sizes": [{"percent": 5, "people": 130, "rate": 0.15}, {"percent": 10, "people": 260, "rate": 0.12}],
    },
    "note": "identifiers are made up",
}


class Page(HTMLParser):
    """Collects what a browser would see: open tags, attributes, text; fails on a tag that closes nothing."""

    VOID = ("meta", "wbr", "rect", "path", "use", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.said: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.said.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"[ \n]+", " ", "".join(self.said))


def made(tmp_path: Path, facts: dict[str, dict[str, Any]], **more: Any) -> tuple[str, dict[str, Any]]:
    made_contract, party, extra = more.get("contract", contract()), more.get("party", "brand"), more.get("extra")
    page = build(written(tmp_path / "campaign", facts), made_contract, party, tmp_path / "out", extra)
    return page.read_text(), json.loads((tmp_path / "out" / "report.json").read_text())


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """The brand's page and JSON with everything in them; plots take a while, so several tests look at the same."""
    return made(tmp_path_factory.mktemp("demo"), brand_facts(), extra=EXTRA)


def test_report_json_has_what_programs_rely_on(demo: tuple[str, dict[str, Any]]) -> None:
    facts = json.loads(json.dumps(brand_facts()))
    _, report = demo
    assert report["match"]["brand_rows"] == report["match"]["media_rows"] == 5000
    assert report["match"]["size"] == 4000
    assert report["train"]["auc"]["brand_only"] == facts["train"]["auc"]["brand_only"]
    assert report["train"]["auc"]["joint"] == facts["train"]["auc"]["joint"]
    assert report["train"]["auc"]["pooled_clear_text"] == 0.8123
    assert report["train"]["auc"]["gain_interval"] == facts["train"]["gain_interval"]
    assert report["train"]["log_loss"]["joint"] == facts["train"]["log_loss"]["joint"]
    assert report["train"]["lift_at_10"]["joint"] == facts["train"]["lift_at"]["10"]["joint"]
    assert report["score"]["rows"] == 4000
    assert [size["percent"] for size in report["expand"]["sizes"]] == [5, 10]
    assert report["expand"]["sizes"][0]["true_lift"] == pytest.approx(2.5)
    assert report["seconds"] == dict.fromkeys(STEPS, 1.25)
    assert report["bytes"]["train"] == {"sent": 2_000_000, "received": 3_000}
    assert report["learned"]["brand"] == [f"something of {step}" for step in STEPS]
    assert "who is in which audience" in report["learned"]["media"]
    assert report["learned"]["coordinator"] == ["who talks to whom"]
    assert report["contract"] == contract().hash.hex()
    assert report["insight"] == facts["insight"], "everything in the facts is there"


def test_page_says_it_all_in_words(demo: tuple[str, dict[str, Any]]) -> None:
    html, _ = demo
    text = Page(html).text
    for sentence in (
        "your best-scored tenth holds",
        "4,000 people are known to both",
        "AUC of 0.8123",
        "15\u00a0% truly are good customers, against 6.0\u00a0% of all: 2.5× a blind pick",
        "identifiers are made up",
        "something of expand",
        "who is in which audience",
        contract().hash.hex(),
        "tidegate 0.1.0",
        "2.0\u00a0MB",
    ):
        assert sentence in text


def test_page_is_one_file_that_loads_nothing(demo: tuple[str, dict[str, Any]]) -> None:
    html, _ = demo
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "embed", "img", "base", "form"} & set(page.tags)
    assert "http:" not in html
    assert "https:" not in html
    assert "@import" not in html
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("href", "src", "xlink:href"):
            assert value.startswith("#")
    assert all(found.startswith("#") for found in re.findall(r"url\(([^)]*)\)", html))


def test_every_plot_has_words_and_ids_are_unique(demo: tuple[str, dict[str, Any]]) -> None:
    html, _ = demo
    plots = re.findall(r"<svg [^>]*role=\"img\"[^>]*>", html)
    assert len(plots) == 5
    assert all(len(re.search(r'aria-label="([^"]*)"', plot)[1]) > 30 for plot in plots)  # type: ignore[index]
    ids = [value for name, value in Page(html).attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = [value[1:] for name, value in Page(html).attributes if name == "href"]
    assert set(targets) <= set(ids)
    assert "#0a0b" not in html, "a stand-in colour was left in a plot"


def test_same_facts_make_the_same_bytes(tmp_path: Path, demo: tuple[str, dict[str, Any]]) -> None:
    assert made(tmp_path, brand_facts(), extra=EXTRA) == demo


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    facts = brand_facts(name=HOSTILE)
    for one in facts.values():
        one["learned"] = [HOSTILE]
    facts["match"]["by_key"] = {HOSTILE: 4000}
    hostile = contract(column=HOSTILE)
    parties = (dataclasses.replace(hostile.parties[0]), dataclasses.replace(hostile.parties[1], name=HOSTILE))
    hostile = dataclasses.replace(hostile, parties=parties, campaign=HOSTILE, software=HOSTILE)
    for party, folder, left in (("brand", "of_brand", facts), (HOSTILE, "of_media", media_facts())):
        html, _ = made(tmp_path / folder, left, contract=hostile, party=party, extra={"note": HOSTILE})
        page = Page(html)
        assert "script" not in page.tags
        assert "img" not in page.tags
        assert not any(name.startswith("on") for name, _ in page.attributes)
        assert "<script" not in html
        assert "\u202e" not in html
        assert "\x00" not in html
        assert "alert(1)" in page.text


def test_what_is_different_about_good_customers_is_a_sentence_a_feature(tmp_path: Path) -> None:
    html = build(written(tmp_path / "c", brand_facts()), contract(), "brand", tmp_path).read_text()
    page = Page(html)
    said = " ".join("".join(page.said).split())
    assert "sport (very strong): people with “often sport” are good customers 2.5 times as often as average" in said
    assert "those with “never” 64 % less often than average" in said
    assert "dull_0 (" not in said
    assert said.index("IV 0.620 (0.500 to 0.700) · very strong") < said.index("IV 0.003")
    assert "Not shown, since all people ended in one group: region." in said


def test_differential_privacy_is_said_with_what_was_spent(tmp_path: Path) -> None:
    made = dataclasses.replace(contract(), privacy=Privacy(epsilon_milli=1500, delta_exponent=7))
    ours, theirs = written(tmp_path / "brand", brand_facts()), media_facts()
    assert "Differential privacy" not in build(ours, contract(), "brand", tmp_path).read_text()
    assert "epsilon, at a delta of 10^−7" in build(ours, made, "brand", tmp_path).read_text()
    theirs["insight"]["privacy"] = {"epsilon": 1.5, "delta": 1e-7, "spent": 2.25}
    page = build(written(tmp_path / "media", theirs), made, "media", tmp_path).read_text()
    assert "epsilon that all campaigns with this brand have spent" in page
    assert ">2.25<" in page


def test_gain_within_noise_is_said_plainly(tmp_path: Path) -> None:
    html, _ = made(tmp_path, brand_facts(gain=0.0))
    assert "made no measurable difference" in Page(html).text
    assert "The interval includes 0, so no gain is shown" in Page(html).text


@pytest.mark.parametrize(
    ("gain", "interval", "kind"),
    [
        (0.02, [0.01, 0.03], "better"),
        (0.02, [-0.01, 0.05], "noise"),
        (-0.02, [-0.03, -0.01], "worse"),
        (0.1, None, "untold"),
    ],
)
def test_verdict_follows_the_interval(gain: float, interval: list[float] | None, kind: str) -> None:
    train = {"auc": {"brand_only": 0.7, "joint": 0.7 + gain}, "gain": gain, "gain_interval": interval}
    verdict = wording.verdict(train, "media")
    assert verdict is not None
    assert verdict.kind == kind


def test_gain_at_the_edge_of_noise_is_not_oversold() -> None:
    train = {"auc": {"brand_only": 0.706, "joint": 0.729}, "gain": 0.0236, "gain_interval": [0.0001, 0.0471]}
    verdict = wording.verdict(train, "media")
    assert verdict is not None
    assert "only just more than chance explains" in verdict.because
    assert "+0.0001 to +0.047" in verdict.because


def test_headline_counts_customers_only_where_the_tenth_shows_the_gain() -> None:
    train: dict[str, Any] = {"auc": {"brand_only": 0.7, "joint": 0.75}, "gain": 0.05, "gain_interval": [0.01, 0.09]}
    for joint, says in ((4.1, "41 of every 100"), (3.05, "75 times in 100")):
        verdict = wording.verdict({**train, "lift_at": {"10": {"brand_only": 3.0, "joint": joint}}}, "media")
        assert verdict is not None
        assert says in verdict.headline


@pytest.mark.parametrize("steps", [(), ("match",), ("match", "train"), ("match", "train", "expand"), ("score",)])
def test_steps_that_did_not_run_are_left_out(tmp_path: Path, steps: tuple[str, ...]) -> None:
    facts = {step: one for step, one in brand_facts().items() if step in steps}
    html, report = made(tmp_path, facts)
    assert set(report) & set(STEPS) == set(steps)
    assert ("known to both" in Page(html).text) == ("match" in steps)
    assert ("No step of this campaign has finished yet" in Page(html).text) == (steps in ((), ("score",)))
    assert report["learned"]["media"] == ["nothing but sizes"], "the contract's words where there is no record"


def test_media_gets_a_page_of_its_own(tmp_path: Path) -> None:
    html, report = made(tmp_path, media_facts(), party="media")
    text = Page(html).text
    assert "260 of your other people look like the good customers of brand" in text
    assert "The scores are with brand; you hold none of them" in text
    assert report["expand"]["sizes"][1] == {"percent": 10, "people": 260}


def test_figures_that_could_not_be_told_are_dashes(tmp_path: Path) -> None:
    facts = brand_facts()
    facts["train"]["auc_interval"] = {"brand_only": None, "joint": None}
    facts["train"] |= {"gain_interval": None, "weights": []}
    facts["score"]["histogram"] = {"edges": [0.0, 0.25, 0.5], "counts": [3, 0]}
    facts["expand"]["sizes"] = [{"percent": 5, "people": 130, "expected_rate": None, "expected_lift": None}]
    html, _ = made(tmp_path, facts)
    assert "Too few held-out customers to tell" in Page(html).text


@pytest.mark.parametrize("content", ["{", "[]", "\udcff"])
def test_damaged_facts_are_a_configuration_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "match").mkdir()
    (tmp_path / "match" / "facts.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=r"facts\.json"):
        build(tmp_path, contract(), "brand", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_full_disk_leaves_the_old_report_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = written(tmp_path / "campaign", media_facts())
    page = build(campaign, contract(), "brand", tmp_path / "out")
    before = page.read_bytes()

    def full(path: Path, text: str, encoding: str) -> int:
        path.write_bytes(text[:100].encode(encoding))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        build(campaign, contract(), "brand", tmp_path / "out", {"note": "new"})
    assert page.read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.json"]


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0, "0\u00a0B"),
        (999, "999\u00a0B"),
        (1000, "1.0\u00a0kB"),
        (31_200_000, "31\u00a0MB"),
        (5e9, "5.0\u00a0GB"),
        (None, "–"),
    ],
)
def test_sizes_are_shown_in_the_largest_fitting_unit(amount: float | None, shown: str) -> None:
    assert wording.size(amount) == shown


# Several media


def several(modes: tuple[str, ...] = ("match.oprf@1", "match.oprf@1")) -> Contract:
    one = contract()
    media = tuple(
        dataclasses.replace(one.parties[1], name=name, identity=digit * 64)
        for name, digit in zip(("alpha", "beta"), "cd", strict=True)
    )
    steps = tuple(Step("match", mode, {}, each.name) for mode, each in zip(modes, media, strict=True))
    label, learns = Label("", ""), {"alpha": ("its own rows",), "beta": ("its own rows",)}
    return dataclasses.replace(one, parties=(one.parties[0], *media), steps=steps, label=label, learns=learns)


def matched(size: int | None, **more: Any) -> dict[str, Any]:
    facts = {**brand_facts()["match"], "engine": "oprf", "mode": "both", "group": "AVX2", "by_key": {"phone": size}}
    facts |= {"size": size, "own_by_key": {"phone": 4900}, "peer_by_key": {"phone": 4800}, **more}
    return {name: value for name, value in facts.items() if value is not None}


TOGETHER = {"rows": 5000, "known_to": {"alpha": 4000, "beta": 3111}, "any": 4500, "all": 2611, "floor": 100}


def test_each_media_has_its_section_and_what_they_know_together_another(tmp_path: Path) -> None:
    facts = {"match-alpha": matched(4000), "match-beta": matched(3111, together=TOGETHER)}
    html, report = made(tmp_path, facts, contract=several())
    page = Page(html)
    for sentence in (
        "4,500 of your people are known to alpha or beta.",
        "4,000 people are known to both you and alpha",
        "3,111 people are known to both you and beta",
        "known to all 22,611",
        "Compared by the engine oprf, mode both, group arithmetic by AVX2.",
        "Match alpha",
        "brand with alpha and beta",
    ):
        assert sentence in page.text
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for name, value in page.attributes if name == "href"} <= set(ids)
    assert report["media"]["beta"]["match"]["by_key"] == {"phone": 3111}
    assert report["together"] == TOGETHER
    assert report["seconds"] == {"match-alpha": 1.25, "match-beta": 1.25}
    assert "good customers: " not in page.text


def test_a_media_among_several_is_shown_its_own_match(tmp_path: Path) -> None:
    facts = {"match-alpha": matched(4000), "match-beta": matched(77)}
    html, report = made(tmp_path, facts, contract=several(), party="alpha")
    assert "You and brand share 4,000 people." in Page(html).text
    assert (report["peer"], report["match"]["size"], list(report["seconds"])) == ("brand", 4000, ["match-alpha"])
    assert not {"media", "together", "match-beta"} & set(report)


def test_what_may_not_be_told_of_several_is_left_out_and_said_to_be(tmp_path: Path) -> None:
    together = {**TOGETHER, "known_to": {"alpha": 4000, "beta": None}, "any": None, "all": None}
    html, _ = made(tmp_path, {"match-alpha": matched(4000, together=together)}, contract=several())
    text = Page(html).text
    assert "known to betafewer than 100–" in text
    assert "known to at least one" not in text
    assert "A line is left out" in text
    assert "matched with those of alpha and beta, each apart" in text


def test_who_was_told_no_size_is_told_that_the_floor_was_reached(tmp_path: Path) -> None:
    facts = {"match-alpha": matched(None, mode="brand", by_key=None, reached=["phone"])}
    modes = ("match.oprf-brand@1", "match.oprf-brand@1")
    html, _ = made(tmp_path, facts, contract=several(modes), party="alpha")
    assert "100 or more people are known to both; brand knows how many" in Page(html).text
    assert "mode brand" in Page(html).text
