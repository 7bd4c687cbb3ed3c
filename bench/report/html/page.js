// The page: cards, trade-off, claims, tasks, and the address that opens what it names.
const badge = (verdict) => el("span", { class: `badge ${verdict.replaceAll(" ", "-")}` }, verdict);
const base = {}; // what the address keeps when a dialog closes

// A part's tables and figures, one at a time.
const explore = async (holder, name, wanted, view, controls) => {
  const { tables, figures, words, terms } = await part(name), at = el("div");
  const all = [...tables.map((one) => [one.id, one.title, "table"]), ...figures.map((one) => [`${one.id} `, one.title, "figure"])];
  if (!all.length) return holder.replaceChildren(el("p", {}, "Nothing was measured."));
  const show = (id) => {
    const table = tables.find((one) => one.id === id), figure = figures.find((one) => `${one.id} ` === id);
    if (table) at.replaceChildren(drawTable(table, words));
    else drawPlot(at, figure, { view, changed: (place) => { view = place; keep(id); } });
    at.className = table ? "" : "plot";
  };
  const keep = (id) => { if (name.includes("/")) setAddress({ task: name, show: id.trim(), view: view || null }); };
  const first = all.find((one) => one[0].trim() === wanted)?.[0] ?? all[0][0];
  const choice = select("Show", all.map(([id, title, kind]) => [id, `${title} (${kind})`]), first, (id) => { view = 0; show(id); keep(id); });
  controls?.querySelector(".show")?.remove();
  choice.className = "show";
  controls?.append(choice);
  holder.replaceChildren(...(terms ? [el("details", { class: "quiet" }, el("summary", {}, "Terms of the comparison"), el("p", {}, terms))] : []), controls ? "" : el("div", { class: "controls" }, choice), at);
  show(first);
};

const exploreTask = (name, wanted, view) => explore($("#task-part"), name, wanted, view, $("#task-controls"));
const setAddress = (values) => {
  for (const [name, value] of Object.entries(values)) if (value === null) delete base[name]; else base[name] = value;
  history.replaceState(null, "", link(base));
};

const openClaim = async (fold) => {
  if (fold.children.length > 1) return;
  const { [fold.dataset.claim]: claim } = await part("claims"), plot = el("div", { class: "plot" });
  const rows = claim.parts.map((one) => [...one.cells, badge(one.verdict), one.p, one.note, one.samples.map(shown).join(", ")]);
  const records = claim.records.map(([path, runs]) => el("li", {}, el("code", {}, path), runs.length ? `: ${runs.length} runs ` : "",
    runs.slice(0, 40).map((id) => { const at = runOwner[id]; return [" ", at ? runLink(at, id) : id]; })));
  fold.append(el("div", {}, claim.figures.length ? plot : "", claim.shows ? el("p", {}, el("a", { href: link({ part: claim.shows[0], show: claim.shows[1] }) }, "Figure over all settings")) : "",
    rows.length ? grid("Parts", ["about", "found", "asked", "verdict", "p, or fact", "note", "seeds"], rows) : "",
    facts([...claim.facts, ...claim.commands.map((one) => ["reproduce", command(one)]), ["in a terminal", command(`python -m bench explain ${fold.dataset.claim}`)],
      ["permalink", el("a", { href: link({ claim: fold.dataset.claim }) }, fold.dataset.claim)]]),
    claim.records.length ? el("details", {}, el("summary", {}, "Records and runs"), el("ul", {}, records)) : ""));
  if (claim.figures.length) drawPlot(plot, claim.figures[0]);
};
const runOwner = {};
const findRuns = async () => {
  if (Object.keys(runOwner).length) return;
  for (const name of comparisons) for (const run of (await part(name)).runs) runOwner[run.id] = name;
};
for (const fold of $$("details.claim")) fold.addEventListener("toggle", async () => { if (fold.open) { await findRuns(); await openClaim(fold); } });
for (const fold of $$("details[data-part]")) fold.addEventListener("toggle", () => {
  if (fold.open && fold.children.length < 2) { fold.append(el("div")); explore(fold.lastChild, fold.dataset.part); }
});
$$("table.roving, .theme.roving").forEach((one) => roving(one));

const filter = () => {
  const verdict = $("#filter-verdict").value, fixed = $("#filter-fixed").value;
  let count = 0;
  for (const fold of $$("details.claim")) count += !(fold.hidden = (verdict && fold.dataset.verdict !== verdict) || (fixed && fold.dataset.fixed !== fixed));
  for (const section of $$(".theme")) section.hidden = !$("details:not([hidden])", section);
  $("#filter-count").value = `${count} claims`;
};
for (const id of ["verdict", "fixed"]) $(`#filter-${id}`)?.addEventListener("change", filter);

for (const holder of $$("[data-card]")) whenNear(holder, async () => {
  const figure = (await part("index")).cards[holder.dataset.card];
  if (figure) drawPlot(holder, figure, { small: true });
});
const tradeoff = async () => {
  const { tradeoff: figures } = await part("index"), figure = figures[$("#tradeoff-task").value];
  if (figure) drawPlot($("#tradeoff-plot"), figure, { models: true });
  else $("#tradeoff-plot").replaceChildren(el("p", {}, "No row has both a cost and a score."));
};
whenNear($("#tradeoff"), tradeoff);
$("#tradeoff-task").addEventListener("change", tradeoff);
$("#task").addEventListener("change", ({ target }) => { setAddress({ task: target.value, show: null, view: null }); exploreTask(target.value); });

// #cell=, #run=&with=, #claim=, #part=&show=, and #task=&show=&view= open what they name; other addresses are plain anchors.
const follow = async () => {
  const hash = location.hash.slice(1);
  if (!hash.includes("=")) return;
  const named = Object.fromEntries(hash.split("&").map((pair) => [pair.slice(0, pair.indexOf("=")), decodeURIComponent(pair.slice(pair.indexOf("=") + 1))]));
  if (named.cell) return showCell(named.cell);
  if (named.run) return showRun(named.run, named.with);
  if (dialog.open) dialog.close();
  const fold = named.claim ? $(`details[data-claim="${CSS.escape(named.claim)}"]`) : named.part ? $(`details[data-part="${CSS.escape(named.part)}"]`) : null;
  if (fold) {
    fold.hidden = false;
    fold.open = true;
    if (named.show) { if (fold.children.length < 2) fold.append(el("div")); await explore(fold.lastChild, named.part, named.show); }
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
whenNear($("#tasks"), () => { if (!$("#task-part").children.length) exploreTask($("#task").value); });

$("#download-runs").addEventListener("click", async () => {
  const rows = [["comparison", "run_id", "name", "value", "unit"]];
  for (const name of comparisons) {
    const { runs, words } = await part(name);
    for (const run of runs) rows.push(...run.settings.map(([key, value]) => [name, run.id, words[key], words[value], ""]), ...run.measures.map(([key, value, unit]) => [name, run.id, words[key], value, words[unit]]));
  }
  download("runs.csv", csv(rows));
});
$("#download-claims").addEventListener("click", async () => {
  const rows = Object.entries(await part("claims")).flatMap(([id, claim]) => claim.parts.map((one) => [id, ...one.cells, one.verdict, one.p, one.note, one.samples.join(" ")]));
  download("claims.csv", csv([["claim", "about", "found", "asked", "verdict", "p", "note", "seeds"], ...rows]));
});
follow();
