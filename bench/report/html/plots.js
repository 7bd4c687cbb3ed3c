// Interactive plots: a template of Vega-Lite with the rows of a view, drawn when they come near the screen.
let runtime;
const vega = () => (runtime ??= text("runtime").then((source) => {
  document.head.append(el("script", {}, source)); // the policy lists its hash
  return window.vegaEmbed;
}));

const ink = "currentColor";
const theme = (narrow, small) => ({
  ...{ aria: false, background: null, font: "system-ui, sans-serif", view: { stroke: null } },
  ...Object.fromEntries(["text", "rule", "line", "tick", "point"].map((mark) => [mark, { color: ink }])),
  axis: {
    ...{ labelColor: ink, titleColor: ink, gridColor: ink, domainColor: ink, tickColor: ink },
    ...{ gridOpacity: 0.1, domainOpacity: 0.4, tickOpacity: 0.4 },
    ...{ labelFontSize: 11, titleFontSize: 12, titleFontWeight: 400, labelLimit: narrow ? 110 : 430 },
  },
  legend: {
    ...{ labelColor: ink, title: null, labelFontSize: 12, symbolOpacity: 1, symbolLimit: 0 },
    ...{ labelLimit: small ? 300 : narrow ? 150 : 230 },
    ...(narrow || small ? { orient: "bottom", columns: small ? 1 : 2 } : {}),
  },
});
// On a logarithmic axis the grid is at powers of ten.
const power = "abs(log(datum.value) / LN10 - round(log(datum.value) / LN10)) < 1e-6";
const logAxis = {
  labelExpr: "datum.value < 1e-3 || datum.value >= 1e5 ? format(datum.value, '~e') : format(datum.value, '~g')",
  gridOpacity: { condition: { test: power, value: 0.14 }, value: 0 },
  tickOpacity: { condition: { test: power, value: 0.5 }, value: 0.2 },
};
// The ticks of a small figure's logarithmic axis.
const fewTicks = ([low, high]) => {
  const steps = high / low > 50 ? [1] : high / low > 10 ? [1, 2, 5] : [1, 2, 3, 5], found = [];
  for (let decade = Math.floor(Math.log10(low)); decade <= Math.ceil(Math.log10(high)); decade++)
    found.push(...steps.map((step) => step * 10 ** decade));
  return found.filter((one) => one >= low && one <= high);
};
const range = (values) => [Math.min(...values), Math.max(...values)];
const padded = ([low, high], log, share) => {
  if (low === high) return log ? [low / 2, high * 2] : [low - 1, high + 1];
  const by = log ? (high / low) ** share : share * (high - low);
  return log ? [low / by, high * by] : [low - by, high + by];
};
const fits = (value, log) => value !== null && (!log || value > 0);

// The rows of a view by the kind of its figure; on a logarithmic axis those that it can show.
const rowsOf = {
  lines: (view, log, figure) => ({
    rows: view.series
      .flatMap(([series, run, xs, ys]) =>
        figure.lists[ys].map((y, place) => ({ series, run: run || "mean", mean: !run, x: figure.lists[xs][place], y })),
      )
      .filter((row) => fits(row.x, log.x) && fits(row.y, log.y)),
    limits: view.limits.map(([y, name]) => ({ y, text: name })).filter((one) => fits(one.y, log.y)),
  }),
  points: (view, log, figure, models) => pointRows(view, log, models),
  bars: (view) => ({ rows: view.bars.map(([model, series, x], place) => ({ model, series, x, place })) }),
  parts: (view, log) => ({
    rows: view.parts.flatMap(({ part: name, mean, low, high, found, asked, seeds }) => [
      { part: name, mean, low: log.x && low <= 0 ? null : low, high, found, asked },
      ...seeds.map((x, seed) => ({ part: name, seed: `seed ${seed + 1} of ${seeds.length}`, x })).filter((row) => fits(row.x, log.x)),
    ]),
    limits: view.limits.map(([x, name]) => ({ x, text: name })),
  }),
  outcomes: (view) => {
    const places = {};
    return { rows: view.outcomes.map((one) => ({ ...one, place: (places[one.outcome] = (places[one.outcome] ?? 0) + 1) })) };
  },
};

const pointRows = (view, log, models) => {
  const kept = view.points.filter((one) => (models === "all" || (models === "best" ? one.best : one.series === models))
    && fits(one.x[0], log.x) && fits(one.y[0], log.y));
  const across = range(kept.map((one) => one.x[0])), upright = range(kept.map((one) => one.y[0]));
  // An interval of three seeds can be endless: it ends a little outside the panel.
  const end = (value, [low, high], isLog) => {
    const [least, most] = isLog ? [low / 3, high * 3] : [low - (high - low || 1), high + (high - low || 1)];
    return value === null ? null : Math.min(Math.max(value, least), most);
  };
  const words = ([, low, high]) => (low === null ? "one run" : `${shown(low)} to ${shown(high)}`);
  const rows = kept.map(({ model, series, x, y, front, runs, fault }) => ({
    ...{ model, series, runs, x: x[0], y: y[0], named: front || kept.length < 9 ? 1 : 0, front, score: fault || "counts" },
    ...{ low: end(x[1], across, log.x), high: end(x[2], across, log.x) },
    ...{ ylow: end(y[1], upright, log.y), yhigh: end(y[2], upright, log.y) },
    ...{ "x interval": words(x), "y interval": words(y) },
  }));
  const share = (a, b, [low, high], isLog) => (isLog ? Math.log(a / b) / Math.log(high / low) : (a - b) / (high - low));
  const gap = (...ends) => Math.abs(share(...ends) || 0);
  const named = rows.filter((row) => row.named);
  named.forEach((row, at) => { // below its point where the name above would cover another
    const near = (one) => gap(one.x, row.x, across, log.x) < 0.1 && gap(one.y, row.y, upright, log.y) < 0.04;
    if (named.slice(0, at).some((one) => one.named > 0 && near(one))) row.named = -1;
  });
  const front = rows.filter((row) => row.front).sort((a, b) => a.x - b.x);
  return { rows, front: models === "all" && front.length ? [...front, { ...front.at(-1), x: across[1] }] : [] };
};

const setChannel = (channel, axis, { figure, view, log, rows, limits = [], width, small }) => {
  const inView = (row) => row[axis] ?? (axis === "x" ? row.mean : null);
  const values = [...rows, ...limits].map(inView).filter((one) => typeof one === "number" && fits(one, log[axis]));
  const bars = figure.kind === "bars";
  channel.title = small ? null : view[axis] ?? null;
  channel.scale = bars ? {} : log[axis] ? { type: "log", nice: false } : { zero: false };
  if (values.length && !bars) channel.scale.domain = padded(range(values), log[axis], figure.kind === "lines" ? 0.03 : 0.08);
  channel.axis = { titleLimit: width - 90, ...(log[axis] ? logAxis : axis === "x" ? { tickCount: Math.ceil(width / 110) } : {}) };
  if (small) channel.axis.tickCount = 3;
  if (small && log[axis] && values.length) channel.axis.values = fewTicks(range(values));
};

const DASHES = [[1, 0], [7, 2], [4, 2, 1, 2], [2, 2]];

const build = (template, figure, view, log, models, width, small) => {
  const spec = structuredClone(template), datasets = rowsOf[figure.kind](view, log, figure, models), { rows } = datasets;
  const narrow = width < 560, listed = figure.kind === "parts" || figure.kind === "bars";
  const all = Object.keys(figure.colours), names = all.filter((name) => rows.some((row) => row.series === name));
  const whole = small ? 130 : narrow ? 280 : Math.max(360, Math.min(17 * names.length, 460));
  const height = listed ? { step: small ? 15 : 26 } : whole;
  Object.assign(spec, { datasets, height, width: figure.kind === "outcomes" ? width - 20 : "container" },
    { config: theme(narrow, small), description: `${figure.title}: ${view.name}`, autosize: { type: "fit-x", contains: "padding" } });
  for (const { encoding: { x, y, color, strokeDash, shape, tooltip } } of spec.layer ?? [spec]) {
    for (const [axis, channel] of Object.entries({ x, y }))
      if (channel?.type === "quantitative") setChannel(channel, axis, { figure, view, log, rows, limits: datasets.limits, width, small });
    if (figure.kind === "parts" && small && y) y.axis = null;
    if (color) color.scale = { domain: names, range: names.map((name) => figure.colours[name]) };
    if (strokeDash) strokeDash.scale = { domain: names, range: names.map((name) => DASHES[all.indexOf(name) % DASHES.length]) };
    for (const channel of [color, strokeDash]) if (channel && names.length < 2) channel.legend = null;
    if (shape) shape.scale = { domain: all };
    for (const tip of tooltip ?? []) tip.title = { x: view.x, y: view.y }[tip.field] ?? tip.field;
  }
  if (figure.kind === "outcomes") spec.encoding.x.scale = { domain: view.order };
  return spec;
};

const OPTIONS = {
  ast: true, // without eval, as the policy asks
  ...{ mode: "vega-lite", renderer: "svg", loglevel: 1, scaleFactor: { png: 2 } },
  ...{ defaultStyle: false, forceActionsMenu: true, tooltip: { disableDefaultStyle: true, theme: "custom" } },
};
const ACTIONS = { export: { png: true, svg: true }, source: false, compiled: false, editor: false };
const LOGS = { lines: ["x", "y"], points: ["x", "y"], parts: ["x"] };

// A plot with its controls: the view, logarithmic axes, and with `models` which of them.
const drawPlot = (holder, figure, { small = false, models = false, view: first = 0, changed = () => {} } = {}) => {
  const state = { view: Math.min(first, figure.views.length - 1), models: "all", log: {} };
  const chart = el("div", { class: "chart" }), controls = el("div", { class: "controls" });
  const view = () => figure.views[state.view];
  const draw = async () => {
    const [embed, { templates }] = await Promise.all([vega(), part("index")]);
    const spec = build(templates[figure.kind], figure, view(), state.log, state.models, holder.clientWidth, small);
    await embed(chart, spec, { ...OPTIONS, actions: small ? false : ACTIONS, downloadFileName: figure.id });
    // One image, whose numbers are in the tables.
    for (const one of $$("g[role]", chart)) one.setAttribute("aria-hidden", "true");
    $("svg.marks", chart).setAttribute("role", "img");
    $("svg.marks", chart).setAttribute("aria-label", spec.description);
    $("summary", chart)?.setAttribute("aria-label", "Save the figure");
    holder.dataset.drawn = "1";
  };
  const check = (axis) => {
    const box = el("input", { type: "checkbox", checked: state.log[axis], change: () => { state.log[axis] = box.checked; draw(); } });
    return el("label", {}, box, ` log ${axis}`);
  };
  const setView = (place) => {
    state.view = Number(place);
    state.log = { x: view().log.includes("x"), y: view().log.includes("y") };
    const views = figure.views.map((one, at) => [at, one.name]);
    const families = () => [...new Set(view().points.map((one) => one.series))].map((one) => [one, one]);
    controls.replaceChildren(
      views.length > 1 ? select("Show", views, state.view, (at) => { changed(Number(at)); setView(at); }) : "",
      models ? select("Models", [["all", "all"], ["best", "best of each family"], ...families()], state.models,
        (one) => { state.models = one; draw(); }) : "",
      ...(LOGS[figure.kind] ?? []).map(check));
    draw();
  };
  holder.replaceChildren(...(small ? [] : [controls]), chart);
  whenNear(holder, () => { if (figure.views.length) setView(state.view); });
};
