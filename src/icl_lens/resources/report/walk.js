"use strict";
// Exploring one prompt: the selected task, prompt, layer and head determine the data of the charts. icl_lens/report/walk.py defines the
// charts. The page of one prompt (icl_lens/report/prompt_page.py) has further charts and tables, and their elements exist only there.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
// The data of all prompts, as compressed JSON in base64.
const packed = Uint8Array.from(atob(document.getElementById("walk-data").textContent), (character) => character.charCodeAt(0));
const tasks = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
const specifications = read("walk-charts");
const kinds = { wp: "into a label word", pq: "from a label word to the last position", ww: "between other words" };
const means = ["S_wp", "S_pq", "S_ww"];
const part = (name) => document.getElementById(`walk-${name}`);
const choice = Object.fromEntries(["task", "seed", "prompt", "layer", "measure", "head", "kind", "word"].map((name) => [name, part(name)]));
const rowHeight = 15;
const classHeight = 22;
const allHeads = "all";
const allWords = -1;
const maxClasses = 8;  // number of label words with a column of their own in the tables of isolated label words and of cuts
const variants = { set: "the class", random: "the same number of random tokens", mass: "random tokens with the same attention" };
let cut = "label";  // name of the chosen class of tokens

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
  const verdict = prompt.gold_known === false ? "." : correct ? ", which is correct." : `; the correct label is ${task.labels[prompt.gold]}.`;
  part("answer").textContent = `${task.model} predicts ${task.labels[prompt.prediction]}${verdict}`;
  const anchors = new Set(prompt.anchors);
  const runs = new Map(prompt.runs);  // row of a run of tokens that is left out -> number of tokens
  part("left-out").textContent = prompt.left_out
    ? `Left out: ${prompt.left_out} of ${prompt.tokens} tokens and their edges.` + (prompt.heads ? "" : " The artifacts contain all tokens and edges.") : "";
  part("tokens").replaceChildren(...prompt.words.flatMap((word, position) => {
    const number = prompt.isolated_words ? prompt.anchors.indexOf(position) : -1;
    const token = document.createElement(number >= 0 ? "button" : anchors.has(position) ? "mark" : runs.has(position) ? "em" : "span");
    token.textContent = word;
    if (number >= 0) {
      Object.assign(token, { type: "button", title: "Isolate this label word" });
      token.dataset.word = prompt.anchor_words[number];
      token.addEventListener("click", () => { choice.word.value = token.dataset.word; changeWord(); });
    }
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
  if (prompt.heads) changeFurther(task, prompt);
  changeLayer();
}

// The charts and tables that only the page of one prompt has.
function changeFurther(task, prompt) {
  const lines = (values, name) => values.flatMap((row, layer) => row.map((value, i) => ({ layer, [name]: value, label: task.labels[i] })));
  const heads = prompt.heads.saliency[0].length;
  fill(choice.head, [[allHeads, "all"], ...Array.from({ length: heads }, (_, head) => [head, head])]);
  charts.attention.data("attention", lines(prompt.attention, "attention")).runAsync();
  if (prompt.lens) {
    charts.lens.data("lens", lines(prompt.lens.probabilities, "probability")).runAsync();
    const places = prompt.lens.tokens[0].map((_, i) => `${i + 1}.`);
    part("tops").tHead.replaceChildren(rowOf("th", ["Layer", ...places, "Label words together"]));
    part("tops").tBodies[0].replaceChildren(...prompt.lens.tokens.map((tokens, layer) => rowOf("td", [
      layer, ...tokens.map(([token, probability]) => `\u201c${token}\u201d ${probability}`), prompt.lens.label_probability[layer]])));
  } else {
    part("lens-details").hidden = part("lens").hidden = true;
  }
  fill(choice.word, [
    [allWords, "all label words"], ...prompt.demonstrations.map((label, i) => [i, `${i + 1} of ${prompt.demonstrations.length}: ${label}`])]);
  if (prompt.demonstrations.length) choice.word.value = 0;
  changeWord();
  if (prompt.cuts) showCuts(task, prompt);
}

function rowOf(kind, cells) {
  const row = document.createElement("tr");
  row.append(...cells.map((cell) => {
    const element = Object.assign(document.createElement(kind), { textContent: cell });
    if (kind === "th") element.scope = "col";
    return element;
  }));
  return row;
}

function changeWord() {
  const [task, prompt] = chosen();
  const word = Number(choice.word.value);
  for (const button of part("tokens").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", word === allWords || Number(button.dataset.word) === word);
  }
  const runs = prompt.isolated_words.filter((run) => run.word === word);
  const label = (run) => run.probabilities.indexOf(Math.max(...run.probabilities));
  const changed = runs.filter((run) => label(run) !== prompt.prediction);
  const name = word === allWords ? "all label words" : `label word ${word + 1} (${prompt.demonstrations[word]})`;
  const kept = task.labels[prompt.prediction];
  part("word-answer").textContent = changed.length
    ? `With ${name} isolated, the prediction is no longer ${kept} in ${changed.length} of ${runs.length} cases: `
      + changed.map((run) => `${task.labels[label(run)]} (${run.side} ${run.layers})`).join(", ") + "."
    : `With ${name} isolated, the prediction remains ${kept} in all ${runs.length} cases.`;
  // With many classes, only the predicted label has a probability of its own.
  const classes = task.labels.length <= maxClasses ? task.labels.map((_, i) => i) : [];
  const heads = classes.length ? classes.map((i) => `P(${task.labels[i]})`) : [`P(${kept})`];
  part("words").tHead.replaceChildren(rowOf("th", ["Layers", "Prediction", ...heads]));
  const plain = { side: "", layers: "", probabilities: prompt.probabilities };
  part("words").tBodies[0].replaceChildren(...[plain, ...runs].map((run) => {
    const predicted = run === plain ? prompt.prediction : label(run);
    const row = rowOf("td", [
      run === plain ? "none (unchanged)" : `${run.side} ${run.layers}`, task.labels[predicted],
      ...(classes.length ? classes : [prompt.prediction]).map((i) => run.probabilities[i].toFixed(3))]);
    row.cells[1].classList.toggle("changed", predicted !== prompt.prediction);
    return row;
  }));
}

// Returns a range of layers in words.
function layersOf(run) {
  return run.span === "all" ? "all layers" : `${run.span}, layers ${run.start}\u2013${run.stop - 1}`;
}

// Returns a number with its sign; zero, also after rounding, has none.
function signed(value) {
  const size = Math.abs(value).toFixed(2);
  return (Number(size) === 0 ? "" : value < 0 ? "\u2212" : "+") + size;
}

// Draws the buttons of the classes of tokens and the table of all classes.
function showCuts(task, prompt) {
  const buttonOf = (each) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: each.title, disabled: !each.tokens });
    button.dataset.cut = each.name;
    button.addEventListener("click", () => changeCut(each.name));
    return button;
  };
  part("cut-buttons").append(...prompt.cuts.map(buttonOf));
  const changes = (run) => {
    if (!run.set) return document.createTextNode("\u2013");
    const predicted = run.set.predictions[0];
    const changed = predicted !== prompt.prediction;
    const strong = Object.assign(document.createElement(changed ? "strong" : "span"), {
      textContent: signed(run.set.effect) + (changed ? ` \u2192 ${task.labels[predicted]}` : ""), className: changed ? "changed" : "" });
    const controls = [["random", "same number"], ["mass", "same attention"]].map(([name, words]) => Object.assign(
      document.createElement("small"), { textContent: `${words}: ${run[name] ? signed(run[name].effect) : "not reachable"}` }));
    const found = document.createDocumentFragment();
    found.append(strong, ...controls);
    return found;
  };
  part("cuts").tHead.replaceChildren(rowOf("th", ["Class", "Tokens", ...prompt.cuts[0].runs.map(layersOf)]));
  part("cuts").tBodies[0].replaceChildren(...prompt.cuts.map((each) => {
    const row = rowOf("td", ["", each.tokens]);
    const head = Object.assign(document.createElement("th"), { scope: "row" });
    head.append(buttonOf(each));
    row.cells[0].replaceWith(head);
    row.append(...each.runs.map((run) => {
      const cell = document.createElement("td");
      cell.append(changes(run));
      return cell;
    }));
    return row;
  }));
  for (const each of prompt.cuts) {
    if (each.name === "all") continue;
    for (const row of each.rows) {
      const token = part("tokens").children[row];
      token.dataset.cut = each.name;
      token.title ||= `Cut the attention to: ${each.title}`;
      token.addEventListener("click", () => changeCut(each.name));
    }
  }
  if (!prompt.cuts.find((each) => each.name === cut).tokens) cut = prompt.cuts.find((each) => each.tokens).name;
  changeCut(cut);
}

function changeCut(name) {
  cut = name;
  const [task, prompt] = chosen();
  const { title, tokens, rows, runs } = prompt.cuts.find((each) => each.name === name);
  for (const button of document.querySelectorAll("#walk-cut-buttons button, #walk-cuts button")) {
    button.setAttribute("aria-pressed", button.dataset.cut === name);
  }
  [...part("tokens").children].forEach((token, row) => token.classList.toggle("cut", rows.includes(row)));
  const kept = task.labels[prompt.prediction];
  const valid = runs.filter((run) => run.set);
  const changed = valid.filter((run) => run.set.predictions[0] !== prompt.prediction);
  const size = `${tokens} token${tokens === 1 ? "" : "s"}`;
  part("cut-answer").textContent = `Without the attention of the last position to the ${title} (${size}, underlined), the prediction `
    + (valid.length === 0 ? "is unchanged, because the last position does not attend to these tokens."
      : changed.length
        ? `is no longer ${kept} in ${changed.length} of ${valid.length} ranges of layers: `
          + changed.map((run) => `${task.labels[run.set.predictions[0]]} (${layersOf(run)})`).join(", ") + "."
        : `remains ${kept} in all ${valid.length} ranges of layers.`);
  part("cut-shown").textContent = `Without the attention to the ${title}`;
  // With many classes, only the predicted label has a probability of its own.
  const classes = task.labels.length <= maxClasses ? task.labels.map((_, i) => i) : [prompt.prediction];
  const head = ["Layers", "Cut attention to", "Attention", "Prediction", ...classes.map((i) => `P(${task.labels[i]})`), `Change of the margin of ${task.labels[prompt.gold]}`];
  part("cut").tHead.replaceChildren(rowOf("th", head));
  const rest = (probabilities) => classes.map((i) => probabilities[i].toFixed(3));
  const plain = rowOf("td", ["none (unchanged)", "", "", kept, ...rest(prompt.probabilities), ""]);
  part("cut").tBodies[0].replaceChildren(plain, ...runs.flatMap((run) => Object.entries(variants).map(([variant, words]) => {
    const found = run[variant];
    const of = variant === "set" ? title : words;
    const layers = variant === "set" ? layersOf(run) : "";
    if (!found) {
      const row = rowOf("td", [layers, of, variant === "set" ? "no such tokens" : "not reachable"]);
      row.cells[2].colSpan = head.length - 2;
      row.classList.toggle("begins", variant === "set");
      return row;
    }
    const draws = found.predictions.length;
    const same = found.predictions.filter((label) => label === prompt.prediction).length;
    const predicted = draws > 1 ? `${kept} in ${same} of ${draws} draws` : task.labels[found.predictions[0]];
    const row = rowOf("td", [layers, of, found.mass.toFixed(3), predicted, ...rest(found.probabilities), signed(found.effect)]);
    row.cells[3].classList.toggle("changed", same < draws);
    row.classList.toggle("begins", variant === "set");
    return row;
  })));
}

// Returns the drawn edges of the chosen layer and head, as rows of the query and key, share of the strongest edge, and kind.
function drawn(prompt, layer, head) {
  const measure = choice.measure.value;
  return head === allHeads ? prompt.flow[measure][layer] : prompt.heads[measure][layer][Number(head)];
}

function changeLayer() {
  const [, prompt] = chosen();
  const layer = Number(choice.layer.value);
  const head = prompt.heads ? choice.head.value : allHeads;
  part("layer-shown").value = layer;
  choice.layer.setAttribute("aria-valuetext", `layer ${layer}, numbered from 0`);
  const edges = drawn(prompt, layer, head).map(([query, key, share, kind]) => (
    { query, key, share, kind: kinds[kind], from: 0, to: 1, read: prompt.words[key], by: prompt.words[query] }));
  charts.flow.data("edges", edges).runAsync();
  const strongest = edges.slice(-3).reverse().map((edge) => `${edge.by} from ${edge.read}`).join("; ");
  const place = head === allHeads ? `Layer ${layer}` : `Layer ${layer}, head ${head}`;
  part("flow").setAttribute("aria-label", edges.length ? `${place}, strongest edges: ${strongest}` : `${place}: no flow`);
  charts.shares.data("chosen", [{ layer }]).runAsync();
  part("shares").setAttribute("aria-label", `Layer ${layer}: ` + prompt.shares[layer].map((share, i) => `${means[i]} ${share}`).join(", "));
  if (prompt.heads) markLayer(prompt, layer, head, place, edges.length);
}

function markLayer(prompt, layer, head, place, count) {
  const [task] = chosen();
  const saliency = choice.measure.value === "saliency";
  const what = head === allHeads
    ? (saliency ? "flow by saliency, |\u03a3 A \u2202L/\u2202A| summed over heads (eq. 1)" : "attention weights, mean over heads")
    : (saliency ? "flow by saliency of this head, |A \u2202L/\u2202A|" : "attention weights of this head");
  part("shown").textContent = `${place}: ${what}.`;
  part("count").textContent = count;
  const share = (i) => prompt.heads.shares[choice.kind.value][layer][i];
  charts.heads.data("heads", prompt.heads.shares[choice.kind.value].flatMap((row, l) => row.map((value, h) => (
    { layer: l, head: h, share: value, chosen: l === layer && (head === allHeads || h === Number(head)) })))).runAsync();
  part("heads").setAttribute("aria-label", `Layer ${layer}: ` + prompt.heads.shares[choice.kind.value][layer].map((_, i) => `head ${i} ${share(i)}`).join(", "));
  for (const name of ["lens", "attention"]) charts[name].data("chosen", [{ layer }]).runAsync();
  const inWords = (values) => values.map((value, i) => `${task.labels[i]} ${value}`).join(", ");
  part("attention").setAttribute("aria-label", `Layer ${layer}: ${inWords(prompt.attention[layer])}`);
  if (!prompt.lens) return;
  part("lens").setAttribute("aria-label", `Layer ${layer}: ${inWords(prompt.lens.probabilities[layer])}`);
  [...part("tops").tBodies[0].rows].forEach((row, l) => row.toggleAttribute("aria-current", l === layer));
}

fill(choice.task, tasks.map((task, i) => [i, `${task.task}, ${task.model}`]));
choice.task.addEventListener("change", changeTask);
choice.seed.addEventListener("change", changeSeed);
choice.prompt.addEventListener("change", changePrompt);
choice.layer.addEventListener("input", changeLayer);
choice.measure.addEventListener("change", changeLayer);
choice.head?.addEventListener("change", changeLayer);
choice.kind?.addEventListener("change", changeLayer);
choice.word?.addEventListener("change", changeWord);
charts.heads?.addEventListener("click", (_, item) => {
  if (item?.datum?.layer === undefined) return;
  choice.layer.value = item.datum.layer;
  choice.head.value = item.datum.head;
  changeLayer();
});
for (const form of document.querySelectorAll("#walk form")) form.addEventListener("submit", (event) => event.preventDefault());
changeTask();
// A chart measures its width when the window is resized. This event updates the charts that were drawn before they had data.
window.dispatchEvent(new Event("resize"));
document.documentElement.dataset.walk = "ready";
