"use strict";
// Exploring one prompt: the selected task, prompt and layer determine the data of the charts. icl_lens/report/walk.py defines the charts.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
// The data of all prompts, as compressed JSON in base64.
const packed = Uint8Array.from(atob(document.getElementById("walk-data").textContent), (character) => character.charCodeAt(0));
const tasks = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
const specifications = read("walk-charts");
const kinds = { wp: "into a label word", pq: "from a label word to the last position", ww: "between other words" };
const means = ["S_wp", "S_pq", "S_ww"];
const choice = Object.fromEntries(["task", "seed", "prompt", "layer", "measure"].map((name) => [name, document.getElementById(`walk-${name}`)]));
const part = (name) => document.getElementById(`walk-${name}`);
const rowHeight = 15;
const classHeight = 22;

const charts = {};
for (const [name, specification] of Object.entries(specifications)) {
  charts[name] = (await vegaEmbed(part(name), specification, { actions: false, renderer: "svg", logLevel: 1 })).view;
}

function fill(select, options) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
}

function chosen() {
  const task = tasks[choice.task.value];
  return [task, task.prompts.find((prompt) => prompt.id === Number(choice.prompt.value))];
}

function changeTask() {
  const task = tasks[choice.task.value];
  fill(choice.seed, [...new Set(task.prompts.map((prompt) => prompt.seed))].map((seed) => [seed, seed]));
  choice.layer.max = task.layers - 1;
  choice.layer.value = Math.min(choice.layer.value, task.layers - 1);
  changeSeed();
}

function changeSeed() {
  const task = tasks[choice.task.value];
  const prompts = task.prompts.filter((prompt) => prompt.seed === Number(choice.seed.value));
  fill(choice.prompt, prompts.map((prompt) => [prompt.id, `${prompt.id} (${task.labels[prompt.gold]})`]));
  changePrompt();
}

function changePrompt() {
  const [task, prompt] = chosen();
  const correct = prompt.gold === prompt.prediction;
  part("answer").textContent =
    `${task.model} predicts ${task.labels[prompt.prediction]}` + (correct ? ", which is correct." : `; the correct label is ${task.labels[prompt.gold]}.`);
  const anchors = new Set(prompt.anchors);
  const runs = new Map(prompt.runs);  // row of a run of tokens that is left out -> number of tokens
  part("left-out").textContent = prompt.left_out
    ? `Left out: ${prompt.left_out} of ${prompt.tokens} tokens and their edges. The artifacts contain all tokens and edges.` : "";
  part("tokens").replaceChildren(...prompt.words.flatMap((word, position) => {
    const token = document.createElement(anchors.has(position) ? "mark" : runs.has(position) ? "em" : "span");
    token.textContent = word;
    return [token, " "];
  }));
  charts.flow.data("words", prompt.words.map((word, position) => (
    { word: runs.has(position) ? `\u2026 ${runs.get(position)} tokens` : word, position, anchor: anchors.has(position) })));
  charts.flow.height(rowHeight * prompt.words.length);
  const shares = prompt.shares.flatMap((row, layer) => row.map((share, i) => ({ layer, share, metric: means[i] })));
  charts.shares.data("shares", shares);
  charts.classes.data("classes", prompt.probabilities.map((probability, i) => (
    { label: task.labels[i], probability, role: i === prompt.gold ? "right" : "wrong" })));
  charts.classes.height(30 + classHeight * prompt.probabilities.length).runAsync();
  part("classes").setAttribute("aria-label", prompt.probabilities.map((p, i) => `${task.labels[i]} ${p}`).join(", "));
  part("isolation").tBodies[0].replaceChildren(...prompt.isolation.map((condition) => {
    const row = document.createElement("tr");
    const cells = [
      condition.target === "label" ? "label words" : condition.target + (condition.draws > 1 ? `, ${condition.draws} draws` : ""),
      `${condition.side} ${condition.layers}`, condition.label || "\u2013",
      condition.draws > 1 ? condition.agrees : condition.agrees ? "yes" : "no", condition.words];
    row.append(...cells.map((cell) => Object.assign(document.createElement("td"), { textContent: cell })));
    return row;
  }));
  changeLayer();
}

function changeLayer() {
  const [, prompt] = chosen();
  const layer = Number(choice.layer.value);
  part("layer-shown").value = layer;
  choice.layer.setAttribute("aria-valuetext", `layer ${layer}, numbered from 0`);
  const edges = prompt.flow[choice.measure.value][layer].map(([query, key, share, kind]) => (
    { query, key, share, kind: kinds[kind], from: 0, to: 1, read: prompt.words[key], by: prompt.words[query] }));
  charts.flow.data("edges", edges).runAsync();
  const strongest = edges.slice(-3).reverse().map((edge) => `${edge.by} from ${edge.read}`).join("; ");
  part("flow").setAttribute("aria-label", edges.length ? `Layer ${layer}, strongest edges: ${strongest}` : `Layer ${layer}: no flow`);
  charts.shares.data("chosen", [{ layer }]).runAsync();
  part("shares").setAttribute("aria-label", `Layer ${layer}: ` + prompt.shares[layer].map((share, i) => `${means[i]} ${share}`).join(", "));
}

fill(choice.task, tasks.map((task, i) => [i, `${task.task}, ${task.model}`]));
choice.task.addEventListener("change", changeTask);
choice.seed.addEventListener("change", changeSeed);
choice.prompt.addEventListener("change", changePrompt);
choice.layer.addEventListener("input", changeLayer);
choice.measure.addEventListener("change", changeLayer);
changeTask();
// A chart measures its width when the window is resized. This event updates the charts that were drawn before they had data.
window.dispatchEvent(new Event("resize"));
document.documentElement.dataset.walk = "ready";
