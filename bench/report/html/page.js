// The page: cards, trade-off, claims, tasks, and the address that opens what it names.
const badge = (verdict) => el("span", { class: `badge ${verdict.replaceAll(" ", "-")}` }, verdict);
const base = {}; // what the address keeps when a dialog closes
const setAddress = (values) => {
  for (const [name, value] of Object.entries(values)) if (value === null) delete base[name]; else base[name] = value;
  history.replaceState(null, "", link(base));
};

// A part's tables and figures, one at a time; the ids of figures end with a space, so that none is a table's.
const explore = async (holder, name, wanted, view = 0, controls = el("div", { class: "controls" })) => {
  const { tables, figures, words, terms } = await part(name), at = el("div");
  const all = tables.map((one) => [one.id, `${one.title} (table)`]);
  all.push(...figures.map((one) => [`${one.id} `, `${one.title} (figure)`]));
  if (!all.length) return holder.replaceChildren(el("p", {}, "Nothing was measured."));
  const keep = (id) => { if (name.includes("/")) setAddress({ task: name, show: id.trim(), view: view || null }); };
  const show = (id) => {
    const table = tables.find((one) => one.id === id), figure = figures.find((one) => `${one.id} ` === id);
    at.className = table ? "" : "plot";
    if (table) at.replaceChildren(drawTable(table, words));
    else drawPlot(at, figure, { view, changed: (place) => { view = place; keep(id); } });
  };
  const first = all.find(([id]) => id.trim() === wanted)?.[0] ?? all[0][0];
  const choice = select("Show", all, first, (id) => { view = 0; show(id); keep(id); });
  choice.className = "show";
  $(".show", controls)?.remove();
  controls.append(choice);
  const words_ = terms ? el("details", { class: "quiet" }, el("summary", {}, "Terms of the comparison"), el("p", {}, terms)) : "";
  holder.replaceChildren(words_, controls.isConnected ? "" : controls, at);
  show(first);
};
const exploreTask = (name, wanted, view) => explore($("#task-part"), name, wanted, view, $("#task-controls"));

const runOwner = {};
const findRuns = async () => {
  if (Object.keys(runOwner).length) return;
  for (const name of comparisons) for (const run of (await part(name)).runs) runOwner[run.id] = name;
};
const openClaim = async (fold) => {
  if (fold.children.length > 1) return;
  const id = fold.dataset.claim, plot = el("div", { class: "plot" }), holder = el("div");
  fold.append(holder);
  await findRuns();
  const claim = (await part("claims"))[id], [where, what] = claim.shows ?? [];
  const to = where && link({ [where.includes("/") ? "task" : "part"]: where, show: what });
  const seeds = (one) => one.samples.map((value) => (value === null ? "n/a" : String(Number(value.toPrecision(4))))).join(", ");
  const rows = claim.parts.map((one) => [...one.cells, badge(one.verdict), one.p, one.note, seeds(one)]);
  const records = claim.records.map(([path, runs]) => el("li", {}, el("code", {}, path), runs.length ? `: ${runs.length} runs` : "",
    runs.flatMap((run) => [" ", runOwner[run] ? runLink(runOwner[run], run) : run])));
  holder.append(
    claim.figures.length ? plot : "",
    where ? el("p", {}, el("a", { href: to }, "Figure over all settings")) : "",
    rows.length ? grid("Parts", ["about", "found", "asked", "verdict", "p, or fact", "note", "seeds"], rows) : "",
    facts([...claim.facts, ...claim.commands.map((one) => ["Reproduce", command(one)]),
      ["In a terminal", command(`python -m bench explain ${id}`)], ["Permalink", el("a", { href: link({ claim: id }) }, id)]]),
    records.length ? el("details", {}, el("summary", {}, "Records and runs"), el("ul", {}, records)) : "");
  if (claim.figures.length) drawPlot(plot, claim.figures[0]);
};
const openPart = (fold, wanted) => {
  if (fold.children.length < 2) fold.append(el("div"));
  else if (!wanted) return null;
  return explore(fold.lastChild, fold.dataset.part, wanted);
};
for (const fold of $$("details.claim")) fold.addEventListener("toggle", () => fold.open && openClaim(fold));
for (const fold of $$("details[data-part]")) fold.addEventListener("toggle", () => fold.open && openPart(fold));
$$("main .roving").forEach((one) => roving(one));

const filter = () => {
  const verdict = $("#filter-verdict").value, fixed = $("#filter-fixed").value, folds = $$("details.claim");
  const out = ({ dataset }) => Boolean((verdict && dataset.verdict !== verdict) || (fixed && dataset.fixed !== fixed));
  for (const fold of folds) fold.hidden = out(fold);
  for (const section of $$(".theme")) section.hidden = !$("details:not([hidden])", section);
  $("#filter-count").value = `${folds.filter((fold) => !fold.hidden).length} claims`;
};
for (const name of ["verdict", "fixed"]) $(`#filter-${name}`)?.addEventListener("change", filter);

for (const holder of $$("[data-card]")) whenNear(holder, async () => {
  const figure = (await part("index")).cards[holder.dataset.card];
  if (figure) drawPlot(holder, figure, { small: true });
});
const tradeoff = async () => {
  const figure = (await part($("#tradeoff-task").value)).figures.find(({ id }) => id === "tradeoff");
  if (figure) drawPlot($("#tradeoff-plot"), figure, { models: true });
  else $("#tradeoff-plot").replaceChildren(el("p", {}, "No row has both a cost and a score."));
};
whenNear($("#tradeoff"), tradeoff);
$("#tradeoff-task").addEventListener("change", tradeoff);
whenNear($("#tasks"), () => { if (!$("#task-part").children.length) exploreTask($("#task").value); });
$("#task").addEventListener("change", ({ target }) => {
  setAddress({ task: target.value, show: null, view: null });
  exploreTask(target.value);
});

// #cell=, #run=&with=, #claim=, #part=&show= and #task=&show=&view= open what they name; other addresses are plain anchors.
const follow = async () => {
  const hash = location.hash.slice(1), cut = (pair) => [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)];
  if (!hash.includes("=")) return;
  const named = Object.fromEntries(hash.split("&").map(cut).map(([name, value]) => [name, decodeURIComponent(value)]));
  if (named.cell) return void showCell(named.cell);
  if (named.run) return void showRun(named.run, named.with);
  if (dialog.open) dialog.close();
  const is = ({ dataset }) => dataset.claim === named.claim && dataset.part === named.part;
  const fold = $$("details.claim, details[data-part]").find(is);
  if (fold) {
    fold.hidden = false;
    fold.open = true;
    if (named.show) await openPart(fold, named.show);
    fold.scrollIntoView();
  }
  if (packed[named.task] && (named.task !== base.task || named.show !== base.show)) {
    Object.assign(base, named);
    $("#task").value = named.task;
    await exploreTask(named.task, named.show, Number(named.view ?? 0));
    $("#tasks").scrollIntoView();
  }
};
addEventListener("hashchange", follow);
dialog.addEventListener("close", () => history.replaceState(null, "", Object.keys(base).length ? link(base) : location.pathname));

$("#download-runs").addEventListener("click", async () => {
  const rows = [["comparison", "run_id", "name", "value", "unit"]];
  for (const name of comparisons) {
    const { runs, words } = await part(name);
    for (const { id, settings, measures } of runs) {
      rows.push(...settings.map(([key, value]) => [name, id, words[key], words[value], ""]));
      rows.push(...measures.map(([key, value, unit]) => [name, id, words[key], value, words[unit]]));
    }
  }
  download("runs.csv", csv(rows));
});
$("#download-claims").addEventListener("click", async () => {
  const line = (id, one) => [id, ...one.cells, one.verdict, one.p, one.note, one.samples.join(" ")];
  const rows = Object.entries(await part("claims")).flatMap(([id, claim]) => claim.parts.map((one) => line(id, one)));
  download("claims.csv", csv([["claim", "about", "found", "asked", "verdict", "p", "note", "seeds"], ...rows]));
});
follow();
