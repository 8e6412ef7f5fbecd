"use strict";

// Tables sort by the value behind a text; what has none stays at the end.
function valueOf(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.value ?? cell.textContent.trim();
  if (text === "" || text === "–" || text === "missing") return null;
  const number = Number(text.replace("−", "-"));
  return Number.isNaN(number) ? text : number;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortBy(head) {
  const first = head.classList.contains("text") ? "ascending" : "descending";
  const other = first === "ascending" ? "descending" : "ascending";
  const order = head.getAttribute("aria-sort") === first ? other : first;
  for (const each of head.parentNode.cells) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const body = head.closest("table").tBodies[0];
  const sign = order === "ascending" ? 1 : -1;
  const rows = Array.from(body.rows, (row) => [valueOf(row, head.cellIndex), row]);
  rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : sign * compare(a, b)));
  body.append(...rows.map(([, row]) => row));
}

for (const button of document.querySelectorAll(".sortable th button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}

// The legend of a task's curves shows and hides inits.
for (const toggle of document.querySelectorAll(".toggle")) {
  toggle.addEventListener("click", () => {
    const on = toggle.getAttribute("aria-pressed") !== "true";
    toggle.setAttribute("aria-pressed", on);
    const lines = toggle.closest("section").querySelectorAll(`figure .${toggle.dataset.series}`);
    for (const line of lines) if (line.matches(".line")) line.classList.toggle("off", !on);
  });
}

// The search looks at all that is known of a cell, folded away or not.
const cells = Array.from(document.querySelectorAll(".cell"));
const rows = new Map(
  Array.from(document.querySelectorAll("#cell-table tbody tr"), (row) => [
    row.cells[0].textContent,
    row,
  ]),
);
let texts = null;
const search = document.querySelector("#search");
search.addEventListener("input", () => {
  texts ??= cells.map((cell) => cell.textContent.toLowerCase());
  const words = search.value.toLowerCase().split(/\s+/);
  let shown = 0;
  cells.forEach((cell, number) => {
    const found = words.every((word) => texts[number].includes(word));
    cell.hidden = rows.get(cell.id).hidden = !found;
    shown += found;
  });
  document.querySelector("output").value = `${shown} of ${cells.length}`;
});

// A link to a cell unfolds it, even where the search had hidden it.
function reveal() {
  const cell = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!cell?.matches(".cell")) return;
  cell.hidden = rows.get(cell.id).hidden = false;
  cell.open = true;
  cell.scrollIntoView();
}
addEventListener("hashchange", reveal);
reveal();

// Paper unfolds nothing: what a task has folded away is printed, of the cells what is open.
const unfolded = [];
addEventListener("beforeprint", () => {
  unfolded.push(...document.querySelectorAll(".task details:not([open])"));
  for (const details of unfolded) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of unfolded.splice(0)) details.open = false;
});
