// Draws the figures, each as wide as its place, with its panels in one column where the page is narrow. The text of the page is
// there before, and stays if anything of this fails.
let DATA;
const NARROW = window.matchMedia("(max-width: 640px)"), DARK = window.matchMedia("(prefers-color-scheme: dark)");
let printing = false;
const CONFIG = {responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"]};

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

// What is unpacked would otherwise delay the first view of the text. A page in the background has no frames to wait for.
const SEEN = new Promise((seen) => {
  requestAnimationFrame(() => setTimeout(seen));
  setTimeout(seen, 500);
});
const UNPACKED = SEEN.then(() => unpack("data")).then((text) => { DATA = byRun(JSON.parse(text)); });
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

// A colour for a dark page: the same hue with its lightness turned, so that the order of shades is turned with the paper.
function turned(colour) {
  const found = /^#([0-9a-f]{6})$/i.exec(colour), parts = /^rgba\((\d+), (\d+), (\d+), ([\d.]+)\)$/.exec(colour);
  if (!found && !parts && colour !== "black") return colour;
  const number = found ? parseInt(found[1], 16) : 0;
  const rgb = (parts ? parts.slice(1, 4).map(Number) : [number >> 16, number >> 8 & 255, number & 255]).map((value) => value / 255);
  const most = Math.max(...rgb), least = Math.min(...rgb), light = (most + least) / 2, range = most - least;
  const strength = range && range / (1 - Math.abs(2 * light - 1)), to = 0.92 - 0.72 * light;
  const most2 = strength * (1 - Math.abs(2 * to - 1));
  const made = rgb.map((value) => Math.round(255 * (to + (range ? ((value - least) / range - 0.5) * most2 : 0))));
  return `rgba(${made.join(", ")}, ${parts ? parts[4] : 1})`;
}

// Turns every colour within a trace or a layout.
function turnColours(value) {
  if (!value || typeof value !== "object") return;
  for (const [name, inner] of Object.entries(value)) {
    if (typeof inner === "string" && /color$/.test(name)) value[name] = turned(inner);
    else if (!["x", "y", "z", "customdata", "meta", "colorscale", "template"].includes(name)) turnColours(inner);
  }
}

function isDark() {
  return DARK.matches && !printing;
}

function dataOf(figure) {
  const data = JSON.parse(JSON.stringify(figure.data));
  if (isDark()) turnColours(data);
  return data;
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
  if (isDark()) {
    const [ink, line] = ["#e6e6e6", "#3d4046"];
    turnColours(layout);
    Object.assign(layout, {paper_bgcolor: "rgba(0, 0, 0, 0)", plot_bgcolor: "rgba(0, 0, 0, 0)"});
    layout.font = Object.assign({}, layout.font, {color: ink});
    layout.modebar = Object.assign({}, layout.modebar, {bgcolor: "rgba(0, 0, 0, 0)", color: "#9a9a9a", activecolor: ink});
    for (const axis of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
      layout[axis] = Object.assign({}, layout[axis], {gridcolor: line, linecolor: ink, tickcolor: ink});
    }
  }
  return layout;
}

function draw(place, figure) {
  return PLOTLY.then(() => {
    const config = Object.assign({displayModeBar: NARROW.matches ? false : "hover"}, CONFIG);
    place.redraw = () => Plotly.react(place, dataOf(figure), layoutOf(figure), config);
    return place.redraw();
  }, (error) => say(place, "The curves", error));
}

// One after another, and each is seen before the next is drawn: many take seconds. A folded figure has no width before it is opened.
async function drawAll(within = document) {
  for (const place of within.querySelectorAll("[data-figure]")) {
    if (place.closest("details:not([open])")) continue;
    await draw(place, DATA.figures[Number(place.dataset.figure)]);
    if (!place.opensRuns && place.on) {
      place.opensRuns = true;
      place.on("plotly_click", ({points: [point]}) => {
        const run = ((point.data.meta || {}).runs || [])[point.pointNumber];
        if (run && window.openRun) window.openRun(run);
      });
    }
    await new Promise((resolve) => setTimeout(resolve));
  }
}

PLOTLY.then(() => {
  drawAll();
  NARROW.addEventListener("change", () => drawAll());
  document.querySelectorAll("details.folded").forEach((folded) => folded.addEventListener("toggle", () => drawAll(folded)));
  const redraw = () => document.querySelectorAll(".js-plotly-plot").forEach((plot) => plot.redraw());
  DARK.addEventListener("change", redraw);
  // Paper has another width than the screen, and is white.
  for (const [event, prints] of [["beforeprint", true], ["afterprint", false]]) {
    window.addEventListener(event, () => {
      printing = prints;
      redraw();
      document.querySelectorAll(".js-plotly-plot").forEach((plot) => { if (plot.offsetParent) Plotly.Plots.resize(plot); });
    });
  }
}, (error) => {
  const [first, ...others] = document.querySelectorAll("[data-figure]");
  if (first) say(first, "The figures", error);
  for (const place of others) place.hidden = true;
});
