/**
 * From a picture to the numbers that an image tower takes: the same as `mobileclip_keras.ImagePreprocessor`, which is
 * what the models were trained with.
 */

import { resizePart } from "./resize.js";

export class PictureError extends Error {}

const MOST_PIXELS = 1 << 28;

/** Follows `images` of bundle.json. */
export class Preprocessor {
  /** @param {{image_size: number, mean: number[], std: number[], resize: {interpolation: string}}} images */
  constructor(images) {
    this.size = images.image_size;
    this.filter = images.resize.interpolation;
    // value / 255, minus mean, divided by std: each step rounded to float32, for each of 256 values and 3 channels
    const { fround } = Math;
    this.tables = [0, 1, 2].map((channel) => {
      const [mean, std] = [fround(images.mean[channel]), fround(images.std[channel])];
      return Float32Array.from({ length: 256 }, (_, value) => fround(fround(fround(value / 255) - mean) / std));
    });
  }

  /**
   * @param {{data: Uint8ClampedArray, width: number, height: number}} picture RGBA as a canvas gives it, upright
   * @param {boolean} hasPalette whether its file holds a palette, of which Pillow takes the nearest pixels
   * @returns {Float32Array} (size, size, 3), normalised
   */
  prepare(picture, hasPalette = false) {
    const pixels = this.cut(picture, hasPalette);
    const numbers = new Float32Array(this.size * this.size * 3);
    for (let pixel = 0; pixel < this.size * this.size; pixel++) {
      for (let channel = 0; channel < 3; channel++) {
        numbers[pixel * 3 + channel] = this.tables[channel][pixels[pixel * 4 + channel]];
      }
    }
    return numbers;
  }

  /** The middle of the resized picture, 8 bits a channel, 4 channels; the last one is of no use. */
  cut(picture, hasPalette = false) {
    const shorter = Math.min(picture.width, picture.height);
    const resized = {
      width: Math.floor((this.size * picture.width) / shorter),
      height: Math.floor((this.size * picture.height) / shorter),
    };
    if (resized.width * resized.height > MOST_PIXELS) {
      throw new PictureError("The picture is too narrow.");
    }
    const part = {
      left: centreOffset(resized.width, this.size),
      top: centreOffset(resized.height, this.size),
      width: this.size,
      height: this.size,
    };
    const isUnchanged = resized.width === picture.width && resized.height === picture.height;
    const isSolid = hasPalette || isUnchanged || isOpaque(picture.data);
    const { width, height } = picture;
    const source = isSolid ? picture : { width, height, data: timesAlpha(picture.data) };
    const pixels = resizePart(source, resized, part, hasPalette ? "nearest" : this.filter);
    return isSolid ? pixels : dividedByAlpha(pixels);
  }
}

/** First of the middle pixels of a side; a half is rounded to even. */
function centreOffset(side, target) {
  const half = Math.floor((side - target) / 2);
  return half + ((side - target) % 2) * (half % 2);
}

function isOpaque(data) {
  for (let at = 3; at < data.length; at += 4) {
    if (data[at] !== 255) {
      return false;
    }
  }
  return true;
}

/** Pillow resizes colours times their alpha, and divides again. */
function timesAlpha(data) {
  const out = data.slice();
  for (let at = 0; at < out.length; at += 4) {
    for (let channel = 0; channel < 3; channel++) {
      const product = data[at + channel] * data[at + 3] + 128;
      out[at + channel] = (product + (product >> 8)) >> 8;
    }
  }
  return out;
}

function dividedByAlpha(data) {
  for (let at = 0; at < data.length; at += 4) {
    const alpha = data[at + 3];
    for (let channel = 0; alpha > 0 && alpha < 255 && channel < 3; channel++) {
      data[at + channel] = Math.trunc((255 * data[at + channel]) / alpha);
    }
  }
  return data;
}
