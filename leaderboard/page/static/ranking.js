// The ranking: another metric, some of the cells, some of the attacks.
"use strict";
(() => {
  const { labels, games, metrics, tracks } = mtlue.data.ranking;
  const RAW = "raw_";
  const AXES = ["dataset", "backbone", "weighting", "regime", "defense"];
  const CLEAN = labels.attack.indexOf("clean");
  const NONE = labels.defense.indexOf("none");
  const COUNT = games.attack.length;
  const form = document.getElementById("controls");
  if (!form) return;
  const metric = document.getElementById("metric");
  const track = document.getElementById("track");
  const search = document.getElementById("search");
  const result = document.getElementById("result");
  const boxes = [...form.querySelectorAll("fieldset input")];

  const wanted = () => {
    const kept = {};
    for (const axis of AXES) kept[axis] = labels[axis].map(() => true);
    for (const box of boxes) kept[box.closest("fieldset").dataset.axis][Number(box.value)] = box.checked;
    return kept;
  };

  // Protection from the selected cells, as docs/scores.md defines it: the exploiter, with the attack's images
  // and with clean ones, picks among the selected defenses that the attack was run with; training on clean
  // images without a defense is always possible.
  const rankSelected = (kept) => {
    const isKept = (game) => AXES.every((axis) => kept[axis][games[axis][game]]);
    const settingOf = (game) => AXES.slice(0, 4).map((axis) => games[axis][game]).join();
    const clean = new Map();
    for (let game = 0; game < COUNT; game++) if (games.attack[game] === CLEAN) clean.set(`${settingOf(game)},${games.defense[game]}`, games.share[game]);
    const settings = new Map(); // attack and setting → the exploiter's choices
    const raw = new Map();
    let shown = 0;
    for (let game = 0; game < COUNT; game++) {
      if (!isKept(game)) continue;
      shown += games.cells[game];
      const attack = games.attack[game], setting = settingOf(game), place = `${attack}|${setting}`;
      if (!settings.has(place)) settings.set(place, { attack, best: clean.get(`${setting},${NONE}`) ?? null, choices: [] });
      const entry = settings.get(place);
      const unharmed = clean.get(`${setting},${games.defense[game]}`) ?? null;
      if (unharmed !== null && (entry.best === null || unharmed > entry.best)) entry.best = unharmed;
      if (games.share[game] !== null) entry.choices.push([games.share[game], games.defense[game]]);
      if (!raw.has(attack)) raw.set(attack, []);
      raw.get(attack).push(game);
    }
    const sums = new Map();
    for (const { attack, best, choices } of settings.values()) {
      if (best === null || !choices.length) continue;
      const [most, defense] = choices.reduce((a, b) => (b[0] > a[0] ? b : a));
      const entry = sums.get(attack) ?? { protection: [], undefended: [], picks: [] };
      sums.set(attack, entry);
      entry.protection.push(1 - most / best);
      entry.picks.push(labels.defense[defense]);
      const undefended = choices.find(([, choice]) => choice === NONE);
      if (undefended) entry.undefended.push(1 - undefended[0] / best);
    }
    const ranked = new Map();
    for (const [attack, of] of raw) {
      const entry = sums.get(attack);
      const values = { protection: mean(entry?.protection), undefended: mean(entry?.undefended), defense: mostFrequent(entry?.picks), raw: {} };
      for (const name of Object.keys(metrics)) values.raw[name] = rawMean(of, `${RAW}${name}`);
      ranked.set(labels.attack[attack], values);
    }
    return { ranked, shown };
  };

  const mean = (values) => (values?.length ? values.reduce((a, b) => a + b) / values.length : null);
  const rawMean = (of, column) => { // without a defense if that is among the cells, else over all of them
    const undefended = of.filter((game) => games.defense[game] === NONE);
    const rows = (undefended.length ? undefended : of).filter((game) => games[column]?.[game] !== null && games[column]);
    const cells = rows.reduce((sum, game) => sum + games.cells[game], 0);
    return cells ? rows.reduce((sum, game) => sum + games[column][game] * games.cells[game], 0) / cells : null;
  };
  const mostFrequent = (names) => {
    if (!names?.length) return null;
    const counts = {};
    for (const name of names) counts[name] = (counts[name] ?? 0) + 1;
    return Object.keys(counts).sort((a, b) => counts[b] - counts[a] || (a < b ? -1 : 1))[0];
  };

  const write = (value, name) => {
    if (value === null || value === undefined) return "–";
    const { factor, decimals } = metrics[name] ?? { factor: 1, decimals: 2 };
    const text = (factor * value).toFixed(decimals);
    return Number(text) === 0 ? text.replace("-", "") : text;
  };

  const drawBar = (bar, values, [low, high]) => {
    const place = (value) => `${(100 * (value - low)) / (high - low)}%`;
    const shapes = [];
    const line = (kind, x1, x2, y1, y2) => shapes.push(mtlue.element("line", { class: kind, x1, x2, y1, y2 }));
    for (const [kind, value] of [["zero", 0], ["one", 1]]) if (value >= low && value <= high) line(kind, place(value), place(value), "0", "100%");
    if (values.value !== null) {
      const from = Math.max(low, Math.min(0, values.value)), to = Math.max(0, values.value);
      shapes.push(mtlue.element("rect", { class: "fill", x: place(from), width: `${(100 * (to - from)) / (high - low)}%`, y: 4, height: 12, rx: 2 }));
    }
    if (values.low !== null && values.low !== undefined) {
      line("whisker", place(values.low), place(values.high), 10, 10);
      for (const end of [values.low, values.high]) line("whisker", place(end), place(end), 6, 14);
    }
    if (values.undefended !== null && values.undefended !== undefined) shapes.push(mtlue.element("circle", { class: "undefended", cx: place(values.undefended), cy: 10, r: 3.5 }));
    bar.replaceChildren(...shapes);
  };

  // What a row shows for the chosen metric: value, ends of its interval, the dot of the undefended victim.
  const pick = (row, name) => {
    if (name.startsWith(RAW)) return { value: row.raw[name.slice(RAW.length)] ?? null };
    if (name === "transfer") return { value: row.transfer, low: row.transfer_low, high: row.transfer_high };
    if (name === "undefended") return { value: row.undefended };
    return { value: row.protection, low: row.low, high: row.high, undefended: row.undefended };
  };

  const scaleOf = (rows, name, usual) => {
    const values = rows.flatMap((row) => Object.values(pick(row, name))).filter((value) => typeof value === "number");
    if (!name.startsWith(RAW)) return [Math.min(usual[0], ...values), Math.max(usual[1], ...values)];
    const isShare = metrics[name.slice(RAW.length)].factor === 100;
    return [Math.min(0, ...values), Math.max(isShare ? 1 : 1e-9, ...values)];
  };

  const cellOf = (row, kind) => row.querySelector(`td.${kind}`);
  const fill = (cell, text, value) => {
    if (!cell) return;
    cell.textContent = text;
    cell.dataset.value = value ?? "";
  };

  const showTrack = (part, name, ranked) => {
    const table = part.querySelector("table");
    const isLow = name.startsWith(RAW) && metrics[name.slice(RAW.length)].highIsGood;
    const rows = tracks[part.dataset.track].map((row) => {
      if (!ranked) return row;
      const values = ranked.get(row.attack);
      return { ...row, protection: null, undefended: null, defense: null, raw: {}, ...values, low: null, high: null, transfer: null, transfer_low: null, transfer_high: null };
    });
    const scale = scaleOf(rows, name, [Number(table.dataset.low), Number(table.dataset.high)]);
    table.classList.toggle("filtered", Boolean(ranked));
    table.classList.toggle("other", name !== "protection"); // interval and group are those of the protection
    const heading = table.tHead.querySelector(".score");
    (heading.querySelector("button") ?? heading).textContent = metric.selectedOptions[0].textContent;
    const words = search.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    const lines = [...table.tBodies[0].rows].sort((a, b) => a.dataset.row - b.dataset.row).map((line) => {
      const row = rows[Number(line.dataset.row)], shown = pick(row, name);
      drawBar(line.querySelector(".bar"), shown, scale);
      line.querySelector(".score .value").textContent = write(shown.value, name.startsWith(RAW) ? name.slice(RAW.length) : "");
      cellOf(line, "score").dataset.value = shown.value ?? "";
      fill(cellOf(line, "undefended"), write(row.undefended, ""), row.undefended);
      line.original ??= cellOf(line, "defense").textContent;
      cellOf(line, "defense").textContent = ranked ? (row.attack === "clean" ? "–" : row.defense ?? "–") : line.original;
      for (const cell of line.querySelectorAll("td.raw")) fill(cell, write(row.raw[cell.dataset.metric], cell.dataset.metric), row.raw[cell.dataset.metric]);
      line.hidden = !words.every((word) => row.attack.toLowerCase().includes(word)) || Boolean(ranked && !ranked.has(row.attack));
      found += line.hidden || row.attack === "clean" ? 0 : 1;
      return [shown.value, row.attack === "clean", line];
    });
    const missing = ([value, isClean]) => (isClean ? 2 : value === null || value === undefined ? 1 : 0);
    lines.sort((a, b) => missing(a) - missing(b) || (isLow ? a[0] - b[0] : b[0] - a[0]) || a[2].dataset.row - b[2].dataset.row);
    lines.forEach(([value, isClean, line], place) => { cellOf(line, "rank").textContent = missing([value, isClean]) ? "–" : place + 1; });
    table.tBodies[0].append(...lines.map(([, , line]) => line));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", isLow ? "ascending" : "descending");
    part.querySelector(".groups")?.toggleAttribute("hidden", Boolean(ranked) || name !== "protection");
    return found;
  };

  const show = () => {
    const name = metric.value, isFiltered = boxes.some((box) => !box.checked);
    const selected = isFiltered ? rankSelected(wanted()) : null;
    let found = 0, all = 0;
    for (const part of document.querySelectorAll(".track")) {
      part.hidden = Boolean(track?.value) && track.value !== part.dataset.track;
      const count = showTrack(part, name, selected?.ranked);
      if (part.hidden) continue;
      found += count;
      all += tracks[part.dataset.track].filter((row) => row.attack !== "clean").length;
    }
    const total = games.cells.reduce((a, b) => a + b, 0);
    let words = `${found} of ${all} attacks.`;
    if (selected) {
      words += ` Computed from ${selected.shown} of ${total} cells: the exploiter picks among the selected defenses.`;
      words += name === "transfer" ? " Transfer is known for all cells only." : " Intervals, groups and transfer are known for all cells only.";
      words += " Heat maps and plots below show all cells.";
      if (name.startsWith(RAW)) words += " The scores are means over the cells shown.";
    }
    result.textContent = words;
  };

  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const event of ["input", "change"]) form.addEventListener(event, show);
  document.getElementById("reset")?.addEventListener("click", () => { for (const box of boxes) box.checked = true; show(); });
  show();
})();
