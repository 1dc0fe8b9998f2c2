/** Whether this browser computes what PyTorch computed: on the golden inputs and outputs of the bundle. */

import { readArray, readBlob, readJson } from "./bundle.js";

const FOLDER = "golden";
const LOGIT_SCALE = 100; // of the logits whose errors golden.json tells
const USABLE = 1e-2; // of a feature, whose whole row has length 1: no best match moves by that

/**
 * @param {import("./engine.js").Engine} engine
 * @param {{withPictures: boolean}} options whether pictures and texts are prepared here too
 * @returns {Promise<object>} differences: of features, of logits beside PyTorch's own, of pixels and of ids
 */
export async function selfCheck(engine, { withPictures }) {
  const golden = await readJson(`${FOLDER}/golden.json`);
  const names = ["image", "tokens", "image_features", "text_features"];
  const read = await Promise.all(names.map((name) => readArray(golden.arrays[name], FOLDER)));
  const [image, tokens, imageFeatures, textFeatures] = read;
  const began = performance.now();
  const images = await inOnes(image, (row) => engine.runImage(Float32Array.from(row)));
  const texts = await inOnes(tokens, (row) => engine.runText(Int32Array.from(row)));
  const milliseconds = performance.now() - began;
  const expected = { images: rowsOf(imageFeatures), texts: rowsOf(textFeatures) };
  const ours = logits(images, texts);
  const theirs = logits(expected.images, expected.texts);
  return {
    features: Math.max(largestDifference(images, expected.images), largestDifference(texts, expected.texts)),
    logitRatio: largestDifference(ours, theirs) / golden.torch_maximum,
    sameMatches: ours.every((row, index) => best(row) === best(theirs[index])),
    ...(withPictures ? await checkInputs(engine, golden, image, tokens) : {}),
    pictures: images.length,
    texts: texts.length,
    milliseconds,
  };
}

/**
 * Whether it is as near to PyTorch's float64 as every runtime on a desktop has to be.
 *
 * @param {object} found
 * @param {number} largestRatio to PyTorch's own largest error in float32, that the bundle's criteria allow
 */
export function isExact(found, largestRatio) {
  return found.sameMatches && found.logitRatio <= largestRatio && !found.pixels && !found.ids;
}

/** Whether answers can be trusted at all. */
export function isUsable(found) {
  return found.features < USABLE;
}

/** The same pictures and texts from their files: the largest difference of a pixel, and how many texts differ. */
async function checkInputs(engine, golden, image, tokens) {
  let pixels = 0;
  const rows = rowsOf(image);
  for (const [index, name] of golden.names.images.entries()) {
    const numbers = await engine.prepare(await readBlob(`${FOLDER}/${name}.jpg`));
    pixels = Math.max(pixels, largestDifference([numbers], [rows[index]]));
  }
  const ids = rowsOf(tokens).filter((row, index) => {
    const made = engine.tokenizer.encode(golden.names.texts[index]);
    return row.some((id, place) => id !== made[place]);
  }).length;
  return { pixels, ids };
}

function rowsOf({ shape, data }) {
  const length = data.length / shape[0];
  return Array.from({ length: shape[0] }, (_, row) => data.subarray(row * length, (row + 1) * length));
}

async function inOnes(array, run) {
  const found = [];
  for (const row of rowsOf(array)) {
    found.push(await run(row));
  }
  return found;
}

function logits(images, texts) {
  return images.map((image) => texts.map((text) => LOGIT_SCALE * dot(image, text)));
}

export function dot(a, b) {
  let sum = 0;
  for (let index = 0; index < a.length; index++) {
    sum += a[index] * b[index];
  }
  return sum;
}

function best(row) {
  return row.indexOf(Math.max(...row));
}

function largestDifference(rows, others) {
  let largest = 0;
  rows.forEach((row, index) => {
    row.forEach((value, place) => {
      const difference = Math.abs(value - others[index][place]);
      largest = difference <= largest ? largest : difference; // what is no number is the largest
    });
  });
  return largest;
}
