"""Data sets as CSV tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from patchcore_plugin.data.datasets import Category, TestImage, find_training_images, load_categories
from tests.data.datasets.dataset_files import good, refusal, touch, train_on, write


def write_table(root: Path, text: str, name: str = "parts.csv") -> Path:
    touch(root, *(f"images/{number}.png" for number in (1, 2, 3, 10)), "masks/3.png")
    return write(root / name, text)


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_table(tmp_path: Path, start: str, separator: str, end: str) -> None:
    rows = (
        "Path,Label,Split,Mask,note",
        "images/10.png,good,train,,",
        " images/2.png , OK ,Train,,duplicate",
        "",
        "images/../images/2.png,good,train",
        ",,,,",
        "images/3.png,NG,test,masks/3.png,",
        "images/1.png,0,test,masks/of-a-good-image.png,",
    )
    file = write_table(tmp_path, start + end.join(rows).replace(",", separator) + end)
    assert load_categories(file) == [
        Category(
            "parts",
            (tmp_path / "images/2.png", tmp_path / "images/10.png"),
            (
                good(tmp_path / "images/1.png"),
                TestImage(tmp_path / "images/3.png", "defect", True, tmp_path / "masks/3.png"),
            ),
        )
    ]


def test_categories_and_kinds(tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    outside.touch()
    file = write_table(
        tmp_path / "set",
        "category,path,label,kind,split,mask\n"
        "nut 10,images/1.png,good,good,train,\n"
        "nut 10,images/2.png,bad,crack 10,test,\n"
        "nut 10,images/3.png,bad,crack 9,test,masks/3.png\n"
        "nut 10,images/10.png,good,,test,\n"
        f"nut 9,{outside},normal,,train,\n"
        'nut 9,"images/1.png",1,,train,\n'
        "nut 9,../outside.png,normal,,train,\n"
        "nut 9,images/3.png,1,,test,\n",
    )
    nine, ten = load_categories(file)
    assert (nine.name, ten.name) == ("nut 9", "nut 10")
    # The defective training image is left out, and the duplicate too.
    assert nine.train == (outside,)
    assert [image.kind for image in nine.test] == ["defect"]
    assert [image.kind for image in ten.test] == ["good", "crack 9", "crack 10"]
    assert [image.mask for image in ten.test] == [None, file.parent / "masks/3.png", None]
    assert load_categories(file / "nut 10") == [ten]
    assert find_training_images([file / "nut 10"]) == [file.parent / "images/1.png"]
    assert "several categories (nut 9, nut 10)" in refusal(file, train_on)
    assert "no category 'bolt'; it has: nut 9, nut 10" in refusal(file / "bolt")


def test_fit_checks_training_images_only(tmp_path: Path) -> None:
    file = write_table(tmp_path, "path,label,split\nimages/1.png,good,train\ngone.png,good,test\n")
    assert find_training_images([file]) == [tmp_path / "images/1.png"]
    assert refusal(file).startswith(f"{file}, line 3: no such file: {tmp_path / 'gone.png'}")


SHORT = "path,label,split\n"
LONG = "path,label,split,mask,kind,category\n"


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("", ": empty; its first line must name the columns: path, label, split"),
        ("\n ,\n", ": empty"),
        ("images/1.png,good,train\n", ": no column path, label, split"),
        ("path,label\n", ": no column split"),
        ("path,label,split,Label\n", ": two columns are called label"),
        (SHORT, ": no rows"),
        (SHORT + ",good,train\n", ", line 2: path is empty"),
        (SHORT + "gone.png,good,train\n", ", line 2: no such file: {}/gone.png"),
        (SHORT + "images,good,train\n", ", line 2: no such file: {}/images"),
        (SHORT + "images/1.png,good,train\nimages/2.png,godo,train\n", ", line 3: label is 'godo'; write good, normal"),
        (SHORT + "images/1.png,good\n", ", line 2: split is ''"),
        (SHORT + "images/1.png,good,val\n", ", line 2: split is 'val'; write train or test"),
        (SHORT + "images/1,000.png,good,train\n", ", line 2: more cells"),
        (SHORT + '"a"b,good,train\n', ", line 2: not a readable row"),
        (LONG + "images/1.png,good,test,,crack,nut\n", ", line 2: label 'good' contradicts kind 'crack'"),
        (LONG + "images/1.png,bad,test,,good,nut\n", ", line 2: label 'bad' contradicts kind 'good'"),
        *(
            (LONG + f"images/1.png,good,train,,,{name}\n", f", line 2: category is {name!r}")
            for name in ("", "..", "a/b", "a\\b", ".hidden", "c:")
        ),
        (
            SHORT + "images/1.png,good,train\n./images/1.png,good,test\n",
            ", line 3: {}/images/1.png differs from line 2",
        ),
        (
            LONG + "images/1.png,good,train,,,nut\nimages/3.png,bad,test,masks/4.png,,nut\n",
            ", line 3: no such file: {}/masks/4.png",
        ),
        (SHORT + "images/1.png,bad,train\nimages/2.png,good,test\n", ": category parts has no row with split train"),
        (SHORT + "images/1.png,good,train\n", ": category parts has no row with split test"),
    ],
)
def test_invalid_table_is_refused(tmp_path: Path, text: str, fact: str) -> None:
    file = write_table(tmp_path, text)
    assert refusal(file).startswith(f"{file}{fact.format(tmp_path)}")


def test_other_encoding_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "parts.csv"
    file.write_bytes("path,label,split\nü.png,good,train\n".encode("cp1252"))
    assert "UTF-8" in refusal(file)
