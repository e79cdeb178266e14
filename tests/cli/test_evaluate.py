"""`patchcore evaluate` with one recipe: metrics, report, and unreadable images."""

from __future__ import annotations

import json
import re
from pathlib import Path

from patchcore_plugin.evaluation.results import METRICS
from tests.commands import SMALL, corrupt, json_lines, patchcore, run_failing, run_json


def test_metrics_and_report(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "evaluation"
    content = run_json("evaluate", dataset, "--out", out, *SMALL)
    assert content == json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert list(content)[:2] == ["categories", "mean"]
    assert list(content["categories"]) == ["washer"]
    figures = content["categories"]["washer"]
    keys = [
        *("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "aupro", "false_alarm_rate", "detection_rate"),
        *("fit_seconds", "predict_seconds_per_image", "bank_rows", "covering_radius"),
    ]
    assert list(figures) == list(content["mean"]) == keys == list(METRICS)
    assert content["mean"] == figures
    assert figures["image_auroc"] == 1.0
    assert figures["pixel_auroc"] > 0.9
    assert 0 < figures["aupro"] <= 1
    at_threshold = content["at_threshold"]["washer"]
    assert (at_threshold["calibration_images"], at_threshold["guaranteed_false_alarm_rate"]) == (10, 1 / 11)
    records = json_lines(out / "washer" / "results.jsonl")
    alarms = [record["is_anomalous"] for record in records if record["kind"] == "blot"]
    assert at_threshold["kinds"] == {
        "blot": {"images": 3, "detected": sum(alarms), "detection_rate": figures["detection_rate"]}
    }
    assert (figures["detection_rate"], figures["false_alarm_rate"]) == (
        sum(alarms) / 3,
        at_threshold["false_alarms"] / 3,
    )
    assert figures["bank_rows"] == 32
    assert content["failed"] == []
    assert content["recipe"]["backbone"]["name"] == "efficientnet-lite0"
    assert content["recipe"]["sampler"]["ratio"] == 0.05
    page = (out / "report.html").read_text(encoding="utf-8")
    assert content["recipe"]["backbone"]["name"] in page
    assert sum(alarms) > 0
    assert len(records) == 6


def test_selected_category_with_unreadable_images(dataset: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "evaluation"
    for name in ("nut", "washer"):
        for part in ("train/good/000.png", "train/good/001.png", "test/good/000.png", "test/blot/000.png"):
            (root / name / part).parent.mkdir(parents=True, exist_ok=True)
            (root / name / part).write_bytes((dataset / part).read_bytes())
    bad = corrupt(root / "nut" / "test" / "blot" / "001.png")
    bad_training = corrupt(root / "nut" / "train" / "good" / "002.png")
    message = run_failing("evaluate", root, "--out", out, "--category", "bolt", *SMALL)
    assert "'bolt'" in message
    assert message.endswith(": nut, washer")
    ended = patchcore("evaluate", root, "--out", out, *("--category", "nut") * 2, *SMALL)
    assert ended.code == 1
    *_, first, second, _ = ended.err.splitlines()
    assert first.startswith(f"patchcore: {bad_training}: ")
    assert second.startswith(f"patchcore: {bad}: ")
    assert re.search(r"^nut +\d\.\d{4} ", ended.out, re.MULTILINE)
    assert not re.search(r"^mean ", ended.out, re.MULTILINE)  # one category, although it is named twice
    content = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert list(content["categories"]) == ["nut"]
    assert [entry["path"] for entry in content["failed"]] == [str(bad_training), str(bad)]
    assert (out / "report.html").is_file()
