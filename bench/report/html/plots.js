// Interactive plots: a template of Vega-Lite with the rows of a view, drawn when they come near the screen.
let runtime;
const vega = () => (runtime ??= text("runtime").then((source) => {
  document.head.append(el("script", {}, source)); // the policy lists its hash
  return window.vegaEmbed;
}));
const dark = matchMedia("(prefers-color-scheme: dark)");
const redraw = new Set();
const ink = "currentColor";
const theme = (narrow, small) => ({
  aria: false, background: null, font: "system-ui, sans-serif", view: { stroke: null }, text: { color: ink }, rule: { color: ink }, line: { color: ink }, tick: { color: ink }, point: { color: ink },
  axis: { labelColor: ink, titleColor: ink, gridColor: ink, gridOpacity: 0.1, domainColor: ink, domainOpacity: 0.4, tickColor: ink, tickOpacity: 0.4, labelFontSize: 11, titleFontSize: 12, titleFontWeight: 400, labelLimit: narrow ? 110 : 430 },
  legend: { labelColor: ink, title: null, labelFontSize: 12, symbolOpacity: 1, symbolLimit: 0, labelLimit: small ? 300 : narrow ? 150 : 230, ...(narrow || small ? { orient: "bottom", columns: small ? 1 : 2 } : {}) },
});
const inside = (one, log) => one !== null && (!log || one > 0);
const range = (values) => {
  const known = values.filter((one) => one !== null), [low, high] = [Math.min(...known), Math.max(...known)];
  return [low, high];
};

// The rows of a view by the kind of its figure; where an axis is logarithmic, those that it can show.
const rowsOf = {
  lines: (view, log, figure) => ({
    rows: view.series.flatMap(([series, run, at, ys]) => figure.xs[at].map((x, place) => ({ series, run: run || "mean", mean: !run, x, y: ys[place] })))
      .filter((row) => inside(row.x, log.x) && inside(row.y, log.y)),
    limits: (view.limits ?? []).map(([y, name]) => ({ y, text: name })).filter((one) => inside(one.y, log.y)),
  }),
  points: (view, log, figure, models) => {
    const sign = view.better === "higher" ? -1 : 1, best = {};
    for (const one of view.points) if (!best[one.series] || sign * one.y[0] < sign * best[one.series].y[0]) best[one.series] = one;
    const kept = view.points.filter((one) => models === "all" || (models === "best" ? best[one.series] === one : one.series === models)).filter((one) => inside(one.x[0], log.x) && inside(one.y[0], log.y));
    const [bottom, top] = range(kept.map((one) => one.y[0])), [left, right] = range(kept.map((one) => one.x[0]));
    const [far, near] = log.y ? [top * 3, bottom / 3] : [top + (top - bottom), bottom - (top - bottom)];
    const ends = (low, high, least, most) => [low === null ? null : Math.max(low, least), high === null ? null : Math.min(high, most)];
    const bracket = ([, low, high]) => (low === null ? "one run" : `${shown(low)} to ${shown(high)}`);
    const rows = kept.map((one) => {
      const [ylow, yhigh] = ends(one.y[1], one.y[2], near, far), [low, high] = ends(one.x[1], one.x[2], left / 3, right * 3);
      return { model: one.model, series: one.series, x: one.x[0], y: one.y[0], low, high, ylow, yhigh, named: one.front || kept.length < 9 ? 1 : 0, "x interval": bracket(one.x), "y interval": bracket(one.y), runs: one.runs };
    });
    const apart = (a, b, low, high, is) => Math.abs((is ? Math.log(a / b) / Math.log(high / low) : (a - b) / (high - low)) || 0);
    rows.filter((row) => row.named).forEach((row, at, all) => {
      if (all.slice(0, at).some((one) => one.named > 0 && apart(one.x, row.x, left, right, log.x) < 0.1 && apart(one.y, row.y, bottom, top, log.y) < 0.04)) row.named = -1;
    });
    const front = rows.filter((row) => kept.find((one) => one.model === row.model).front).sort((a, b) => a.x - b.x);
    return { rows, front: models === "all" ? [...front, { ...front.at(-1), x: right }].filter((row) => row.y !== undefined) : [] };
  },
  bars: (view) => ({ rows: view.bars.map(([model, series, x], place) => ({ model, series, x, place })) }),
  parts: (view, log) => ({
    rows: view.parts.flatMap((one) => [{ part: one.part, mean: one.mean, low: log.x && one.low <= 0 ? null : one.low, high: one.high, found: one.found, asked: one.asked },
      ...one.seeds.map((x, seed) => ({ part: one.part, seed: `seed ${seed + 1} of ${one.seeds.length}`, x }))]).filter((row) => row.seed === undefined || inside(row.x, log.x)),
    limits: view.limits.map(([x, name]) => ({ x, text: name })),
  }),
  outcomes: (view) => {
    const places = {};
    return { rows: view.outcomes.map((one) => ({ ...one, place: (places[one.outcome] = (places[one.outcome] ?? 0) + 1) })) };
  },
};

const units = (spec) => (spec.layer ?? [spec]);
const build = (template, figure, view, log, models, width, small) => {
  const narrow = width < 560;
  const spec = structuredClone(template), data = rowsOf[figure.kind](view, log, figure, models), several = figure.kind === "parts";
  const names = Object.keys(figure.colours).filter((name) => data.rows.some((row) => row.series === name));
  const height = several || figure.kind === "bars" ? { step: small ? 15 : 26 } : small ? 130 : narrow ? 280 : Math.max(360, Math.min(17 * names.length, 460));
  Object.assign(spec, { datasets: data, width: figure.kind === "outcomes" ? width - 20 : "container", height, config: theme(narrow, small), description: `${figure.title}: ${view.name}`, autosize: { type: "fit-x", contains: "padding" } });
  for (const unit of units(spec)) {
    const { x, y, color, shape, tooltip } = unit.encoding;
    for (const [axis, channel] of [["x", x], ["y", y]]) {
      if (channel?.type !== "quantitative") continue;
      const values = data.rows.map((row) => row[axis] ?? (axis === "x" ? row.mean : null)).filter((one) => typeof one === "number");
      channel.title = small ? null : view[axis] ?? null;
      channel.scale = figure.kind === "bars" ? {} : log[axis] ? { type: "log", nice: false } : { zero: false };
      if (values.length && figure.kind !== "bars") channel.scale.domain = padded(range(values), log[axis], figure.kind === "lines" ? 0.03 : 0.08);
      channel.axis = { titleLimit: width - 90, tickCount: axis === "x" && !log.x ? Math.ceil(width / 110) : undefined, ...(log[axis] ? logAxis : {}), ...(small ? { tickCount: 3, ...(log[axis] && values.length ? { values: few(range(values)) } : {}) } : {}) };
    }
    if (several && y) y.axis = small ? null : {};
    if (color) Object.assign(color, { scale: { domain: names, range: names.map((name) => figure.colours[name]) } }, names.length < 2 ? { legend: null } : {});
    if (shape) shape.scale = { domain: Object.keys(figure.colours) };
    for (const tip of tooltip ?? []) tip.title = { x: view.x, y: view.y }[tip.field] ?? tip.field;
  }
  if (figure.kind === "outcomes") spec.encoding.x.scale = { domain: view.order };
  return spec;
};
// On a logarithmic axis the grid is at powers of ten, and far from one these are what is written.
const power = "abs(log(datum.value) / LN10 - round(log(datum.value) / LN10)) < 1e-6";
const logAxis = {
  labelExpr: "datum.value < 1e-3 || datum.value >= 1e5 ? format(datum.value, '~e') : format(datum.value, '~g')",
  gridOpacity: { condition: { test: power, value: 0.14 }, value: 0 }, tickOpacity: { condition: { test: power, value: 0.5 }, value: 0.2 },
};
// The ticks of a small figure: powers of ten, or within one decade 1, 2, 3, 5.
const few = ([low, high]) => {
  const steps = high / low > 50 ? [1] : high / low > 10 ? [1, 2, 5] : [1, 2, 3, 5], found = [];
  for (let decade = Math.floor(Math.log10(low)); decade <= Math.ceil(Math.log10(high)); decade++) found.push(...steps.map((step) => step * 10 ** decade));
  return found.filter((one) => one >= low && one <= high);
};
const padded = ([low, high], log, share) => {
  if (low === high) return log ? [low / 2, high * 2] : [low - 1, high + 1];
  const by = log ? (high / low) ** share : share * (high - low);
  return log ? [low / by, high * by] : [low - by, high + by];
};

// A plot with its controls: the view, logarithmic axes, and with `models` which of them.
const drawPlot = (holder, figure, { small = false, models = false, view: at = 0, changed = () => {} } = {}) => {
  const state = { view: Math.min(at, figure.views.length - 1), models: "all", log: null };
  const chart = el("div", { class: "chart" }), controls = el("div", { class: "controls" });
  const view = () => figure.views[state.view];
  const check = (axis) => el("label", {}, el("input", { type: "checkbox", checked: state.log[axis], change: ({ target }) => { state.log[axis] = target.checked; draw(); } }), ` log ${axis}`);
  const drawControls = () => {
    const logs = ["lines", "points", "parts"].includes(figure.kind) ? (figure.kind === "parts" ? [check("x")] : [check("x"), check("y")]) : [];
    controls.replaceChildren(
      ...(figure.views.length > 1 ? [select("Show", figure.views.map((one, place) => [place, one.name]), state.view, (place) => { state.view = Number(place); changed(state.view); setView(); })] : []),
      ...(models ? [select("Models", [["all", "all"], ["best", "best of each family"], ...[...new Set(view().points.map((one) => one.series))].map((one) => [one, one])], state.models, (one) => { state.models = one; draw(); })] : []),
      ...logs);
  };
  const setView = () => {
    state.log = { x: view().log.includes("x"), y: view().log.includes("y") };
    drawControls();
    draw();
  };
  const draw = async () => {
    const [embed, { templates }] = await Promise.all([vega(), part("index")]);
    const spec = build(templates[figure.kind], figure, view(), state.log, state.models, holder.clientWidth, small);
    await embed(chart, spec, { mode: "vega-lite", renderer: "svg", ast: true, defaultStyle: false, tooltip: { disableDefaultStyle: true, theme: "custom" },
      loglevel: 1, forceActionsMenu: true, actions: small ? false : { export: { png: true, svg: true }, source: false, compiled: false, editor: false }, downloadFileName: figure.id, scaleFactor: { png: 2 } });
    for (const one of $$("g[role]", chart)) one.setAttribute("aria-hidden", "true"); // one image, whose numbers are in the tables
    $("svg.marks", chart).setAttribute("role", "img");
    $("svg.marks", chart).setAttribute("aria-label", spec.description);
    $("summary", chart)?.setAttribute("aria-label", "Save the figure");
    holder.dataset.drawn = "1";
  };
  holder.replaceChildren(...(small ? [] : [controls]), chart);
  whenNear(holder, () => {
    if (figure.views.length) setView();
    redraw.add(draw);
  });
};
dark.addEventListener("change", () => redraw.forEach((draw) => draw()));
