"""`tidegate demo`: a whole campaign on this machine, and what a person who holds both sides' data can say about it.

Beside what the two parties learn, the demo has both tables at hand. It uses them for yardsticks that no party could
have: the same model and the same segments from the pooled clear-text tables, and, where the labels of the media's
people are known (truth.parquet), how good the found audience really is.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import shutil
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression

from tidegate.protocols.channel import ConfigError
from tidegate.protocols.clustering.kmeans import adjusted_rand

from .. import quality, report
from ..aligned import read_rows, read_split
from ..data import features, table
from ..report.wording import verdict
from ..segments import columns
from ..store import Campaign, Event, Run, Store
from . import records
from .loopback import PARTIES, DataSet, Loopback, is_over, loopback

Facts = dict[str, Any]
LONGEST_S = 1800.0
LOOK_EVERY_S = 0.4  # the nodes want the cores for something better
MARK = ".tidegate-demo"
NOTE = (
    "CoIL 2000: 9,822 real customer records of a Dutch insurer (CC BY 4.0, doi:10.24432/C5630S), dealt to a brand "
    "and a media. They hold no identifiers: the e-mail addresses and telephone numbers are made up, from ranges kept "
    "for examples. Columns on religion are left out, and bands of percents and ages given by their middles."
)
# Column names under which people keep identifiers; the first that a table has is taken.
USUAL_COLUMNS = {
    "email": ("email", "e_mail", "e-mail", "mail", "email_address"),
    "phone": ("phone", "telephone", "mobile", "tel", "msisdn", "phone_number"),
    "device": ("device", "device_id", "idfa", "gaid", "oaid", "maid"),
    "text": ("text", "id", "customer_id", "user_id", "person_id"),
}


@dataclass(frozen=True)
class Setting:
    """What the demo reads out of campaign.toml before the product does: names and key columns."""

    campaign: str
    names: tuple[str, str]
    data: dict[str, DataSet]


def write_data(folder: Path) -> None:
    """Writes the demo's tables and campaign file into a folder, for those who want to play the parts by hand."""
    records.write(folder)


def demo(data: Path | None, out: Path, console: Console) -> None:
    """Plays the campaign of `data` (or of the records that ship with the package) and leaves everything under `out`.

    Raises a TidegateError when the campaign does not end well. Nothing that was started is left running.
    """
    if data is not None and data.resolve().is_relative_to(out.resolve()):
        raise ConfigError(f"the data lie in {out}, which is cleared first", "choose another folder with --out")
    _make_room(out)
    made_up = data is None
    if data is None:
        data = out / "data"
        records.write(data)
    setting = read_setting(data)
    _introduce(console, setting, data, made_up)
    started = time.monotonic()
    brand, media = setting.names
    with contextlib.ExitStack() as running:
        with console.status("Making keys, introducing the parties, registering the data ..."):
            stage = running.enter_context(loopback(out, setting.data, setting.names))
            stage.campaign(brand, "propose", str(data / "campaign.toml"), "--yes")
            stage.party(media, "approve", setting.campaign, "--yes")
        for name in setting.names:
            stage.start_node(name)
        campaign = watch(stage, setting.campaign, console)
    if campaign.state != "done":
        reason, _, hint = campaign.reason.partition(". Hint: ")
        at = f" at {campaign.by}" if campaign.by else ""
        hint = hint or f"the logs and what each party holds are in {out}"
        raise ConfigError(f"the campaign {campaign.name} ended as {campaign.state}{at}: {reason}", hint)
    extra = both_sides(stage, campaign, setting, data)
    if made_up:
        extra["note"] = NOTE
    path = report.build(stage.home(brand).campaign(campaign.short), campaign.contract, brand, out, extra)
    summarise(console, json.loads((out / "report.json").read_text()), path, time.monotonic() - started)


def _make_room(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        if not (out / MARK).is_file():
            raise ConfigError(f"{out} holds files that are not a demo's", "choose an empty or new folder with --out")
        shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / MARK).write_text("made by `tidegate demo`, which clears this folder when it runs again\n")
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}", "choose another folder with --out") from None


def read_setting(data: Path) -> Setting:
    """Names and key columns of a folder with brand.parquet|csv, media.parquet|csv and campaign.toml."""
    file = data / "campaign.toml"
    try:
        raw = tomllib.loads(file.read_text())
    except FileNotFoundError:
        raise ConfigError(f"there is no {file}", "see docs/campaign-file.md; `tidegate demo` alone shows one") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}", "see docs/campaign-file.md") from None
    if isinstance(_section(file, raw, "parties").get("media"), list):
        raise ConfigError(f"{file}: the demo plays a brand and one media", 'write [parties] media = "NAME"')
    names = tuple(_text(file, raw, "parties", role) for role in PARTIES)
    kinds = _section(file, raw, "match").get("keys")
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise ConfigError(f"{file}: match.keys is not a list of names", 'for example keys = ["phone", "email"]')
    extra = raw.get("demo", {})
    sets = {}
    for role in PARTIES:
        path = _table_file(data, role)
        columns = table.read(path).column_names
        given = extra.get(role, {})
        keys = {kind: str(given.get(kind, "")) or _key_column(path, kind, columns) for kind in kinds}
        region = str(given.get("region", extra.get("region", "US" if "phone" in kinds else "")))
        duplicates = str(given.get("duplicates", extra.get("duplicates", "refuse")))
        sets[role] = DataSet(_text(file, raw, "data", role), path, keys, region, duplicates)
    return Setting(_text(file, raw, "campaign", "name"), (names[0], names[1]), sets)


def _section(file: Path, raw: Facts, name: str) -> Facts:
    section = raw.get(name)
    if not isinstance(section, dict):
        raise ConfigError(f"{file}: the table [{name}] is missing", "see docs/campaign-file.md")
    return section


def _text(file: Path, raw: Facts, section: str, key: str) -> str:
    value = _section(file, raw, section).get(key)
    if not isinstance(value, str):
        raise ConfigError(f"{file}: {section}.{key} is missing or not text", "see docs/campaign-file.md")
    return value


def _table_file(data: Path, role: str) -> Path:
    found = [data / f"{role}.{ending}" for ending in ("parquet", "csv") if (data / f"{role}.{ending}").is_file()]
    if not found:
        raise ConfigError(f"{data} holds neither {role}.parquet nor {role}.csv", "put the table of this party there")
    return found[0]


def _key_column(path: Path, kind: str, columns: list[str]) -> str:
    lower = {column.lower().strip(): column for column in columns}
    for usual in USUAL_COLUMNS.get(kind, (kind,)):
        if usual in lower:
            return lower[usual]
    near = difflib.get_close_matches(kind, list(lower), 1)
    raise ConfigError(
        f"{path} has no column that looks like a {kind} key{f' (is it {lower[near[0]]}?)' if near else ''}",
        f'name it in campaign.toml: [demo.brand] or [demo.media], {kind} = "COLUMN"',
    )


def _introduce(console: Console, setting: Setting, data: Path, made_up: bool) -> None:
    brand, media = setting.names
    text = (
        f"Two parties and a coordinator, three processes on this machine. [bold]{brand}[/] knows who its good "
        f"customers are, [bold]{media}[/] knows how people behave. Neither shows the other a row; the coordinator "
        "forwards what it cannot read."
    )
    if made_up:
        text += f"\n\nData: {NOTE}"
    else:
        text += f"\n\nData: {data}"
    console.print(Panel(text, title="tidegate demo", border_style="cyan"))


def watch(stage: Loopback, name: str, console: Console) -> Campaign:
    """Shows live progress until the campaign is over at both parties; returns it as the brand knows it."""
    stores = {party: Store(stage.home(party).store_db) for party in stage.names}
    deadline = time.monotonic() + LONGEST_S
    try:
        with Live(console=console, refresh_per_second=4, transient=not console.is_terminal) as live:
            while True:
                found = {party: store.campaign(name) for party, store in stores.items()}
                shown = {
                    party: (store.runs(found[party].hash), _last(store, found[party]))
                    for party, store in stores.items()
                }
                campaign = found[stage.names[0]]
                live.update(_progress(campaign, shown))
                if all(is_over(campaign) for campaign in found.values()):
                    return campaign
                if is_over(campaign) and campaign.state != "done":
                    return campaign
                stage.check_alive()
                if time.monotonic() > deadline:
                    raise ConfigError(f"the campaign {name} did not end within {LONGEST_S / 60:.0f} minutes")
                time.sleep(LOOK_EVERY_S)
    finally:
        for store in stores.values():
            store.close()


def _last(store: Store, campaign: Campaign) -> dict[int, Event]:
    return {event.step: event for event in store.events(campaign.hash)}


def _progress(campaign: Campaign, shown: dict[str, tuple[list[Run], dict[int, Event]]]) -> Group:
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("step", style="bold")
    for party in shown:
        grid.add_column(party, min_width=34, no_wrap=True)
    grid.add_column("seconds", justify="right")
    grid.add_column("on the wire", justify="right")
    for index, step in enumerate(campaign.contract.steps):
        cells, seconds, size = [], "", ""
        for runs, events in shown.values():
            own = [run for run in runs if run.step == index]
            done = [run for run in own if run.state == "committed"]
            if done:
                cells.append(Text("done", style="green"))
                seconds, size = f"{done[0].seconds:.1f}", megabytes(done[0].sent + done[0].received)
            elif own:
                cells.append(Text(events[index].text if index in events else "starting", style="yellow"))
            else:
                cells.append(Text("waiting", style="dim"))
        grid.add_row(step.step, *cells, seconds, size)
    return Group(grid)


def megabytes(n: int) -> str:
    return f"{n / 1e6:.1f} MB"


def both_sides(stage: Loopback, campaign: Campaign, setting: Setting, data: Path) -> Facts:
    """What only a holder of both tables can say: the pooled clear-text model, the true quality of the audience."""
    brand, media = setting.names
    places = {party: stage.home(party).campaign(campaign.short) for party in setting.names}
    steps = [step.step for step in campaign.contract.steps]
    extra: Facts = {"media_facts": {step: _json(places[media] / step / "facts.json") for step in steps}}
    tables = {role: table.read(setting.data[role].path) for role in PARTIES}
    trained = next((step for step in campaign.contract.steps if step.step == "train"), None)
    # The yardstick is of the matched rows as they are: seeds, weights and hidden alignment have none here.
    plain = trained is not None and trained.protocol == "train.fourier-lr@1" and not trained.settings["balance"]
    if plain and not campaign.contract.label.weight:
        extra["pooled"] = _pooled(campaign, places[brand], places[media], tables, setting)
    if "segment" in steps:
        extra["pooled_segments"] = _pooled_segments(places[brand], places[media], tables)
    if "expand" in steps and (data / "truth.parquet").is_file():
        extra["expand_truth"] = _truth(campaign, places[media], data)
    return extra


def _pooled(campaign: Campaign, at_brand: Path, at_media: Path, tables: dict[str, Any], setting: Setting) -> Facts:
    """scikit-learn on both parties' columns side by side: same rows, same preparation, same penalty."""
    contract = campaign.contract
    rows = {"brand": read_rows(at_brand / "match"), "media": read_rows(at_media / "match")}
    parts = []
    for role, place in (("brand", at_brand), ("media", at_media)):
        recipe = features.Recipe.from_json(_json(place / "train" / "model.json")["recipe"])
        parts.append(features.apply(recipe, tables[role], rows[role]))
    x = np.hstack(parts)
    split = read_split(at_brand / "train")
    labels = np.array(table.texts(tables["brand"], contract.label.column), dtype=object)[rows["brand"]]
    y = (labels == contract.label.positive).astype(np.int64)
    facts = _json(at_brand / "train" / "facts.json")
    fitted = LogisticRegression(C=1 / facts["l2"], max_iter=10_000, tol=1e-8).fit(x[split == 1], y[split == 1])
    z = fitted.decision_function(x[split == 2])
    return {"auc": quality.auc(y[split == 2], z), "log_loss": quality.log_loss(y[split == 2], z)}


def _pooled_segments(at_brand: Path, at_media: Path, tables: dict[str, Any]) -> Facts:
    """scikit-learn's K-means on both parties' columns side by side, best of several starts, beside what came out."""
    parts = []
    for role, place in (("brand", at_brand), ("media", at_media)):
        recipe = columns.Recipe.from_json(_json(place / "segment" / "model.json")["segments"]["recipe"])
        parts.append(columns.apply(recipe, tables[role], read_rows(place / "match")))
    x = np.hstack(parts)
    found = pq.read_table(at_brand / "segment" / "segments.parquet", columns=["row", "segment"])
    number_of = np.zeros(tables["brand"].num_rows, np.int64)
    number_of[found["row"].to_numpy()] = found["segment"].to_numpy()
    blind = number_of[read_rows(at_brand / "match")]
    groups = [x[blind == number] for number in np.unique(blind)]
    inertia = sum(float(((group - group.mean(axis=0)) ** 2).sum()) for group in groups)
    pooled = KMeans(len(groups), n_init=10, max_iter=100, tol=0, random_state=0).fit(x)
    return {
        "agreement": adjusted_rand(blind, pooled.labels_.astype(np.int64)),
        "looser": inertia / float(pooled.inertia_) - 1,
    }


def _truth(campaign: Campaign, at_media: Path, data: Path) -> Facts:
    """The true share of good customers in each found audience, and among all other people of the media."""
    label = campaign.contract.label
    truth = pq.read_table(data / "truth.parquet")
    good = np.array(table.texts(truth, label.column), dtype=object) == label.positive
    matched = read_rows(at_media / "match")
    others = np.setdiff1d(np.arange(len(good)), matched)
    sizes = []
    for size in _json(at_media / "expand" / "facts.json")["sizes"]:
        found = pq.read_table(at_media / "expand" / f"audience_{size['percent']:02d}_percent.parquet")["row"].to_numpy()
        sizes.append({**size, "rate": float(good[found].mean())})
    return {"base_rate": float(good[others].mean()), "sizes": sizes}


def _json(path: Path) -> Facts:
    value: Facts = json.loads(path.read_text())
    return value


def summarise(console: Console, facts: Facts, path: Path, seconds: float) -> None:
    """What came out, in a marketer's words."""
    lines: list[str] = []
    if "match" in facts:
        m = facts["match"]
        lines.append(
            f"[bold]{m['size']:,}[/] people are known to both: of {m['brand_rows']:,} customers of the brand and "
            f"{m['media_rows']:,} people of the media. Nobody else was named to anybody."
        )
    if "segment" in facts:
        lines += _segment_lines(facts["segment"])
    if "train" in facts:
        lines += _train_lines(facts["train"], facts["peer"])
    if "score" in facts:
        lines.append(f"[bold]{facts['score']['rows']:,}[/] matched customers got a score.")
    if "expand" in facts:
        lines += _expand_lines(facts["expand"])
    lines.append(f"Report: [bold]{os.path.relpath(path)}[/] (and report.json beside it). {seconds:.0f} seconds in all.")
    console.print(Panel("\n\n".join(lines), title="What came out", border_style="green"))


def _train_lines(train: Facts, peer: str) -> list[str]:
    auc, judged = train["auc"], verdict(train, peer)
    lines = [f"[bold]{judged.headline}[/] {judged.because}"] if judged else []
    if "pooled_clear_text" in auc:
        lines.append(
            f"The same model on pooled clear-text tables, which nobody could have made: "
            f"{auc['pooled_clear_text']:.3f}. Blindness cost {abs(auc['pooled_clear_text'] - auc['joint']):.4f}."
        )
    return lines


def _segment_lines(segment: Facts) -> list[str]:
    lines = [f"By what both sides know of them they fall into [bold]{segment['k']}[/] segments:"]
    lines += [f"  {each['size']:,} people ({each['share']:.0f} %): {each['name']}" for each in segment["segments"]]
    told = []
    if segment["stability"] is not None:
        told.append(f"{len(segment['starts'])} random starts agree on them by {segment['stability']:.2f}")
    if "pooled_clear_text" in segment:
        agreement = segment["pooled_clear_text"]["agreement"]
        told.append(f"K-means on pooled clear-text tables agrees by {agreement:.2f}")
    if told:
        lines.append(f"{'; '.join(told)} (adjusted Rand index, at most 1).")
    return ["\n".join(lines)]


def _expand_lines(expand: Facts) -> list[str]:
    lines = [
        f"Among {expand['pool']:,} other people of the media (audiences under {expand['floor']} people are not made):"
    ]
    for size in expand["sizes"]:
        line = f"  best {size['percent']:>2} %: {size['people']:,} people"
        if size.get("true_rate") is not None:
            line += f", {size['true_rate']:.1%} really good customers ({size['true_lift']:.1f} times the average)"
        else:
            expected, lift = size["expected_rate"], size["expected_lift"]
            line += f", {expected:.1%} good customers expected ({lift:.1f} times the average)"
        lines.append(line)
    return ["\n".join(lines)]
