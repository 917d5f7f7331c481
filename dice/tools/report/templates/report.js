"use strict";
// Tables as CSV, and pairs to read: which ones, in which order, shown how. Texts are only ever set as text.
(() => {
  const part = (id) => document.getElementById(id);
  const AT_ONCE = 10;
  const DEEPEST = 0.75; // opacity of a token of FULL nats or more
  const FULL = 5;
  const FAINT = 0.1; // nats: above it, shades grow with the logarithm, below it in proportion
  const ORDERS = {
    high: (pair) => pair.rank,
    low: (pair) => -pair.rank,
    liked: (pair) => -pair.chosen.reward,
    disliked: (pair) => pair.chosen.reward,
    long: (pair) => -pair.chosen.chars - pair.rejected.chars,
    short: (pair) => pair.chosen.chars + pair.rejected.chars,
  };
  const COLUMNS = ["sample", "reward", "shaped", "characters", "tokens", "ended by", "response"];
  let seed = 1; // of the random order: the same page shows the same order first
  let shown = AT_ONCE;

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function button(text, title, action) {
    const made = element("button", "small", text);
    made.type = "button";
    made.title = title;
    made.addEventListener("click", () => action(made));
    return made;
  }

  // A cell as CSV: numbers as programs read them, and nothing that a spreadsheet takes for a formula.
  function quoted(cell) {
    const text = cell.innerText.trim().replaceAll("−", "-");
    const number = text.replaceAll(",", "");
    if (text && !Number.isNaN(Number(number))) return number;
    return `"${/^[=@+-]/.test(text) ? "'" : ""}${text.replaceAll('"', '""')}"`;
  }

  function csv(table) {
    const columns = table.rows[0].cells.length;
    let group; // the first cell of several rows
    const lines = [...table.rows].map((row) => {
      const cells = [...row.cells].map(quoted);
      if (cells.length === columns) [group] = cells;
      return (cells.length < columns ? [group, ...cells] : cells).join(",");
    });
    return `\ufeff${lines.join("\r\n")}\r\n`; // with the mark by which spreadsheets know UTF-8
  }

  function download(table) {
    const link = element("a", "");
    link.href = URL.createObjectURL(new Blob([csv(table)], { type: "text/csv" }));
    link.download = `${table.id}.csv`;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  function offerCsv(table) {
    table.closest(".scroll").after(button("CSV", "Download this table", () => download(table)));
  }

  document.querySelectorAll("table").forEach(offerCsv);
  const rounds = JSON.parse(part("data").textContent);
  if (!rounds.length) return;

  function signed(value) {
    return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
  }

  function shaded(text, reward) {
    const span = element("span", `token ${reward < 0 ? "minus" : "plus"}`, text);
    const depth = Math.log1p(Math.abs(reward) / FAINT) / Math.log1p(FULL / FAINT);
    span.style.setProperty("--depth", (DEEPEST * Math.min(1, depth)).toFixed(2));
    span.title = `${signed(reward)} nats`;
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
    const key = ORDERS[part("order").value];
    return key ? [...pairs].sort((a, b) => key(a) - key(b)) : shuffled(pairs);
  }

  function matches(pair, words) {
    pair.text ??= [...pair.prompt.map((turn) => turn[1]), pair.chosen.tokens.join(""), pair.rejected.tokens.join("")]
      .join("\n")
      .toLowerCase();
    return pair.text.includes(words);
  }

  const written = (side) => side.tokens.slice(0, side.of_text).join("");

  // The text of a side in parts: one that the other side has not, one that both have, and so on.
  function marked(side, tag) {
    const text = written(side);
    let end = 0;
    return side.differs.map((length, index) => {
      const words = text.slice(end, (end += length));
      return index % 2 || !words ? words : element(tag, "", words);
    });
  }

  function drawn(side, tag) {
    if (part("view").value === "differences") return marked(side, tag);
    return side.tokens.map((token, index) => {
      const reward = side.rewards?.[index];
      return reward === undefined ? token : shaded(token, reward);
    });
  }

  function side(name, data, unit) {
    const box = element("div", `side ${name}`);
    box.append(element("h4", "", name));
    const rewards = `reward ${signed(data.reward)} ${unit} · shaped ${signed(data.shaped)} ${unit}`;
    box.append(element("p", "meta", `${rewards} · ${data.chars.toLocaleString("en")} characters`));
    const response = element("div", "response");
    response.tabIndex = 0;
    response.append(...drawn(data, name === "chosen" ? "ins" : "del"));
    box.append(response);
    return box;
  }

  function row(tag, values) {
    const made = element("tr", "");
    made.append(...values.map((value) => element(tag, "", value)));
    made.lastChild.className = "words";
    return made;
  }

  // The prompt's samples as a table that is made when it is opened.
  function samples(pair, name) {
    const box = element("details", "samples");
    box.append(element("summary", "", `All ${pair.samples.length} samples of this prompt`));
    box.addEventListener("toggle", () => {
      if (box.children.length > 1) return;
      const [scroll, table, head, body] = ["div", "table", "thead", "tbody"].map((tag) => element(tag, ""));
      scroll.className = "scroll";
      table.id = `${name}-samples`;
      head.append(row("th", COLUMNS));
      for (const [sample, reward, shaped, ...others] of pair.samples) {
        const which = { [pair.chosen.sample]: " chosen", [pair.rejected.sample]: " rejected" }[sample] ?? "";
        const rewards = [reward, shaped].map((value) => (value === null ? "–" : signed(value)));
        const made = row("td", [sample + which, ...rewards, ...others]);
        made.className = which.trim();
        body.append(made);
      }
      table.append(head, body);
      scroll.append(table);
      box.append(scroll);
      offerCsv(table);
    });
    return box;
  }

  // A pair with the columns of pairs.jsonl, and all samples of its prompt.
  function asJson(pair, round) {
    const told = { round: round.round, prompt_id: pair.id };
    told.messages = pair.prompt.map(([role, content]) => ({ role, content }));
    for (const name of ["chosen", "rejected"]) {
      const { sample, reward, shaped } = pair[name];
      Object.assign(told, {
        [name]: written(pair[name]), [`${name}_sample`]: sample, [`${name}_reward`]: reward, [`${name}_shaped`]: shaped,
      });
    }
    const names = ["sample", "reward", "shaped", "n_chars", "n_tokens", "finish_reason", "response"];
    told.samples = pair.samples.map((sample) => Object.fromEntries(names.map((name, i) => [name, sample[i]])));
    return JSON.stringify(told, null, 2);
  }

  async function copy(text, from) {
    try {
      await navigator.clipboard.writeText(text);
      from.textContent = "copied";
    } catch { // a page that came without TLS may not: whoever reads it can
      const box = element("textarea", "", text);
      box.readOnly = true;
      from.replaceWith(box);
      box.select();
    }
  }

  function card(pair, round) {
    const box = element("article", "pair");
    box.id = `round-${round.round}-pair-${pair.id}`;
    box.tabIndex = -1;
    const rank = `number ${pair.rank.toLocaleString("en")} of ${round.of.toLocaleString("en")}`;
    const meta = element("p", "meta", `margin ${signed(pair.margin)} ${round.unit}, ${rank} `);
    const link = element("a", "", "link");
    link.href = `#${box.id}`;
    meta.append(link, button("copy as JSON", "With all samples", (from) => copy(asJson(pair, round), from)));
    box.append(meta);
    for (const [role, content] of pair.prompt) {
      const turn = element("p", "turn");
      turn.append(element("b", "", role), content);
      box.append(turn);
    }
    const sides = element("div", "sides");
    sides.append(side("chosen", pair.chosen, round.unit), side("rejected", pair.rejected, round.unit));
    box.append(sides);
    const readout = element("p", "readout");
    readout.role = "status";
    box.append(readout);
    if (pair.samples.length) box.append(samples(pair, box.id));
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
    part("list").classList.toggle("shaded", part("view").value === "tokens");
    part("count").textContent = summary(round, found.length);
    part("shuffle").hidden = part("order").value !== "random";
    part("more").hidden = found.length <= shown;
  }

  function restart() {
    shown = AT_ONCE;
    draw();
  }

  // Goes to the pair that the page's address names, which may not be among those that are drawn.
  function visit() {
    const name = location.hash.slice(1);
    const [, t, id] = name.match(/^round-(\d+)-pair-(.+)$/) ?? [];
    const index = rounds.findIndex((round) => String(round.round) === t);
    if (!rounds[index]?.pairs.some((pair) => pair.id === id)) return;
    if (!part(name)) {
      part("round").value = index;
      part("search").value = "";
      shown = Math.max(AT_ONCE, ordered(rounds[index].pairs).findIndex((pair) => pair.id === id) + 1);
      draw();
    }
    part(name).scrollIntoView({ behavior: "instant" });
    part(name).focus({ preventScroll: true });
  }

  function pick(token) {
    const box = token.closest(".pair");
    box.querySelectorAll(".picked").forEach((other) => other.classList.remove("picked"));
    token.classList.add("picked");
    box.querySelector(".readout").textContent = `“${token.textContent}”: ${token.title}`;
  }

  // From token to token by the keyboard.
  function step(event) {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const tokens = [...event.target.querySelectorAll(".token")];
    if (!way || !tokens.length || !event.target.matches(".response")) return;
    const at = tokens.findIndex((token) => token.classList.contains("picked"));
    pick(tokens.at((at + way) % tokens.length));
    event.preventDefault();
  }

  const marks = [-FULL, -1, -0.3, -0.1, 0.1, 0.3, 1, FULL];
  part("swatches").append(...marks.map((mark) => shaded(mark < 0 ? `−${-mark}` : `+${mark}`, mark)));
  part("key").hidden = !rounds.some((round) => round.pairs.some((pair) => pair.chosen.rewards));
  part("controls").hidden = false;
  part("controls").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["round", "order"]) part(id).addEventListener("change", restart);
  part("search").addEventListener("input", restart);
  part("view").addEventListener("change", draw);
  part("list").addEventListener("keydown", step);
  part("list").addEventListener("click", (event) => {
    const token = event.target.closest(".token");
    if (token) pick(token);
  });
  part("shuffle").addEventListener("click", () => {
    seed += 1;
    restart();
  });
  part("more").addEventListener("click", () => {
    shown += AT_ONCE;
    draw();
  });
  addEventListener("hashchange", visit);
  restart();
  visit();
})();
