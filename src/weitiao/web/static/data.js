// The line of max_length: a range moves it, and the number of longer rows follows.
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
