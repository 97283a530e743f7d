// Learning curves with uPlot; every plot has its numbers in a table, too.
"use strict";
(() => {
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name) && resolve(name);
  const resolve = (name) => { // canvas knows no light-dark(): the browser resolves it as the color of an element
    const probe = mtlue.element("span");
    document.body.append(probe);
    probe.style.color = `var(${name})`;
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
  };
  // Okabe-Ito, after the two that stand for clean and poisoned.
  const MORE = ["#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#0072b2", "#d55e00", "#999999", "#b8a800"];
  const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3]];
  const faint = (value) => value.replace("rgb(", "rgba(").replace(")", ", .18)");

  const merge = (lines) => {
    const epochs = [...new Set(lines.flatMap((line) => line.epochs))].sort((a, b) => a - b);
    const at = (line, values) => epochs.map((epoch) => { const place = line.epochs.indexOf(epoch); return place < 0 ? null : values[place]; });
    return { epochs, at };
  };

  mtlue.drawCurves = (place, lines) => {
    const { epochs, at } = merge(lines);
    const draw = () => {
      const axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1 }, font: "12px system-ui, sans-serif" };
      const data = [epochs], series = [{ label: "epoch" }], bands = [];
      lines.forEach((line, number) => {
        const stroke = line.color ? color(line.color) : MORE[(number - 2 + MORE.length) % MORE.length];
        data.push(at(line, line.mean));
        series.push({ label: line.name, stroke, width: 2, dash: DASHES[line.dash ?? 0], points: { show: epochs.length < 2 }, value: (_, value) => (value === null ? "–" : value.toFixed(2)) });
        if (!line.low) return;
        data.push(at(line, line.high), at(line, line.low));
        for (const end of ["highest", "lowest"]) series.push({ label: `${line.name}, ${end}`, stroke: "transparent", points: { show: false }, value: (_, value) => (value === null ? "–" : value.toFixed(2)) });
        bands.push({ series: [data.length - 2, data.length - 1], fill: faint(stroke) });
      });
      place.replaceChildren();
      return new uPlot({
        width: Math.max(240, place.clientWidth), height: 250, bands, series,
        legend: { show: false }, cursor: { y: false, drag: { x: false, y: false } },
        scales: { x: { time: false } },
        axes: [{ ...axis, size: 34, incrs: [1, 2, 5, 10, 20, 50, 100] }, { ...axis, size: 44 }],
        hooks: { setCursor: [(plot) => tell(plot)] },
      }, data, place);
    };
    const tell = (plot) => {
      const place = plot.cursor.idx;
      label.textContent = place === null || place === undefined ? "" : `epoch ${epochs[place]}: ` + lines.map((line) => { const value = at(line, line.mean)[place]; return `${line.name} ${value === null ? "–" : value.toFixed(2)}`; }).join(" · ");
    };
    const legend = mtlue.element("p", { class: "small soft legend" });
    lines.forEach((line, number) => {
      const sample = mtlue.element("svg", { class: "sample", "aria-hidden": "true" }, mtlue.element("line", { x1: 0, x2: 28, y1: 10, y2: 10, "stroke-width": 3, "stroke-dasharray": (DASHES[line.dash ?? 0]).join(" ") || null }));
      sample.firstChild.style.stroke = line.color ? `var(${line.color})` : MORE[(number - 2 + MORE.length) % MORE.length];
      legend.append(sample, ` ${line.name} `);
    });
    const label = mtlue.element("p", { class: "small soft reading" });
    place.after(legend, label);
    let plot = draw();
    document.addEventListener("theme", () => { plot.destroy(); plot = draw(); });
    new ResizeObserver(() => plot.setSize({ width: Math.max(240, place.clientWidth), height: 250 })).observe(place);
  };

  mtlue.tableOfCurves = (lines) => {
    const { epochs, at } = merge(lines);
    const values = lines.map((line) => at(line, line.mean));
    const heading = (text) => mtlue.element("th", { scope: "col", class: "number" }, text);
    const head = mtlue.element("thead", {}, mtlue.element("tr", {}, heading("epoch"), ...lines.map((line) => heading(line.name))));
    const rows = epochs.map((epoch, place) => mtlue.element("tr", {}, mtlue.element("th", { scope: "row", class: "number" }, String(epoch)),
      ...values.map((column) => mtlue.element("td", { class: "number" }, column[place] === null ? "–" : column[place].toFixed(3)))));
    return mtlue.element("table", {}, mtlue.element("caption", {}, "Relative score by epoch"), head, mtlue.element("tbody", {}, ...rows));
  };

  document.addEventListener("DOMContentLoaded", () => {
    for (const figure of document.querySelectorAll("figure.curves")) {
      const source = figure.querySelector("script");
      if (!source) continue;
      const { lines } = JSON.parse(source.textContent);
      const drawn = Object.entries(lines).map(([name, line]) => ({ name, ...line, color: name === "clean" ? "--clean" : "--poison", dash: name === "clean" ? 1 : 0 }));
      mtlue.drawCurves(figure.querySelector(".canvas"), drawn);
      figure.querySelector("details .scroll").append(mtlue.tableOfCurves(drawn));
    }
  });
})();
