/** Words and numbers on the page. */

/** @param {string} id @returns {HTMLElement} */
export function element(id) {
  return document.getElementById(id);
}

/** One sentence about what went wrong; "" takes it away. */
export function reportProblem(sentence) {
  const place = element("problem");
  place.textContent = sentence;
  place.hidden = !sentence;
}

export function percent(share) {
  return `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
}

export function milliseconds(time) {
  return `${time < 10 ? time.toFixed(1) : Math.round(time)} ms`;
}

/** The sentence about a self-check. */
export function showDifferences(found) {
  const verdict = found.exact
    ? "This browser computes what PyTorch computes."
    : found.sameMatches
      ? "This browser computes nearly what PyTorch computes; every best match is the same."
      : "This browser computes something else than PyTorch. Try another browser, or ?device=wasm behind the address.";
  const inputs =
    found.pixels === 0 && found.ids === 0
      ? "Pixels and token ids are the same."
      : `Largest difference of a pixel: ${found.pixels.toExponential(1)}; other token ids in ${found.ids} texts.`;
  return (
    `${verdict} Largest difference of a feature: ${found.features.toExponential(1)} ` +
    `(${found.pictures} pictures, ${found.texts} texts). ${inputs}`
  );
}

/** Calls a function once nothing was asked for some time. */
export function debounced(wait, call) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...given), wait);
  };
}
