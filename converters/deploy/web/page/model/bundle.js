/** Reading the files of the bundle that lies beside this page. Nothing else is ever asked for. */

export class BundleError extends Error {}

const ROOT = new URL("../", import.meta.url);
const ARRAYS = { float32: Float32Array, float64: Float64Array, int32: Int32Array, uint8: Uint8Array };

/** The address of a file of the bundle. */
export function addressOf(file) {
  return new URL(file, ROOT).href;
}

async function get(file) {
  let answer;
  try {
    answer = await fetch(addressOf(file));
  } catch {
    throw new BundleError(`${file} cannot be loaded: the server does not answer.`);
  }
  if (!answer.ok) {
    throw new BundleError(`${file} is missing: the server answers ${answer.status}.`);
  }
  return answer;
}

/** @returns {Promise<any>} the content of a JSON file */
export async function readJson(file) {
  const text = await readText(file);
  try {
    return JSON.parse(text);
  } catch {
    throw new BundleError(`${file} is damaged: it holds no JSON.`);
  }
}

/** @returns {Promise<string>} */
export async function readText(file) {
  return (await get(file)).text();
}

/** @returns {Promise<Blob>} */
export async function readBlob(file) {
  return (await get(file)).blob();
}

/**
 * @param {string} file
 * @param {(loaded: number) => void} advance told how many bytes came, again and again
 * @returns {Promise<Uint8Array>}
 */
export async function readBytes(file, advance = () => {}) {
  const answer = await get(file);
  const parts = [];
  let length = 0;
  try {
    for (const reader = answer.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) {
        break;
      }
      parts.push(value);
      length += value.length;
      advance(length);
    }
  } catch {
    throw new BundleError(`${file} cannot be loaded: the connection broke.`);
  }
  const bytes = new Uint8Array(length);
  parts.reduce((place, part) => (bytes.set(part, place), place + part.length), 0);
  return bytes;
}

/**
 * An array of golden.json: plain little-endian numbers.
 *
 * @param {{file: string, shape: number[], dtype: string}} about
 */
export async function readArray(about, folder) {
  const bytes = await readBytes(`${folder}/${about.file}`);
  const Kind = ARRAYS[about.dtype];
  const count = about.shape.reduce((product, side) => product * side, 1);
  if (!Kind || bytes.length !== count * Kind.BYTES_PER_ELEMENT) {
    throw new BundleError(`${folder}/${about.file} is damaged: it has another length than ${folder} says.`);
  }
  return { shape: about.shape, data: new Kind(bytes.buffer) };
}
