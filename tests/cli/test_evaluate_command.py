"""`patchcore evaluate` of one recipe: figures, report, and images that cannot be used."""

from __future__ import annotations

import json
import re
from pathlib import Path

from patchcore_plugin.evaluation.results import METRICS
from tests.commands import SMALL, corrupt, failure, json_lines, loaded, patchcore


def test_evaluate(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "evaluation"
    content = loaded("evaluate", dataset, "--out", out, *SMALL)
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
    called = [record["is_anomalous"] for record in records if record["kind"] == "blot"]
    assert at_threshold["kinds"] == {
        "blot": {"images": 3, "detected": sum(called), "detection_rate": figures["detection_rate"]}
    }
    assert (figures["detection_rate"], figures["false_alarm_rate"]) == (
        sum(called) / 3,
        at_threshold["false_alarms"] / 3,
    )
    assert figures["bank_rows"] == 32
    assert content["failed"] == []
    assert content["recipe"]["backbone"]["name"] == "efficientnet-lite0"
    assert content["recipe"]["sampler"]["ratio"] == 0.05
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("Most anomalous patch of blot/") >= sum(called) > 0
    assert content["recipe"]["backbone"]["name"] in page.partition("Model card")[2]
    assert len(records) == 6


def test_evaluate_with_a_chosen_category_and_an_unreadable_image(dataset: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "evaluation"
    for name in ("nut", "washer"):
        for part in ("train/good/000.png", "train/good/001.png", "test/good/000.png", "test/blot/000.png"):
            (root / name / part).parent.mkdir(parents=True, exist_ok=True)
            (root / name / part).write_bytes((dataset / part).read_bytes())
    bad = corrupt(root / "nut" / "test" / "blot" / "001.png")
    left_out = corrupt(root / "nut" / "train" / "good" / "002.png")
    said = failure("evaluate", root, "--out", out, "--category", "bolt", *SMALL)
    assert said == "no category 'bolt'; the dataset has: nut, washer"
    ended = patchcore("evaluate", root, "--out", out, *("--category", "nut") * 2, *SMALL)
    assert ended.code == 1
    last = ended.err.splitlines()[-3:]
    assert last[0].startswith(f"patchcore: {left_out}: not a readable image (")
    assert last[1].startswith(f"patchcore: {bad}: not a readable image (")
    assert last[2] == "patchcore: some images or masks could not be used; all others are done"
    assert re.search(r"^nut +\d\.\d{4} ", ended.out, re.MULTILINE)
    assert re.search(r"^category .* false alarms +found +fit s ", ended.out, re.MULTILINE)
    assert not re.search(r"^mean ", ended.out, re.MULTILINE)  # of one category, though it was named twice
    content = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert list(content["categories"]) == ["nut"]
    assert [failed["path"] for failed in content["failed"]] == [str(left_out), str(bad)]
    assert (out / "report.html").is_file()
