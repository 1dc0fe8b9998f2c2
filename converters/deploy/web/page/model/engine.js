/** Pictures and texts to features: the towers with the preprocessing and the tokenizer that belong to them. */

import { decode } from "../image/decode.js";
import { Preprocessor } from "../image/preprocess.js";
import { Tokenizer } from "../text/tokenizer.js";
import { BundleError, readJson, readText } from "./bundle.js";
import { DEVICES, hasWebGpu, Runtime } from "./runtime.js";
import { isUsable, selfCheck } from "./self_check.js";

const KNOWN_FORMAT = 2;
const MOST_TEXTS_KEPT = 5000;

export class Engine {
  #texts = new Map();

  /**
   * @param {string | null} wanted a device, or null for the best that this browser has
   * @param {(part: {loaded: number, total: number}) => void} advance
   * @returns {Promise<object>} what the page says of the model
   */
  async load(wanted, advance) {
    const began = performance.now();
    this.about = await readJson("bundle.json");
    if (this.about.format !== KNOWN_FORMAT) {
      throw new BundleError("bundle.json is of another version than this page: export the page again.");
    }
    const { images, texts, towers } = this.about;
    if (!images || !texts || !towers || !this.about.web) {
      throw new BundleError("bundle.json describes no page: export the page again.");
    }
    const [merges, tables] = await Promise.all([readText("tokenizer/merges.txt"), readJson("tokenizer/cleaning.json")]);
    this.preprocessor = new Preprocessor(images);
    this.tokenizer = new Tokenizer(merges, tables, texts.context_length);
    const total = this.about.web.model_bytes;
    await this.#start(wanted ?? ((await hasWebGpu()) ? "webgpu" : "wasm"), wanted, towers, (loaded) =>
      advance({ loaded, total }),
    );
    return {
      title: this.about.model.title,
      device: DEVICES[this.runtime.device],
      threads: this.runtime.threads,
      scale: this.about.scores.logit_scale,
      bias: this.about.scores.logit_bias ?? 0,
      size: this.preprocessor.size,
      page: this.about.web.page,
      milliseconds: performance.now() - began,
    };
  }

  /** A graphics processor that computes something else is not used, unless somebody insists. */
  async #start(device, insists, towers, advance) {
    this.runtime = new Runtime(device, towers);
    try {
      await this.runtime.load(advance);
      if (device === "wasm" || insists || isUsable(await selfCheck(this, { withPictures: false }))) {
        return;
      }
    } catch (error) {
      if (device === "wasm" || insists) {
        throw error;
      }
    }
    this.runtime.release();
    this.runtime = new Runtime("wasm", towers);
    await this.runtime.load(advance);
  }

  /**
   * @param {(Blob | ImageData)[]} pictures files, or pixels as a canvas gives them
   * @returns {Promise<{features: Float32Array[], errors: (string | null)[], prepare: number, run: number}>}
   *   features in the order of the pictures that could be read, and milliseconds
   */
  async encodePictures(pictures) {
    const began = performance.now();
    const rows = [];
    const errors = [];
    for (const picture of pictures) {
      try {
        rows.push(await this.prepare(picture));
        errors.push(null);
      } catch (error) {
        errors.push(error.message);
      }
    }
    const prepared = performance.now();
    const features = [];
    for (const row of rows) {
      features.push(await this.runImage(row));
    }
    return { features, errors, prepare: prepared - began, run: performance.now() - prepared };
  }

  async prepare(picture) {
    if (picture instanceof Blob) {
      const { picture: pixels, hasPalette } = await decode(picture);
      return this.preprocessor.prepare(pixels, hasPalette);
    }
    return this.preprocessor.prepare(picture);
  }

  /**
   * @param {string[]} texts
   * @returns {Promise<{features: Float32Array[], run: number, fresh: number}>} features in the texts' order,
   *   milliseconds, and how many texts were not known yet
   */
  async encodeTexts(texts) {
    const began = performance.now();
    const fresh = [...new Set(texts)].filter((text) => !this.#texts.has(text));
    if (this.#texts.size + fresh.length > MOST_TEXTS_KEPT) {
      this.#texts.clear();
      fresh.splice(0, fresh.length, ...new Set(texts));
    }
    for (const text of fresh) {
      this.#texts.set(text, await this.runText(this.tokenizer.encode(text)));
    }
    return {
      features: texts.map((text) => this.#texts.get(text)),
      run: performance.now() - began,
      fresh: fresh.length,
    };
  }

  runImage(numbers) {
    return this.runtime.run("image", numbers);
  }

  runText(ids) {
    return this.runtime.run("text", ids);
  }

  check() {
    return selfCheck(this, { withPictures: true });
  }
}
