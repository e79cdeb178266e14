"""The addresses below ``/visits``: pictures of the images of one visit, drawn when they are asked for, and results."""

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

from patchcore_plugin.data.images import read_image
from patchcore_plugin.errors import PatchcoreError

from . import downloads, drawing
from .limits import Folders
from .visit import Image, Visit, Visits
from .words import one_line

if TYPE_CHECKING:
    from patchcore_plugin.models.prediction import Nearest

T = TypeVar("T")

SMALL, LARGE = 480, 1600
"""Pixels of a picture's longer side: in the list, and alone."""
_HEADERS = {"Cache-Control": "private, max-age=3600"}


class Pictures:
    """Serves what belongs to visits; who does not know a visit's token gets nothing.

    Parameters
    ----------
    visits
        The open visits.
    folders
        Where training images may be read.
    """

    def __init__(self, visits: Visits, folders: Folders) -> None:
        self.visits = visits
        self.folders = folders
        # Few, because each may hold a whole image; and none of those that judge.
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="patchcore-draw")
        # A zip file takes long, and no picture waits for it.
        self._zip_pool = ThreadPoolExecutor(1, thread_name_prefix="patchcore-zip")
        self.router = APIRouter()
        for path, endpoint in (
            ("/visits/{token}/results.jsonl", self.lines),
            ("/visits/{token}/results.csv", self.table),
            ("/visits/{token}/results.zip", self.archive),
            ("/visits/{token}/{number}/image.jpg", self.image),
            ("/visits/{token}/{number}/heat.png", self.heat),
            ("/visits/{token}/{number}/outlines.svg", self.outlines),
            ("/visits/{token}/{number}/why.png", self.why),
        ):
            self.router.add_api_route(path, endpoint, methods=["GET"], response_model=None, include_in_schema=False)

    async def image(self, token: str, number: int, large: bool = False) -> Response:
        """Return the image, reduced."""
        source = self._image(token, number).source
        data = await self._in_thread(lambda: drawing.jpeg(read_image(source.file), _side(large)))
        return Response(data, media_type="image/jpeg", headers=_HEADERS)

    async def heat(self, token: str, number: int, low: float, high: float, large: bool = False) -> Response:
        """Return the heat that lies over the image."""
        anomaly_map = self._image(token, number).found.anomaly_map
        if anomaly_map is None:
            raise HTTPException(404)
        data = await self._in_thread(lambda: drawing.heat(anomaly_map, (low, high), _side(large)))
        return Response(data, media_type="image/png", headers=_HEADERS)

    async def outlines(self, token: str, number: int, above: float) -> Response:
        """Return the outlines of the regions above a threshold of the map."""
        anomaly_map = self._image(token, number).found.anomaly_map
        if anomaly_map is None:
            raise HTTPException(404)
        data = await self._in_thread(lambda: drawing.outlines(anomaly_map, above))
        return Response(data, media_type="image/svg+xml", headers=_HEADERS)

    async def why(self, token: str, number: int) -> Response:
        """Return the suspicious patch beside the nearest normal one."""
        image, loaded = self._image(token, number), self._visit(token).loaded
        if loaded is None or not self.has_why(loaded.model, image.found.nearest):
            raise HTTPException(404)
        why = self._why(loaded.model)
        drawn = await self._in_thread(lambda: why(replace(image.found, pixels=read_image(image.source.file))))
        if drawn is None:
            raise HTTPException(404)
        return Response(drawing.png(drawn), media_type="image/png", headers=_HEADERS)

    def has_why(self, model: object, nearest: Nearest | None) -> bool:
        """Return whether a normal patch may be shown: from a thumbnail, or a file in an allowed folder."""
        if nearest is None:
            return False
        thumbnails = getattr(model, "thumbnails", {})
        if nearest.number in thumbnails:
            return True
        return nearest.image is not None and self.folders.allows(Path(nearest.image)) and Path(nearest.image).is_file()

    async def lines(self, token: str) -> Response:
        """Return ``results.jsonl``."""
        visit = self._visit(token)
        data = await self._in_thread(lambda: downloads.as_lines(visit.results()))
        return Response(data, media_type="application/jsonl", headers=_as_file("results.jsonl"))

    async def table(self, token: str) -> Response:
        """Return ``results.csv``."""
        visit = self._visit(token)
        data = await self._in_thread(lambda: downloads.as_table(visit.results()))
        return Response(data, media_type="text/csv; charset=utf-8", headers=_as_file("results.csv"))

    async def archive(self, token: str, low: float, high: float) -> Response:
        """Return everything, with pictures on the colour scale of the page."""
        visit = self._visit(token)
        why = None if visit.loaded is None else self._why(visit.loaded.model)

        def write() -> Path:
            with tempfile.NamedTemporaryFile(suffix=".zip", dir=visit.folder.parent, delete=False) as file:
                path = Path(file.name)
            try:
                downloads.write_zip(path, visit.results(), (low, high), why)
            except BaseException:
                path.unlink()
                raise
            return path

        path = await self._in_thread(write, self._zip_pool)
        # Removed when it has been sent.
        return FileResponse(path, filename="results.zip", background=BackgroundTask(path.unlink))

    def _why(self, model: Any) -> downloads.Why:
        """Return what draws the reasons for a model's verdicts, where they may be shown."""
        from patchcore_plugin.inference.explain import ExplanationPictures

        draw = ExplanationPictures(getattr(model, "thumbnails", {}))
        return lambda found: draw(found) if self.has_why(model, found.nearest) else None

    def _visit(self, token: str) -> Visit:
        visit = self.visits.get(token)
        if visit is None:
            raise HTTPException(404, "this page is closed; open the app anew")
        return visit

    def _image(self, token: str, number: int) -> Image:
        image = self._visit(token).images.get(number)
        if image is None:
            raise HTTPException(404, "this image is not kept any more")
        return image

    async def _in_thread(self, work: Callable[[], T], pool: ThreadPoolExecutor | None = None) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(pool or self._pool, work)
        except (PatchcoreError, OSError) as error:
            raise HTTPException(404, one_line(error)) from None


def _side(large: bool) -> int:
    return LARGE if large else SMALL


def _as_file(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
