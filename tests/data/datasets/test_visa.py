"""VisA as published, with its split file."""

from __future__ import annotations

from pathlib import Path

import pytest

from patchcore_plugin.data.datasets import Category, TestImage, find_training_images, load_categories, load_category
from tests.data.datasets.dataset_files import good, refusal, touch, train_on, write

SPLIT = """object,split,label,image,mask
candle,train,normal,candle/Data/Images/Normal/0836.JPG,
candle,train,normal,candle/Data/Images/Normal/0091.JPG,
candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png
candle,test,normal,candle/Data/Images/Normal/0016.JPG,
pcb1,train,normal,pcb1/Data/Images/Normal/0001.JPG,
pcb1,test,normal,pcb1/Data/Images/Normal/0000.JPG,
pcb1,test,anomaly,pcb1/Data/Images/Anomaly/000.JPG,pcb1/Data/Masks/Anomaly/000.png
"""


@pytest.fixture
def visa(tmp_path: Path) -> Path:
    root = tmp_path / "VisA"
    write(root / "split_csv/1cls.csv", SPLIT)
    for line in SPLIT.splitlines()[1:]:
        touch(root, *filter(None, line.split(",")[3:]))
    # Not in the split, or not images.
    touch(root, "candle/Data/Images/Normal/9999.JPG", "split_csv/2cls_fewshot.csv", "candle/image_anno.csv")
    return root


def test_root(visa: Path) -> None:
    candle, pcb1 = load_categories(visa)
    data = visa / "candle/Data"
    assert candle == Category(
        "candle",
        (data / "Images/Normal/0091.JPG", data / "Images/Normal/0836.JPG"),
        (
            good(data / "Images/Normal/0016.JPG"),
            TestImage(data / "Images/Anomaly/000.JPG", "defect", True, data / "Masks/Anomaly/000.png"),
        ),
    )
    assert pcb1.name == "pcb1"


def test_one_category(visa: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [category.name for category in load_categories(visa / "pcb1")] == ["pcb1"]
    assert find_training_images([visa / "pcb1"]) == [visa / "pcb1/Data/Images/Normal/0001.JPG"]
    monkeypatch.chdir(visa / "pcb1")
    assert load_category(Path()).name == "pcb1"
    assert "candle, pcb1" in refusal(visa, train_on)


def test_root_may_lack_categories_of_the_split(visa: Path) -> None:
    (visa / "pcb1").rename(visa.parent / "elsewhere")
    assert [category.name for category in load_categories(visa)] == ["candle"]
    (visa / "candle").rename(visa.parent / "gone")
    assert "none of the folders" in refusal(visa)


def test_missing_split_is_refused(visa: Path) -> None:
    (visa / "split_csv/1cls.csv").unlink()
    assert "1cls.csv is missing" in refusal(visa)
    candle = visa / "candle"
    for read in (load_categories, train_on):
        message = refusal(candle, read)
        assert f"{visa / 'split_csv/1cls.csv'} is missing" in message
        assert str(candle / "Data/Images/Normal") in message
    assert len(find_training_images([candle / "Data/Images/Normal"])) == 4


def test_invalid_split_is_refused(visa: Path) -> None:
    split = visa / "split_csv/1cls.csv"
    touch(visa, "pcb9/Data/Images/Normal/1.JPG")
    assert f"{split} has no such object" in refusal(visa / "pcb9")
    image = visa / "candle/Data/Images/Normal/0016.JPG"
    image.unlink()
    assert refusal(visa).startswith(f"{split}, line 5: no such file: {image}")
    write(split, "image,label,mask\n")
    assert "no column object, split" in refusal(visa)
