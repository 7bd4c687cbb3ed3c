// Tables that sort, filter and can be copied; the evidence of a number; two runs next to each other.
const bare = (head) => head.replace(/ [↓↑]$/, "");
const latexText = (one) => one.replace(/[&%$#_{}~^\\]/g, (c) => ({ "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" })[c] ?? `\\${c}`)
  .replaceAll("↓", "$\\downarrow$").replaceAll("↑", "$\\uparrow$").replaceAll("—", "---").replaceAll("×", "$\\times$");
const latexTable = (table, rows) => [
  "% \\usepackage{booktabs}", `\\begin{tabular}{${table.heads.map((_, place) => (table.words.includes(place) ? "l" : "r")).join("")}}`, "\\toprule",
  `${table.heads.map((head) => latexText(head[1] ? `${head[0]} (${head[1]})` : head[0])).join(" & ")} \\\\`, "\\midrule",
  ...rows.map((row) => `${row.map(latexText).join(" & ")} \\\\`), "\\bottomrule", "\\end{tabular}",
].join("\n");
const bibtex = (title, key) => `@misc{deqbench-${key},\n  title = {${latexText(title)}},\n  author = {{The DEQ benchmark contributors}},\n  howpublished = {Table of the DEQ benchmark},\n  note = {${latexText(location.href)}}\n}`;

const cellText = (cell) => (Array.isArray(cell) ? cell[0] : cell);
const address = (table, words, cell) => [...table.address, words[cell[4][0]], words[cell[4][1]]].join("/");

// Sort by a column: least first, then greatest first; rows without a number stay last, references first.
const sorter = (head, body) => () => {
  const sign = head.ariaSort === "ascending" ? -1 : 1, place = head.cellIndex;
  for (const other of head.parentNode.cells) other.ariaSort = null;
  head.ariaSort = sign > 0 ? "ascending" : "descending";
  const collator = new Intl.Collator("en", { numeric: true });
  const rows = [...body.rows].filter((row) => !row.classList.contains("fixed"));
  const value = (row) => (row.cells[place].dataset.value === undefined ? null : Number(row.cells[place].dataset.value));
  const numeric = rows.some((row) => value(row) !== null);
  rows.sort((one, other) => {
    if (!numeric) return sign * collator.compare(one.cells[place].textContent, other.cells[place].textContent);
    const [a, b] = [value(one), value(other)];
    return a === null || b === null ? (a === null) - (b === null) : sign * (a - b);
  });
  body.append(...rows);
};

const drawCell = (table, words, cell, place) => {
  const content = cellText(cell), [mean, ends] = content.split(/ (?=\[)/), word = table.words.includes(place) ? "word" : "";
  const inside = [mean, ends ? el("small", {}, ` ${ends}`) : null];
  if (!Array.isArray(cell)) return el(place ? "td" : "th", { class: word, scope: place ? null : "row" }, inside);
  const number = content ? el("a", { href: link({ cell: address(table, words, cell) }) }, cell[1] ? el("b", {}, inside) : inside) : "";
  const notes = cell[2].length ? el("sup", {}, cell[2].join(" ")) : null;
  return el("td", { class: word, "data-value": typeof cell[3] === "number" ? String(cell[3]) : null }, number, notes);
};

const drawTable = (table, words) => {
  const sizes = table.heads.map((head) => /params$/.test(bare(head[0])));
  const range = (place) => {
    const known = table.rows.map((row) => row[place + 1][3]).filter((value) => typeof value === "number");
    return known.length ? `${bare(table.heads[place][0])}: ${Math.min(...known).toLocaleString("en")} to ${Math.max(...known).toLocaleString("en")}` : null;
  };
  const small = sizes.map((size, place) => (size ? range(place) : null)).filter(Boolean).join("; ");
  const body = el("tbody", {}, table.rows.map(([family, ...cells]) => {
    const row = el("tr", { class: family === "reference" ? "fixed" : "" }, cells.map((cell, place) => drawCell(table, words, cell, place)));
    sizes.forEach((size, place) => row.cells[place].classList.toggle("size", size));
    return row;
  }));
  const heads = table.heads.map(([name, unit], place) => {
    const head = el("th", { scope: "col", class: [table.words.includes(place) ? "word" : "", sizes[place] ? "size" : ""].join(" ").trim() });
    head.append(button([name, unit ? el("small", {}, ` ${unit}`) : ""], sorter(head, body)));
    return head;
  });
  const made = el("table", { class: "roving" },
    el("caption", {}, table.title), el("thead", {}, el("tr", {}, heads)), body);
  roving(made);
  const visible = () => [...body.rows].filter((row) => !row.hidden).map((row) => [...row.cells].map((cell) => cell.firstChild?.textContent ? cell.textContent.trim() : ""));
  const filter = el("input", { type: "search", placeholder: "filter rows", "aria-label": `Filter rows of ${table.title}`, input: () => {
    for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(filter.value.toLowerCase());
  } });
  const names = table.heads.map((head) => (head[1] ? `${head[0]} (${head[1]})` : head[0]));
  const tools = el("div", { class: "controls roving", role: "toolbar", "aria-label": "Copy the table" }, "copy as",
    button("CSV", ({ target }) => copy(csv([names, ...visible()]), target)),
    button("LaTeX", ({ target }) => copy(latexTable(table, visible()), target)),
    button("BibTeX", ({ target }) => copy(bibtex(table.title, table.id), target)));
  roving(tools);
  const more = table.rule || table.remarks.length ? el("details", { class: "quiet" }, el("summary", {}, "Method and runs"),
    el("p", {}, table.rule), el("ul", {}, table.remarks.map((one) => el("li", {}, one)))) : null;
  return el("div", { class: "table" }, el("div", { class: "controls" }, filter, tools), small ? el("p", { class: "quiet narrow" }, small) : null, el("div", { class: "scroll" }, made),
    el("p", { class: "quiet" }, table.caption), table.notes.length ? el("ol", { class: "quiet" }, table.notes.map((one) => el("li", {}, one))) : null, more);
};

// Plain rows of texts and elements as a table.
const grid = (title, heads, rows) => el("div", { class: "scroll" }, el("table", { class: "plain" }, el("caption", {}, title),
  el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col", class: "word" }, head)))),
  el("tbody", {}, rows.map((row) => el("tr", {}, row.map((one, place) => el(place ? "td" : "th", { class: "word", scope: place ? null : "row" }, one)))))));
const facts = (pairs) => el("dl", {}, pairs.flatMap(([name, what]) => [el("dt", {}, name), el("dd", {}, what)]));
const command = (one) => el("code", {}, one);
const runLink = (name, id, shownAs = id) => el("a", { href: link({ run: `${name}/${id}` }) }, shownAs);

const dialog = $("#dialog");
const openDialog = (title, ...inside) => {
  $("h2", dialog).textContent = title;
  $("div", dialog).replaceChildren(...inside);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
};

// The part that an address begins with, and the rest.
const owner = (at) => Object.keys(packed).find((name) => at.startsWith(`${name}/`) || at.startsWith(`${name}: `));

const showCell = async (at) => {
  const name = owner(at), { tables, words, runs } = name ? await part(name) : { tables: [], words: [] };
  const found = tables.flatMap((table) => table.rows.flatMap((row) => row.slice(1).filter(Array.isArray).map((cell) => [table, cell])))
    .find(([table, cell]) => address(table, words, cell) === at);
  if (!found) return openDialog("Not found", el("p", {}, `This page has no number ${at}.`));
  const [content, , , value, [, , unit, statistic, reproduce, interval, samples, methods, more]] = found[1];
  const known = new Set((runs ?? []).map((one) => one.id)), place = (one) => words[one];
  const pairs = [["value", el("b", {}, content)]];
  if (interval) {
    pairs.push(["mean", `${shown(interval[0])} ${words[unit]}`]);
    if (interval[1] !== null && interval[1] !== interval[2]) pairs.push(["interval", `${shown(interval[1])} to ${shown(interval[2])} ${words[unit]}`]);
    pairs.push(["n", shown(interval[3])]);
  } else if (value !== null) pairs.push(["exact", `${shown(value)} ${words[unit]}`]);
  pairs.push(["statistic", words[statistic]], ...methods.flatMap(([method, scope]) => [["method", place(method)], ["scope", place(scope)]]),
    ...more.map((pair) => pair.map(place)), ["reproduce", command(words[reproduce])], ["in a terminal", command(`python -m bench explain '${at}'`)]);
  const rows = samples.map(([about, one, run, reason]) => [words[about], shown(one), known.has(words[run]) ? runLink(name, words[run]) : words[run], words[reason]]);
  openDialog(at, facts(pairs), rows.length ? grid("Computed from", ["of", `value ${words[unit]}`, "run", "reason"], rows) : "");
};

// A run, alone or with another of its comparison.
const showRun = async (at, other) => {
  const name = owner(at), { runs, words, figures } = await part(name);
  const [one, two] = [at.slice(name.length + 1), other].map((id) => runs.find((run) => run.id === id));
  if (!one) return openDialog("Not found", el("p", {}, `This page has no run ${at}.`));
  const both = [one, two].filter(Boolean);
  const lines = (kind, read) => [...new Set(both.flatMap((run) => run[kind].map((entry) => entry[0])))].map((key) => {
    const cells = both.map((run) => { const entry = run[kind].find((each) => each[0] === key); return entry ? read(entry) : "—"; });
    return [words[key], ...cells.map((cell) => (two && cells[0] !== cells[1] ? el("mark", {}, cell) : cell))];
  });
  const heads = ["", ...both.map((run) => run.id)];
  const choice = select("Compare with", [["", "no other run"], ...runs.filter((run) => run !== one).map((run) => [run.id, run.id])], other ?? "",
    (id) => { location.hash = link(id ? { run: at, with: id } : { run: at }); });
  const ids = new Set(both.map((run) => run.id)), curves = figures.find((figure) => figure.id === "curves");
  const views = curves?.views.map((view) => ({ ...view, series: view.series.filter((series) => ids.has(series[1])).map(([, id, ...rest]) => [id, id, ...rest]) })).filter((view) => view.series.length) ?? [];
  const plot = el("div", { class: "plot" });
  openDialog(two ? "Two runs" : "A run", el("div", { class: "controls" }, choice), views.length ? plot : "",
    grid("Measures", heads, lines("measures", (entry) => `${shown(entry[1])} ${words[entry[2]] === "1" ? "" : words[entry[2]]}`)),
    grid("Settings", heads, lines("settings", (entry) => words[entry[1]])));
  if (views.length) drawPlot(plot, { ...curves, views, colours: { [one.id]: "#0072B2", ...(two ? { [two.id]: "#D55E00" } : {}) } });
};
