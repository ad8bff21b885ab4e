// What every page needs: nothing but what HTML and htmx cannot do.
"use strict";
const weitiao = {
  fill(text, values) { return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? ""); },
  duration(seconds) {
    const whole = Math.round(seconds);
    if (whole < 60) return `${whole} s`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
    return `${Math.floor(whole / 3600)} h ${Math.floor(whole % 3600 / 60)} min`;
  },
};
// Whoever reads the end of a log goes on seeing its end when it grows.
document.addEventListener("htmx:before:swap", () => {
  document.querySelectorAll(".log").forEach((log) => { log.dataset.atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 8; });
});
document.addEventListener("htmx:after:swap", () => {
  document.querySelectorAll(".log").forEach((log) => { log.scrollTop = log.scrollHeight; });
});
