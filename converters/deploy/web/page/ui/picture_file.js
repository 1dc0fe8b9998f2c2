/** A picture from a file: chosen, dropped, pasted, or one of the examples. */

import { filesOf, takeDrops } from "./drops.js";
import { element, reportProblem } from "./words.js";

export class PictureFile {
  #isEntered = false;
  #current = null;

  /**
   * @param {{file: string, name: string}[]} examples
   * @param {(picture: Blob) => void} onPicture
   */
  constructor(examples, onPicture) {
    this.onPicture = onPicture;
    this.image = element("picture");
    element("file").addEventListener("change", (event) => {
      this.#take(event.target.files[0]);
      event.target.value = ""; // the same file may be chosen again
    });
    takeDrops(element("drop"), async (transfer) => this.#takeFirst(await filesOf(transfer)));
    document.addEventListener("paste", (event) => {
      const file = Array.from(event.clipboardData.files).find(({ type }) => type.startsWith("image/"));
      if (this.#isEntered && file) {
        event.preventDefault();
        this.#take(file);
      }
    });
    element("examples").append(...examples.map((example) => this.#button(example)));
    if (examples.length) {
      this.#takeExample(examples[0]);
    }
  }

  enter() {
    this.#isEntered = true;
    if (this.#current) {
      this.onPicture(this.#current);
    }
  }

  leave() {
    this.#isEntered = false;
  }

  #button(example) {
    const line = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    const image = document.createElement("img");
    Object.assign(image, { src: example.file, alt: `Example: ${example.name}`, loading: "lazy" });
    button.append(image);
    button.addEventListener("click", () => this.#takeExample(example));
    line.append(button);
    return line;
  }

  async #takeExample({ file, name }) {
    try {
      const answer = await fetch(file);
      const blob = await answer.blob();
      this.#take(new File([blob], name, { type: blob.type }), name);
    } catch {
      reportProblem(`The example ${name} cannot be loaded.`);
    }
  }

  #takeFirst(files) {
    if (files.length) {
      this.#take(files[0]);
    } else {
      reportProblem("What was dropped holds no file.");
    }
  }

  #take(file, name = file?.name) {
    if (!file) {
      return;
    }
    URL.revokeObjectURL(this.image.src);
    this.image.src = URL.createObjectURL(file);
    this.image.alt = `The picture that the labels are about: ${name}`;
    this.image.hidden = false;
    this.image.onerror = () => {
      this.image.hidden = true;
    };
    element("drop-hint").textContent = "Drop another here, paste one, or";
    this.#current = file;
    if (this.#isEntered) {
      this.onPicture(file);
    }
  }
}
