/**
 * Character references of HTML (`&eacute;`, `&#233;`), resolved as Python's `html.unescape` does.
 * Rules: the HTML Standard, "Numeric character reference end state".
 */

const REFERENCE = /&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)/gu;
const LAST_CHARACTER = 0x10ffff;

export class HtmlReferences {
  /**
   * @param {Record<string, string>} names what each name stands for: "eacute;" and, where HTML allows it, "eacute"
   * @param {Record<string, string>} shouted more names, all in capitals, that `unescapeStrictly` knows
   * @param {string} windows1252 the 256 characters of that encoding
   */
  constructor(names, shouted, windows1252) {
    this.names = new Map(Object.entries(names));
    this.shouted = new Map(Object.entries(shouted));
    this.windows1252 = windows1252;
  }

  /** Every reference, also one that lacks its semicolon. */
  unescape(text) {
    return text.includes("&") ? text.replace(REFERENCE, (_, body) => this.#resolve(body)) : text;
  }

  /** Only references that end in a semicolon, as ftfy takes them. */
  unescapeStrictly(text) {
    return text.replace(/&#?[0-9A-Za-z]{1,24};/g, (whole) => {
      const name = whole.slice(1);
      if (!name.startsWith("#")) {
        return this.names.get(name) ?? this.shouted.get(name) ?? whole;
      }
      const resolved = this.unescape(whole);
      return resolved.includes(";") ? whole : resolved;
    });
  }

  #resolve(body) {
    if (body.startsWith("#")) {
      const isHex = body[1] === "x" || body[1] === "X";
      return this.#character(parseInt(body.slice(isHex ? 2 : 1), isHex ? 16 : 10));
    }
    const whole = this.names.get(body);
    if (whole !== undefined) {
      return whole;
    }
    const letters = Array.from(body);
    for (let end = letters.length - 1; end > 1; end--) {
      const found = this.names.get(letters.slice(0, end).join(""));
      if (found !== undefined) {
        return found + letters.slice(end).join("");
      }
    }
    return "&" + body;
  }

  #character(number) {
    if (number >= 0x80 && number < 0xa0) {
      return this.windows1252[number];
    }
    if (number === 0x0d) {
      return "\r";
    }
    if (number === 0 || (number >= 0xd800 && number < 0xe000) || number > LAST_CHARACTER) {
      return "\ufffd";
    }
    return isNoCharacter(number) ? "" : String.fromCodePoint(number);
  }
}

/** Controls and code points that HTML forbids; a reference to one is dropped. */
function isNoCharacter(number) {
  return (
    (number >= 0x01 && number <= 0x08) ||
    number === 0x0b ||
    (number >= 0x0e && number <= 0x1f) ||
    number === 0x7f ||
    (number >= 0xfdd0 && number <= 0xfdef) ||
    (number & 0xfffe) === 0xfffe
  );
}
