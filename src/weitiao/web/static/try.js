// /try: an example fills the text; conversations are streamed from /v1/chat/completions and kept in this page alone.
"use strict";
addEventListener("DOMContentLoaded", () => {
  const text = document.getElementById("text");
  document.querySelectorAll("a.example").forEach((one) => one.addEventListener("click", (event) => {
    if (!text) return;
    event.preventDefault();
    text.value = one.dataset.text;
    const pair = document.getElementById("pair");
    if (pair) pair.value = one.dataset.pair;
    const ask = document.getElementById("ask");
    if (ask) ask.requestSubmit();
    else text.focus();
  }));
  const chat = document.getElementById("chat");
  if (!chat) return;
  const texts = JSON.parse(chat.dataset.texts);
  const chats = [...chat.querySelectorAll(".chat")].map((place) => ({ model: place.dataset.model, turns: [], box: place.querySelector(".turns") }));
  const send = document.getElementById("send"), halt = document.getElementById("halt");
  let going = null;

  function add(box, kind, words) {
    const line = document.createElement("div");
    line.className = kind;
    line.textContent = words;
    box.append(line);
    box.scrollTop = box.scrollHeight;
    return line;
  }

  async function* pieces(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) if (part.startsWith("data: ") && part !== "data: [DONE]") yield JSON.parse(part.slice(6));
    }
  }

  async function answer(one, signal) {
    const turns = one.turns; // "clear" begins another list
    const line = add(one.box, "turn assistant", ""), said = add(one.box, "said", texts.waiting), begun = performance.now();
    const body = {
      model: one.model, messages: turns, stream: true, stream_options: { include_usage: true },
      temperature: Number(document.getElementById("temperature").value), max_tokens: Number(document.getElementById("most").value),
    };
    let words = "", first = 0, finish = "", count = 0;
    try {
      const response = await fetch("/v1/chat/completions", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
      if (!response.ok) throw new Error((await response.json()).error.message);
      for await (const piece of pieces(response)) {
        if (piece.error) throw new Error(piece.error.message);
        if (piece.usage) count = piece.usage.completion_tokens;
        const choice = piece.choices[0];
        if (!choice) continue;
        if (choice.delta.content && !first) first = performance.now();
        words += choice.delta.content || "";
        finish = choice.finish_reason || finish;
        line.textContent = words;
        one.box.scrollTop = one.box.scrollHeight;
      }
      const seconds = (performance.now() - begun) / 1000;
      said.textContent = first ? weitiao.fill(texts.first, { time: ((first - begun) / 1000).toFixed(2) }) : texts.empty;
      if (count > 1 && first) said.textContent += ` · ${weitiao.fill(texts.rate, { rate: (count / seconds).toFixed(1), count })}`;
      if (finish === "length") said.textContent += ` · ${texts.length}`;
    } catch (error) {
      said.textContent = signal.aborted ? texts.stopped : `${texts.failed} ${error.message}`;
      if (!signal.aborted) said.classList.add("bad");
    }
    if (words) turns.push({ role: "assistant", content: words });
    else turns.pop(); // a question without an answer is asked no second time
  }

  document.getElementById("say").addEventListener("submit", async (event) => {
    event.preventDefault();
    const question = text.value;
    if (going || !question.trim()) return;
    going = new AbortController();
    send.disabled = true;
    halt.disabled = false;
    text.value = "";
    for (const one of chats) {
      one.turns.push({ role: "user", content: question });
      add(one.box, "turn user", question);
    }
    await Promise.all(chats.map((one) => answer(one, going.signal)));
    going = null;
    send.disabled = false;
    halt.disabled = true;
    text.focus();
  });
  halt.addEventListener("click", () => { if (going) going.abort(); });
  document.getElementById("clear").addEventListener("click", () => {
    if (going) going.abort();
    for (const one of chats) { one.turns = []; one.box.replaceChildren(); }
  });
});
