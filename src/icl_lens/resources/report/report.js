"use strict";
// Sorting (click on a heading) and filtering (paper, verdict, words) of the scorecard. Without JavaScript its parts are plain tables.
const tables = [...document.querySelectorAll("table.claims")];
const rows = tables.flatMap((table) => [...table.tBodies[0].rows]);
const folded = document.getElementById("not-testable");
const paper = document.getElementById("paper");
const outcome = document.getElementById("outcome");
const words = document.getElementById("words");

function filter() {
  const wanted = words.value.trim().toLowerCase().split(/\s+/);
  let shown = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = (paper.value && row.dataset.paper !== paper.value) || (outcome.value && row.dataset.outcome !== outcome.value) || !wanted.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  // A filter that can match folded rows opens them.
  if (folded && (outcome.value || words.value.trim())) folded.open = rows.some((row) => folded.contains(row) && !row.hidden);
  document.getElementById("shown").value = `${shown} of ${rows.length} rows`;
}

function sort(table, head) {
  const column = head.cellIndex;
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const order = new Intl.Collator("en", { numeric: true });
  const key = (row) => row.cells[column].textContent.trim();
  const sorted = [...table.tBodies[0].rows].sort((a, b) => (down ? -1 : 1) * order.compare(key(a), key(b)));
  table.tBodies[0].append(...sorted);
}

for (const table of tables) {
  for (const button of table.tHead.querySelectorAll("button")) button.addEventListener("click", () => sort(table, button.parentElement));
}
for (const select of [paper, outcome]) select.addEventListener("change", filter);
words.addEventListener("input", filter);
document.querySelector(".filter").addEventListener("submit", (event) => event.preventDefault());
filter();
