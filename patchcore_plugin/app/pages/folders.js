// The images of a folder, dropped or chosen, go to the uploader as if they had been chosen one by one: its limits and
// the server's hold for them as for any.
(() => {
  const read = (reader) => new Promise((done, failed) => reader.readEntries(done, failed));
  const file = (entry) => new Promise((done, failed) => entry.file(done, failed));
  const byName = (a, b) => (a.name < b.name ? -1 : 1);

  async function* entriesOf(folder) {
    const found = [];
    const reader = folder.createReader();
    // A reader gives some at a time, and none at the end.
    for (let some; (some = await read(reader)).length; ) found.push(...some);
    yield* found.sort(byName);
  }

  // All images below, in order: [file, its folder's name]. One that cannot be read is left out.
  async function* imagesBelow(entry, folder, isImage) {
    try {
      if (entry.isFile && isImage(entry.name)) yield [await file(entry), folder];
      if (entry.isDirectory) for await (const each of entriesOf(entry)) yield* imagesBelow(each, entry.name, isImage);
    } catch {}
  }

  async function give(box, name, images) {
    const most = Number(box.dataset.most);
    const taken = [];
    let isMore = false;
    for await (const [image, folder] of images) {
      isMore = taken.length === most;
      if (isMore) break;
      // Images of a data set are called alike in its folders.
      const full = folder ? `${folder}_${image.name}` : image.name;
      taken.push(new File([image], full, { type: image.type, lastModified: image.lastModified }));
    }
    box.dispatchEvent(new CustomEvent("folder", { detail: [name, taken.length, isMore] }));
    if (!taken.length) return;
    const transfer = new DataTransfer();
    taken.forEach((each) => transfer.items.add(each));
    const input = box.querySelector(".q-uploader__input");
    input.files = transfer.files;
    input.dispatchEvent(new Event("change"));
  }

  function isImageOf(box) {
    const suffixes = box.querySelector(".q-uploader__input").accept.split(",");
    return (name) => !name.startsWith(".") && suffixes.some((each) => name.toLowerCase().endsWith(each));
  }

  // Before the uploader sees the drop: it would take a folder for a file.
  document.addEventListener("drop", (event) => {
    const box = event.target.closest?.(".pc-upload");
    const entries = [...(event.dataTransfer?.items ?? [])].map((each) => each.webkitGetAsEntry?.()).filter(Boolean);
    const folder = entries.find((each) => each.isDirectory);
    if (!box || !folder) return;
    event.preventDefault();
    event.stopPropagation();
    event.target.dispatchEvent(new DragEvent("dragleave"));
    const images = async function* () {
      for (const each of entries.sort(byName)) yield* imagesBelow(each, "", isImageOf(box));
    };
    give(box, folder.name, images());
  }, true);

  document.addEventListener("change", (event) => {
    if (!event.target.matches?.(".pc-folder")) return;
    const box = event.target.closest(".pc-upload");
    const isImage = isImageOf(box);
    const parts = (each) => each.webkitRelativePath.split("/");
    const files = [...event.target.files];
    files.sort((a, b) => (a.webkitRelativePath < b.webkitRelativePath ? -1 : 1));
    event.target.value = "";
    const images = async function* () {
      for (const each of files) if (isImage(each.name)) yield [each, parts(each).at(-2)];
    };
    give(box, files.length ? parts(files[0])[0] : "", images());
  });
})();
