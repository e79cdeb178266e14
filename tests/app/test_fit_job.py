"""The fit job: progress, cancellation, errors and the model that it leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from patchcore_plugin.app.fit_job import THREAD_NAME, FitJob, FitRequest
from patchcore_plugin.errors import ImageError, PatchcoreError

REQUEST = FitRequest(folder="good", images=(Path("a"),), recipe="patchcore", backbone=None, rate=0.1, thumbnails=True)
WAIT = 60


class SlowModel:
    """A model whose fit waits until `finish` is set."""

    def __init__(self, *, is_slow: bool = True, error: BaseException | None = None) -> None:
        self.finish = threading.Event()
        if not is_slow:
            self.finish.set()
        self.error = error
        self.arguments: object = None

    def fit(
        self,
        images: Sequence[Path],
        *,
        false_alarm_rate: float | None,
        keep_thumbnails: bool,
        progress: Any,
        announce: Any,
    ) -> None:
        self.arguments = images, false_alarm_rate, keep_thumbnails
        announce("a line")
        progress("reading images", 1, 2)
        assert self.finish.wait(WAIT)
        progress("reading images", 2, 2)
        if self.error is not None:
            raise self.error


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(WAIT * 200):
        if condition():
            return
        threading.Event().wait(0.005)
    pytest.fail("timed out")


def join() -> None:
    """Wait for the thread of the fit, so that its traceback belongs to the right test."""
    for thread in threading.enumerate():
        if thread.name == THREAD_NAME:
            thread.join(WAIT)


def fit(job: FitJob) -> None:
    job.start(REQUEST)
    join()


def test_progress_is_visible_and_only_one_fit_runs() -> None:
    model = SlowModel()
    job = FitJob(lambda request: model)
    job.start(REQUEST)
    wait_for(lambda: job.done == 1)
    assert (job.state, job.stage, job.total, job.notes) == ("running", "reading images", 2, ["a line"])
    with pytest.raises(PatchcoreError, match="another fit is running"):
        job.start(REQUEST)
    job.discard()
    assert job.state == "running", "a running fit cannot be discarded"
    model.finish.set()
    join()
    assert (job.state, job.model) == ("done", model)
    assert model.arguments == ([Path("a")], 0.1, True)


def test_unsaved_model_is_not_lost_to_the_next_fit() -> None:
    model = SlowModel(is_slow=False)
    job = FitJob(lambda request: model)
    fit(job)
    with pytest.raises(PatchcoreError, match="not saved"):
        job.start(REQUEST)
    assert job.model is model
    job.discard()
    assert vars(job)["model"] is None
    fit(job)
    job.saved_path = Path("m.safetensors")
    fit(job)
    assert vars(job)["saved_path"] is None, "the new model is not saved"


def test_fit_can_be_cancelled_and_started_again() -> None:
    models = [SlowModel(), SlowModel(is_slow=False)]
    remaining = iter(models)
    job = FitJob(lambda request: next(remaining))
    job.start(REQUEST)
    wait_for(lambda: job.done == 1)
    assert not job.is_cancelled
    job.cancel()
    assert (job.is_cancelled, job.state) == (True, "running"), "it stops at the next progress report"
    models[0].finish.set()
    join()
    assert (job.state, job.model, job.error) == ("cancelled", None, None)
    fit(job)
    assert not job.is_cancelled
    assert (job.state, job.model) == ("done", models[1])


def test_failed_fit_reports_its_error_on_one_line() -> None:
    job = FitJob(lambda request: SlowModel(is_slow=False, error=ImageError("a.png: not\n an image")))
    fit(job)
    assert (job.state, job.error, job.model) == ("failed", "a.png: not an image", None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_bug_in_a_fit_is_reported_and_the_next_fit_runs() -> None:
    model = SlowModel(is_slow=False, error=ZeroDivisionError("oh"))
    job = FitJob(lambda request: model)
    fit(job)
    assert (job.state, job.error) == ("failed", "ZeroDivisionError: oh")
    model.error = None
    fit(job)
    assert job.state == "done"
