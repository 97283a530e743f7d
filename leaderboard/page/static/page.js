// Loaded in the head of every page: the theme before anything is painted, then the tables.
"use strict";
const mtlue = { data: {} };

mtlue.remember = (name, value) => {
  // A browser can forbid storage to pages from disk. Then the choice lasts as long as the page.
  try {
    if (value === undefined) return localStorage.getItem(`mtlue-${name}`);
    localStorage.setItem(`mtlue-${name}`, value);
  } catch { /* nothing is remembered */ }
  return null;
};

mtlue.prefersDark = matchMedia("(prefers-color-scheme: dark)");
mtlue.isDark = () => (document.documentElement.dataset.theme ?? (mtlue.prefersDark.matches ? "dark" : "light")) === "dark";

mtlue.theme = mtlue.remember("theme");
if (mtlue.theme === "dark" || mtlue.theme === "light") document.documentElement.dataset.theme = mtlue.theme;

mtlue.element = (name, attributes = {}, ...children) => {
  const made = name === "svg" || mtlue.SHAPES.has(name)
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== undefined) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
};
mtlue.SHAPES = new Set(["line", "rect", "circle"]);

// ---- tables: a button in every heading of a table of class "sortable"

mtlue.sortValue = (cell) => {
  const text = cell.dataset.value ?? cell.textContent.trim();
  const number = Number.parseFloat(text.replace("−", "-"));
  return text === "" || text === "–" ? null : Number.isNaN(number) || !/^[-−+±]?[\d.]/.test(text) ? text : number;
};

mtlue.compare = (a, b) => {
  if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
  return typeof a === "number" ? -1 : 1;
};

mtlue.sortRows = (table, column, direction) => {
  const sign = direction === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows].map((row) => [mtlue.sortValue(row.cells[column]), row]);
  rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * mtlue.compare(a, b)));
  table.tBodies[0].append(...rows.map(([, row]) => row)); // rows without a value stay last
  for (const heading of table.tHead.rows[0].cells) heading.removeAttribute("aria-sort");
  table.tHead.rows[0].cells[column].setAttribute("aria-sort", direction);
};

mtlue.makeSortable = (table) => {
  for (const heading of table.tHead.rows[0].cells) {
    const button = mtlue.element("button", { type: "button" }, ...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const column = heading.cellIndex;
      const first = table.tBodies[0].rows[0]?.cells[column];
      const before = heading.getAttribute("aria-sort");
      const usual = first && typeof mtlue.sortValue(first) === "number" && heading.textContent.trim() !== "#" ? "descending" : "ascending";
      const other = usual === "ascending" ? "descending" : "ascending";
      mtlue.sortRows(table, column, before === usual ? other : usual);
    });
  }
};

document.addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme");
  const name = () => { button.textContent = mtlue.isDark() ? "Light" : "Dark"; button.setAttribute("aria-label", `${button.textContent} colors`); };
  button.hidden = false;
  name();
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = mtlue.isDark() ? "light" : "dark";
    mtlue.remember("theme", document.documentElement.dataset.theme);
    name();
    document.dispatchEvent(new Event("theme"));
  });
  mtlue.prefersDark.addEventListener("change", () => { name(); document.dispatchEvent(new Event("theme")); });
  document.querySelectorAll("table.sortable").forEach(mtlue.makeSortable);
});
