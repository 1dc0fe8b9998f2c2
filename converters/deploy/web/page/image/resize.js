/**
 * Pillow's resizing, step by step and bit for bit: a filter that widens when it shrinks, weights in fixed point, first
 * along the rows and then along the columns, each pass rounded to 8 bits.
 *
 * Source: Pillow's documentation of resampling filters, and the arithmetic of its libImaging/Resample.c.
 */

const PRECISION = 22; // bits behind the point of a weight
const HALF = 1 << (PRECISION - 1);

const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: cubic },
};

function cubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) {
    return ((a + 2) * x - (a + 3)) * x * x + 1;
  }
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/**
 * The weights of some of the pixels that one pass makes.
 *
 * @param {number} from pixels before
 * @param {number} to pixels after
 * @param {number} first the first pixel that is wanted of those after
 * @param {number} count how many are wanted
 * @param {string} filter "bilinear" or "bicubic"
 * @returns {{start: number, weights: Int32Array}[]} for each pixel, where its weights start among those before
 */
export function passWeights(from, to, first, count, filter) {
  const { support, weight } = FILTERS[filter];
  const scale = from / to;
  const widening = Math.max(scale, 1);
  const reach = support * widening;
  return Array.from({ length: count }, (_, index) => {
    const centre = (first + index + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(from, Math.trunc(centre + reach + 0.5));
    const exact = Array.from({ length: end - start }, (_, x) => weight((x + start - centre + 0.5) * (1 / widening)));
    const sum = exact.reduce((total, value) => total + value, 0);
    const fixed = exact.map((value) => {
      const share = (sum === 0 ? value : value / sum) * (1 << PRECISION);
      return Math.trunc(share + (share < 0 ? -0.5 : 0.5));
    });
    return { start, weights: Int32Array.from(fixed) };
  });
}

/**
 * The part of a resized picture that is wanted.
 *
 * @param {{data: Uint8ClampedArray, width: number, height: number}} picture of 4 channels
 * @param {{width: number, height: number}} size after resizing
 * @param {{left: number, top: number, width: number, height: number}} part of the resized picture
 * @param {string} filter "bilinear", "bicubic" or "nearest"
 * @returns {Uint8ClampedArray} the part's pixels, 4 channels
 */
export function resizePart(picture, size, part, filter) {
  if (filter === "nearest") {
    return nearest(picture, size, part);
  }
  const { data, width, height } = picture;
  // Pillow leaves out a pass that changes nothing.
  const columns = size.width === width ? null : passWeights(width, size.width, part.left, part.width, filter);
  const rows = size.height === height ? null : passWeights(height, size.height, part.top, part.height, filter);
  const firstRow = rows ? rows[0].start : part.top;
  const last = rows ? rows[rows.length - 1] : null;
  const rowCount = last ? last.start + last.weights.length - firstRow : part.height;
  const middle = alongRows(data, width, firstRow, rowCount, columns, part);
  return rows ? alongColumns(middle, part.width, firstRow, rows) : middle;
}

function alongRows(data, width, firstRow, rowCount, columns, part) {
  const out = new Uint8ClampedArray(rowCount * part.width * 4);
  for (let y = 0; y < rowCount; y++) {
    const row = (firstRow + y) * width;
    if (!columns) {
      out.set(data.subarray((row + part.left) * 4, (row + part.left + part.width) * 4), y * part.width * 4);
      continue;
    }
    for (let x = 0; x < part.width; x++) {
      sum(data, (row + columns[x].start) * 4, 4, columns[x].weights, out, (y * part.width + x) * 4);
    }
  }
  return out;
}

function alongColumns(data, width, firstRow, rows) {
  const out = new Uint8ClampedArray(rows.length * width * 4);
  rows.forEach(({ start, weights }, y) => {
    for (let x = 0; x < width; x++) {
      sum(data, ((start - firstRow) * width + x) * 4, width * 4, weights, out, (y * width + x) * 4);
    }
  });
  return out;
}

/** Writes one pixel: the weighted sum of those that stand `step` apart. */
function sum(data, start, step, weights, out, place) {
  let red = HALF;
  let green = HALF;
  let blue = HALF;
  let alpha = HALF;
  for (let index = 0, at = start; index < weights.length; index++, at += step) {
    const weight = weights[index];
    red += data[at] * weight;
    green += data[at + 1] * weight;
    blue += data[at + 2] * weight;
    alpha += data[at + 3] * weight;
  }
  out[place] = red >> PRECISION; // a clamped array keeps 0 to 255
  out[place + 1] = green >> PRECISION;
  out[place + 2] = blue >> PRECISION;
  out[place + 3] = alpha >> PRECISION;
}

function nearest({ data, width, height }, size, part) {
  const columns = nearestSources(width, size.width);
  const rows = nearestSources(height, size.height);
  const out = new Uint8ClampedArray(part.width * part.height * 4);
  for (let y = 0; y < part.height; y++) {
    for (let x = 0; x < part.width; x++) {
      const at = (rows[part.top + y] * width + columns[part.left + x]) * 4;
      out.set(data.subarray(at, at + 4), (y * part.width + x) * 4);
    }
  }
  return out;
}

/** Which pixel each takes. Pillow adds the step up, and so takes over its rounding. */
function nearestSources(from, to) {
  const step = from / to;
  const sources = new Int32Array(to);
  for (let index = 0, place = step / 2; index < to; index++, place += step) {
    sources[index] = Math.min(from - 1, Math.trunc(place));
  }
  return sources;
}
