"use strict";

const touch = matchMedia("(pointer: coarse)").matches;

/* Figures come without ink: they take the page's, light or dark. */
function template() {
  const style = getComputedStyle(document.body);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = {
    gridcolor: colour("--line"), linecolor: colour("--line"), zeroline: false, showline: false,
    ticks: "outside", ticklen: 6, tickcolor: "rgba(0,0,0,0)", // keeps the two axes' labels apart
    tickfont: { color: colour("--soft") }, title: { font: { color: colour("--soft"), size: 13 } },
  };
  return {
    layout: {
      font: { family: style.fontFamily, size: 12, color: colour("--ink") },
      paper_bgcolor: colour("--paper"), plot_bgcolor: colour("--paper"),
      xaxis: axis, yaxis: axis, dragmode: touch ? false : "zoom",
      legend: { orientation: "h", x: 0, xref: "container", y: 0, yref: "container", yanchor: "bottom", maxheight: 4000, font: { size: 12 } },
      hoverlabel: { bgcolor: colour("--panel"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--accent") },
    },
  };
}

/* Plotly fits the legend into the figure: give it as much more height as its lines will take. */
function legendHeight(traces, width) {
  const named = traces.filter((trace) => trace.showlegend !== false);
  if (named.length < 2) return 0;
  const longest = Math.max(...named.map((trace) => trace.name.length));
  const perLine = Math.max(1, Math.floor(width / (60 + 7 * longest)));
  return 20 + 20 * Math.ceil(named.length / perLine);
}

function draw(place) {
  const { data, layout } = JSON.parse(place.previousElementSibling.textContent);
  const height = layout.height + legendHeight(data, place.clientWidth);
  const options = {
    displaylogo: false, responsive: true, displayModeBar: place.dataset.small ? false : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: { filename: place.dataset.name, format: "png", scale: 2 },
  };
  Plotly.react(place, data, { ...layout, height, template: template() }, options);
}

/* What is folded away has no width to be drawn to. */
function drawAll() {
  for (const place of document.querySelectorAll(".plot")) {
    if (!place.closest("details:not([open])")) draw(place);
  }
}

function sort(table, header) {
  const column = header.cellIndex;
  const descending = header.getAttribute("aria-sort") !== "descending";
  for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const value = (row) => row.cells[column].dataset.value ?? "";
  const compare = (one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === "" || b === "") return (a === "") - (b === ""); // what is missing stays below
    const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
    return descending ? -order : order;
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
}

for (const table of document.querySelectorAll("table.sortable")) {
  table.tHead.addEventListener("click", (event) => {
    if (event.target.closest("button")) sort(table, event.target.closest("th"));
  });
}
for (const input of document.querySelectorAll("input[data-filter]")) {
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const table = document.getElementById(input.dataset.filter);
    table.classList.toggle("filtered", words.length > 0); // what is asked for is not folded away
    for (const row of table.tBodies[0].rows) {
      const name = row.cells[0].textContent.toLowerCase();
      row.hidden = words.length > 0 && !words.some((word) => name.includes(word));
    }
  });
}
for (const folded of document.querySelectorAll("details")) folded.addEventListener("toggle", drawAll);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== width) drawAll();
  width = innerWidth;
});
drawAll();
