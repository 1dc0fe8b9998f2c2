/** The labels: lines to type in, each with a bar behind its words. */

import { percent } from "./words.js";

const MOST = 50;

export class Bars {
  /** Called with all labels that are not empty, after each change. */
  onChange = () => {};

  /**
   * @param {HTMLOListElement} list
   * @param {HTMLButtonElement} adder
   */
  constructor(list, adder) {
    this.list = list;
    adder.addEventListener("click", () => this.#add("", null).focus());
  }

  /** @param {string[]} labels */
  fill(labels) {
    this.list.replaceChildren();
    labels.forEach((label) => this.#add(label, null));
    this.onChange();
  }

  /** @returns {string[]} */
  get labels() {
    return this.#lines.map((line) => line.label);
  }

  /**
   * @param {(number | null)[]} shares a probability for each line, or null for an empty one
   */
  show(shares) {
    const known = shares.filter((share) => share !== null);
    const best = shares.indexOf(Math.max(...known));
    this.#lines.forEach(({ line, output }, index) => {
      const share = shares[index] ?? null;
      line.style.setProperty("--share", share ?? 0);
      line.classList.toggle("best", known.length > 0 && index === best);
      output.textContent = share === null ? "" : percent(share);
    });
  }

  get #lines() {
    return Array.from(this.list.children, (line) => {
      const input = line.querySelector("input");
      return { line, input, output: line.querySelector("output"), label: input.value.trim() };
    });
  }

  #add(label, after) {
    if (this.list.children.length >= MOST) {
      return this.list.lastElementChild.querySelector("input");
    }
    const line = document.createElement("li");
    const bar = document.createElement("div");
    bar.className = "bar";
    const input = document.createElement("input");
    Object.assign(input, { type: "text", value: label, autocomplete: "off", maxLength: 1000, enterKeyHint: "next" });
    const output = document.createElement("output");
    output.setAttribute("aria-live", "off"); // the best label alone is told, once typing rests
    const remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = "×";
    line.append(bar, input, output, remove);
    input.addEventListener("input", () => this.onChange());
    input.addEventListener("keydown", (event) => this.#pressed(event, line));
    remove.addEventListener("click", () => this.#remove(line));
    after ? after.after(line) : this.list.append(line);
    this.#number();
    return input;
  }

  #pressed(event, line) {
    const input = event.target;
    if (event.isComposing) {
      return; // the key belongs to an input method
    }
    if (event.key === "Enter") {
      event.preventDefault();
      this.#add("", line).focus();
    } else if (event.key === "Escape") {
      input.value = "";
      this.onChange();
    } else if (event.key === "Backspace" && !input.value && this.list.children.length > 1) {
      event.preventDefault();
      this.#remove(line);
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const other = event.key === "ArrowDown" ? line.nextElementSibling : line.previousElementSibling;
      other?.querySelector("input").focus();
    }
  }

  #remove(line) {
    const neighbour = line.previousElementSibling ?? line.nextElementSibling;
    line.remove();
    (neighbour?.querySelector("input") ?? this.#add("", null)).focus();
    this.#number();
    this.onChange();
  }

  #number() {
    this.#lines.forEach(({ line, input }, index) => {
      input.setAttribute("aria-label", `Label ${index + 1}`);
      line.querySelector("button").setAttribute("aria-label", `Remove label ${index + 1}`);
      line.querySelector("output").setAttribute("aria-label", `How well label ${index + 1} fits`);
    });
  }
}
