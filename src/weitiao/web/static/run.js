// The curves of a run: events.jsonl from where this page stopped, drawn by uPlot.
"use strict";
addEventListener("DOMContentLoaded", () => {
  const place = document.getElementById("curves");
  if (!place) return;
  const texts = JSON.parse(place.dataset.texts), planned = Number(place.dataset.planned || 0) / 1e9;
  const rows = [];
  let total = 0, began = false, shown = place.dataset.metric, waiting = false;
  const plots = {};

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axis = (label) => ({ label, stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") }, labelSize: 18, font: "12px system-ui", labelFont: "12px system-ui" });

  function draw(key, title, xs, series) {
    let box = plots[key];
    if (!box) {
      const outer = document.createElement("section");
      outer.innerHTML = "<h3></h3><div class='plot'></div><p class='quiet'></p>";
      outer.querySelector("h3").textContent = title;
      outer.setAttribute("aria-label", title);
      place.append(outer);
      box = plots[key] = { outer, plot: null };
    }
    const said = box.outer.querySelector("p"), holder = box.outer.querySelector(".plot");
    if (xs.length < 4) {
      const last = series[0].values.at(-1);
      said.textContent = xs.length ? weitiao.fill(texts.few, { value: last.toPrecision(4) }) : texts.none;
      holder.hidden = true;
      return;
    }
    holder.hidden = false;
    said.textContent = "";
    const data = [xs, ...series.map((one) => one.values)];
    if (box.plot) { box.plot.setData(data); return; }
    const range = key === "metric" && series[0].values.every((v) => v >= 0 && v <= 1)
      ? (_, low, high) => { const room = Math.max((high - low) * 0.1, 0.005); return [Math.max(0, low - room), Math.min(1, high + room)]; }
      : undefined;
    box.plot = new uPlot({
      width: holder.clientWidth, height: 210, scales: { x: { time: false }, y: range ? { range } : {} }, legend: { live: true },
      axes: [axis(texts.step), axis("")],
      series: [{ label: texts.step }, ...series.map((one) => ({ label: one.label, stroke: colour(one.colour), width: 1.5, dash: one.dash, points: { show: xs.length < 40 } }))],
    }, data, holder);
  }

  function redraw() {
    waiting = false;
    const logs = rows.filter((row) => row.event === "log" && row.loss != null);
    const evals = rows.filter((row) => row.event === "eval");
    draw("loss", texts.loss, logs.map((row) => row.step), [{ label: texts.loss, values: logs.map((row) => row.loss), colour: "--accent" }]);
    if (!shown && evals.length) shown = Object.keys(evals[0]).find((key) => !["event", "seconds", "step", "epoch"].includes(key));
    const scored = evals.filter((row, i) => shown in row && (i === 0 || row.step > evals[i - 1].step));
    if (scored.length) draw("metric", weitiao.fill(texts.held_out, { metric: shown }), scored.map((row) => row.step), [{ label: shown, values: scored.map((row) => row[shown]), colour: "--good" }]);
    const memory = logs.filter((row) => row.peak_memory_bytes);
    const lines = [{ label: texts.measured, values: memory.map((row) => row.peak_memory_bytes / 1e9), colour: "--accent" }];
    if (planned) lines.push({ label: texts.planned, values: memory.map(() => planned), colour: "--quiet", dash: [6, 4] });
    if (memory.length) draw("memory", texts.memory, memory.map((row) => row.step), lines);
    const last = logs.at(-1), box = document.getElementById("progress");
    if (box && last && total) {
      box.hidden = false;
      box.querySelector("progress").value = last.step / total;
      const left = last.eta_s == null ? "" : `, ${weitiao.fill(texts.left, { time: weitiao.duration(last.eta_s) })}`;
      document.getElementById("progress-text").textContent = weitiao.fill(texts.of, { step: last.step, total }) + left;
    }
  }

  function take(found) {
    for (const row of found) {
      rows.push(row);
      if (row.event === "train") total = row.total_steps;
      const stage = document.getElementById("stage");
      if (stage && row.event === "stage") stage.textContent = row.message;
      if (stage && row.event === "progress") stage.textContent = `${row.what} ${row.done} / ${row.total}`;
      if (stage && row.event === "log") stage.textContent = "";
    }
    if (!waiting) { waiting = true; requestAnimationFrame(redraw); }
  }

  // the same curve of the same run: what is new alone comes over the wire
  const source = new EventSource(place.dataset.events);
  source.addEventListener("rows", (message) => take(JSON.parse(message.data)));
  source.addEventListener("reset", () => { rows.length = 0; });
  source.addEventListener("state", (message) => {
    const now = JSON.parse(message.data), live = ["running", "queued"].includes(now);
    if (!live) source.close();
    if (began && began !== now) location.reload();
    if (!began && place.dataset.live === "yes" && !live) location.reload();
    began = now;
  });
  redraw();
  new ResizeObserver(() => { for (const box of Object.values(plots)) if (box.plot) box.plot.setSize({ width: box.outer.clientWidth, height: 210 }); }).observe(place);
});
