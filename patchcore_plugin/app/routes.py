"""HTTP routes below ``/sessions``: images, heat maps and results of one session, made on request."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import APIRouter, HTTPException
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, Response

from patchcore_plugin.data.encoding import downscale, encode_jpeg, encode_png
from patchcore_plugin.data.images import read_image, to_8_bit
from patchcore_plugin.errors import PatchcoreError, one_line

from . import downloads, drawing
from .limits import Folders
from .session import ScoredImage, Session, SessionStore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from patchcore_plugin.models.prediction import Nearest

T = TypeVar("T")

SMALL_SIDE, LARGE_SIDE = 480, 1600
"""Longest side of an image in the list and in the dialog, in pixels."""
JPEG_QUALITY = 88
_CACHE = {"Cache-Control": "private, max-age=3600"}


class SessionRoutes:
    """Routes that serve the content of a session to clients that know its token.

    Parameters
    ----------
    sessions
        The open sessions.
    folders
        Folders from which training images may be read.
    """

    def __init__(self, sessions: SessionStore, folders: Folders) -> None:
        self.sessions = sessions
        self.folders = folders
        # Two threads bound the memory: each may hold a whole image.
        self._image_pool = ThreadPoolExecutor(2, thread_name_prefix="patchcore-draw")
        # An archive takes long and must not delay images.
        self._zip_pool = ThreadPoolExecutor(1, thread_name_prefix="patchcore-zip")
        self.router = APIRouter()
        for path, endpoint in (
            ("results.jsonl", self.results_jsonl),
            ("results.csv", self.results_csv),
            ("results.zip", self.results_zip),
            ("{number}/image.jpg", self.image),
            ("{number}/heat.png", self.heat),
            ("{number}/outlines.svg", self.outlines),
            ("{number}/explanation.png", self.explanation),
        ):
            self.router.add_api_route(
                f"/sessions/{{token}}/{path}", endpoint, methods=["GET"], response_model=None, include_in_schema=False
            )

    async def image(self, token: str, number: int, large: bool = False) -> Response:
        """Serve the image, downscaled."""
        file = self._image(token, number).source.file
        data = await self._run(
            lambda: encode_jpeg(downscale(to_8_bit(read_image(file)), _longest_side(large)), JPEG_QUALITY)
        )
        return Response(data, media_type="image/jpeg", headers=_CACHE)

    async def heat(self, token: str, number: int, low: float, high: float, large: bool = False) -> Response:
        """Serve the transparent heat map that is shown on top of the image."""
        anomaly_map = self._anomaly_map(token, number)
        data = await self._run(lambda: drawing.encode_heat(anomaly_map, (low, high), _longest_side(large)))
        return Response(data, media_type="image/png", headers=_CACHE)

    async def outlines(self, token: str, number: int, above: float) -> Response:
        """Serve the outlines of the regions above a threshold of the map."""
        anomaly_map = self._anomaly_map(token, number)
        data = await self._run(lambda: drawing.draw_outlines(anomaly_map, above))
        return Response(data, media_type="image/svg+xml", headers=_CACHE)

    async def explanation(self, token: str, number: int) -> Response:
        """Serve the most anomalous patch next to the nearest normal patch."""
        image, loaded = self._image(token, number), self._session(token).loaded
        if loaded is None:
            raise HTTPException(404)
        explain = self._explainer(loaded.model)
        drawn = await self._run(lambda: explain(replace(image.prediction, pixels=read_image(image.source.file))))
        if drawn is None:
            raise HTTPException(404)
        return Response(encode_png(drawn), media_type="image/png", headers=_CACHE)

    def has_explanation(self, model: object, nearest: Nearest | None) -> bool:
        """Return whether the nearest normal patch may be shown: from a thumbnail or from an allowed file."""
        if nearest is None:
            return False
        if nearest.number in getattr(model, "thumbnails", {}):
            return True
        return nearest.image is not None and self.folders.allows(Path(nearest.image)) and Path(nearest.image).is_file()

    async def results_jsonl(self, token: str) -> Response:
        """Serve ``results.jsonl``."""
        session = self._session(token)
        data = await self._run(lambda: downloads.to_jsonl(session.results()))
        return Response(data, media_type="application/jsonl", headers=_attachment("results.jsonl"))

    async def results_csv(self, token: str) -> Response:
        """Serve ``results.csv``."""
        session = self._session(token)
        data = await self._run(lambda: downloads.to_csv(session.results()))
        return Response(data, media_type="text/csv; charset=utf-8", headers=_attachment("results.csv"))

    async def results_zip(self, token: str, low: float, high: float) -> Response:
        """Serve all results with images, drawn on the colour scale of the page."""
        session = self._session(token)
        explain = None if session.loaded is None else self._explainer(session.loaded.model)

        def write() -> Path:
            with tempfile.NamedTemporaryFile(suffix=".zip", dir=session.folder.parent, delete=False) as file:
                path = Path(file.name)
            try:
                downloads.write_zip(path, session.results(), (low, high), explain)
            except BaseException:
                path.unlink()
                raise
            return path

        path = await self._run(write, self._zip_pool)
        # The background task runs after the file has been sent.
        return FileResponse(path, filename="results.zip", background=BackgroundTask(path.unlink))

    def _explainer(self, model: Any) -> downloads.Explain:
        """Return a function that draws explanations, and returns None where the training image may not be shown."""
        from patchcore_plugin.inference.explain import ExplanationPictures

        draw = ExplanationPictures(model.thumbnails)
        return lambda prediction: draw(prediction) if self.has_explanation(model, prediction.nearest) else None

    def _session(self, token: str) -> Session:
        session = self.sessions.get(token)
        if session is None:
            raise HTTPException(404, "this session has ended; reload the page")
        return session

    def _image(self, token: str, number: int) -> ScoredImage:
        image = self._session(token).images.get(number)
        if image is None:
            raise HTTPException(404, "this image is no longer available")
        return image

    def _anomaly_map(self, token: str, number: int) -> NDArray[np.float32]:
        anomaly_map = self._image(token, number).prediction.anomaly_map
        if anomaly_map is None:
            raise HTTPException(404, "the model computes no anomaly maps")
        return anomaly_map

    async def _run(self, work: Callable[[], T], pool: ThreadPoolExecutor | None = None) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(pool or self._image_pool, work)
        except (PatchcoreError, OSError) as error:
            raise HTTPException(404, one_line(error)) from None


def _longest_side(large: bool) -> int:
    return LARGE_SIDE if large else SMALL_SIDE


def _attachment(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
