// A cell: its file of data is loaded by name, then everything is put in as text.
"use strict";
(() => {
  const AXES = ["dataset", "attack", "backbone", "weighting", "defense", "regime", "seed"];
  const { element } = mtlue;
  const place = document.getElementById("cell");

  const load = (file) => new Promise((done, fail) => {
    const name = `cells-${file}`;
    if (mtlue.data[name]) { done(mtlue.data[name]); return; }
    const script = element("script", { src: `data/${name}.js` });
    script.addEventListener("load", () => done(mtlue.data[name]));
    script.addEventListener("error", () => fail(new Error(`data/${name}.js is not there`)));
    document.head.append(script);
  });

  const find = async (address) => {
    const parts = /^(\d+):([A-Za-z0-9~]+)$/.exec(address);
    if (!parts) throw new Error("the address names no cell");
    const { cells, shared } = await load(parts[1]);
    if (!Object.hasOwn(cells, parts[2])) throw new Error("there is no such cell on this page");
    return { cell: cells[parts[2]], shared };
  };

  const number = (value, decimals = 3) => (value === null || value === undefined ? "–" : value.toFixed(decimals));
  const quantity = (value) => (value === null ? "–" : value >= 1e6 ? `${(value / 1e6).toFixed(1)}M` : value >= 1e4 ? `${(value / 1e3).toFixed(1)}k` : value.toFixed(0));
  const duration = (seconds) => (seconds < 59.95 ? `${seconds.toFixed(1)} s` : seconds < 3570 ? `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s` : `${(seconds / 3600).toFixed(1)} h`);
  const section = (title, ...children) => element("section", {}, element("h2", {}, title), ...children);
  const pairs = (entries, kind = "pairs") => element("dl", { class: kind }, ...entries.filter(([, value]) => value !== "" && value !== null && value !== undefined)
    .map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  const write = (value) => {
    if (value === null) return "none";
    if (Array.isArray(value)) return value.map(write).join(", ");
    if (typeof value === "object") {
      if ("name" in value && "params" in value) { const inner = write(value.params.parts ?? value.params); return `${value.name} v${value.version}${inner ? ` (${inner})` : ""}`; }
      return Object.entries(value).map(([name, entry]) => `${name} = ${write(entry)}`).join(", ");
    }
    return typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(6))) : String(value);
  };
  const table = (caption, heads, rows) => {
    const made = element("table", { class: "sortable" }, element("caption", {}, caption),
      element("thead", {}, element("tr", {}, ...heads.map((head, column) => element("th", { scope: "col", class: column ? "number" : null }, head)))),
      element("tbody", {}, ...rows.map(([first, ...others]) => element("tr", {}, element("th", { scope: "row" }, first), ...others.map((value) => element("td", { class: "number" }, value))))));
    mtlue.makeSortable(made);
    return element("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": caption }, made);
  };

  const quote = (text) => (/^[\w@%+=:,.\/-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`);
  const command = (cell) => ["bench run --suite", quote(cell.suite), ...AXES.flatMap((axis, at) => ["--only", quote(`${axis}=${cell.labels[at]}`)])].join(" ");

  const scores = (cell, shared) => {
    const tasks = shared[cell.tasks];
    const rows = tasks.map(([task, metric], row) => [task, metric.replaceAll("_", " "), ...cell.scores.map((column, kind) => number(column[row], kind === cell.scores.length - 1 ? 2 : 3))]);
    return section("Scores", table(`${tasks.length} ${tasks.length === 1 ? "task" : "tasks"}, after the last epoch; the floor is an answer that ignores the image`,
      ["task", "metric", "score", "clean", "floor", "best epoch", "protection"], rows));
  };

  const curveSection = async (cell, shared) => {
    if (!cell.curve) return section("Learning curve", element("p", { class: "soft" }, "There is no curve: an archive leaves curves out, and so does a page of very many cells."));
    const epochs = shared[cell.curve.epochs];
    const lines = [{ name: "clean", color: "--clean", dash: 1, epochs: [], mean: [] }, { name: "this cell", color: "--poison", epochs, mean: cell.curve.mean }];
    if (cell.clean && cell.labels[1] !== "clean") {
      const other = await find(cell.clean.split("#")[1]).catch(() => null);
      if (other?.cell.curve) Object.assign(lines[0], { epochs: other.shared[other.cell.curve.epochs], mean: other.cell.curve.mean });
    }
    const shown = lines.filter((line) => line.epochs.length);
    const tasks = Object.entries(cell.curve.tasks).map(([task, mean], order) => ({ name: task, epochs, mean, dash: order % 4 }));
    const parts = [[shown, "Mean over tasks"], ...(tasks.length > 1 ? [[[...placeholders, ...tasks].slice(2), "Tasks of this cell"]] : [])];
    const figures = parts.map(([drawn, title]) => {
      const canvas = element("div", { class: "canvas", role: "img", "aria-label": `${title}; the numbers follow` });
      const figure = element("figure", { class: "curves" }, element("figcaption", {}, title), canvas,
        element("details", {}, element("summary", {}, "Numbers"), element("div", { class: "scroll" }, mtlue.tableOfCurves(drawn))));
      requestAnimationFrame(() => mtlue.drawCurves(canvas, drawn));
      return figure;
    });
    return section("Learning curve", element("p", { class: "soft small" }, "Relative score on the test set (0: floor, 1: perfect)."), element("div", { class: "plots" }, ...figures));
  };
  const placeholders = [null, null];

  const show = async () => {
    const { cell, shared } = await find(location.hash.slice(1));
    const label = AXES.map((axis, at) => (axis === "seed" ? `seed ${cell.labels[at]}` : cell.labels[at])).join(" · ");
    document.title = label;
    const settings = shared[cell.settings], environment = shared[cell.environment], noise = shared[cell.noise];
    const attack = element("a", { href: cell.attackPage }, cell.labels[1]);
    const parts = [element("h1", {}, label),
      element("p", { class: cell.status === "failed" ? "bad" : "soft" }, `${cell.status}, ${cell.finished}, suite ${cell.suite}, protocol ${cell.protocol}`),
      pairs([["attack", attack], ...AXES.filter((axis) => axis !== "attack").map((axis) => [axis, String(cell.labels[AXES.indexOf(axis)])]),
        ["clean counterpart", cell.clean && cell.labels[1] !== "clean" ? element("a", { href: cell.clean }, "its cell") : null]])];
    if (cell.error) parts.push(section("Error", element("pre", {}, `${cell.error.type}: ${cell.error.message}\n${cell.error.traceback ?? ""}`.trimEnd())));
    if (cell.scores && shared[cell.tasks].length) parts.push(scores(cell, shared), await curveSection(cell, shared));
    parts.push(section("Reproduce", element("p", { class: "soft small" }, "This runs the cell, its clean counterpart and what they need:"), element("pre", {}, command(cell)),
      element("p", { class: "soft small" }, "This says what the run's folder knows of it:"), element("pre", {}, `bench explain ${cell.key}`)));
    const seeds = ["seed", "poison seed"].map((name, at) => [name, cell.seeds[at]]).filter(([, value]) => value !== null);
    if (Object.keys(settings).length) parts.push(section("Configuration", pairs([...Object.entries(settings), ...seeds].map(([name, value]) => [name.replaceAll("_", " "), write(value)]), "lines")));
    const source = environment.source ? [["commit", `${environment.source.commit}${environment.source.clean ? "" : ", with changes"}`]] : [["commit", "not known"]];
    parts.push(section("Environment", pairs([...source, ["key", cell.key], ["victim", cell.victim], ["poison", cell.poison],
      ...Object.entries(environment).filter(([name]) => name !== "source").map(([name, value]) => [name.replaceAll("_", " "), write(value)])], "lines")));
    const costs = Object.entries(cell.cost);
    if (costs.length) parts.push(section("Costs", table("By phase; surrogate and craft belong to the poison", ["phase", "time", "images/s", "host MiB", "device MiB"],
      costs.map(([phase, [seconds, ...others]]) => [phase, duration(seconds), ...others.map(quantity)]))));
    if (Object.keys(noise).length) parts.push(section("The noise", pairs(Object.entries(noise).filter(([, value]) => value !== null).map(([name, value]) => [name.replaceAll("_", " "), write(value)]))));
    place.replaceChildren(...parts);
  };

  const tell = (error) => place.replaceChildren(element("h1", {}, "Cell"), element("p", { class: "bad" }, `${error.message}.`), element("p", {}, element("a", { href: "cells.html" }, "The list of all cells")));
  const start = () => show().catch(tell);
  addEventListener("hashchange", start);
  document.addEventListener("DOMContentLoaded", start);
})();
