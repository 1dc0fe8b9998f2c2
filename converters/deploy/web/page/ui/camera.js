/** Pictures from the camera, one after the other, as fast as the model takes them. */

import { element, reportProblem } from "./words.js";

const LONGEST_SIDE = 640;
const PAUSE = 80; // milliseconds between two pictures

export class Camera {
  #stream = null;
  #facing = "environment";
  #round = 0;

  /** @param {(picture: ImageData) => Promise<void>} onPicture */
  constructor(onPicture) {
    this.onPicture = onPicture;
    this.video = element("video");
    this.canvas = document.createElement("canvas");
    element("camera-start").addEventListener("click", () => (this.#stream ? this.leave() : this.#begin()));
    element("camera-turn").addEventListener("click", () => {
      this.#facing = this.#facing === "environment" ? "user" : "environment";
      this.leave();
      this.#begin();
    });
  }

  enter() {}

  leave() {
    this.#round++;
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
    this.video.srcObject = null;
    element("camera-start").textContent = "Start the camera";
    element("camera-turn").hidden = true;
  }

  async #begin() {
    const round = ++this.#round;
    reportProblem("");
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: this.#facing }, audio: false });
      if (round !== this.#round) {
        stream.getTracks().forEach((track) => track.stop());
        return;
      }
      this.#stream = stream;
      this.video.srcObject = stream;
      await this.video.play();
    } catch (error) {
      reportProblem(whyNot(error));
      return;
    }
    element("camera-start").textContent = "Stop the camera";
    element("camera-turn").hidden = false;
    while (round === this.#round) {
      const picture = this.#picture();
      if (picture) {
        await this.onPicture(picture);
      }
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  }

  #picture() {
    const { videoWidth: width, videoHeight: height } = this.video;
    if (!width) {
      return null;
    }
    const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    const context = this.canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(this.video, 0, 0, this.canvas.width, this.canvas.height);
    return context.getImageData(0, 0, this.canvas.width, this.canvas.height);
  }
}

function whyNot(error) {
  if (!navigator.mediaDevices) {
    return "The camera needs a page from this device or over HTTPS.";
  }
  return error.name === "NotAllowedError" ? "The browser was not allowed to use the camera." : "There is no camera to use.";
}
