/** Files and folders that are dropped on a part of the page. */

const MOST_FILES = 20_000;

/**
 * @param {HTMLElement} place
 * @param {(transfer: DataTransfer) => void} take
 */
export function takeDrops(place, take) {
  const mark = (isOver) => (event) => {
    event.preventDefault();
    place.classList.toggle("over", isOver);
  };
  place.addEventListener("dragenter", mark(true));
  place.addEventListener("dragover", mark(true));
  place.addEventListener("dragleave", mark(false));
  place.addEventListener("drop", (event) => {
    mark(false)(event);
    take(event.dataTransfer);
  });
}

/** Every file of what was dropped, with everything below dropped folders, in the order of their paths. */
export async function filesOf(transfer) {
  const entries = Array.from(transfer.items, (item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) {
    return Array.from(transfer.files);
  }
  const found = [];
  for (const entry of entries) {
    await collect(entry, found);
  }
  return found;
}

async function collect(entry, found) {
  if (found.length >= MOST_FILES) {
    return;
  }
  if (entry.isFile) {
    found.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    return;
  }
  const reader = entry.createReader();
  const children = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) {
      break;
    }
    children.push(...some);
  }
  children.sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const child of children) {
    await collect(child, found);
  }
}
