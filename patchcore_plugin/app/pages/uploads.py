"""Where images, and folders of them, are dropped or chosen, and sent one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nicegui import events, ui

from patchcore_plugin.app.visit import display_name
from patchcore_plugin.data.datasets.files import IMAGE_SUFFIXES

from .parts import Messages

if TYPE_CHECKING:
    from patchcore_plugin.app.limits import Limits

TAKEN = "PNG, JPEG, BMP, TIFF and WebP are taken"
# A key pressed on a button is no click on the input in it, so the buttons say what they do.
_DROP = """
<div class="pc-drop">
  <div>Drop images or folders here, or</div>
  <div class="pc-buttons">
    <q-btn outline no-caps color="primary" label="Choose images" @click="props.pickFiles" />
    <q-uploader-add-trigger />
    <q-btn outline no-caps color="primary" label="Choose a folder"
           @click="$event.currentTarget.nextElementSibling.click()" />
    <input type="file" class="pc-folder" webkitdirectory hidden />
  </div>
</div>
"""
_NAMES = "(rejected) => emit(rejected.map((each) => [each.file.name, each.failedPropValidation]))"


class Uploads:
    """The field that images are dropped on.

    Parameters
    ----------
    limits
        Of a file, and of the images of a folder.
    messages
        Where errors are told.
    on_upload
        Called with each file that has arrived.
    """

    def __init__(
        self, limits: Limits, messages: Messages, on_upload: Callable[[events.UploadEventArguments], object]
    ) -> None:
        self._limits, self._messages = limits, messages
        box = ui.upload(multiple=True, auto_upload=True, on_upload=on_upload).classes("pc-upload").props("flat")
        box.props["accept"] = ",".join(IMAGE_SUFFIXES)
        box.props["max-file-size"] = limits.upload
        box.props["data-most"] = limits.images
        box.props("no-thumbnails")
        box.add_slot("header", _DROP)
        box.on("rejected", self._rejected, js_handler=_NAMES)
        box.on("failed", lambda: messages.error("An upload failed; try it again."), args=[])
        # What is remembered of files that were sent would keep them from being given again.
        box.on("finish", js_handler=f"() => getElement({box.id}).$refs.qRef.reset()")
        box.on("folder", self._folder_given, js_handler="(event) => emit(event.detail)")

    def _rejected(self, event: events.GenericEventArguments) -> None:
        for name, why in event.args:
            if why == "max-file-size":
                reason = f"the file is larger than {self._limits.upload / 1e6:g} MB"
            elif why == "duplicate":
                reason = "is being sent already"
            else:
                reason = f"not an image by its name; {TAKEN}"
            self._messages.error(f"{name}: {reason}")

    def _folder_given(self, event: events.GenericEventArguments) -> None:
        name, count, is_more = event.args
        if not count:
            self._messages.error(f"{display_name(name)}: no images in this folder; {TAKEN}")
        elif is_more:
            self._messages.note(too_many(display_name(name), count))


def too_many(folder: str, kept: int) -> str:
    """Say that a folder has more images than a visit keeps."""
    return f"{folder}: the first {kept} images are judged here; for more there is 'patchcore predict'"
