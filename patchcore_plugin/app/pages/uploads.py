"""The upload area: images and folders, dropped or chosen, are sent one by one."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import events, ui

from patchcore_plugin.app.limits import Limits, display_name
from patchcore_plugin.data.datasets.files import IMAGE_SUFFIXES

from .widgets import MessageLog

FORMATS = "supported formats are PNG, JPEG, BMP, TIFF and WebP"
# A key press on a button does not click the file input inside it, so the buttons open the file choosers explicitly.
_HEADER = """
<div class="pc-drop">
  <div>Drop images or folders here, or</div>
  <div class="pc-buttons">
    <q-btn outline no-caps color="primary" label="Choose images" @click="props.pickFiles" />
    <q-uploader-add-trigger />
    <q-btn outline no-caps color="primary" label="Choose folder"
           @click="$event.currentTarget.nextElementSibling.click()" />
    <input type="file" class="pc-folder" webkitdirectory hidden />
  </div>
</div>
"""
_REJECTED_NAMES = "(rejected) => emit(rejected.map((each) => [each.file.name, each.failedPropValidation]))"


class UploadArea:
    """An area for images and folders.

    Parameters
    ----------
    limits
        Largest file, and number of images per folder.
    messages
        Log for errors.
    on_upload
        Called with each uploaded file.
    """

    def __init__(
        self, limits: Limits, messages: MessageLog, on_upload: Callable[[events.UploadEventArguments], object]
    ) -> None:
        self._limits, self._messages = limits, messages
        box = ui.upload(multiple=True, auto_upload=True, on_upload=on_upload).classes("pc-upload").props("flat")
        box.props["accept"] = ",".join(IMAGE_SUFFIXES)
        box.props["max-file-size"] = limits.upload
        box.props["data-max-images"] = limits.images
        box.props("no-thumbnails")
        box.add_slot("header", _HEADER)
        box.on("rejected", self._show_rejected, js_handler=_REJECTED_NAMES)
        box.on("failed", lambda: messages.error("An upload failed; try again."), args=[])
        # The uploader remembers files and would reject them as duplicates if they were chosen again.
        box.on("finish", js_handler=f"() => getElement({box.id}).$refs.qRef.reset()")
        box.on("folder", self._show_folder, js_handler="(event) => emit(event.detail)")

    def _show_rejected(self, event: events.GenericEventArguments) -> None:
        for name, cause in event.args:
            if cause == "max-file-size":
                reason = f"the file is larger than {self._limits.upload / 1e6:g} MB"
            elif cause == "duplicate":
                reason = "the file is being uploaded already"
            else:
                reason = f"not an image file; {FORMATS}"
            self._messages.error(f"{name}: {reason}")

    def _show_folder(self, event: events.GenericEventArguments) -> None:
        name, count, is_truncated = event.args
        if not count:
            self._messages.error(f"{display_name(name)}: no images in this folder; {FORMATS}")
        elif is_truncated:
            self._messages.note(truncation_note(display_name(name), count))


def truncation_note(folder: str, count: int) -> str:
    """Return the message for a folder with more images than a session keeps."""
    return f"{folder}: only the first {count} images are inspected; use 'patchcore predict' for larger folders"
