"""Lists of paths from a stream."""

from __future__ import annotations

import io
import os

import pytest

from patchcore_plugin.data.datasets.files import read_paths


class SlowStream(io.BytesIO):
    """Returns three bytes at a time."""

    def read1(self, size: int | None = -1) -> bytes:
        return super().read1(3)


@pytest.mark.parametrize(
    ("content", "null", "expected"),
    [
        (b"a.png\nb/c.png\n", False, ["a.png", "b/c.png"]),
        (b"\xef\xbb\xbf a.png \r\n\n# no\nb.png", False, ["a.png", "b.png"]),
        (b"", False, []),
        (b"\n\n", False, []),
        (b" a\n.png\0# b.png\0\0c.png", True, [" a\n.png", "# b.png", "c.png"]),
        (b"a\xff.png\n", False, [os.fsdecode(b"a\xff.png")]),
    ],
)
@pytest.mark.parametrize("stream", [io.BytesIO, SlowStream])
def test_paths_of_a_list(stream: type[io.BytesIO], content: bytes, null: bool, expected: list[str]) -> None:
    batches = list(read_paths(stream(content), null=null))
    assert [str(path) for batch in batches for path in batch] == expected
    assert all(batches)
