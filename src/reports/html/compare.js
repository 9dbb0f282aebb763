// The page of several runs, from the JSON that compare_page() makes.
const { runs, differences, repetitions, comparable, written_at: writtenAt } = JSON.parse(document.getElementById("data").textContent);
const names = runs[0].classes.map(({ name }) => name);
const look = runs.map((_, r) => ({ colour: SERIES[r % SERIES.length], dash: DASHES[Math.floor(r / SERIES.length) % DASHES.length] }));
const runName = (r) => html("span", {}, lineSample(look[r].colour, look[r].dash), ` ${runs[r].name}`);

// The index of the largest value, or -1.
function largest(values) {
  return values.reduce((top, value, i) => (known(value) && (top < 0 || value > values[top]) ? i : top), -1);
}

function summary() {
  const score = (name, of) => {
    const top = largest(runs.map(of));
    return { name, cell: (r) => ({ value: of(runs[r]) ?? null, text: percent(of(runs[r])), best: comparable && runs.length > 1 && r === top }) };
  };
  const columns = [
    { name: "run", text: true, cell: (r) => ({ value: runs[r].name, node: runName(r) }) },
    score("best mIoU", ({ summary: { best } }) => best?.miou),
    { name: "epoch", cell: (r) => ({ value: runs[r].summary.best?.epoch ?? null, text: runs[r].summary.best?.epoch ?? NONE }) },
    score("last mIoU", ({ summary: { last } }) => last?.miou),
    score("mean class accuracy", ({ summary: { best } }) => best?.mean_class_accuracy),
    score("pixel accuracy", ({ summary: { best } }) => best?.pixel_accuracy),
    score("IoU of rare classes", ({ summary: { best } }) => best?.rare_iou),
    {
      name: "epochs",
      cell: (r) => ({ value: runs[r].summary.epochs, text: `${runs[r].summary.epochs}${runs[r].summary.total_epochs ? ` / ${runs[r].summary.total_epochs}` : ""}` }),
    },
    { name: "time", cell: (r) => ({ value: runs[r].summary.seconds, text: duration(runs[r].summary.seconds) }) },
    { name: "alarms that last", cell: (r) => ({ value: runs[r].alarms.filter(({ lasts }) => lasts).length, text: runs[r].alarms.filter(({ lasts }) => lasts).length }) },
    { name: "state", text: true, cell: (r) => ({ value: runs[r].state, text: runs[r].state }) },
  ];
  return section(
    "scores",
    "Scores",
    html("p", { class: "muted" }, "In percent, at each run's best mIoU where nothing else is said. Rare classes: the third of the classes with the fewest labelled pixels."),
    comparable ? null : html("p", {}, "The runs were scored on different validation labels: their scores cannot be compared, and no best one is marked."),
    sortedTable(columns, runs.map((_, r) => r)),
  );
}

// Mean and standard deviation over the seeds, where runs differ in nothing else.
function seeds() {
  if (repetitions.length === 0) return null;
  const text = (group, of) => {
    const values = group.map((r) => of(runs[r].summary)).filter(known);
    if (values.length < 2) return NONE;
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
    return `${percent(mean)} \u00b1 ${percent(Math.sqrt(squares / (values.length - 1)))}`;
  };
  return section(
    "seeds",
    "Mean over seeds",
    html("p", { class: "muted" }, "Runs whose settings differ in the seed alone: mean and standard deviation, in percent, at each run's best mIoU where nothing else is said."),
    plainTable(
      ["runs", "best mIoU", "last mIoU", "mean class accuracy", "pixel accuracy", "IoU of rare classes"],
      repetitions.map((group) => [
        group.map((r) => runs[r].name).join(", "),
        text(group, ({ best }) => best?.miou),
        text(group, ({ last }) => last?.miou),
        text(group, ({ best }) => best?.mean_class_accuracy),
        text(group, ({ best }) => best?.pixel_accuracy),
        text(group, ({ best }) => best?.rare_iou),
      ]),
    ),
  );
}

const epochs = runs.flatMap((run) => run.epochs.epoch);
const span = [Math.min(...epochs), Math.max(...epochs)];

function curves() {
  const overlay = (title, column, options = {}) =>
    lineChart({ span, title, series: runs.map((run, r) => ({ name: run.name, ...look[r], points: points(run, column) })), ...options });
  const format = (value) => percent(value, 1);
  const charts = [
    overlay("mIoU, %", "miou", { format }),
    overlay("Mean IoU of rare classes, %", "rare_iou", { format }),
    overlay("Pixel accuracy, %", "pixel_accuracy", { format }),
    overlay("Mean class accuracy, %", "mean_class_accuracy", { format }),
    overlay("Training loss", "loss", { low: 0 }),
    overlay("Pseudo-labels accepted, %", "accepted", { format, low: 0, high: 1 }),
    overlay("Learning rate", "lr", { low: 0 }),
  ];
  return section("curves", "Curves", html("div", { class: "charts" }, charts));
}

function classes() {
  const order = rareFirst(runs[0]);
  const ious = runs.map(({ best }) => best?.iou ?? []);
  const columns = [
    { name: "class", text: true, cell: (c) => ({ value: names[c], node: html("span", {}, swatch(runs[0].classes[c].colour), names[c]) }) },
    { name: "label share", cell: (c) => ({ value: runs[0].newest?.label_share[c] ?? null, text: percent(runs[0].newest?.label_share[c]) }) },
    ...runs.map((run, r) => ({
      name: run.name,
      cell: (c) => ({
        value: ious[r][c] ?? null,
        text: percent(ious[r][c]),
        bar: ious[r][c],
        best: comparable && runs.length > 1 && largest(ious.map((iou) => iou[c])) === r,
      }),
    })),
  ];
  const charts = order.map((c) =>
    smallMultiple({
      title: names[c],
      colour: runs[0].classes[c].colour,
      first: span[0],
      last: span[1],
      series: runs.map((run, r) => ({ ...look[r], points: iouPoints(run, c) })),
      below: html("span", {}, `${percent(runs[0].newest?.label_share[c])} % of the pixels`),
    }),
  );
  return section(
    "classes",
    "IoU of each class",
    html("p", { class: "muted" }, "At each run's best mIoU, in percent, rare classes first; the best of each class is marked. Then over the epochs."),
    sortedTable(columns, order),
    html("div", { class: "legend" }, runs.map((_, r) => html("span", { class: "item" }, runName(r)))),
    html("div", { class: "multiples" }, charts),
  );
}

function settings() {
  if (differences === null) return section("settings", "Settings", html("p", {}, "A run's settings are not known."));
  if (differences.length === 0) return section("settings", "Settings", html("p", {}, "The runs have the same settings."));
  return section(
    "settings",
    "Settings that differ",
    plainTable(
      ["setting", ...runs.map(({ name }) => name)],
      differences.map(({ key, values }) => [html("code", {}, key), ...values.map((value) => html("code", {}, value))]),
    ),
  );
}

const sections = [summary(), seeds(), curves(), classes(), settings()].filter(Boolean);
document.getElementById("page").append(
  html("header", {}, html("h1", {}, `Comparison of ${plural(runs.length, "run")}`), html("p", { class: "muted" }, `written ${writtenAt}`)),
  navigation(sections),
  ...sections,
);
