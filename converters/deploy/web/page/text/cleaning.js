/**
 * What is done to a text before it is cut into words: ftfy's `fix_text`, HTML references resolved twice, white space
 * collapsed, lower case. The same as `keras_models/inputs/clip_bpe.py` does.
 */

import { HtmlReferences } from "./html_references.js";
import { Mojibake } from "./mojibake.js";

// What Python's `str.split()` takes for white space. JavaScript's `\s` differs from it.
export const WHITE_SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const SPACES = new RegExp(`[${WHITE_SPACE}]+`, "g");
const CONTROLS = /[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]/g;

export class Cleaner {
  /** @param {object} tables the content of cleaning.json */
  constructor(tables) {
    this.mojibake = new Mojibake(tables);
    this.references = new HtmlReferences(tables.names, tables.shouted, this.mojibake.windows1252);
    this.ligatures = new Map(Object.entries(tables.ligatures));
    this.widths = new Map(Object.entries(tables.widths));
  }

  /** @param {string} text @returns {string} the words of `text`, with single spaces between them */
  clean(text) {
    let cleaned = this.#fixLines(text);
    cleaned = this.references.unescape(this.references.unescape(cleaned));
    return cleaned.replace(SPACES, " ").replace(/^ | $/g, "").toLowerCase();
  }

  /** Line by line. From the first "<" on, a text counts as HTML, whose references ftfy leaves alone. */
  #fixLines(text) {
    let isHtml = false;
    return (text.match(/[^\n]*\n|[^\n]+$/g) ?? [])
      .map((line) => {
        isHtml ||= line.includes("<");
        return this.#fixLine(line, !isHtml);
      })
      .join("");
  }

  #fixLine(line, unescapes) {
    for (let before; before !== line; ) {
      before = line;
      line = unescapes ? this.references.unescapeStrictly(line) : line;
      line = this.mojibake.fixControls(this.mojibake.fix(line));
      line = translate(translate(line, this.ligatures), this.widths);
      line = line.replace(/[\u201c-\u201f]/g, '"').replace(/[\u02bc\u2018-\u201b]/g, "'");
      line = line.replace(/\r\n|[\r\u2028\u2029\u0085]/g, "\n");
      line = line.replace(/\p{Surrogate}/gu, "\ufffd");
      line = line.replace(/\x1b\[[\p{Nd};]*[a-zA-Z]/gu, "").replace(CONTROLS, "").normalize("NFC");
    }
    return line;
  }
}

function translate(text, table) {
  return text.replace(/[^\x00-\x7f]/g, (letter) => table.get(letter) ?? letter);
}
