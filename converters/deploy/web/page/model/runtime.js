/**
 * The towers in LiteRT.js. Where the browser offers a graphics processor (WebGPU), it computes pictures; else, and for
 * texts, WebAssembly does.
 */

import { addressOf, BundleError, readBytes } from "./bundle.js";

export const DEVICES = { webgpu: "WebGPU, texts in WebAssembly", wasm: "WebAssembly" };
// LiteRT.js takes text towers on WebGPU, too, and gives zeros: it has no right program for the look-up of ids.
const ON_WEBGPU = ["image"];
const PROGRAM = "runtime/dist/index.js";
const COMPILED = "runtime/wasm/";
const MOST_THREADS = 4;

/** Whether the browser has a graphics processor for us, and not a program that plays one, slowly. */
export async function hasWebGpu() {
  try {
    const adapter = await navigator.gpu?.requestAdapter();
    return Boolean(adapter) && !adapter.info?.isFallbackAdapter && adapter.info?.architecture !== "swiftshader";
  } catch {
    return false;
  }
}

export class Runtime {
  #models = {};

  /**
   * @param {string} device a key of DEVICES
   * @param {Record<string, {file: string}>} towers as bundle.json has them
   */
  constructor(device, towers) {
    this.device = device;
    this.towers = towers;
  }

  /** @param {(loaded: number) => void} advance told how many bytes of the towers came */
  async load(advance) {
    const { litert, threads } = await (started ??= start());
    this.litert = litert;
    this.threads = threads;
    if (this.device === "webgpu" && !litert.getWebGpuDevice()) {
      throw new BundleError("This browser offers no WebGPU: leave ?device=webgpu out of the address.");
    }
    const came = {};
    const files = await Promise.all(
      Object.entries(this.towers).map(async ([name, { file }]) => {
        const bytes = await readBytes(file, (loaded) => {
          came[name] = loaded;
          advance(Object.values(came).reduce((sum, part) => sum + part, 0));
        });
        return [name, file, bytes];
      }),
    );
    for (const [name, file, bytes] of files) {
      this.#models[name] = await this.#open(file, bytes, ON_WEBGPU.includes(name) ? this.device : "wasm");
    }
  }

  async #open(file, bytes, accelerator) {
    let model;
    try {
      model = await this.litert.loadAndCompile(bytes, {
        accelerator,
        cpuOptions: { numThreads: this.threads },
        gpuOptions: { precision: "fp32" },
      });
    } catch (error) {
      const sentence = `${file} cannot be opened: it is missing or damaged, or memory is short.`;
      throw new BundleError(sentence, { cause: error });
    }
    if (accelerator === "webgpu" && !(model.isFullyAccelerated && model.options.accelerator === accelerator)) {
      model.delete();
      throw new BundleError(`${file} has operations that this browser does not compute on WebGPU.`);
    }
    return model;
  }

  /**
   * The features of a picture or a text.
   *
   * @param {string} tower "image" or "text"
   * @param {Float32Array | Int32Array} numbers the pixels, or the ids
   * @returns {Promise<Float32Array>} of length 1
   */
  async run(tower, numbers) {
    const model = this.#models[tower];
    const given = new this.litert.Tensor(numbers, model.getInputDetails()[0].shape);
    try {
      const [found] = await model.run([given]);
      const features = await found.data(); // a copy
      found.delete();
      return features;
    } finally {
      given.delete();
    }
  }

  /** Gives the towers' memory back. */
  release() {
    for (const model of Object.values(this.#models)) {
      try {
        model.delete();
      } catch {
        continue; // the graphics processor is gone, and what it held with it
      }
    }
    this.#models = {};
  }
}

let started = null;

/** Starts the one of LiteRT.js' programs that suits this browser. It holds the towers of every Runtime. */
async function start() {
  let litert;
  try {
    litert = await import(addressOf(PROGRAM));
  } catch {
    throw new BundleError(`${PROGRAM} is missing or damaged: export the page again.`);
  }
  // Threads share memory, which browsers allow only to pages whose server sends certain headers.
  const able = self.crossOriginIsolated && (await litert.supportsFeature("relaxedSimd"));
  const threads = able ? Math.min(MOST_THREADS, Math.ceil((navigator.hardwareConcurrency ?? 1) / 2)) : 1;
  try {
    await litert.loadLiteRt(addressOf(COMPILED), { threads: threads > 1 });
  } catch (error) {
    const sentence = `A file of ${COMPILED} cannot be opened: it is missing or damaged, or memory is short.`;
    throw new BundleError(sentence, { cause: error });
  }
  return { litert, threads };
}
