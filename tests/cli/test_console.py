"""Tables and progress as plain text, when the output is not a terminal."""

from __future__ import annotations

import time

import pytest

from patchcore_plugin.cli.console import LOG_INTERVAL, Reporter, print_table


def test_table_keeps_names_unchanged_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["line:x:1.png", "[red]a[/red].png", "C:\\[b]", "名.png", "n" * 900]
    print_table(["image", "place"], [[name, f"{number} "] for number, name in enumerate(names)])
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        f"{'image':<900}  place",
        *(f"{name:<900}  {number}" for number, name in enumerate(names[:3])),
        f"{'名.png':<899}  3",  # the character is two columns wide
        f"{names[4]}  4",
    ]


def test_unprintable_characters_in_a_table_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["image"], [["a\nb.png"], ["\x1b[31m.png"], ["\udcff.png"]])
    lines = capsys.readouterr().out.splitlines()
    assert [line.rstrip() for line in lines] == ["image", r"a\nb.png", r"\x1b[31m.png", r"\udcff.png"]


def test_progress_is_printed_at_intervals_and_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Reporter() as progress:
        for seconds, done in ((0.0, 1), (LOG_INTERVAL - 1, 2), (1.0, 3), (1.0, 4), (0.0, 9), (0.0, 9)):
            now[0] += seconds
            progress("reading images", done, 9)
        progress("scoring images", 1, None)
        now[0] += LOG_INTERVAL
        progress("scoring images", 7, None)
        progress.note("a note")
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "reading images: 3/9\nreading images: 9/9\nscoring images: 7\na note\n"
