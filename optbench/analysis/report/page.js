"use strict";
// Unpacks the data of the page and plotly.js, and draws the figures, each as wide as its place, with its panels in one column
// where the page is narrow. The text of the page is there before, and stays if anything of this fails.
let DATA;
const NARROW = window.matchMedia("(max-width: 640px)");
const CONFIG = {responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"]};

async function unpack(id) {
  if (!window.DecompressionStream) throw new Error("this browser has no DecompressionStream, which browsers have had since 2023");
  const packed = atob(document.getElementById(id).textContent), bytes = new Uint8Array(packed.length);
  for (let place = 0; place < packed.length; place++) bytes[place] = packed.charCodeAt(place);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  // The browser's own message would be of a network, which is not used.
  return new Response(stream).text().catch(() => { throw new Error("a packed part of this file is damaged"); });
}

// From columns, which take less room, to what run_table.js reads: for each run its row, its settings, its links and its curves.
function byRun(data) {
  const {runs, curves} = data;
  if (!runs) return data;
  const settings = Object.entries(runs.settings), ids = runs.values[0];
  runs.rows = ids.map((_, run) => runs.values.map((column) => column[run]));
  runs.details = ids.map((_, run) => Object.fromEntries(settings.map(([name, column]) => [name, column[run]]).filter(([, value]) => value !== null)));
  runs.links = runs.files && ids.map((id, run) => runs.files.names.filter((_, bit) => runs.files.there[run] >> bit & 1)
    .map(([label, name]) => [label, `${runs.files.folder}/${encodeURIComponent(id)}/${name}`]));
  if (curves) {
    let start = 0;
    data.curves = curves.lengths.map((length) => {
      const columns = Object.entries(curves.values).map(([name, values]) => [name, values.slice(start, start + length)]);
      start += length;
      return Object.fromEntries(columns.filter(([, values]) => values.some((value) => value !== null)).concat(length ? [] : [["step", []]]));
    });
  }
  return data;
}

const UNPACKED = unpack("data").then((text) => { DATA = byRun(JSON.parse(text)); });
// After the data, for the table of runs is not to wait for it.
const PLOTLY = UNPACKED.then(async () => {
  if (!document.getElementById("plotly")) return;
  const script = document.createElement("script");
  script.textContent = await unpack("plotly");
  document.head.append(script);
  if (!window.Plotly) throw new Error("the drawing program in this file does not start");
});

function say(place, what, error) {
  const message = document.createElement("p");
  message.className = "banner";
  message.textContent = `${what} cannot be shown: ${String(error.message || error).replace(/\.$/, "")}.`;
  place.replaceChildren(message);
  place.classList.remove("plot");
}

function afterUnpacking(program) {
  UNPACKED.then(program, (error) => say(document.getElementById("run-table"), "The table of runs", error));
}

// A copy: plotly writes into what it is given. On a narrow page there is no room for wide margins, nor for a tool bar.
function layoutOf(figure) {
  const layout = JSON.parse(JSON.stringify(NARROW.matches && figure.narrow ? figure.narrow : figure.layout));
  if (NARROW.matches) {
    layout.font = Object.assign({}, layout.font, {size: 12});
    layout.margin = Object.assign({}, layout.margin, {l: 8, r: 8});
    for (const key of Object.keys(layout)) {
      if (key.startsWith("yaxis")) layout[key] = Object.assign({}, layout[key], {automargin: true});
    }
  } else if (!figure.data.some((trace) => trace.colorbar)) {
    // The tool bar has a column of its own, where it hides neither the legend nor points.
    layout.modebar = {orientation: "v"};
    layout.margin = Object.assign({}, layout.margin, {r: 48});
  }
  return layout;
}

function draw(place, figure) {
  return PLOTLY.then(() => {
    const config = Object.assign({displayModeBar: NARROW.matches ? false : "hover"}, CONFIG);
    return Plotly.react(place, JSON.parse(JSON.stringify(figure.data)), layoutOf(figure), config);
  }, (error) => say(place, "The curves", error));
}

// One after another, and each is seen before the next is drawn: many take seconds.
async function drawAll() {
  for (const place of document.querySelectorAll("[data-figure]")) {
    await draw(place, DATA.figures[Number(place.dataset.figure)]);
    await new Promise((resolve) => setTimeout(resolve));
  }
}

PLOTLY.then(() => {
  drawAll();
  NARROW.addEventListener("change", drawAll);
  // Paper has another width than the screen.
  window.addEventListener("beforeprint", () => document.querySelectorAll(".js-plotly-plot").forEach((plot) => Plotly.Plots.resize(plot)));
}, (error) => {
  const [first, ...others] = document.querySelectorAll("[data-figure]");
  if (first) say(first, "The figures", error);
  for (const place of others) place.hidden = true;
});
