"use strict";
// Pairs to read: which round, in which order, what to search for. Texts are only ever set as text.
(() => {
  const rounds = JSON.parse(document.getElementById("data").textContent);
  if (!rounds.length) return;
  const part = (id) => document.getElementById(id);
  const AT_ONCE = 10;
  const DEEPEST = 0.75; // opacity of a token of FULL nats or more
  const FULL = 5;
  const FAINT = 0.1; // nats: above it, shades grow with the logarithm, below it in proportion
  let seed = 1; // of the random order: the same page shows the same order first
  let shown = AT_ONCE;

  function element(tag, className, text) {
    const made = document.createElement(tag);
    made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function measured(value, unit) {
    return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)} ${unit}`;
  }

  function shaded(text, reward) {
    const span = element("span", `token ${reward < 0 ? "minus" : "plus"}`, text);
    const depth = Math.log1p(Math.abs(reward) / FAINT) / Math.log1p(FULL / FAINT);
    span.style.setProperty("--depth", (DEEPEST * Math.min(1, depth)).toFixed(2));
    span.title = measured(reward, "nats");
    return span;
  }

  // mulberry32: a small generator, so that a seed means the same order everywhere.
  function random(state) {
    return () => {
      state = (state + 0x6d2b79f5) | 0;
      let t = Math.imul(state ^ (state >>> 15), 1 | state);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  function shuffled(pairs) {
    const next = random(seed);
    const mixed = [...pairs];
    for (let i = mixed.length - 1; i > 0; i--) {
      const j = Math.floor(next() * (i + 1));
      [mixed[i], mixed[j]] = [mixed[j], mixed[i]];
    }
    return mixed;
  }

  function ordered(pairs) {
    const order = part("order").value;
    if (order === "random") return shuffled(pairs);
    const sign = order === "high" ? 1 : -1;
    return [...pairs].sort((a, b) => sign * (a.rank - b.rank));
  }

  function matches(pair, words) {
    pair.text ??= [...pair.prompt.map((turn) => turn[1]), pair.chosen.tokens.join(""), pair.rejected.tokens.join("")]
      .join("\n")
      .toLowerCase();
    return pair.text.includes(words);
  }

  function side(name, data, unit) {
    const box = element("div", `side ${name}`);
    box.append(element("h4", "", name));
    const rewards = `reward ${measured(data.reward, unit)} · shaped ${measured(data.shaped, unit)}`;
    box.append(element("p", "meta", `${rewards} · ${data.chars.toLocaleString("en")} characters`));
    const response = element("div", "response");
    data.tokens.forEach((token, index) => {
      const reward = data.rewards?.[index];
      response.append(reward === undefined ? token : shaded(token, reward));
    });
    box.append(response);
    return box;
  }

  function card(pair, round) {
    const box = element("article", "pair");
    const place = `margin ${measured(pair.margin, round.unit)}, number ${pair.rank.toLocaleString("en")} of ${round.of.toLocaleString("en")}`;
    box.append(element("p", "meta", place));
    for (const [role, content] of pair.prompt) {
      const turn = element("p", "turn");
      turn.append(element("b", "", role), content);
      box.append(turn);
    }
    const sides = element("div", "sides");
    sides.append(side("chosen", pair.chosen, round.unit), side("rejected", pair.rejected, round.unit));
    box.append(sides);
    if (pair.chosen.rewards || pair.rejected.rewards) box.append(element("p", "readout"));
    return box;
  }

  function summary(round, found) {
    const count = (n) => n.toLocaleString("en");
    const all = round.pairs.length;
    let text = `Round ${round.round}: ${count(all)} of its ${count(round.of)} pairs`;
    if (all < round.of) text += ", the highest and the lowest margins and random ones";
    if (found < all) text += `; ${count(found)} with these words`;
    return `${text}.${round.note ? ` (${round.note})` : ""}`;
  }

  function draw() {
    const round = rounds[part("round").value];
    const words = part("search").value.trim().toLowerCase();
    const found = ordered(round.pairs.filter((pair) => matches(pair, words)));
    part("list").replaceChildren(...found.slice(0, shown).map((pair) => card(pair, round)));
    part("list").classList.toggle("shaded", part("shade").checked);
    part("count").textContent = summary(round, found.length);
    part("shuffle").hidden = part("order").value !== "random";
    part("more").hidden = found.length <= shown;
  }

  function restart() {
    shown = AT_ONCE;
    draw();
  }

  function pick(event) {
    const token = event.target.closest(".token");
    if (!token) return;
    const box = token.closest(".pair");
    box.querySelectorAll(".picked").forEach((other) => other.classList.remove("picked"));
    token.classList.add("picked");
    box.querySelector(".readout").textContent = `“${token.textContent}”: ${token.title}`;
  }

  const marks = [-FULL, -1, -0.3, -0.1, 0.1, 0.3, 1, FULL];
  part("swatches").append(...marks.map((mark) => shaded(mark < 0 ? `−${-mark}` : `+${mark}`, mark)));
  part("key").hidden = !rounds.some((round) => round.pairs.some((pair) => pair.chosen.rewards));
  part("controls").hidden = false;
  part("controls").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["round", "order"]) part(id).addEventListener("change", restart);
  part("search").addEventListener("input", restart);
  part("shade").addEventListener("change", draw);
  part("list").addEventListener("click", pick);
  part("shuffle").addEventListener("click", () => {
    seed += 1;
    restart();
  });
  part("more").addEventListener("click", () => {
    shown += AT_ONCE;
    draw();
  });
  restart();
})();
