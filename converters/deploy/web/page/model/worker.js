/** Computes apart from the page, so that the page never waits. */

import { Engine } from "./engine.js";
import { isExact } from "./self_check.js";

const engine = new Engine();

const actions = {
  load: ({ device }, advance) => engine.load(device, advance),
  pictures: ({ pictures }) => engine.encodePictures(pictures),
  texts: ({ texts }) => engine.encodeTexts(texts),
  check: async () => {
    const found = await engine.check();
    return { ...found, exact: isExact(found, engine.about.web.largest_ratio) };
  },
  tokens: ({ texts }) => texts.map((text) => engine.tokenizer.encode(text)),
};

let last = Promise.resolve();

// One after the other: the runtime computes one row at a time.
self.onmessage = ({ data: { id, action, given } }) => {
  last = last.then(async () => {
    try {
      const result = await actions[action](given, (progress) => self.postMessage({ id, progress }));
      self.postMessage({ id, result });
    } catch (error) {
      self.postMessage({ id, error: error.message, cause: String(error.cause ?? error.stack) });
    }
  });
};
