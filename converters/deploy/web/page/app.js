/** Joins the parts of the page: where pictures come from, the labels, the search, the model. */

import { Model } from "./model/client.js";
import { Bars } from "./ui/bars.js";
import { Camera } from "./ui/camera.js";
import { Classifier } from "./ui/classifier.js";
import { Drawing } from "./ui/drawing.js";
import { PictureFile } from "./ui/picture_file.js";
import { Search } from "./ui/search.js";
import { element, reportProblem, showDifferences } from "./ui/words.js";

const model = new Model();

async function start() {
  const status = element("status");
  const progress = element("progress");
  status.textContent = "The model is loading …";
  progress.hidden = false;
  const device = new URLSearchParams(location.search).get("device");
  const facts = await model.load(device, ({ loaded, total }) => {
    progress.value = Math.min(1, loaded / total);
  });
  fillIn(facts);
  element("loading").hidden = true;
  element("app").hidden = false;
}

function fillIn(facts) {
  const { page } = facts;
  element("model-name").textContent = facts.title;
  document.title = `Pictures and words: ${facts.title}`;
  const threads = facts.threads > 1 ? `, ${facts.threads} threads` : "";
  const seconds = (facts.milliseconds / 1000).toFixed(1);
  element("device").textContent =
    `${facts.title} on ${facts.device}${threads}, ready after ${seconds} s. Pictures: ${facts.size} × ${facts.size}.`;
  const bars = new Bars(element("bars"), element("add-label"));
  const classifier = new Classifier(model, bars, facts);
  classifier.setTemplate(page.template);
  bars.fill(page.labels);
  const sources = {
    file: new PictureFile(page.examples, (picture) => classifier.show(picture)),
    draw: new Drawing((picture) => classifier.show(picture)),
    camera: new Camera((picture) => classifier.show(picture)),
    search: new Search(model, () => classifier.template),
  };
  document.querySelectorAll("input[name=mode]").forEach((radio) => {
    radio.checked = radio.value === page.mode; // a browser may remember another choice
    radio.addEventListener("change", () => switchTo(radio.value, sources));
  });
  switchTo(page.mode, sources);
  element("check").addEventListener("click", check);
}

function switchTo(mode, sources) {
  reportProblem("");
  element("classify").hidden = mode === "search";
  element("search").hidden = mode !== "search";
  document.querySelectorAll("[data-mode]").forEach((part) => {
    part.hidden = part.dataset.mode !== mode;
  });
  Object.entries(sources).forEach(([name, source]) => (name === mode ? source.enter() : source.leave()));
}

async function check() {
  const button = element("check");
  button.disabled = true;
  element("check-result").textContent = "Comparing …";
  try {
    element("check-result").textContent = showDifferences(await model.check());
  } catch (error) {
    element("check-result").textContent = error.message;
  }
  button.disabled = false;
}

// What is dropped beside its place must not take the page's place.
for (const name of ["dragover", "drop"]) {
  document.addEventListener(name, (event) => event.preventDefault());
}

start().catch((error) => {
  element("loading").hidden = true;
  reportProblem(error.message);
});
