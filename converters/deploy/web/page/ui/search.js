/** Finding pictures of a folder by words. */

import { dot } from "../model/self_check.js";
import { filesOf, takeDrops } from "./drops.js";
import { debounced, element, milliseconds, reportProblem } from "./words.js";

const AT_ONCE = 4; // pictures between two words of progress
const SHOWN = 24;
const TYPING = 120; // milliseconds after a key
const PICTURE = /\.(jpe?g|png|gif|webp|bmp|avif|ico)$/i;

export class Search {
  #pictures = []; // {file, feature}
  #round = 0;
  #addresses = [];

  /**
   * @param {import("../model/client.js").Model} model
   * @param {() => string} template the sentence around a label
   */
  constructor(model, template) {
    this.model = model;
    this.template = template;
    takeDrops(element("folder-drop"), async (transfer) => this.#read(await filesOf(transfer)));
    for (const name of ["folder", "several"]) {
      element(name).addEventListener("change", (event) => {
        const files = Array.from(event.target.files);
        event.target.value = "";
        this.#read(files);
      });
    }
    element("query").addEventListener(
      "input",
      debounced(TYPING, () => this.#rank()),
    );
  }

  enter() {}

  leave() {}

  async #read(files) {
    const round = ++this.#round;
    const pictures = files.filter((file) => file.type.startsWith("image/") || PICTURE.test(file.name));
    this.#pictures = [];
    reportProblem(pictures.length ? "" : "There is no picture among these files.");
    const progress = element("search-progress");
    progress.hidden = !pictures.length;
    element("query").disabled = !pictures.length;
    const began = performance.now();
    let unreadable = 0;
    for (let start = 0; start < pictures.length; start += AT_ONCE) {
      const some = pictures.slice(start, start + AT_ONCE);
      let found;
      try {
        found = await this.model.encodePictures(some);
      } catch (error) {
        reportProblem(error.message);
        break;
      }
      if (round !== this.#round) {
        return; // another folder came
      }
      const sound = some.filter((_, index) => found.errors[index] === null);
      sound.forEach((file, index) => this.#pictures.push({ file, feature: found.features[index] }));
      unreadable += some.length - sound.length;
      progress.value = (start + some.length) / pictures.length;
      this.#say(pictures.length, unreadable, performance.now() - began);
    }
    progress.hidden = true;
    if (this.#pictures.length) {
      element("query").focus();
    }
    await this.#rank();
  }

  #say(total, unreadable, time) {
    const done = this.#pictures.length;
    const each = done ? `, ${milliseconds(time / done)} each` : "";
    const lost = unreadable ? ` ${unreadable} cannot be read.` : "";
    element("search-status").textContent = `${done} of ${total} pictures read${each}.${lost}`;
  }

  async #rank() {
    const query = element("query").value.trim();
    if (!query || !this.#pictures.length) {
      this.#show(this.#pictures.slice(0, SHOWN));
      element("search-times").textContent = "";
      return;
    }
    try {
      const began = performance.now();
      const { features } = await this.model.encodeTexts([this.template().replaceAll("{}", () => query)]);
      if (query !== element("query").value.trim()) {
        return;
      }
      const ranked = this.#pictures.map((picture) => ({ ...picture, score: dot(picture.feature, features[0]) }));
      ranked.sort((a, b) => b.score - a.score);
      this.#show(ranked.slice(0, SHOWN));
      element("search-times").textContent = `${milliseconds(performance.now() - began)} for this search.`;
    } catch (error) {
      reportProblem(error.message);
    }
  }

  #show(pictures) {
    this.#addresses.forEach((address) => URL.revokeObjectURL(address));
    this.#addresses = pictures.map(({ file }) => URL.createObjectURL(file));
    const lines = pictures.map(({ file, score }, index) => {
      const line = document.createElement("li");
      const image = document.createElement("img");
      Object.assign(image, { src: this.#addresses[index], alt: "" });
      const words = document.createElement("span");
      words.textContent = score === undefined ? file.name : `${file.name} (${score.toFixed(3)})`;
      line.append(image, words);
      return line;
    });
    element("results").replaceChildren(...lines);
  }
}
