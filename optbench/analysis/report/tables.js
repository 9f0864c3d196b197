"use strict";
// Tables: a heading sorts, and a box above a longer table filters its rows by words. On paper all of them are open.
(function () {
  const COLLATOR = new Intl.Collator("en", {numeric: true}), FEW = 8;

  // The number that a cell shows, without its separators, its unit and its interval; null if it is none.
  function number(text) {
    const found = /^([+\-−]?)(\d[\d,]*\.?\d*(?:e[+-]?\d+)?|∞)/.exec(text);
    if (!found) return null;
    const size = found[2] === "∞" ? Infinity : Number(found[2].replace(/,/g, ""));
    return found[1] && found[1] !== "+" ? -size : size;
  }

  for (const table of document.querySelectorAll("table.sorted, table.claims")) {
    const body = table.tBodies[0], rows = [...body.rows], headings = [...table.tHead.rows[0].cells];
    if (rows.length < 2) continue;
    headings.forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const falls = heading.ariaSort === "ascending";
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", falls ? "descending" : "ascending");
        const texts = new Map(rows.map((row) => [row, row.cells[column].textContent]));
        const missing = (text) => text === "–" || text === "";
        // As in the table of runs, missing values are last in both directions.
        body.append(...rows.toSorted((one, other) => {
          const [a, b] = [texts.get(one), texts.get(other)];
          if (missing(a) || missing(b)) return missing(a) - missing(b);
          const [x, y] = [number(a), number(b)];
          const less = x !== null && y !== null && x !== y ? (x < y ? -1 : 1) : COLLATOR.compare(a, b);
          return falls ? -less : less;
        }));
      });
    });
    if (rows.length <= FEW) continue;
    const box = document.createElement("input"), tools = document.createElement("div"), count = document.createElement("span");
    Object.assign(box, {type: "search", placeholder: "Filter"});
    box.setAttribute("aria-label", "Filter the rows by words");
    Object.assign(count, {className: "small"});
    count.setAttribute("aria-live", "polite");
    tools.className = "tools";
    tools.append(box, count);
    table.parentNode.before(tools);
    box.addEventListener("input", () => {
      const asked = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) {
        const words = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
        row.hidden = !asked.every((word) => words.includes(word));
      }
      count.textContent = asked.length ? `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows` : "";
    });
  }

  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const folded of opened) folded.open = true;
  });
  window.addEventListener("afterprint", () => { for (const folded of opened) folded.open = false; });
}());
