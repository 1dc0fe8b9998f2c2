/** The page's side of the worker. */

export class ModelError extends Error {}

export class Model {
  #waiting = new Map();
  #next = 0;

  constructor() {
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => this.#received(data);
    this.worker.onerror = () => this.#failed("The page's files are incomplete, or this browser is too old for them.");
  }

  /** @param {string | null} device */
  load(device, onProgress) {
    return this.#ask("load", { device }, onProgress);
  }

  /** @param {(Blob | ImageData)[]} pictures */
  encodePictures(pictures) {
    return this.#ask("pictures", { pictures });
  }

  /** @param {string[]} texts */
  encodeTexts(texts) {
    return this.#ask("texts", { texts });
  }

  /** Compares with the golden outputs. */
  check() {
    return this.#ask("check", {});
  }

  /** Other actions of the worker, for proofs and tests. */
  ask(action, given) {
    return this.#ask(action, given);
  }

  #ask(action, given, onProgress = () => {}) {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject, onProgress });
      this.worker.postMessage({ id, action, given });
    });
  }

  #received({ id, progress, result, error, cause }) {
    const waiting = this.#waiting.get(id);
    if (!waiting) {
      return;
    }
    if (progress) {
      waiting.onProgress(progress);
      return;
    }
    this.#waiting.delete(id);
    if (error === undefined) {
      waiting.resolve(result);
    } else {
      console.warn(cause);
      waiting.reject(new ModelError(error));
    }
  }

  #failed(sentence) {
    for (const { reject } of this.#waiting.values()) {
      reject(new ModelError(sentence));
    }
    this.#waiting.clear();
  }
}
