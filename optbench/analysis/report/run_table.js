"use strict";
// The table of runs: sorts by any column, filters by words and by state, and opens what is known of a run.
(function () {
  const RUNS = DATA.runs, PAGE = 200, COLLATOR = new Intl.Collator("en", {numeric: true});
  const root = document.getElementById("run-table");
  const stateColumn = RUNS.columns.findIndex((column) => column.key === "state");
  let order = RUNS.rows.map((_, index) => index), sorted = null, descending = false, shown = PAGE;
  const words = RUNS.rows.map((row, index) => row.concat(Object.entries(RUNS.details[index]).map((pair) => pair.join("="))).join(" ").toLowerCase());
  const states = new Set();

  function element(name, attributes, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (key === "onclick") made.addEventListener("click", value); else made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
  }

  // As optbench.analysis.page.cell writes them.
  function text(value, column) {
    if (value === null) return "–";
    if (column && column.percent && typeof value === "number") return `${text(100 * value)} %`;
    if (typeof value === "boolean") return value ? "yes" : "no";
    if (typeof value !== "number") return String(value);
    if (Number.isInteger(value)) return Math.abs(value) >= 100000 ? value.toLocaleString("en-US") : String(value);
    const short = Number(value.toPrecision(4));
    return Math.abs(short) < 1e-4 || Math.abs(short) >= 1e6 ? short.toExponential() : String(short);
  }

  // Missing values are last in both directions.
  function compare(a, b) {
    const x = RUNS.rows[a][sorted], y = RUNS.rows[b][sorted];
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    const less = typeof x === "number" && typeof y === "number" ? x - y : COLLATOR.compare(String(x), String(y));
    return (descending ? -less : less) || a - b;
  }

  function sortBy(column) {
    descending = sorted === column && !descending;
    sorted = column;
    order.sort(compare);
    fill();
  }

  function isChosen(index, asked) {
    return (states.size === 0 || states.has(RUNS.rows[index][stateColumn])) && asked.every((word) => words[index].includes(word));
  }

  function chosen() {
    const asked = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    return order.filter((index) => isChosen(index, asked));
  }

  const search = element("input", {type: "search", placeholder: "Filter: adam batch=512", "aria-label": "Filter the runs by words"});
  search.addEventListener("input", () => { shown = PAGE; fill(); });
  const chips = element("div", {class: "states", role: "group", "aria-label": "Show only runs in these states"});
  const counted = new Map();
  for (const row of RUNS.rows) counted.set(row[stateColumn], (counted.get(row[stateColumn]) || 0) + 1);
  for (const [state, count] of counted) {
    const chip = element("button", {type: "button", "aria-pressed": "false", "data-state": state}, `${state} ${count}`);
    chip.addEventListener("click", () => {
      if (states.has(state)) states.delete(state); else states.add(state);
      chip.setAttribute("aria-pressed", String(states.has(state)));
      shown = PAGE;
      fill();
    });
    chips.append(chip);
  }
  const count = element("p", {class: "small", "aria-live": "polite"});
  const headings = RUNS.columns.map((column, index) =>
    element("th", column.number ? {class: "number"} : {}, element("button", {type: "button", onclick: () => sortBy(index)}, column.label)));
  const body = element("tbody");
  const more = element("button", {type: "button", class: "more", onclick: () => { shown += 5 * PAGE; fill(); }});
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...headings, RUNS.links ? element("th", {}, "files") : "")), body);
  root.append(element("div", {class: "tools"}, search, chips), count, element("div", {class: "wide", id: "runs-box"}, table), more);

  function fill() {
    const found = chosen();
    count.textContent = found.length === order.length ? `${order.length} runs` : `${found.length} of ${order.length} runs`;
    body.replaceChildren(...found.slice(0, shown).map(line));
    more.hidden = found.length <= shown;
    more.textContent = `Show more (${Math.max(0, found.length - shown)} left)`;
    headings.forEach((heading, index) => {
      if (index === sorted) heading.setAttribute("aria-sort", descending ? "descending" : "ascending"); else heading.removeAttribute("aria-sort");
    });
  }

  function line(index) {
    const row = element("tr", {"data-run": RUNS.rows[index][0]});
    RUNS.columns.forEach((column, place) => {
      const value = RUNS.rows[index][place];
      if (place === 0) {
        row.append(element("td", {class: "id"}, element("button", {type: "button", class: "open", "aria-expanded": "false", onclick: (event) => open(event.currentTarget, row, index)}, text(value))));
      } else if (place === stateColumn) {
        row.append(element("td", {}, element("span", {class: `state ${value}`}, text(value))));
      } else {
        row.append(element("td", column.number ? {class: "number"} : column.key === "why" ? {class: "why"} : {}, value === null && !column.number ? "" : text(value, column)));
      }
    });
    if (RUNS.links) {
      const files = element("td", {});
      for (const [label, address] of RUNS.links[index]) files.append(element("a", {href: address}, label), " ");
      row.append(files);
    }
    return row;
  }

  function open(button, row, index) {
    if (button.getAttribute("aria-expanded") === "true") {
      button.setAttribute("aria-expanded", "false");
      row.nextSibling.remove();
      return;
    }
    button.setAttribute("aria-expanded", "true");
    const inner = element("div", {class: "detail-inner"});
    const facts = element("dl");
    for (const [key, value] of Object.entries(RUNS.details[index])) facts.append(element("dt", {}, key), element("dd", {}, text(value)));
    inner.append(facts);
    const command = RUNS.commands && RUNS.commands[index];
    if (command) inner.append(element("p", {class: "small"}, "This run alone:"), element("pre", {}, element("code", {}, command)));
    row.after(element("tr", {class: "detail"}, element("td", {colspan: headings.length + (RUNS.links ? 1 : 0)}, inner)));
    const curves = DATA.curves && DATA.curves[index];
    if (!curves || !curves.step.length) return;
    const plot = element("div", {class: "plot"});
    inner.append(plot);
    const names = Object.keys(curves).filter((name) => name !== "step");
    const figure = JSON.parse(JSON.stringify(DATA.curveFigure));
    figure.data = names.map((name) => Object.assign({}, figure.looks[name], {
      x: curves.step, y: curves[name], name: name.replace(/_/g, " "), yaxis: name.endsWith("accuracy") ? "y2" : "y", connectgaps: true,
    }));
    if (!names.some((name) => name.endsWith("accuracy"))) delete figure.layout.yaxis2;
    draw(plot, figure);
  }

  // A run of a figure: shown whatever the filters were, and opened.
  window.openRun = (id) => {
    const index = RUNS.rows.findIndex((row) => row[0] === id);
    if (index < 0) return;
    search.value = "";
    states.clear();
    for (const chip of chips.children) chip.setAttribute("aria-pressed", "false");
    shown = Math.max(shown, order.indexOf(index) + 1);
    fill();
    const row = [...body.rows].find((one) => one.dataset.run === id);
    open(row.querySelector(".open"), row, index);
    row.scrollIntoView({block: "start"});
  };
  fill();
}());
