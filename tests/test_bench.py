"""`tidegate bench`: what it prints, and that what it measures on is not easy input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from tidegate.party.bench import generate
from tidegate.protocols.clustering.kmeans import adjusted_rand
from tidegate.protocols.ids import normalise


def test_one_json_object_with_the_promised_figures() -> None:
    command = [sys.executable, "-m", "tidegate", "bench", "match", "--rows", "3000", "--peer-rows", "2000", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=270, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["rows"] == 3000
    assert figures["cores"] >= 1
    assert figures["cpu"]
    assert figures["version"]
    assert figures["seconds"] > 0
    assert figures["peak_rss_mb"] == max(figures["peak_rss_mb_by_party"].values()) > 20
    assert set(figures["cpu_s"]) == {"coordinator", "brand", "media"}
    assert (figures["mode"], figures["engine"], figures["keys"]) == ("both", "oprf", ["email"])
    assert figures["bytes_per_row"] == round(figures["bytes"] / 3000, 1) < 110
    # Blinded and evaluated elements, tokens and little else: every frame is counted once.
    assert 3000 * 64 + 2000 * 12 < figures["bytes"] < 3000 * 64 + 2000 * 24 + 40_000


def test_generated_identifiers_are_messy_and_overlap_as_asked(tmp_path: Path) -> None:
    generate.write(tmp_path, rows=1500, peer_rows=2500, common=700, brand_features=1, media_features=1)
    tables = {party: pq.read_table(tmp_path / f"{party}.parquet") for party in ("brand", "media")}
    for kind in ("email", "phone"):
        texts = {party: table[kind].to_pylist() for party, table in tables.items()}
        assert len(set(texts["brand"]) & set(texts["media"])) < 350
        found = {party: {bytes(one) for one in normalise(kind, texts[party], "US")[0]} for party in tables}
        assert len(found["brand"] & found["media"]) == 700


def test_generated_tastes_make_joining_worth_it(tmp_path: Path) -> None:
    generate.write(tmp_path, rows=6000, peer_rows=6000, common=6000, brand_features=6, media_features=6)
    brand, media = pq.read_table(tmp_path / "brand.parquet"), pq.read_table(tmp_path / "media.parquet")
    place = {email: i for i, email in enumerate(media["email"].to_pylist())}
    order = [place[email.strip().lower()] for email in brand["email"].to_pylist()]
    names = [f"f{j:03d}" for j in range(6)]
    own = np.stack([brand[name].to_numpy() for name in names], axis=1)
    other = np.stack([media[name].to_numpy() for name in names], axis=1)[order]
    y = brand["good"].to_numpy()
    assert 0.05 < y.mean() < 0.3
    auc = []
    for x in (own, np.hstack([own, other])):
        model = LogisticRegression().fit(x[:4000], y[:4000])
        auc.append(roc_auc_score(y[4000:], model.decision_function(x[4000:])))
    assert auc[1] > auc[0] + 0.03


def test_building_tokens_gives_the_promised_figures() -> None:
    command = [sys.executable, "-m", "tidegate", "bench", "tokens", "--rows", "20000", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=270, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["rows"], figures["changed_rows"]) == (20000, 200)
    assert figures["core_seconds"] > 0
    assert figures["refresh_core_seconds"] > 0
    # A token, its row, a pseudonym and the token again.
    assert 44 <= figures["disk_bytes_per_row"] < 46


def test_generated_groups_overlap_and_no_party_alone_sees_them(tmp_path: Path) -> None:
    generate.write(tmp_path, rows=6000, peer_rows=6000, common=6000, brand_features=10, media_features=10, groups=5)
    tables = {party: pq.read_table(tmp_path / f"{party}.parquet") for party in ("brand", "media")}
    x, groups = {}, np.empty(0)
    for party, own in tables.items():
        people = np.array([int(email.strip().lower()[7:].split("@")[0]) for email in own["email"].to_pylist()])
        order = np.argsort(people)
        x[party] = np.stack([own[generate.column(j)].to_numpy() for j in range(10)], axis=1)[order]
        groups = people[order] // 7 % 5
    x["both"] = np.hstack([x["brand"], x["media"]])
    agreement = {
        name: adjusted_rand(KMeans(5, n_init=5, random_state=0).fit(each).labels_, groups) for name, each in x.items()
    }
    assert 0.3 < agreement["both"] < 0.95, agreement
    assert agreement["both"] > max(agreement["brand"], agreement["media"]) + 0.05, agreement


def test_segmenting_gives_the_promised_figures() -> None:
    command = [sys.executable, "-m", "tidegate", "bench", "segment", "--rows", "3000", "--k", "3", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=270, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["rows"], figures["k"], figures["starts"], figures["most_iterations"]) == (3000, 3, 1, 20)
    assert figures["seconds"] > 0
    assert 1 <= figures["iterations"] <= 20
    assert 2 <= figures["segments"] == len(figures["sizes"]) <= 3
    assert sum(figures["sizes"]) == 3000
    assert 0 < figures["explained"] < 1
    assert set(figures["peak_rss_mb_by_party"]) == {"brand", "media", "coordinator"}
    # Three pairs of 6 bytes from each of two parties, and once more where the last centroids have moved or few people
    # are put elsewhere.
    passes = figures["iterations"] + (not figures["converged"])
    assert 36 * 3000 * passes < figures["bytes"] < 36 * 3000 * (passes + 1) + 40_000
    # A place of one byte to each.
    assert 2 * 3000 * passes < figures["bytes_received"] < 2 * 3000 * (passes + 1) + 40_000
