/** Reading picture files as pixels, upright, without colour management: as Pillow does. */

import { PictureError } from "./preprocess.js";

const PNG = [0x89, 0x50, 0x4e, 0x47];
const GIF = [0x47, 0x49, 0x46, 0x38];
const PALETTE = 3; // the colour type in a PNG's header

/**
 * @param {Blob} file
 * @returns {Promise<{picture: ImageData, hasPalette: boolean}>}
 * @throws {PictureError} one sentence, where the browser cannot read it
 */
export async function decode(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  } catch {
    throw new PictureError(`${file.name || "This file"} is not a picture that this browser can read.`);
  }
  try {
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    const picture = context.getImageData(0, 0, bitmap.width, bitmap.height);
    return { picture, hasPalette: await holdsPalette(file) };
  } catch {
    throw new PictureError(`${file.name || "This picture"} is too large for this browser.`);
  } finally {
    bitmap.close();
  }
}

/** Whether Pillow reads the file as one with a palette, or as black and white without grey. */
async function holdsPalette(file) {
  const head = new Uint8Array(await file.slice(0, 26).arrayBuffer());
  if (GIF.every((byte, index) => head[index] === byte)) {
    return true;
  }
  const [depth, colours] = [head[24], head[25]];
  return PNG.every((byte, index) => head[index] === byte) && (colours === PALETTE || (colours === 0 && depth === 1));
}
