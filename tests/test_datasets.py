from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from patchcore_plugin.datasets import (
    PHOTO_SUFFIXES,
    Category,
    TestPhoto,
    find_photos,
    load_categories,
    load_category,
    training_photos,
)
from patchcore_plugin.errors import DatasetError

REAL = Path(__file__).parents[1] / ".." / "shared" / "data"
SUFFIXES = ", ".join(PHOTO_SUFFIXES)
WHERE = "put good photos into test/good and others into test/KIND-OF-DEFECT"
NO_TRAIN = "{}: looks like a category of MVTec AD, but train/good is missing; put the good photos there"
NO_TEST = f"{{}}: looks like a category of MVTec AD, but test is missing; {WHERE}"


def touch(root: Path, *names: str) -> list[Path]:
    paths = [root / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def names(root: Path, photos: list[Path]) -> list[str]:
    return [photo.relative_to(root).as_posix() for photo in photos]


@pytest.fixture
def category(tmp_path: Path) -> Path:
    root = tmp_path / "bolt"
    touch(root, "train/good/10.png", "train/good/9.png", "test/good/0.png", "test/scratch/1.png")
    touch(root, "test/scratch/2.png", "test/a_stain/1.png", "ground_truth/scratch/1_mask.png")
    return root


def test_importing_needs_no_image_library() -> None:
    code = (
        "import sys, patchcore_plugin.datasets; "
        "print([m for m in ('cv2', 'numpy', 'torch', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("suffix", [*PHOTO_SUFFIXES, *map(str.upper, PHOTO_SUFFIXES)])
def test_a_folder_gives_every_photo_suffix(tmp_path: Path, suffix: str) -> None:
    [photo] = touch(tmp_path, f"a{suffix}")
    assert find_photos([tmp_path]) == [photo]


def test_a_folder_is_searched_deeply_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "b10.png", "b9.png", "B1.png", "a/2.png", "a/10.jpg", "c12/1.png", "c2/1.png")
    touch(tmp_path, "x/01.png", "x/1.png", "x/1b.png", "x/b.png")
    assert names(tmp_path, find_photos([tmp_path])) == [
        *("a/2.png", "a/10.jpg", "B1.png", "b9.png", "b10.png", "c2/1.png", "c12/1.png"),
        *("x/01.png", "x/1.png", "x/1b.png", "x/b.png"),
    ]


def test_hidden_files_and_other_suffixes_are_ignored(tmp_path: Path) -> None:
    [photo] = touch(tmp_path, "a.png")
    touch(tmp_path, ".b.png", "._a.png", ".thumbs/c.png", "notes.md", "d.png.part", "Thumbs.db", "png")
    assert find_photos([tmp_path]) == [photo]


def test_a_folder_named_like_a_photo_is_no_photo(tmp_path: Path) -> None:
    [photo] = touch(tmp_path, "set.png/1.png")
    assert find_photos([tmp_path]) == [photo]


def test_inputs_keep_their_order_and_duplicates_are_dropped(tmp_path: Path) -> None:
    first, second, odd = touch(tmp_path, "b/2.png", "b/1.png", "photo.raw")
    again = tmp_path / "b" / ".." / "b" / "2.png"
    assert find_photos([odd, first, tmp_path / "b", again]) == [odd, first, second]


def test_a_link_to_a_folder_above_does_not_loop(tmp_path: Path) -> None:
    [photo] = touch(tmp_path, "a/1.png")
    try:
        (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        pytest.skip("links need a privilege here")
    assert find_photos([tmp_path]) == [photo]


def test_a_linked_folder_is_searched(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.png", "photos/2.png")
    try:
        (tmp_path / "photos" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    except OSError:
        pytest.skip("links need a privilege here")
    assert names(tmp_path, find_photos([tmp_path / "photos"])) == ["photos/2.png", "photos/more/1.png"]


def test_a_list_is_relative_to_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "set/b/ü 2.png", "set/1.png", "other.png")
    absolute = (tmp_path / "other.png").as_posix()
    listed = tmp_path / "set" / "LIST.TXT"
    listed.write_text(f"# good ones\nb/ü 2.png\r\n\n  1.png  \n{absolute}\n1.png\n", encoding="utf-8-sig")
    monkeypatch.chdir(tmp_path)
    assert [p.name for p in find_photos([Path("set/LIST.TXT")])] == ["ü 2.png", "1.png", "other.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "{}: no paths in this list; write one photo a line"),
        (b"# only\n\n", "{}: no paths in this list; write one photo a line"),
        (b"1.png\n\ngone.png\n", "{}, line 3: no such file: {gone}"),
        (b"\xff\xfe1\0", "{}: not a readable list of paths ("),
    ],
)
def test_a_bad_list_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    touch(tmp_path, "1.png")
    listed = tmp_path / "list.txt"
    listed.write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        find_photos([listed])
    assert str(caught.value).startswith(message.format(listed, gone=tmp_path / "gone.png"))
    assert "\n" not in str(caught.value)


def test_a_missing_path_and_no_paths_are_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone: no such file or folder; check the path$"):
        find_photos([tmp_path / "gone"])
    with pytest.raises(DatasetError, match=r"^no photos given; "):
        find_photos([])


def test_a_folder_without_photos_is_told_with_the_suffixes(tmp_path: Path) -> None:
    touch(tmp_path, "good/1.png", "empty/readme.md")
    with pytest.raises(DatasetError) as caught:
        find_photos([tmp_path / "good", tmp_path / "empty"])
    assert str(caught.value) == (
        f"{tmp_path / 'empty'}: no photos in this folder (.bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp)"
    )


def test_a_category_is_read(category: Path) -> None:
    assert load_category(category) == Category(
        name="bolt",
        train=(category / "train/good/9.png", category / "train/good/10.png"),
        test=(
            TestPhoto(category / "test/good/0.png", "good", False, None),
            TestPhoto(category / "test/a_stain/1.png", "a_stain", True, None),
            TestPhoto(
                category / "test/scratch/1.png",
                "scratch",
                True,
                category / "ground_truth/scratch/1_mask.png",
            ),
            TestPhoto(category / "test/scratch/2.png", "scratch", True, None),
        ),
    )


@pytest.mark.parametrize("mask", ["1_mask.png", "1.png", "1_mask.bmp", "1.tiff"])
def test_a_mask_may_have_the_stem_and_any_suffix(category: Path, mask: str) -> None:
    (category / "ground_truth/scratch/1_mask.png").unlink()
    [path] = touch(category, f"ground_truth/scratch/{mask}")
    assert {photo.path.stem: photo.mask for photo in load_category(category).test if photo.kind == "scratch"} == {
        "1": path,
        "2": None,
    }


def test_masks_of_photos_that_are_called_masks(category: Path) -> None:
    touch(category, "test/scratch/1_mask.png")
    [own] = touch(category, "ground_truth/scratch/1_mask_mask.png")
    masks = {photo.path.stem: photo.mask for photo in load_category(category).test}
    assert masks["1_mask"] == own


def test_a_good_photo_never_has_a_mask(category: Path) -> None:
    touch(category, "ground_truth/good/0_mask.png")
    assert load_category(category).test[0].mask is None


def test_a_category_is_named_by_its_folder_however_it_is_given(category: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(category)
    assert load_category(Path()).name == "bolt"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["test/good/1.png", "train/bad/1.png"], NO_TRAIN),
        (["test/bad/1.png", "train/1.png"], NO_TRAIN),
        (["test/good/1.png"], NO_TRAIN),
        (["train/good/1.png"], NO_TEST),
        (["train/good/1.png", "test/good/a.md"], f"{{}}/test: no photos in its subfolders ({SUFFIXES}); {WHERE}"),
        (["train/good/1.png", "test/1.png"], f"{{}}/test: no photos in its subfolders ({SUFFIXES}); {WHERE}"),
        (["train/good/a.md", "test/good/1.png"], f"{{}}/train/good: no photos in this folder ({SUFFIXES})"),
    ],
)
def test_an_incomplete_category_says_what_is_missing(tmp_path: Path, files: list[str], message: str) -> None:
    touch(tmp_path, *files)
    for load in (load_category, load_categories):
        with pytest.raises(DatasetError) as caught:
            load(tmp_path)
        assert str(caught.value) == message.format(tmp_path)


@pytest.mark.parametrize("load", [load_category, load_categories])
def test_what_is_no_folder_is_told(tmp_path: Path, load: object) -> None:
    assert callable(load)
    [file] = touch(tmp_path, "a.png")
    with pytest.raises(DatasetError, match=r"a\.png: a file; name the folder of a data set, or a \.csv file$"):
        load(file)
    with pytest.raises(DatasetError, match=r"gone: no such file or folder; check the path$"):
        load(tmp_path / "gone")


def test_a_root_gives_its_categories_in_natural_order(tmp_path: Path) -> None:
    for name in ("part10", "part9"):
        touch(tmp_path, f"{name}/train/good/1.png", f"{name}/test/good/1.png")
    touch(tmp_path, "docs/readme.md", ".cache/train/good/1.png", "license.txt")
    assert [found.name for found in load_categories(tmp_path)] == ["part9", "part10"]
    assert [found.name for found in load_categories(tmp_path / "part9")] == ["part9"]


def test_an_incomplete_category_of_a_root_is_told(category: Path) -> None:
    touch(category.parent, "nut/train/good/1.png")
    with pytest.raises(DatasetError) as caught:
        load_categories(category.parent)
    assert str(caught.value) == NO_TEST.format(category.parent / "nut")


def test_a_folder_of_other_things_is_no_root(tmp_path: Path) -> None:
    touch(tmp_path, "photos/1.png")
    with pytest.raises(DatasetError) as caught:
        load_categories(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: in none of the layouts that can be read; "
        "MVTec AD, MPDD: CATEGORY/train/good, CATEGORY/test/KIND, CATEGORY/ground_truth/KIND; "
        "BTAD: CATEGORY/train/ok, CATEGORY/test/ok, CATEGORY/test/ko, CATEGORY/ground_truth/ko; "
        "VisA: split_csv/1cls.csv, CATEGORY/Data; "
        "KolektorSDD2: train/N.png, train/N_GT.png, test/N.png, test/N_GT.png; "
        "a .csv file: path, label, split"
    )


def test_training_takes_the_good_ones_of_a_category(category: Path, tmp_path: Path) -> None:
    [more] = touch(tmp_path, "more/1.png")
    assert training_photos([category, tmp_path / "more"]) == [
        category / "train/good/9.png",
        category / "train/good/10.png",
        more,
    ]


def test_training_takes_plain_folders_files_and_lists(tmp_path: Path) -> None:
    first, second = touch(tmp_path, "a/x.png", "a/deep/y.png")
    (tmp_path / "list.txt").write_text("a/x.png\n")
    assert training_photos([tmp_path / "list.txt", tmp_path / "a"]) == [first, second]


def test_training_on_many_categories_asks_for_one(category: Path) -> None:
    touch(category.parent, "nut/train/good/1.png")
    for read in (lambda root: training_photos([root]), load_category):
        with pytest.raises(DatasetError) as caught:
            read(category.parent)
        assert str(caught.value) == (
            f"{category.parent}: holds categories, not photos of one product; choose one, such as {category}: bolt, nut"
        )


def test_training_on_a_root_of_one_category_takes_it(category: Path) -> None:
    assert names(category, training_photos([category.parent])) == ["train/good/9.png", "train/good/10.png"]


def test_training_on_a_category_without_good_photos_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "test/good/1.png", "test/scratch/1.png")
    with pytest.raises(DatasetError) as caught:
        training_photos([tmp_path])
    assert str(caught.value) == NO_TRAIN.format(tmp_path)


def test_training_needs_no_test_photos(tmp_path: Path) -> None:
    [good] = touch(tmp_path, "train/good/1.png")
    assert training_photos([tmp_path]) == [good]


def test_a_mask_belongs_to_the_photo_in_its_own_subfolder(tmp_path: Path) -> None:
    """Masks in a folder per photo, as of MVTec LOCO AD, are nobody's; those of a subfolder are its photos'."""
    touch(tmp_path, "train/good/1.png", "test/bent/000.png", "test/bent/001.png", "test/bent/left/000.png")
    touch(tmp_path, "ground_truth/bent/000/000.png", "ground_truth/bent/000/001.png")
    [left] = touch(tmp_path, "ground_truth/bent/left/000_mask.png")
    assert [photo.mask for photo in load_category(tmp_path).test] == [None, None, left]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real photos are not beside this checkout")
def test_real_categories_are_complete() -> None:
    for category in load_categories(REAL):
        assert len(category.train) + len(category.test) > 40
        defects = [photo for photo in category.test if photo.is_anomalous]
        assert defects
        assert all(photo.mask is not None for photo in defects)
