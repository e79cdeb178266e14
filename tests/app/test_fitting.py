"""The one fit that runs at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from patchcore_plugin.app.fitting import Fitting, Wanted
from patchcore_plugin.errors import ImageError, PatchcoreError


class Fits:
    """A model whose fit takes as long as it is let."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.error: BaseException | None = None
        self.given: object = None

    def fit(
        self,
        images: Sequence[Path],
        *,
        false_alarm_rate: float | None,
        keep_thumbnails: bool,
        progress: Any,
        announce: Any,
    ) -> None:
        self.given = images, false_alarm_rate, keep_thumbnails
        announce("a line")
        progress("reading images", 1, 2)
        assert self.go.wait(10)
        progress("reading images", 2, 2)
        if self.error is not None:
            raise self.error


WANTED = Wanted(folder="good", images=(Path("a"),), recipe="patchcore", backbone=None, rate=0.1, thumbnails=True)


def until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.005)
    pytest.fail("it took too long")


def test_a_fit_is_seen_while_it_runs_and_only_one_runs() -> None:
    model = Fits()
    fitting = Fitting(lambda wanted: model)
    fitting.start(WANTED)
    until(lambda: fitting.done == 1)
    assert (fitting.state, fitting.stage, fitting.total, fitting.notes) == ("running", "reading images", 2, ["a line"])
    with pytest.raises(PatchcoreError, match="another fit is running; wait for it, or cancel it"):
        fitting.start(WANTED)
    model.go.set()
    fitting.wait(10)
    assert (fitting.state, fitting.model) == ("done", model)
    assert model.given == ([Path("a")], 0.1, True)


def test_a_model_that_is_not_saved_is_not_lost_to_another_fit() -> None:
    model = Fits()
    model.go.set()
    fitting = Fitting(lambda wanted: model)
    fitting.start(WANTED)
    fitting.wait(10)
    with pytest.raises(PatchcoreError, match="the model that was fitted is not saved; save it, or discard it"):
        fitting.start(WANTED)
    assert fitting.model is model
    fitting.discard()
    assert vars(fitting)["model"] is None
    fitting.start(WANTED)
    fitting.wait(10)
    fitting.saved = Path("m.safetensors")
    fitting.start(WANTED)
    fitting.wait(10)
    assert vars(fitting)["saved"] is None, "what is fitted now is another model"


def test_a_fit_that_runs_cannot_be_discarded() -> None:
    model = Fits()
    fitting = Fitting(lambda wanted: model)
    fitting.start(WANTED)
    fitting.discard()
    assert fitting.state == "running"
    model.go.set()
    fitting.wait(10)
    assert fitting.model is model


def test_a_fit_can_be_cancelled_and_begun_anew() -> None:
    models = [Fits(), Fits()]
    rest = iter(models)
    fitting = Fitting(lambda wanted: next(rest))
    fitting.start(WANTED)
    until(lambda: fitting.done == 1)
    assert not fitting.is_cancelled
    fitting.cancel()
    assert (fitting.is_cancelled, fitting.state) == (True, "running"), "it ends at its next step"
    models[0].go.set()
    fitting.wait(10)
    assert (fitting.state, fitting.model, fitting.error) == ("cancelled", None, None)
    models[1].go.set()
    fitting.start(WANTED)
    assert not fitting.is_cancelled
    fitting.wait(10)
    assert (fitting.state, fitting.model) == ("done", models[1])


def test_what_goes_wrong_in_a_fit_is_told() -> None:
    model = Fits()
    model.error = ImageError("a.png: not\n an image")
    model.go.set()
    fitting = Fitting(lambda wanted: model)
    fitting.start(WANTED)
    fitting.wait(10)
    assert (fitting.state, fitting.error, fitting.model) == ("failed", "a.png: not an image", None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_a_fit_is_told_and_the_next_fit_runs() -> None:
    model = Fits()
    model.error = ZeroDivisionError("oh")
    model.go.set()
    fitting = Fitting(lambda wanted: model)
    fitting.start(WANTED)
    fitting.wait(10)
    assert (fitting.state, fitting.error) == ("failed", "ZeroDivisionError: oh")
    model.error = None
    fitting.start(WANTED)
    fitting.wait(10)
    assert fitting.state == "done"
