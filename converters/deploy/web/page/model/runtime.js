/**
 * The towers in onnxruntime-web: on the graphics processor where the browser offers one (WebGPU), else in WebAssembly.
 */

import { addressOf, BundleError, readBytes } from "./bundle.js";

export const DEVICES = { webgpu: "WebGPU", wasm: "WebAssembly" };
const PROGRAMS = {
  webgpu: ["runtime/ort.webgpu.bundle.min.mjs", "runtime/ort-wasm-simd-threaded.asyncify.wasm"],
  wasm: ["runtime/ort.wasm.bundle.min.mjs", "runtime/ort-wasm-simd-threaded.wasm"],
};
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
  #sessions = {};

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
    const [program, compiled] = PROGRAMS[this.device];
    try {
      this.ort = await import(addressOf(program));
    } catch {
      throw new BundleError(`${program} is missing or damaged: export the page again.`);
    }
    this.compiled = compiled;
    this.ort.env.logLevel = "error";
    this.ort.env.wasm.wasmPaths = { wasm: addressOf(compiled) };
    // Threads share memory, which browsers allow only to pages whose server sends certain headers.
    const cores = navigator.hardwareConcurrency ?? 1;
    this.ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MOST_THREADS, Math.ceil(cores / 2)) : 1;
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
      this.#sessions[name] = await this.#open(file, bytes);
    }
  }

  get threads() {
    return this.device === "wasm" ? this.ort.env.wasm.numThreads : 1;
  }

  async #open(file, bytes) {
    try {
      return await this.ort.InferenceSession.create(bytes, {
        executionProviders: this.device === "webgpu" ? ["webgpu", "wasm"] : ["wasm"],
        graphOptimizationLevel: "all",
        logSeverityLevel: 3, // errors alone: that some operations stay on the processor is as it should be
      });
    } catch (error) {
      // The first of the towers starts the runtime.
      const what = /no available backend/.test(error.message) ? this.compiled : file;
      throw new BundleError(`${what} cannot be opened: it is missing or damaged, or memory is short.`, { cause: error });
    }
  }

  /**
   * The features of a batch.
   *
   * @param {string} tower "image" or "text"
   * @param {Float32Array | Int32Array} data all rows, one after the other
   * @param {number[]} shape the batch first
   * @returns {Promise<Float32Array[]>} unit-length features, one array for each row
   */
  async run(tower, data, shape) {
    const session = this.#sessions[tower];
    const type = data instanceof Int32Array ? "int32" : "float32";
    const outputs = await session.run({ [session.inputNames[0]]: new this.ort.Tensor(type, data, shape) });
    const features = await outputs[session.outputNames[0]].getData();
    const width = features.length / shape[0];
    return Array.from({ length: shape[0] }, (_, row) => features.slice(row * width, (row + 1) * width));
  }
}
