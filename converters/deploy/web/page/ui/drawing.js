/** Drawing: a pen and filled shapes, by finger, mouse or keyboard. */

import { tracePath } from "./outlines.js";
import { element } from "./words.js";

const TOOLS = ["pen", "circle", "square", "triangle", "star", "heart"];
const COLOURS = {
  red: "#e02020",
  orange: "#f58a1f",
  yellow: "#f7d51d",
  green: "#25a244",
  blue: "#2456d6",
  purple: "#8136b8",
  pink: "#f57fb5",
  brown: "#7a4a21",
  black: "#101010",
  gray: "#8a8a8a",
  white: "#ffffff",
};
const MOST_STEPS = 50;
const PEN_SHARE = 0.25; // of the size, for the pen
const STEP = 16; // pixels that an arrow key moves

export class Drawing {
  #steps = [];
  #last = null;
  #cross = null;

  /** @param {(picture: ImageData) => void} onPicture */
  constructor(onPicture) {
    this.onPicture = onPicture;
    this.canvas = element("canvas");
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.#radios("tools", TOOLS, "circle");
    this.#radios("colours", Object.keys(COLOURS), "red");
    this.#fill("#ffffff");
    this.#draw({ x: this.canvas.width / 2, y: this.canvas.height / 2 });
    this.canvas.addEventListener("pointerdown", (event) => this.#down(event));
    this.canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      this.canvas.addEventListener(name, () => (this.#last = null));
    }
    this.canvas.addEventListener("keydown", (event) => this.#pressed(event));
    this.canvas.addEventListener("blur", () => this.#showCross(null));
    element("undo").addEventListener("click", () => this.#undo());
    element("clear").addEventListener("click", () => this.#fillAll("#ffffff"));
    element("fill").addEventListener("click", () => this.#fillAll(this.colour));
  }

  get tool() {
    return document.querySelector("input[name=tools]:checked").value;
  }

  get colour() {
    return COLOURS[document.querySelector("input[name=colours]:checked").value];
  }

  get size() {
    return Number(element("brush").value);
  }

  enter() {
    this.#changed();
  }

  leave() {
    this.#last = null;
  }

  #radios(name, values, chosen) {
    for (const value of values) {
      const label = document.createElement("label");
      const input = document.createElement("input");
      Object.assign(input, { type: "radio", name, value, checked: value === chosen });
      const words = document.createElement("span");
      words.textContent = value;
      if (name === "colours") {
        label.style.setProperty("--swatch", COLOURS[value]);
        label.title = value;
      }
      label.append(input, words);
      element(name).append(label);
    }
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.canvas.width / box.width;
    return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
  }

  #down(event) {
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.#remember();
    this.#last = this.#place(event);
    this.#drawAt(this.#last, this.#last);
  }

  #move(event) {
    if (!this.#last || this.tool !== "pen") {
      return;
    }
    const place = this.#place(event);
    this.#drawAt(this.#last, place);
    this.#last = place;
  }

  #pressed(event) {
    const moves = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
    const from = this.#cross ?? { x: this.canvas.width / 2, y: this.canvas.height / 2 };
    if (event.key in moves) {
      event.preventDefault();
      const [x, y] = moves[event.key];
      const inside = (value) => Math.min(this.canvas.width, Math.max(0, value));
      this.#showCross({ x: inside(from.x + x), y: inside(from.y + y) });
    } else if (event.key === " " || event.key === "Enter") {
      event.preventDefault();
      this.#showCross(null);
      this.#remember();
      this.#drawAt(from, from);
      this.#showCross(from);
    } else if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.#undo();
    }
  }

  /** The keyboard's cross: drawn over the picture, and no part of it. */
  #showCross(place) {
    if (this.#cross) {
      this.context.putImageData(this.clean, 0, 0);
    }
    this.#cross = place;
    if (!place) {
      return;
    }
    this.clean = this.#pixels();
    this.context.lineWidth = 2;
    this.context.strokeStyle = "#808080";
    this.context.beginPath();
    this.context.moveTo(place.x - 12, place.y);
    this.context.lineTo(place.x + 12, place.y);
    this.context.moveTo(place.x, place.y - 12);
    this.context.lineTo(place.x, place.y + 12);
    this.context.stroke();
  }

  #drawAt(from, to) {
    this.#draw(to, from);
    this.#changed();
  }

  #draw(to, from = to) {
    const { context, colour, size } = this;
    Object.assign(context, { fillStyle: colour, strokeStyle: colour, lineCap: "round", lineWidth: size * PEN_SHARE });
    context.beginPath();
    if (this.tool === "pen") {
      context.moveTo(from.x, from.y);
      context.lineTo(to.x, to.y);
      context.stroke();
    } else {
      tracePath(context, this.tool, to.x, to.y, size);
      context.fill();
    }
  }

  #fillAll(colour) {
    this.#showCross(null);
    this.#remember();
    this.#fill(colour);
    this.#changed();
  }

  #fill(colour) {
    this.context.fillStyle = colour;
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
  }

  #remember() {
    this.#showCross(null);
    this.#steps.push(this.#pixels());
    this.#steps.splice(0, this.#steps.length - MOST_STEPS);
  }

  #undo() {
    this.#showCross(null);
    const before = this.#steps.pop();
    if (before) {
      this.context.putImageData(before, 0, 0);
      this.#changed();
    }
  }

  #pixels() {
    return this.context.getImageData(0, 0, this.canvas.width, this.canvas.height);
  }

  #changed() {
    this.onPicture(this.#cross ? this.clean : this.#pixels());
  }
}
