// The page of one run, from the JSON that run_json.cpp makes.
const run = JSON.parse(document.getElementById("data").textContent);
const names = run.classes.map(({ name }) => name);

// --- title and numbers ---

// A process that was killed cannot say so: a running one writes this page after every epoch.
function looksDead() {
  if (run.state !== "running" || !run.updated) return false;
  const patience = Math.max(600, 3 * (run.epochs.seconds.findLast(known) ?? 0));
  return (Date.now() - Date.parse(run.updated)) / 1000 > patience;
}

const shellQuoted = (word) => (/^[\w./,:=+@%-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

function header() {
  const state = looksDead() ? "unknown" : run.state;
  const facts = [run.facts.method, run.facts.model, run.facts.data, run.facts.device, run.started && `started ${dateText(run.started)}`];
  const parts = [
    html("div", { class: "title" }, html("h1", {}, run.name), html("span", { class: `state ${state}` }, state)),
    html("p", { class: "muted" }, facts.filter(Boolean).join(" \u00b7 ")),
  ];
  if (looksDead())
    parts.push(box("warning", html("p", {}, `The run says that it is running, but its last sign of life is of ${dateText(run.updated)}. It may have been killed.`)));
  if (run.message) parts.push(box(run.state === "failed" ? "error" : "", html("p", {}, run.message)));
  const unfinished = run.state === "stopped" || run.state === "failed" || looksDead();
  if (unfinished)
    parts.push(html("p", {}, "Go on with ", html("code", {}, `semiseg train --resume ${shellQuoted(run.dir)}`)));
  return html("header", {}, parts);
}

const box = (kind, ...children) => html("div", { class: `box ${kind}` }, children);

function tile(name, value, unit, more, first) {
  return html(
    "div",
    { class: first ? "tile first" : "tile" },
    html("div", { class: "name" }, name),
    html("div", { class: "value" }, value, unit && value !== NONE ? html("small", {}, ` ${unit}`) : null),
    more ? html("div", { class: "more" }, more) : null,
  );
}

function tiles() {
  const { best, last, seconds, epochs, total_epochs: total } = run.summary;
  const newest = (column) => run.epochs[column].findLast(known);
  const left = total && epochs > 0 && run.state === "running" ? (seconds / epochs) * (total - epochs) : null;
  const atBest = (key) => (best && last && best.epoch !== last.epoch ? `${percent(best[key])} at the best mIoU` : null);
  const share = newest("data_wait");
  return html(
    "div",
    { class: "tiles" },
    tile("best mIoU", percent(best?.miou), "%", best && `epoch ${best.epoch}`, true),
    tile("last mIoU", percent(last?.miou), "%", last && `epoch ${last.epoch}`),
    tile("mean class accuracy", percent(last?.mean_class_accuracy), "%", atBest("mean_class_accuracy")),
    tile("pixel accuracy", percent(last?.pixel_accuracy), "%", atBest("pixel_accuracy")),
    tile("mIoU of rare classes", percent(last?.rare_iou), "%", "the rarest third"),
    tile("epochs", String(epochs), total ? `of ${total}` : null, `step ${newest("step") ?? 0}`),
    tile("time", duration(seconds), null, left ? `about ${duration(left)} left` : epochs ? `${duration(seconds / epochs)} an epoch` : null),
    tile("speed", brief(newest("images_per_s")), "images/s", known(share) ? `${percent(share, 0)} % of it waiting for data` : null),
  );
}

// --- alarms and diagnosis ---

const ALARMS = {
  miou_falls: "mIoU falls while pixel accuracy rises",
  scores_fall: "mIoU falls, and pixel accuracy does not rise",
  class_takes_over: "A class takes over",
  class_vanished: "A class vanishes from the predictions",
  pseudo_vanished: "A class vanishes from the pseudo-labels",
  acceptance_stuck: "The threshold no longer selects",
  no_labelled_pixel: "A class has no labelled pixel",
};

// On which epochs an alarm stood.
function spanStrip(spans) {
  const { epoch } = run.epochs;
  const [first, last] = [epoch[0], epoch[epoch.length - 1]];
  if (last - first < 3) return null;
  const [width, pitch] = [300, 300 / (last - first + 1)];
  return svg(
    "svg",
    { viewBox: `0 0 ${width} 8`, width, height: 8, style: "max-width:100%", role: "img", "aria-label": "epochs with this alarm" },
    svg("rect", { x: 0, y: 2, width, height: 4, fill: "var(--line)" }),
    spans.map(({ from, to }) => svg("rect", { x: (from - first) * pitch, y: 0, width: Math.max(2, (to - from + 1) * pitch), height: 8, fill: "var(--amber)" })),
  );
}

const inWords = ({ from, to }) => (from === to ? `epoch ${from}` : `epochs ${from} to ${to}`);

function alarm({ kind, message, spans, lasts }) {
  const now = spans[spans.length - 1];
  const before = spans.slice(0, -1).map(inWords).join(", ");
  const when = kind === "no_labelled_pixel" ? "found before training" : lasts ? `since epoch ${now.from}, and it lasts` : `in ${inWords(now)}; over`;
  return box(
    lasts ? "warning" : "",
    html("h3", {}, ALARMS[kind] ?? kind),
    html("div", { class: "when" }, when + (before ? `; before that in ${before}` : "")),
    html("p", {}, ...worded(message)),
    kind === "no_labelled_pixel" ? null : spanStrip(spans),
  );
}

function alarms() {
  const lasting = run.alarms.filter(({ lasts }) => lasts);
  const over = run.alarms.filter(({ lasts }) => !lasts);
  const parts = lasting.map(alarm);
  if (lasting.length === 0 && run.summary.epochs > 0)
    parts.push(box("fine", html("p", {}, `No alarm stands after epoch ${run.summary.epochs}.`)));
  if (over.length > 0)
    parts.push(html("details", {}, html("summary", {}, `${plural(over.length, "alarm")} of earlier epochs`), over.map(alarm)));
  return section("alarms", "Alarms", parts);
}

function diagnosis() {
  const { findings, settings } = run.diagnosis;
  if (findings.length === 0) return null;
  const parts = [html("ul", { class: "plain" }, findings.map((text) => html("li", {}, ...worded(text))))];
  if (settings.length > 0) {
    parts.push(html("h3", {}, "What to set"));
    parts.push(
      plainTable(
        ["setting", "now", "why"],
        settings.map(({ assignment, now, reason }) => [html("code", {}, assignment), now ? html("code", {}, now) : "", reason]),
      ),
    );
  }
  return section("diagnosis", "Why mIoU moved", parts);
}

// --- curves ---

const span = [run.epochs.epoch[0], run.epochs.epoch[run.epochs.epoch.length - 1]];

function curves() {
  const { best, last } = run.summary;
  const marks = [];
  if (best) marks.push({ epoch: best.epoch, value: best.miou, text: `best ${percent(best.miou)}`, colour: "var(--blue)" });
  if (last && last.epoch !== best.epoch) {
    const apart = last.epoch - best.epoch > 0.15 * last.epoch;  // else the two texts would overlap
    marks.push({ epoch: last.epoch, value: last.miou, text: apart ? `last ${percent(last.miou)}` : "", colour: "var(--blue)" });
  }
  const charts = [
    lineChart({
      span,
      title: "Scores on the validation images, %",
      format: (value) => percent(value, Math.abs(value) < 0.1 ? 2 : 1),
      marks,
      series: [
        { name: "mIoU", colour: "var(--blue)", points: points(run, "miou") },
        { name: "mean class accuracy", colour: "var(--green)", dash: "7 4", points: points(run, "mean_class_accuracy", "miou") },
        { name: "pixel accuracy", colour: "var(--orange)", dash: "2 4", points: points(run, "pixel_accuracy", "miou") },
      ],
    }),
    lineChart({
      span,
      title: "Training loss",
      low: 0,
      series: [
        { name: "all", colour: "var(--blue)", points: points(run, "loss") },
        ...(run.epochs.loss_unsupervised.some(known)
          ? [
              { name: "labelled", colour: "var(--green)", dash: "7 4", points: points(run, "loss_supervised") },
              { name: "unlabelled", colour: "var(--orange)", dash: "2 4", points: points(run, "loss_unsupervised") },
            ]
          : []),
      ],
    }),
    lineChart({
      span,
      title: "Pseudo-labels, %",
      low: 0,
      high: 1,
      format: (value) => percent(value, 1),
      series: [
        { name: "accepted", colour: "var(--pink)", points: points(run, "accepted") },
        { name: "agreement", colour: "var(--amber)", dash: "7 4", points: points(run, "agreement") },
      ],
    }),
    lineChart({ span, title: "Learning rate", low: 0, series: [{ name: "at the end of the epoch", colour: "var(--grey)", points: points(run, "lr") }] }),
  ];
  return section("curves", "Curves", html("div", { class: "charts" }, charts));
}

// --- classes ---

function classCurves() {
  if (!run.newest) return null;
  const epochs = run.epochs.epoch;
  const share = run.newest.label_share;
  const charts = rareFirst(run).map((c) => {
    const own = iouPoints(run, c);
    const peak = own.reduce((top, point) => (known(point[1]) && (!top || point[1] > top[1]) ? point : top), null);
    const now = own.findLast(([, iou]) => known(iou));
    const lost = peak && now ? peak[1] - now[1] : 0;
    const fell = peak && lost > 0.05 && lost > 0.25 * peak[1];
    return smallMultiple({
      title: names[c],
      colour: run.classes[c].colour,
      first: epochs[0],
      last: epochs[epochs.length - 1],
      series: [{ colour: fell ? "var(--orange)" : "var(--blue)", points: own }],
      below: [
        html("span", { title: "share of the labelled pixels" }, `${percent(share[c])} %`),
        fell ? html("span", { class: "fell", title: `points below epoch ${peak[0]}, its best` }, `\u2212${percent(lost, 1)} since ${peak[0]}`) : null,
      ],
    });
  });
  return section(
    "classes",
    "IoU of each class",
    html(
      "p",
      { class: "muted" },
      "Rare classes first, with their share of the labelled pixels; all on one scale, in percent. Orange: well below its own best, with the points lost and the epoch of the best.",
    ),
    html("div", { class: "multiples" }, charts),
  );
}

function shares() {
  if (!run.newest) return null;
  const order = rareFirst(run);
  const pick = (values) => order.map((c) => (values.length > 0 ? values[c] : null));
  const pseudo = run.pseudo ?? { share: [], accepted_by_class: [], agreement_by_class: [], precision: [], recall: [] };
  const charts = [
    dotPlot({
      title: "Share of the pixels, logarithmic",
      log: true,
      rows: order.map((c) => names[c]),
      series: [
        { name: "labels", colour: "var(--text)", values: pick(run.newest.label_share) },
        { name: "predictions", colour: "var(--blue)", values: pick(run.newest.prediction_share) },
        { name: "pseudo-labels", colour: "var(--orange)", values: pick(pseudo.share) },
      ],
    }),
    dotPlot({
      title: "Pseudo-labels",
      rows: order.map((c) => names[c]),
      series: [
        { name: "accepted", colour: "var(--pink)", values: pick(pseudo.accepted_by_class) },
        { name: "agreement", colour: "var(--amber)", values: pick(pseudo.agreement_by_class) },
        { name: "precision", colour: "var(--green)", values: pick(pseudo.precision) },
        { name: "recall", colour: "var(--sky)", values: pick(pseudo.recall) },
      ],
    }),
  ].filter(Boolean);
  const text = ["What the network predicts, and learns from, against what is labelled on the validation images; " + `epoch ${run.newest.epoch}. `];
  if (charts.length > 1)
    text.push("Accepted: share of the pixels predicted as the class that become pseudo-labels. Agreement: share of its pixels that kept the class since the evaluation before.");
  return section("shares", "Labels, predictions, pseudo-labels", html("p", { class: "muted" }, text.join("")), html("div", { class: "charts" }, charts));
}

// --- confusion ---

function confusion() {
  if (!run.confusion) return null;
  const { counts, epoch } = run.confusion;
  const K = counts.length;
  const rows = counts.map((row) => row.reduce((sum, count) => sum + count, 0));
  const columns = counts.map((_, p) => counts.reduce((sum, row) => sum + row[p], 0));
  const shareOf = [(l, p) => (rows[l] ? counts[l][p] / rows[l] : null), (l, p) => (columns[p] ? counts[l][p] / columns[p] : null)];
  const sentence = [
    (l, p, share) => `${share} % of the pixels labelled ${names[l]} are predicted as ${names[p]}`,
    (l, p, share) => `${share} % of the pixels predicted as ${names[p]} are labelled ${names[l]}`,
  ];
  let kind = 0;
  const rest = "Point at a cell. Blue: right. Orange: confused.";
  const read = html("p", { class: "read muted" }, rest);
  const plot = html("div");
  let drawn = 0;

  function draw(width) {
    drawn = width;
    const longest = Math.max(...names.map((name) => name.length));
    const room = Math.max(4, Math.min(longest, Math.floor((width * 0.26) / 6.3)));
    const margin = 10 + 6.3 * room;
    const short = (name) => (name.length > room ? `${name.slice(0, room - 1)}\u2026` : name);
    const cell = Math.max(7, Math.min(46, (width - margin - 4) / K));
    const size = margin + K * cell + 2;
    const font = Math.min(11.5, Math.max(7, cell * 0.75));
    const drawing = svg("svg", { viewBox: `0 0 ${size} ${size}`, style: `max-width:${size}px`, role: "img", "aria-label": "confusion matrix" });
    for (let l = 0; l < K; ++l) {
      const middle = margin + (l + 0.5) * cell;
      drawing.append(svg("text", { class: "name", x: margin - 6, y: middle + font * 0.35, "text-anchor": "end", style: `font-size:${font}px` }, short(names[l])));
      drawing.append(
        svg("text", { class: "name", transform: `translate(${middle + font * 0.35} ${margin - 6}) rotate(-90)`, style: `font-size:${font}px` }, short(names[l])),
      );
      for (let p = 0; p < K; ++p) {
        const share = shareOf[kind](l, p);
        const [x, y] = [margin + p * cell, margin + l * cell];
        const rect = svg("rect", {
          class: "cell",
          x: x + 0.5,
          y: y + 0.5,
          width: cell - 1,
          height: cell - 1,
          fill: known(share) ? (l === p ? "var(--blue)" : "var(--orange)") : "none",
          "fill-opacity": known(share) ? (0.04 + 0.7 * share ** 0.7).toFixed(3) : null,
          stroke: known(share) ? null : "var(--grid)",
        });
        rect.addEventListener("pointerenter", () => say(l, p, share));
        rect.addEventListener("pointerdown", () => say(l, p, share));
        drawing.append(rect);
        if (cell >= 20 && known(share) && (share >= 0.005 || l === p))
          drawing.append(svg("text", { class: "onfill", x: x + cell / 2, y: y + cell / 2 + 3.7 }, (100 * share).toFixed(0)));
      }
    }
    plot.replaceChildren(drawing);
  }
  function say(l, p, share) {
    const pixels = counts[l][p].toLocaleString("en");
    read.textContent = known(share) ? `${sentence[kind](l, p, percent(share))} (${pixels} pixels).` : "No pixel to judge by.";
  }
  plot.addEventListener("pointerleave", () => (read.textContent = rest));
  redraw(plot, draw);
  const choice = tabs(["by label", "by prediction"], (chosen) => {
    kind = chosen;
    draw(drawn);
    list.replaceChildren(...worst());
  });

  // What matters most of what is wrong.
  function worst() {
    const pairs = [];
    for (let l = 0; l < K; ++l) for (let p = 0; p < K; ++p) if (l !== p && shareOf[kind](l, p) > 0.02) pairs.push([l, p, shareOf[kind](l, p)]);
    pairs.sort((a, b) => b[2] - a[2]);
    return pairs.slice(0, 10).map(([l, p, share]) => html("li", {}, sentence[kind](l, p, percent(share, 1))));
  }
  const list = html("ul", { class: "plain" }, worst());
  return section(
    "confusion",
    "Confusion",
    html("p", { class: "muted" }, `Epoch ${epoch}, in percent. Rows are labels, columns predictions.`),
    choice,
    html("div", { class: "split" }, html("div", { class: "matrix" }, plot, read), html("div", {}, html("h3", {}, "The largest"), list)),
  );
}

// --- pictures and tables ---

function pictures() {
  if (run.pictures.length === 0) return null;
  return section(
    "pictures",
    "Pictures",
    html(
      "div",
      { class: "pictures" },
      run.pictures.map(({ title, text, source }) =>
        html("figure", {}, html("figcaption", {}, title), html("p", { class: "muted" }, text), html("img", { src: source, alt: title, loading: "lazy" })),
      ),
    ),
  );
}

function classTable() {
  if (!run.newest) return null;
  const { newest, best } = run;
  const number = (value, extra = {}) => ({ value: known(value) ? value : null, text: percent(value), ...extra });
  const columns = [
    { name: "class", text: true, cell: (c) => ({ value: names[c], node: html("span", {}, swatch(run.classes[c].colour), names[c]) }) },
    { name: `IoU, epoch ${newest.epoch}`, cell: (c) => number(newest.iou[c], { bar: newest.iou[c] }) },
  ];
  if (best && best.epoch !== newest.epoch) columns.push({ name: `IoU, epoch ${best.epoch} (best)`, cell: (c) => number(best.iou[c]) });
  const series = (name, values) => {
    if (values && values.some(known)) columns.push({ name, cell: (c) => number(values[c]) });
  };
  series("class accuracy", newest.class_accuracy);
  series("label share", newest.label_share);
  series("prediction share", newest.prediction_share);
  if (run.pseudo) {
    series("pseudo-label share", run.pseudo.share);
    series("accepted", run.pseudo.accepted_by_class);
    series("agreement", run.pseudo.agreement_by_class);
    series("precision", run.pseudo.precision);
    series("recall", run.pseudo.recall);
  }
  return section("table", "Class table", html("p", { class: "muted" }, "In percent. A column's title sorts by it."), sortedTable(columns, rareFirst(run)));
}

function speed() {
  const charts = [
    lineChart({ span, title: "Images per second", low: 0, series: [{ name: "labelled and unlabelled", colour: "var(--blue)", points: points(run, "images_per_s") }] }),
    lineChart({
      span,
      title: "Time spent waiting for data, %",
      low: 0,
      high: Math.max(0.1, ...run.epochs.data_wait.filter(known)),
      format: (value) => percent(value, 1),
      series: [{ name: "data wait", colour: "var(--orange)", points: points(run, "data_wait") }],
    }),
    lineChart({ span, title: "Seconds per epoch, evaluation included", low: 0, series: [{ name: "seconds", colour: "var(--grey)", points: points(run, "seconds") }] }),
    lineChart({ span, title: "Peak memory, MB", low: 0, series: [{ name: "peak memory", colour: "var(--pink)", points: points(run, "peak_memory_mb") }] }),
  ];
  return section("speed", "Speed", html("div", { class: "charts" }, charts));
}

function settings() {
  if (run.config.length === 0) return null;
  const row = ({ key, value, default: standard, origin, help }) => [
    html("code", { title: help }, key),
    html("code", {}, value),
    html("code", { class: "muted" }, standard),
    origin,
    html("span", { class: "help" }, help),
  ];
  const heads = ["setting", "value", "default", "set by", ""];
  const changed = run.config.filter((entry) => entry.value !== entry.default);
  const rest = run.config.filter((entry) => entry.value === entry.default);
  return section(
    "settings",
    "Settings",
    html("p", { class: "muted" }, "What differs from the defaults, and where it was set."),
    plainTable(heads, changed.map(row)),
    html("details", {}, html("summary", {}, `${plural(rest.length, "setting")} with default values`), plainTable(heads, rest.map(row))),
  );
}

function environment() {
  const entries = Object.entries(run.environment);
  if (entries.length === 0) return null;
  return section(
    "environment",
    "Environment",
    html("dl", {}, entries.flatMap(([name, value]) => [html("dt", {}, name), html("dd", { class: "code" }, value)])),
  );
}

// The page follows its run: whoever wants that has it read again each minute.
function follow() {
  if (run.state !== "running" || looksDead()) return null;
  const wanted = () => location.hash === "#follow";
  const again = () => setTimeout(() => wanted() && location.reload(), 60000);
  const box = html("input", { type: "checkbox", id: "again" });
  box.checked = wanted();
  box.addEventListener("change", () => {
    history.replaceState(null, "", box.checked ? "#follow" : "#");
    again();
  });
  if (box.checked) again();
  return html("p", { class: "muted no-print" }, html("label", {}, box, " read this page again each minute; it is rewritten after each epoch"));
}

const sections = [alarms(), diagnosis(), curves(), classCurves(), shares(), confusion(), pictures(), classTable(), speed(), settings(), environment()].filter(Boolean);
const page = document.getElementById("page");
page.append(
  header(),
  tiles(),
  ...[follow()].filter(Boolean),
  navigation(sections),
  ...run.notes.map((note) => box("", html("p", {}, `Note: ${note}.`))),
  ...sections,
  html("footer", {}, `Written by semiseg, ${run.written_at}. `, html("code", {}, `semiseg report ${shellQuoted(run.dir)}`), " writes it anew."),
);
