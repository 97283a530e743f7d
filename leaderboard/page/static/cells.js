// The list of all cells: a select per axis, words, order, a hundred lines at a time.
"use strict";
(() => {
  const { labels, axes, failed, protection, pages, per_file: perFile } = mtlue.data.cells;
  const LINES = 100;
  const names = Object.keys(labels);
  const isFailed = new Set(failed);
  const order = protection.map((_, place) => place);
  const columns = [...names, "protection"];
  const text = names.map((axis) => labels[axis].map((label) => (axis === "seed" ? `seed ${label}` : label).toLowerCase()));
  let sorting = null, first = 0, shown = order;
  const table = document.getElementById("cells"), search = document.getElementById("search");
  const choices = {};

  const valueOf = (column, place) => (column === "protection" ? protection[place] : axes[column][place]);
  const matches = (place, words) => {
    for (const axis of names) if (choices[axis].value !== "" && axes[axis][place] !== Number(choices[axis].value)) return false;
    return words.every((word) => names.some((axis, number) => text[number][axes[axis][place]].includes(word)));
  };

  const fill = () => {
    const rows = shown.slice(first, first + LINES).map((place) => {
      const link = mtlue.element("a", { href: `cell.html#${Math.floor(place / perFile)}:${pages[place]}` });
      link.textContent = isFailed.has(place) ? "failed" : protection[place] === null ? "no protection" : protection[place].toFixed(2);
      const cells = names.map((axis) => mtlue.element("td", axis === "seed" ? { class: "number" } : {}, String(labels[axis][axes[axis][place]])));
      return mtlue.element("tr", {}, ...cells, mtlue.element("td", { class: "number" }, link));
    });
    table.tBodies[0].replaceChildren(...rows);
    document.getElementById("position").textContent = shown.length ? `${first + 1} to ${Math.min(first + LINES, shown.length)} of ${shown.length}` : "none";
    document.getElementById("before").disabled = first === 0;
    document.getElementById("after").disabled = first + LINES >= shown.length;
  };

  const show = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    shown = order.filter((place) => matches(place, words));
    if (sorting) {
      const [column, sign] = sorting;
      const missing = (place) => valueOf(column, place) === null;
      shown.sort((a, b) => missing(a) - missing(b) || sign * (valueOf(column, a) - valueOf(column, b)) || a - b);
    }
    first = 0;
    document.getElementById("result").textContent = `${shown.length} of ${order.length} cells.`;
    fill();
  };

  for (const column of columns) {
    const button = mtlue.element("button", { type: "button" }, column);
    const heading = mtlue.element("th", { scope: "col", class: column === "protection" || column === "seed" ? "number" : null }, button);
    button.addEventListener("click", () => {
      const isAgain = sorting && sorting[0] === column;
      sorting = [column, isAgain ? -sorting[1] : column === "protection" ? -1 : 1];
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", sorting[1] > 0 ? "ascending" : "descending");
      show();
    });
    if (column !== "protection") {
      choices[column] = mtlue.element("select", { "aria-label": `only this ${column}` }, mtlue.element("option", { value: "" }, "all"));
      labels[column].forEach((label, place) => choices[column].append(mtlue.element("option", { value: place }, label)));
      choices[column].addEventListener("change", show);
      choices[column].hidden = labels[column].length < 2;
      heading.append(choices[column]);
    }
    table.tHead.rows[0].append(heading);
  }

  const fromAddress = () => {
    for (const part of location.hash.slice(1).split("&")) {
      const [axis, label] = part.split("=");
      const place = label === undefined || !choices[axis] ? -1 : labels[axis].indexOf(decodeURIComponent(label));
      if (place >= 0) choices[axis].value = String(place);
    }
  };

  document.getElementById("before").addEventListener("click", () => { first = Math.max(0, first - LINES); fill(); });
  document.getElementById("after").addEventListener("click", () => { first += LINES; fill(); });
  const form = document.getElementById("controls");
  form.addEventListener("submit", (event) => event.preventDefault());
  search.addEventListener("input", show);
  for (const part of [form, table, document.getElementById("pager")]) part.hidden = false;
  fromAddress();
  show();
})();
