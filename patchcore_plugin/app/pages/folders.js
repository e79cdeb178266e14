// Pass the images of a dropped or chosen folder to the uploader as if the user had chosen them one by one, so that
// all limits of the uploader and the server apply.
(() => {
  const readBatch = (reader) => new Promise((resolve, reject) => reader.readEntries(resolve, reject));
  const openFile = (entry) => new Promise((resolve, reject) => entry.file(resolve, reject));
  const byName = (a, b) => (a.name < b.name ? -1 : 1);

  async function* listEntries(folder) {
    const entries = [];
    const reader = folder.createReader();
    // A reader returns entries in batches; an empty batch ends the list.
    for (let batch; (batch = await readBatch(reader)).length; ) entries.push(...batch);
    yield* entries.sort(byName);
  }

  // Yield all images below an entry, in order: [file, name of its folder]. Unreadable entries are skipped.
  async function* listImages(entry, folder, isImage) {
    try {
      if (entry.isFile && isImage(entry.name)) yield [await openFile(entry), folder];
      if (entry.isDirectory) for await (const child of listEntries(entry)) yield* listImages(child, entry.name, isImage);
    } catch {}
  }

  async function upload(box, name, images) {
    const limit = Number(box.dataset.maxImages);
    const files = [];
    let isTruncated = false;
    for await (const [image, folder] of images) {
      isTruncated = files.length === limit;
      if (isTruncated) break;
      // Data sets repeat file names across folders.
      const fullName = folder ? `${folder}_${image.name}` : image.name;
      files.push(new File([image], fullName, { type: image.type, lastModified: image.lastModified }));
    }
    box.dispatchEvent(new CustomEvent("folder", { detail: [name, files.length, isTruncated] }));
    if (!files.length) return;
    const transfer = new DataTransfer();
    files.forEach((file) => transfer.items.add(file));
    const input = box.querySelector(".q-uploader__input");
    input.files = transfer.files;
    input.dispatchEvent(new Event("change"));
  }

  function imageFilter(box) {
    const suffixes = box.querySelector(".q-uploader__input").accept.split(",");
    return (name) => !name.startsWith(".") && suffixes.some((suffix) => name.toLowerCase().endsWith(suffix));
  }

  // In the capture phase, before the uploader sees the drop and takes the folder for a file.
  document.addEventListener("drop", (event) => {
    const box = event.target.closest?.(".pc-upload");
    const entries = [...(event.dataTransfer?.items ?? [])].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const folder = entries.find((entry) => entry.isDirectory);
    if (!box || !folder) return;
    event.preventDefault();
    event.stopPropagation();
    event.target.dispatchEvent(new DragEvent("dragleave"));
    const images = async function* () {
      for (const entry of entries.sort(byName)) yield* listImages(entry, "", imageFilter(box));
    };
    upload(box, folder.name, images());
  }, true);

  document.addEventListener("change", (event) => {
    if (!event.target.matches?.(".pc-folder")) return;
    const box = event.target.closest(".pc-upload");
    const isImage = imageFilter(box);
    const pathParts = (file) => file.webkitRelativePath.split("/");
    const files = [...event.target.files];
    files.sort((a, b) => (a.webkitRelativePath < b.webkitRelativePath ? -1 : 1));
    event.target.value = "";
    const images = async function* () {
      for (const file of files) if (isImage(file.name)) yield [file, pathParts(file).at(-2)];
    };
    upload(box, files.length ? pathParts(files[0])[0] : "", images());
  });
})();
