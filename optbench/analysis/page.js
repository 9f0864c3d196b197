"use strict";
// Draws the figures of the page, each as wide as its place, with its panels in one column where the page is narrow.
const DATA = JSON.parse(document.getElementById("data").textContent);
const NARROW = window.matchMedia("(max-width: 640px)");
const CONFIG = {responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"]};

// A copy: plotly writes into what it is given. On a narrow page there is no room for wide margins, nor for a tool bar.
function layoutOf(figure) {
  const layout = JSON.parse(JSON.stringify(NARROW.matches && figure.narrow ? figure.narrow : figure.layout));
  if (NARROW.matches) {
    layout.font = Object.assign({}, layout.font, {size: 12});
    layout.margin = Object.assign({}, layout.margin, {l: 8, r: 8});
    for (const key of Object.keys(layout)) {
      if (key.startsWith("yaxis")) layout[key] = Object.assign({}, layout[key], {automargin: true});
    }
  }
  return layout;
}

function draw(place, figure) {
  return Plotly.react(place, JSON.parse(JSON.stringify(figure.data)), layoutOf(figure), Object.assign({displayModeBar: NARROW.matches ? false : "hover"}, CONFIG));
}

function drawAll() {
  for (const place of document.querySelectorAll("[data-figure]")) draw(place, DATA.figures[Number(place.dataset.figure)]);
}

if (DATA.figures) {
  drawAll();
  NARROW.addEventListener("change", drawAll);
  // Paper has another width than the screen.
  window.addEventListener("beforeprint", () => document.querySelectorAll(".js-plotly-plot").forEach((plot) => Plotly.Plots.resize(plot)));
}
