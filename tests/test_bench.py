"""`tidegate bench`: what it prints, and that what it measures on is not easy input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from tidegate.party.bench import generate
from tidegate.protocols.ids import normalise


def test_one_json_object_with_the_promised_figures() -> None:
    command = [sys.executable, "-m", "tidegate", "bench", "match", "--rows", "3000", "--peer-rows", "2000", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["rows"], figures["changed_rows"]) == (20000, 200)
    assert figures["core_seconds"] > 0
    assert figures["refresh_core_seconds"] > 0
    # A token, its row, a pseudonym and the token again.
    assert 44 <= figures["disk_bytes_per_row"] < 46
