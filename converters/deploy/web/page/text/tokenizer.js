/**
 * Texts to token ids: CLIP's byte-pair encoding, with the same ids as `mobileclip_keras.Tokenizer`.
 */

import { Cleaner, WHITE_SPACE } from "./cleaning.js";

export const START = 49406;
export const END = 49407;
export const PADDING = 0;
const START_TOKEN = "<start_of_text>";
const END_TOKEN = "<end_of_text>";

const EXACT = 10_000; // characters of a text that are always cleaned as a whole
const PART = 2_000; // characters of each further part of a longer text
const SPARE_PARTS = 20;
const LONGEST_PIECE = 40; // letters that one id stands for, at most

// Python's pattern ignores case. So "ſ" counts as "s" in a contraction and in a special token, and U+0345, a mark whose
// capital is a letter, is in none of the classes.
const WORD = new RegExp(
  "<[sſ]tart_of_text>|<end_of_text>|'[sſ]|'t|'re|'ve|'m|'ll|'d|\\p{L}+|\\p{N}|" + `[^${WHITE_SPACE}\\p{L}\\p{N}\u0345]+`,
  "gu",
);
const BLANKS = new RegExp(`[${WHITE_SPACE}\\x00-\\x08\\x7f\\ufeff]{100,}`, "g");
const utf8 = new TextEncoder();

export class Tokenizer {
  #cache = new Map();

  /**
   * @param {string} merges a merge on each line, the first to be made first: "t h", "th e</w>"
   * @param {object} tables the content of cleaning.json
   * @param {number} contextLength ids in a row
   */
  constructor(merges, tables, contextLength = 77) {
    const pairs = merges.split("\n").filter(Boolean);
    const symbols = byteSymbols();
    const inOrder = [...symbols].sort(); // the printable bytes first
    const pieces = [...inOrder, ...inOrder.map((symbol) => symbol + "</w>"), ...pairs.map((pair) => pair.replace(" ", ""))];
    this.symbols = symbols;
    this.ids = new Map(pieces.map((piece, id) => [piece, id]));
    this.ranks = new Map(pairs.map((pair, rank) => [pair, rank]));
    this.cleaner = new Cleaner(tables);
    this.contextLength = contextLength;
  }

  /**
   * One text: the start token, its ids, the end token, then zeros. A text that is too long is cut.
   *
   * @param {string} text
   * @returns {Int32Array} of `contextLength` ids
   */
  encode(text) {
    const room = this.contextLength - 2;
    const ids = this.#words(text, room + 1).flatMap((word) => this.#encodeWord(word));
    const row = new Int32Array(this.contextLength).fill(PADDING);
    row.set([START, ...ids.slice(0, room), END]);
    return row;
  }

  /** The first `limit` words of a text. A long text is cleaned part by part, and only as far as its row goes. */
  #words(text, limit) {
    const words = [];
    let letters = 0;
    for (const part of partsOf(text, limit)) {
      for (const [word] of this.cleaner.clean(part).matchAll(WORD)) {
        words.push(word);
        letters += countCharacters(word);
        if (words.length >= limit) {
          return words;
        }
      }
      if (letters >= limit * LONGEST_PIECE) {
        break;
      }
    }
    return words;
  }

  #encodeWord(word) {
    if (word === START_TOKEN || word === END_TOKEN) {
      return [word === START_TOKEN ? START : END];
    }
    let ids = this.#cache.get(word);
    if (ids === undefined) {
      ids = this.#merge(word).map((piece) => this.ids.get(piece));
      this.#cache.set(word, ids);
    }
    return ids;
  }

  /** Joins neighbours, the pair that comes first in the merges first, until no pair is left that is one of them. */
  #merge(word) {
    let pieces = Array.from(utf8.encode(word), (byte) => this.symbols[byte]);
    pieces[pieces.length - 1] += "</w>";
    let ranks = pieces.slice(1).map((right, index) => this.#rank(pieces[index], right));
    for (let best = lowest(ranks); best < Infinity; best = lowest(ranks)) {
      [pieces, ranks] = this.#joined(pieces, ranks, best);
    }
    return pieces;
  }

  /** Joins every pair of one rank, from the left. What they become has a later rank, so no order is lost. */
  #joined(pieces, ranks, best) {
    const left = [];
    const leftRanks = [];
    for (let index = 0; index < pieces.length; index++) {
      const joins = ranks[index] === best;
      const piece = joins ? pieces[index] + pieces[index + 1] : pieces[index];
      if (left.length) {
        const isUntouched = !joins && left[left.length - 1] === pieces[index - 1];
        leftRanks.push(isUntouched ? ranks[index - 1] : this.#rank(left[left.length - 1], piece));
      }
      left.push(piece);
      index += joins ? 1 : 0;
    }
    return [left, leftRanks];
  }

  #rank(left, right) {
    return this.ranks.get(`${left} ${right}`) ?? Infinity;
  }
}

function lowest(ranks) {
  let best = Infinity;
  for (const rank of ranks) {
    best = rank < best ? rank : best;
  }
  return best;
}

/** A printable character for each byte: itself where it is one, else one from U+0100 on. */
function byteSymbols() {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const isPrintable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCharCode(isPrintable ? byte : next++);
  });
}

function countCharacters(text) {
  let count = 0;
  for (const _ of text) {
    count++;
  }
  return count;
}

/** The text itself; of a long one, its first characters and then shorter parts, cut between words where it can be. */
function* partsOf(text, limit) {
  let size = Math.max(EXACT, LONGEST_PIECE * limit);
  if (text.length <= size) {
    yield text;
    return;
  }
  let letters = Array.from(text);
  if (letters.length > size) {
    text = text.replace(BLANKS, blank);
    const amp = new RegExp(`&(?:(?:amp|AMP|#0{0,9}38|#[xX]0{0,9}26);){${2 * limit},}`, "g");
    letters = Array.from(text.replace(amp, "&" + "amp;".repeat(2 * limit)));
  }
  let start = 0;
  for (let part = 0; part < limit + SPARE_PARTS; part++) {
    let end = start + size;
    if (end < letters.length) {
      end = lastBlank(letters, start + (size >> 1), end) + 1 || end;
    }
    yield letters.slice(start, end).join("");
    [start, size] = [end, PART];
    if (start >= letters.length) {
      return;
    }
  }
}

function lastBlank(letters, from, end) {
  for (let index = end - 1; index >= from; index--) {
    if (letters[index] === " " || letters[index] === "\n") {
      return index;
    }
  }
  return -1;
}

/** What is left of a run of white space and of characters that cleaning drops. */
function blank(run) {
  if (run.includes("\n")) {
    return "\n";
  }
  return new RegExp(`[${WHITE_SPACE}]`).test(run) ? " " : "";
}
