/** Which label fits the picture that is shown: probabilities, as soon as either changes. */

import { dot } from "../model/self_check.js";
import { debounced, element, milliseconds, percent, reportProblem } from "./words.js";

const TYPING = 60; // milliseconds after a key
const SPOKEN = 900; // until a screen reader is told

export class Classifier {
  #picture = null; // features
  #round = 0;
  #busy = false;
  #next = null;
  #times = { pictures: "", texts: "" };

  constructor(model, bars, facts) {
    this.model = model;
    this.bars = bars;
    this.facts = facts;
    const later = debounced(TYPING, () => this.#update());
    bars.onChange = later;
    element("template").addEventListener("input", later);
    this.announce = debounced(SPOKEN, (sentence) => {
      element("announcement").textContent = sentence;
    });
  }

  get template() {
    const template = element("template").value;
    return template.includes("{}") ? template : "{}";
  }

  setTemplate(template) {
    element("template").value = template;
  }

  /** Takes a picture. Of several that come while one is computed, only the last is. */
  async show(picture) {
    this.#next = picture;
    if (this.#busy) {
      return;
    }
    this.#busy = true;
    while (this.#next) {
      const current = this.#next;
      this.#next = null;
      await this.#encode(current);
    }
    this.#busy = false;
  }

  async #encode(picture) {
    try {
      const { features, errors, prepare, run } = await this.model.encodePictures([picture]);
      reportProblem(errors[0] ?? "");
      this.#picture = features[0] ?? null;
      this.#times.pictures = features.length
        ? `Picture: ${milliseconds(prepare)} to prepare, ${milliseconds(run)} in the model.`
        : "";
    } catch (error) {
      reportProblem(error.message);
      this.#picture = null;
    }
    await this.#update();
  }

  async #update() {
    const round = ++this.#round;
    const labels = this.bars.labels;
    const given = labels.filter(Boolean);
    if (!this.#picture || !given.length) {
      this.bars.show(labels.map(() => null));
      element("best").textContent = "";
      return;
    }
    try {
      const { template } = this;
      const { features, run, fresh } = await this.model.encodeTexts(given.map((label) => template.replaceAll("{}", () => label)));
      if (round !== this.#round || !this.#picture) {
        return; // something changed meanwhile
      }
      this.#times.texts = fresh ? `Labels: ${milliseconds(run)} for ${fresh} new.` : this.#times.texts;
      this.#show(labels, features);
    } catch (error) {
      reportProblem(error.message);
    }
  }

  #show(labels, features) {
    const { scale, bias } = this.facts;
    const shares = softmax(features.map((feature) => scale * dot(this.#picture, feature) + bias));
    let next = 0;
    this.bars.show(labels.map((label) => (label ? shares[next++] : null)));
    element("times").textContent = [this.#times.pictures, this.#times.texts].filter(Boolean).join(" ");
    const given = labels.filter(Boolean);
    const best = shares.indexOf(Math.max(...shares));
    const sentence = `Best: ${given[best]}, ${percent(shares[best])}.`;
    element("best").textContent = sentence;
    this.announce(sentence);
  }
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - largest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}
