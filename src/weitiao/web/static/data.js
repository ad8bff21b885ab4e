// The line of max_length: a range moves it, and the number of longer rows follows. And a button that says that it works.
"use strict";
document.addEventListener("input", (event) => {
  const range = event.target;
  if (range.id !== "cut") return;
  const [length, rows, x] = JSON.parse(range.dataset.cuts)[range.value];
  const line = document.getElementById("cut-line"), field = document.getElementById("cut-length");
  line.setAttribute("x1", x);
  line.setAttribute("x2", x);
  const said = weitiao.fill(range.dataset.text, { length: length.toLocaleString("en"), rows: rows.toLocaleString("en"), percent: (100 * rows / range.dataset.rows).toFixed(1) });
  document.getElementById("cut-said").textContent = said;
  range.setAttribute("aria-valuetext", said);
  if (field) field.value = length;
});
addEventListener("submit", (event) => {
  const button = event.target.querySelector("button[data-working]");
  if (button) { button.dataset.text = button.textContent; button.textContent = button.dataset.working; button.disabled = true; }
});
addEventListener("pageshow", () => {
  document.querySelectorAll("button[data-text]").forEach((button) => { button.textContent = button.dataset.text; button.disabled = false; });
});
