// Small pictures in SVG. Colours come from the style sheet, by the name of a model or a verdict.

const SVG = "http://www.w3.org/2000/svg";

function drawn(name, attributes, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** A line from 0 to 100 %, with an interval and its value. */
export function interval(tone, { value, low, high }) {
  return drawn(
    "svg", { viewBox: "0 0 200 16", preserveAspectRatio: "none", class: tone, "aria-hidden": "true" },
    drawn("line", { class: "track", x1: 0, x2: 200, y1: 8, y2: 8 }),
    drawn("line", { class: "interval", x1: 200 * low, x2: 200 * high, y1: 8, y2: 8 }),
    drawn("rect", { class: "value", x: 200 * value - 1.5, y: 2, width: 3, height: 12 }),
  );
}

/** Lines over the last batches, and below them a cell for each batch's verdict. */
export function history(points, lines, { least, most, height = 44, cells = false }) {
  const right = Math.max(points.length - 1, 1), below = cells ? 10 : 0;
  const at = (value) => 2 + (height - 4) * (1 - (value - least) / (most - least || 1));
  const parts = [0, height].map((y) => drawn("line", { class: "grid", x1: 0, x2: right + 1, y1: y, y2: y }));
  for (const name of lines) {
    const known = points.map((point, x) => [x + 0.5, point[name]]).filter(([, value]) => Number.isFinite(value));
    const path = known.map(([x, value]) => `${x},${at(value).toFixed(2)}`).join(" ");
    parts.push(drawn("polyline", { class: `line ${name === "latency_ms" ? "each" : name}`, points: path }));
  }
  if (cells) {
    points.forEach((point, x) => {
      const tone = point.learning === "roll back" ? "back" : point.verdict;
      if (tone) parts.push(drawn("rect", { class: `cell ${tone}`, x: x + 0.05, y: height + 3, width: 0.9, height: 7 }));
    });
  }
  const box = `0 0 ${right + 1} ${height + below}`;
  const node = drawn("svg", { viewBox: box, preserveAspectRatio: "none", "aria-hidden": "true" }, ...parts);
  node.style.height = `${height + below}px`;
  return node;
}
