/**
 * Text that was decoded with a wrong encoding ("cafÃ©"), decoded anew as the Python package ftfy does it.
 *
 * The tables and patterns are ftfy's own. The exporter reads them from the installed package, so this file holds the
 * order of the steps and nothing else. Bytes are strings here: each character is one byte.
 */

const MARK_OF_LOSS = "\u00ef\u00bf\u00bd"; // U+FFFD in UTF-8
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export class Mojibake {
  /** @param {object} tables "encodings", "badness", "detector", "altered" and "lossy" of cleaning.json */
  constructor(tables) {
    this.encodings = tables.encodings.map(([name, characters]) => {
      const letters = Array.from(characters);
      return { name, characters: letters, bytes: new Map(letters.map((letter, byte) => [letter, byte])) };
    });
    this.windows1252 = this.encodings.find(({ name }) => name === "sloppy-windows-1252").characters;
    this.bad = new RegExp(tables.badness, "u");
    this.detector = new RegExp(tables.detector, "gu");
    this.altered = new RegExp(tables.altered, "g");
    this.lossy = new RegExp(tables.lossy, "g");
  }

  /** Decodes anew for as long as that changes the text. */
  fix(text) {
    for (let before; before !== text; ) {
      before = text;
      text = this.#fixOnce(text);
    }
    return text;
  }

  /** C1 controls as Windows-1252 has them, which is what browsers do too. */
  fixControls(text) {
    return text.replace(/[\x80-\x9f]/g, (control) => this.windows1252[control.charCodeAt(0)]);
  }

  #fixOnce(text) {
    if (/^[\x00-\x7f]*$/.test(text) || !this.bad.test(text)) {
      return text;
    }
    for (const encoding of this.encodings) {
      const bytes = encode(text, encoding);
      const decoded = bytes === null ? null : this.#decodeUtf8(bytes, encoding.name);
      if (decoded !== null) {
        return decoded;
      }
    }
    const mended = text.replace(this.detector, (part) =>
      part.length < text.length && this.bad.test(part) ? this.fix(part) : part,
    );
    // Latin-1 taken for Windows-1252 differs in the C1 controls alone.
    return mended === text ? this.fixControls(text) : mended;
  }

  #decodeUtf8(bytes, name) {
    if (name !== "macroman") {
      bytes = this.#restoreNoBreakSpaces(bytes);
    }
    if (name.startsWith("sloppy")) {
      bytes = bytes.replace(this.lossy, MARK_OF_LOSS);
    }
    if (/[\xed\xc0]/.test(bytes)) {
      bytes = fromVariants(bytes);
    }
    try {
      return utf8.decode(Uint8Array.from(bytes, (byte) => byte.charCodeAt(0)));
    } catch {
      return null;
    }
  }

  /** Puts byte A0 back where a program made a plain space of it. */
  #restoreNoBreakSpaces(bytes) {
    if (bytes.search(this.altered) < 0) {
      return bytes;
    }
    bytes = bytes.replace(/\xc3 (?! |quele|quela|quilo|s )/g, "\xc3\xa0 ");
    return bytes.replace(this.altered, (sequence) => sequence.replaceAll(" ", "\xa0"));
  }
}

function encode(text, { bytes }) {
  let encoded = "";
  for (const letter of text) {
    const byte = bytes.get(letter);
    if (byte === undefined) {
      return null;
    }
    encoded += String.fromCharCode(byte);
  }
  return encoded;
}

/** Strict UTF-8 of two lax forms: null as C0 80, and characters above U+FFFF as two surrogates (CESU-8). */
function fromVariants(bytes) {
  bytes = bytes.replace(/\xc0\x80/g, "\0");
  return bytes.replace(/\xed([\xa0-\xaf])([\x80-\xbf])\xed([\xb0-\xbf])([\x80-\xbf])/g, (_, ...parts) => {
    const [a, b, c, d] = parts.slice(0, 4).map((byte) => byte.charCodeAt(0));
    const point = ((a & 0x0f) << 16) + ((b & 0x3f) << 10) + ((c & 0x0f) << 6) + (d & 0x3f) + 0x10000;
    return String.fromCharCode(...new TextEncoder().encode(String.fromCodePoint(point)));
  });
}
