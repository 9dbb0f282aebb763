"use strict";
// What both pages are drawn with. Charts are inline SVG: they take the page's colours, print sharply and need nothing but this
// file. A value that is null or no number is a gap.

// --- elements; text is always text, never markup ---

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes))
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}
const html = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const svg = (name, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

function section(id, title, ...children) {
  return html("section", { id }, html("h2", {}, title), ...children);
}

const swatch = (colour) => (colour ? html("span", { class: "swatch", style: `background:${colour}` }) : null);

// --- numbers ---

const known = (value) => typeof value === "number" && Number.isFinite(value);
const NONE = "\u2013";

// A fraction as percent.
function percent(fraction, digits = 2) {
  if (!known(fraction)) return NONE;
  const value = 100 * fraction;
  const smallest = 10 ** -digits;
  if (value > 0 && value < 0.5 * smallest) return `<${smallest}`;
  return value.toFixed(digits);
}

// A number at an axis: no digits that say nothing.
const axisText = (text) => (known(Number(text)) && !text.includes("e") ? String(Number(text)) : text);

// Three significant digits.
function brief(value) {
  if (!known(value)) return NONE;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(1).replace("e+", "e");
  return size >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}

function duration(seconds) {
  if (!known(seconds)) return NONE;
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
  return `${Math.floor(s / 3600)} h ${String(Math.floor(s / 60) % 60).padStart(2, "0")} min`;
}

// "2026-11-24T16:50:01Z" for people.
const dateText = (date) => date.replace(/^(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(:\d\d)?Z$/, "$1 $2 UTC");

// A sentence of the log: `commands` as code, arrows as such.
function worded(text) {
  return text.replaceAll(" -> ", " → ").split("`").map((part, i) => (i % 2 ? html("code", {}, part) : part));
}

function plural(count, word) {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}

// About `count` round numbers from low to high.
function ticks(low, high, count) {
  if (!(high > low)) return [low];
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const result = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; ++i) result.push(i * step);
  return result;
}

// --- one cursor for all charts over epochs ---

const cursor = {
  listeners: [],
  show(epoch) {
    for (const listener of this.listeners) listener(epoch);
  },
};

// Calls draw(width) now and whenever the width of `host` changes.
function redraw(host, draw) {
  let last = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (width === 0 || width === last) return;
    last = width;
    requestAnimationFrame(() => draw(width));  // not within the observer, which would have to start over
  }).observe(host);
}

function pathOf(points, x, y) {
  let path = "";
  let open = false;
  for (const [epoch, value] of points) {
    if (known(value)) path += `${open ? "L" : "M"}${x(epoch).toFixed(1)} ${y(value).toFixed(1)}`;
    open = known(value);
  }
  return path;
}

// Points with no known neighbour: a path does not show them.
function lonely(points) {
  return points.filter(
    ([, value], i) => known(value) && !(i > 0 && known(points[i - 1][1])) && !(i + 1 < points.length && known(points[i + 1][1])),
  );
}

const lineSample = (colour, dash) =>
  svg(
    "svg",
    { width: 22, height: 8, "aria-hidden": "true" },
    svg("line", { x1: 1, x2: 21, y1: 4, y2: 4, stroke: colour, "stroke-width": 2.4, "stroke-dasharray": dash }),
  );

// Curves over epochs.
//   series   [{name, colour, dash, points: [[epoch, value], ..]}]
//   format   value -> text;  low, high: fixed ends of the scale, where given;  span: [first, last] epoch of the axis
//   marks    [{epoch, value, text, colour}]
// Below the curves stand the newest values, or those of the epoch that is pointed at. Null where nothing is known.
function lineChart({ title, series, format = brief, low, high, span, marks = [], height = 225 }) {
  series = series.filter(({ points }) => points.some(([, value]) => known(value)));
  if (series.length === 0) return null;
  const epochs = [...new Set(series.flatMap(({ points }) => points.map(([epoch]) => epoch)))].sort((a, b) => a - b);
  const values = series.flatMap(({ points }) => points.map(([, value]) => value)).filter(known);
  const at = html("span", { class: "at" });
  const plot = html("div", { class: "plot", tabindex: 0 });
  const outputs = series.map(() => html("output"));
  const newest = series.map(({ points }) => points.findLast(([, value]) => known(value)));
  let place = null;
  let line = null;
  let dots = null;

  function draw(width) {
    const narrow = width < 420;
    const range = [low ?? Math.min(...values), high ?? Math.max(...values)];
    if (range[0] === range[1]) {
      const pad = Math.abs(range[0]) * 0.1 || 0.1;
      if (low === undefined) range[0] -= pad;
      if (high === undefined) range[1] += pad;
    } else {
      const pad = (range[1] - range[0]) * 0.06;
      if (low === undefined) range[0] -= pad;
      if (high === undefined) range[1] += pad;
    }
    const yTicks = ticks(range[0], range[1], 5);
    const left = Math.max(38, 8 + 6.6 * Math.max(...yTicks.map((tick) => axisText(format(tick)).length)));
    const [right, top, bottom] = [width - 12, 12, height - 24];
    const [first, last] = span;
    const x = (epoch) => (last === first ? (left + right) / 2 : left + ((epoch - first) / (last - first)) * (right - left));
    const y = (value) => bottom - ((value - range[0]) / (range[1] - range[0])) * (bottom - top);
    place = { x, y, left, right, top, bottom };

    const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label() });
    for (const tick of yTicks) {
      drawing.append(svg("line", { class: "gridline", x1: left, x2: right, y1: y(tick), y2: y(tick) }));
      drawing.append(svg("text", { x: left - 5, y: y(tick) + 4, "text-anchor": "end" }, axisText(format(tick))));
    }
    drawing.append(svg("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
    drawing.append(svg("text", { x: 0, y: height - 8 }, "epoch"));
    for (const tick of ticks(first, last, narrow ? 4 : 7).filter(Number.isInteger))
      drawing.append(svg("text", { x: x(tick), y: height - 8, "text-anchor": x(tick) < left + 8 ? "start" : "middle" }, tick));
    for (const { colour, dash, points } of series) {
      drawing.append(svg("path", { class: "curve", d: pathOf(points, x, y), stroke: colour, "stroke-dasharray": dash }));
      const shown = points.length <= 30 ? points.filter(([, value]) => known(value)) : lonely(points);
      for (const [epoch, value] of shown) drawing.append(svg("circle", { cx: x(epoch), cy: y(value), r: 2.6, fill: colour }));
    }
    for (const { epoch, value, text, colour } of marks) {
      const [cx, cy] = [x(epoch), y(value)];
      const anchor = cx > right - 50 ? "end" : cx < left + 50 ? "start" : "middle";
      drawing.append(svg("circle", { cx, cy, r: 5, fill: "var(--page)", stroke: colour, "stroke-width": 2.2 }));
      drawing.append(svg("text", { class: "strong", x: cx, y: cy - 10 < top ? cy + 19 : cy - 9, "text-anchor": anchor }, text));
    }
    line = svg("line", { class: "cursor", y1: top, y2: bottom, visibility: "hidden" });
    dots = series.map(({ colour }) => svg("circle", { r: 3.6, fill: colour, stroke: "var(--page)", visibility: "hidden" }));
    drawing.append(line, ...dots);
    plot.replaceChildren(drawing);
  }

  const label = () => `${title}: ` + series.map(({ name }, i) => `${name} ${newest[i][1] === null ? NONE : format(newest[i][1])}`).join(", ");
  function show(epoch) {
    at.textContent = epoch === null ? "" : `epoch ${epoch}`;
    series.forEach(({ points }, i) => {
      const point = epoch === null ? newest[i] : points.find(([e]) => e === epoch);
      outputs[i].textContent = point && known(point[1]) ? format(point[1]) : NONE;
      if (!dots) return;
      const visible = epoch !== null && point && known(point[1]);
      dots[i].setAttribute("visibility", visible ? "visible" : "hidden");
      if (!visible) return;
      dots[i].setAttribute("cx", place.x(epoch));
      dots[i].setAttribute("cy", place.y(point[1]));
    });
    if (!line) return;
    const inside = epoch !== null && epoch >= epochs[0] && epoch <= epochs[epochs.length - 1];
    line.setAttribute("visibility", inside ? "visible" : "hidden");
    if (!inside) return;
    line.setAttribute("x1", place.x(epoch));
    line.setAttribute("x2", place.x(epoch));
  }

  let pointed = epochs.length - 1;
  function pointAt(event) {
    const box = plot.getBoundingClientRect();
    const epochAt = (i) => Math.abs(place.x(epochs[i]) - (event.clientX - box.left));
    pointed = 0;
    for (let i = 1; i < epochs.length; ++i) if (epochAt(i) < epochAt(pointed)) pointed = i;
    cursor.show(epochs[pointed]);
  }
  plot.addEventListener("pointermove", pointAt);
  plot.addEventListener("pointerdown", pointAt);
  plot.addEventListener("pointerleave", () => cursor.show(null));
  plot.addEventListener("blur", () => cursor.show(null));
  plot.addEventListener("keydown", ({ key }) => {
    if (key !== "ArrowLeft" && key !== "ArrowRight") return;
    pointed = Math.max(0, Math.min(epochs.length - 1, pointed + (key === "ArrowLeft" ? -1 : 1)));
    cursor.show(epochs[pointed]);
  });
  cursor.listeners.push(show);
  redraw(plot, draw);
  show(null);
  const legend = series.map(({ name, colour, dash }, i) =>
    html("span", { class: "item" }, lineSample(colour, dash), html("span", {}, name), outputs[i]),
  );
  return html("figure", {}, html("figcaption", {}, html("span", {}, title), at), plot, html("div", { class: "legend" }, legend));
}

// One small chart of a fraction, on the scale 0..1 and over `first`..`last` that all its neighbours share.
//   series   [{colour, dash, points}]; where there is but one, its value stands beside the title
function smallMultiple({ title, colour, series, first, last, below }) {
  const [width, height, left, right, top, bottom] = [170, 84, 22, 166, 5, 79];
  const x = (epoch) => (last === first ? (left + right) / 2 : left + ((epoch - first) / (last - first)) * (right - left));
  const y = (value) => bottom - value * (bottom - top);
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  for (const tick of [0, 0.5, 1]) {
    drawing.append(svg("line", { class: "gridline", x1: left, x2: right, y1: y(tick), y2: y(tick) }));
    drawing.append(svg("text", { x: left - 4, y: y(tick) + 4, "text-anchor": "end", style: "font-size:9px" }, 100 * tick));
  }
  for (const { colour: stroke, dash, points } of series) {
    drawing.append(svg("path", { class: "curve", d: pathOf(points, x, y), stroke, "stroke-dasharray": dash }));
    for (const [epoch, value] of lonely(points)) drawing.append(svg("circle", { cx: x(epoch), cy: y(value), r: 2.2, fill: stroke }));
  }
  const line = svg("line", { class: "cursor", y1: top, y2: bottom, visibility: "hidden" });
  drawing.append(line);
  const output = html("span", { class: "at" });
  function show(epoch) {
    if (series.length === 1) {
      const [{ points }] = series;
      const point = epoch === null ? points.findLast(([, value]) => known(value)) : points.find(([e]) => e === epoch);
      output.textContent = point ? percent(point[1], 1) : NONE;
    }
    const inside = epoch !== null && epoch >= first && epoch <= last;
    line.setAttribute("visibility", inside ? "visible" : "hidden");
    if (!inside) return;
    line.setAttribute("x1", x(epoch));
    line.setAttribute("x2", x(epoch));
  }
  cursor.listeners.push(show);
  show(null);
  return html(
    "figure",
    { title },
    html("figcaption", {}, html("span", {}, swatch(colour), title), output),
    html("div", { class: "plot" }, drawing),
    html("div", { class: "below" }, below),
  );
}

// --- dots by class ---

const SHAPES = [
  (x, y, colour) => svg("circle", { cx: x, cy: y, r: 4.6, fill: colour }),
  (x, y, colour) => svg("path", { d: `M${x} ${y - 5.8}L${x + 5.8} ${y}L${x} ${y + 5.8}L${x - 5.8} ${y}Z`, fill: colour }),
  (x, y, colour) => svg("path", { d: `M${x} ${y - 5.4}L${x + 5.4} ${y + 4.4}L${x - 5.4} ${y + 4.4}Z`, fill: colour }),
  (x, y, colour) => svg("rect", { x: x - 3.7, y: y - 3.7, width: 7.4, height: 7.4, fill: "none", stroke: colour, "stroke-width": 2 }),
];

// Fractions of each class on one line, each series with a colour and a shape of its own.
//   rows     names;  series  [{name, colour, values: [by row]}]
//   log      a logarithmic scale, with 0 in a column of its own
// Null where nothing is known.
function dotPlot({ title, rows, series, log }) {
  series = series.filter(({ values }) => values.some(known));
  if (series.length === 0) return null;
  const plot = html("div", { class: "plot" });
  const at = html("span", { class: "at" });
  const outputs = series.map(() => html("output"));
  const pitch = 21;
  const height = rows.length * pitch + 30;

  function draw(width) {
    const longest = Math.max(...rows.map((name) => name.length));
    const left = Math.min(20 + 6.4 * longest, width * 0.34);
    const [right, bottom] = [width - 22, height - 26];
    const zero = left + 8;
    const all = series.flatMap(({ values }) => values).filter(known);
    const smallest = Math.min(...all.filter((value) => value > 0), 0.1);
    const decades = log ? Math.max(1, Math.min(5, Math.ceil(-Math.log10(smallest)))) : 0;
    const start = log ? left + 40 : left + 8;
    const x = (value) => {
      if (!log) return start + value * (right - start);
      if (value === 0) return zero;
      return start + Math.max(0, 1 + Math.log10(value) / decades) * (right - start);
    };
    const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
    const marks = log ? [0, ...Array.from({ length: decades + 1 }, (_, i) => 10 ** (i - decades))] : [0, 0.25, 0.5, 0.75, 1];
    for (const mark of marks) {
      drawing.append(svg("line", { class: "gridline", x1: x(mark), x2: x(mark), y1: 2, y2: bottom }));
      const text = String(Number((100 * mark).toPrecision(2)));
      const crowded = log && width < 420 && mark > 0 && mark < 1 && Math.round(Math.log10(mark)) % 2 !== 0;
      if (!crowded) drawing.append(svg("text", { x: x(mark), y: height - 9, "text-anchor": "middle" }, mark === 1 ? `${text} %` : text));
    }
    rows.forEach((name, row) => {
      const y = 12 + row * pitch;
      const places = series.map(({ values }) => (known(values[row]) ? x(values[row]) : null));
      const ends = places.filter((place) => place !== null);
      const room = Math.max(3, Math.floor((left - 6) / 6.4));
      drawing.append(
        svg("text", { class: "name", x: left - 6, y: y + 4, "text-anchor": "end" }, name.length > room ? `${name.slice(0, room - 1)}\u2026` : name),
      );
      if (ends.length > 1)
        drawing.append(svg("line", { x1: Math.min(...ends), x2: Math.max(...ends), y1: y, y2: y, stroke: "var(--line)", "stroke-width": 3 }));
      // The first series on top: it is what the others are judged by.
      for (let i = series.length - 1; i >= 0; --i)
        if (places[i] !== null) drawing.append(SHAPES[i % SHAPES.length](places[i], y, series[i].colour));
      const target = svg("rect", { x: 0, y: y - pitch / 2, width, height: pitch, fill: "transparent" });
      target.addEventListener("pointerenter", () => show(row));
      target.addEventListener("pointerdown", () => show(row));
      drawing.append(target);
    });
    plot.replaceChildren(drawing);
  }
  function show(row) {
    at.textContent = row === null ? "" : rows[row];
    outputs.forEach((output, i) => {
      output.textContent = row === null ? "" : percent(series[i].values[row]);
    });
  }
  plot.addEventListener("pointerleave", () => show(null));
  redraw(plot, draw);
  const legend = series.map(({ name, colour }, i) =>
    html("span", { class: "item" }, svg("svg", { width: 14, height: 14, "aria-hidden": "true" }, SHAPES[i % SHAPES.length](7, 7, colour)), name, outputs[i]),
  );
  return html("figure", {}, html("figcaption", {}, html("span", {}, title), at), html("div", { class: "legend" }, legend), plot);
}

// --- tables ---

// A table whose columns sort it.
//   columns  [{name, text (of words, to the left), cell: row -> {value, text, node, bar (0..1), best}}]
function sortedTable(columns, rows) {
  const body = html("tbody");
  const cells = rows.map((row) => columns.map(({ cell }) => cell(row)));
  const lines = cells.map((line) =>
    html(
      "tr",
      {},
      line.map(({ text, node, bar, best }, c) =>
        html(
          "td",
          {
            class: [columns[c].text && "text", known(bar) && "bar", best && "best"].filter(Boolean).join(" ") || null,
            style: known(bar) ? `--share:${(100 * bar).toFixed(1)}%` : null,
          },
          node ?? text,
        ),
      ),
    ),
  );
  body.append(...lines);
  const heads = columns.map(({ name, text }, c) => {
    const head = html("th", { class: text ? "text" : null, scope: "col" }, html("button", { type: "button" }, name));
    head.firstChild.addEventListener("click", () => {
      // Numbers begin with the largest, words with the first; what is not known comes last either way.
      const now = head.getAttribute("aria-sort");
      const ascending = now === null ? Boolean(text) : now === "descending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const missing = (value) => value === null || value === undefined;
      const order = rows.map((_, i) => i);
      order.sort((i, j) => {
        const [a, b] = [cells[i][c].value, cells[j][c].value];
        if (missing(a) || missing(b)) return missing(a) - missing(b);
        const difference = typeof a === "string" ? a.localeCompare(b) : a - b;
        return ascending ? difference : -difference;
      });
      body.append(...order.map((i) => lines[i]));
    });
    return head;
  });
  return html("div", { class: "scroll" }, html("table", { class: "numbers" }, html("thead", {}, html("tr", {}, heads)), body));
}

function plainTable(names, rows, kind = "settings") {
  return html(
    "div",
    { class: "scroll" },
    html(
      "table",
      { class: kind },
      html("thead", {}, html("tr", {}, names.map((name) => html("th", { scope: "col" }, name)))),
      html("tbody", {}, rows.map((row) => html("tr", {}, row.map((cell) => html("td", {}, cell))))),
    ),
  );
}

// A row of buttons of which one is pressed.
function tabs(names, choose) {
  const buttons = names.map((name, i) => {
    const button = html("button", { type: "button", "aria-pressed": i === 0 }, name);
    button.setAttribute("aria-pressed", String(i === 0));
    button.addEventListener("click", () => {
      buttons.forEach((other, j) => other.setAttribute("aria-pressed", String(i === j)));
      choose(i);
    });
    return button;
  });
  return html("div", { class: "tabs", role: "group" }, buttons);
}

// --- what both pages say of a run ---

const SERIES = ["var(--blue)", "var(--orange)", "var(--green)", "var(--pink)", "var(--amber)", "var(--sky)", "var(--grey)"];
const DASHES = [null, "7 4", "2 4"];

// Epochs and values of a column, those of epochs that `where` lacks left out: an epoch without evaluation is no gap.
function points(run, column, where = column) {
  const { epoch } = run.epochs;
  return epoch.map((e, i) => [e, run.epochs[column][i], run.epochs[where][i]]).filter(([, , there]) => there !== null);
}

// The same of one class's IoU.
function iouPoints(run, c) {
  return run.epochs.epoch.map((e, i) => [e, run.epochs.iou[i]]).filter(([, iou]) => iou !== null).map(([e, iou]) => [e, iou[c] ?? null]);
}

// Indices of the classes, rarest first; classes without labelled pixels last.
function rareFirst(run) {
  const share = run.newest ? run.newest.label_share : [];
  const key = (c) => (share[c] > 0 ? share[c] : 2);
  return run.classes.map((_, c) => c).sort((a, b) => key(a) - key(b) || a - b);
}

// Links to the sections of the page, made of their headings.
function navigation(sections) {
  return html("nav", {}, sections.map((part) => html("a", { href: `#${part.id}` }, part.querySelector("h2").textContent)));
}

// Everything is printed.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
