// Tables that sort, filter and can be copied; the evidence of a number; two runs next to each other.
const SIGNS = {
  ...{ "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" },
  ...{ "↓": "$\\downarrow$", "↑": "$\\uparrow$", "—": "---", "×": "$\\times$" },
};
const latexText = (one) => one.replace(/[&%$#_{}~^\\↓↑—×]/g, (sign) => SIGNS[sign] ?? `\\${sign}`);
const latexTable = (table, names, rows) => {
  const line = (cells) => `${cells.map(latexText).join(" & ")} \\\\`;
  const columns = table.heads.map((_, place) => (table.text_columns.includes(place) ? "l" : "r")).join("");
  return ["% \\usepackage{booktabs}", `\\begin{tabular}{${columns}}`, "\\toprule", line(names), "\\midrule", ...rows.map(line),
    "\\bottomrule", "\\end{tabular}"].join("\n");
};
const bibtex = (title, key) => [`@misc{deqbench-${key},`, `  title = {${latexText(title)}},`,
  "  author = {{The DEQ benchmark contributors}},", "  howpublished = {Table of the DEQ benchmark},",
  `  note = {${latexText(location.href)}}`, "}"].join("\n");

// A cell is a text, or [text, bold, notes, value, evidence].
const address = (table, words, cell) => [...table.address, words[cell[4][0]], words[cell[4][1]]].join("/");

// Sort by a column: least first, then greatest first; rows without a number stay last, references first.
const collator = new Intl.Collator("en", { numeric: true });
const sorter = (head, body) => () => {
  const sign = head.ariaSort === "ascending" ? -1 : 1, place = head.cellIndex;
  for (const other of head.parentNode.cells) other.ariaSort = null;
  head.ariaSort = sign > 0 ? "ascending" : "descending";
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
  const content = Array.isArray(cell) ? cell[0] : cell, kind = table.text_columns.includes(place) ? "word" : "";
  const [mean, ends] = content.split(/ (?=\[)/), inside = [mean, ends ? el("small", {}, ` ${ends}`) : null];
  if (!Array.isArray(cell)) return el(place ? "td" : "th", { class: kind, scope: place ? null : "row" }, inside);
  const [, bold, notes, value] = cell;
  const number = content && el("a", { href: link({ cell: address(table, words, cell) }) }, bold ? el("b", {}, inside) : inside);
  return el("td", { class: kind, "data-value": typeof value === "number" ? String(value) : null }, number,
    notes.length ? el("sup", {}, notes.join(" ")) : null);
};

// Next to another row, as `bench compare`: the mean ratio, or of what is no positive ratio the difference, over the seeds that both
// have, with Student's 95 % interval.
const STUDENT = [12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.306, 2.2622];
const student = (free) => STUDENT[free - 1] ?? 1.96 + 2.3723 / free + 2.8225 / free ** 2;
const bySeed = (words, cell) => new Map((Array.isArray(cell) ? cell[4][6] : []).filter(([about, value]) =>
  typeof value === "number" && words[about].startsWith("seed ")));
const nextTo = (words, cell, other) => {
  const [ours, theirs] = [cell, other].map((one) => bySeed(words, one)), seeds = [...ours.keys()].filter((one) => theirs.has(one));
  if (!seeds.length) return null;
  const ratio = [cell, other].every((one) => one[4][5]?.[4]), n = seeds.length;
  const data = seeds.map((one) => (ratio ? Math.log(ours.get(one) / theirs.get(one)) : ours.get(one) - theirs.get(one)));
  const mean = data.reduce((sum, one) => sum + one, 0) / n;
  const spread = Math.max(...data) > Math.min(...data); // the mean of equal values may be off by a rounding
  const half = spread ? student(n - 1) * Math.sqrt(data.reduce((sum, one) => sum + (one - mean) ** 2, 0) / (n - 1) / n) : 0;
  const [at, low, high] = [mean, mean - half, mean + half].map((one) => (ratio ? Math.exp(one) : one));
  const written = (one) => Number(one.toPrecision(3)).toString();
  const decided = half && (mean - half > 0 || mean + half < 0), sign = ratio || at <= 0 ? "" : "+";
  const ends = half ? ` [${written(low)}, ${written(high)}]` : "";
  return { at, decided, text: `${sign}${written(at)}${ratio ? "×" : ""}`, ends };
};

// On a phone the columns of parameters make room for the scores: their range stands above the table.
const sizeRange = (table, place) => {
  const known = table.rows.map((row) => row[place + 1][3]).filter((value) => typeof value === "number");
  const [low, high] = [Math.min(...known), Math.max(...known)].map((one) => one.toLocaleString("en"));
  return known.length ? `${table.heads[place][0]}: ${low === high ? low : `${low} to ${high}`}` : null;
};

const drawTable = (table, words) => {
  const sizes = table.heads.map(([name]) => /params$/.test(name));
  const small = sizes.map((size, place) => (size ? sizeRange(table, place) : null)).filter(Boolean).join("; ");
  const kind = (place) => [table.text_columns.includes(place) ? "word" : "", sizes[place] ? "size" : ""].join(" ").trim();
  const name = (row) => (Array.isArray(row[1]) ? row[1][0] : row[1]), numbers = [];
  const body = el("tbody", {}, table.rows.map(([family, ...cells]) => {
    const drawn = cells.map((cell, place) => drawCell(table, words, cell, place));
    cells.forEach((cell, place) => {
      const at = drawn[place], inside = $("a", at);
      if (inside && bySeed(words, cell).size) numbers.push([at, cell, place, inside, [...inside.childNodes], at.dataset.value]);
    });
    const row = el("tr", { class: family === "reference" ? "fixed" : "" }, drawn);
    sizes.forEach((size, place) => row.cells[place].classList.toggle("size", size));
    return row;
  }));
  const heads = table.heads.map(([name, unit], place) => {
    const head = el("th", { scope: "col", class: kind(place) });
    head.append(button([name, unit ? el("small", {}, ` ${unit}`) : ""], sorter(head, body)));
    return head;
  });
  const made = el("table", { class: "roving" }, el("caption", {}, table.title), el("thead", {}, el("tr", {}, heads)), body);
  const narrow = () => {
    for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(filter.value.toLowerCase());
  };
  const filter = el("input", { type: "search", placeholder: "filter rows", "aria-label": `Filter ${table.title}`, input: narrow });
  const models = table.rows.filter((row) => row.some((cell) => bySeed(words, cell).size)).map(name);
  const choice = models.length > 1 ? select("Next to", [["", "no other"], ...models.map((one) => [one, one])], "", (label) => {
    const other = table.rows.find((row) => name(row) === label);
    for (const [at, cell, place, inside, before, value] of numbers) {
      const one = other && nextTo(words, cell, other[place + 1]);
      const ratio = one ? [one.decided ? el("b", {}, one.text) : one.text, el("small", {}, one.ends)] : ["—"];
      inside.replaceChildren(...(other ? ratio : before));
      if (other && !one) delete at.dataset.value;
      else at.dataset.value = one ? one.at : value;
    }
    $(".next", choice.closest(".table")).hidden = !other;
  }) : null;
  const names = table.heads.map(([name, unit]) => (unit ? `${name} (${unit})` : name));
  const visible = () => [...body.rows].filter((row) => !row.hidden).map((row) => [...row.cells].map((cell) => {
    const copied = cell.cloneNode(true);
    $("sup", copied)?.remove();
    return copied.textContent.trim();
  }));
  const copier = (name, write) => button(name, ({ target }) => copy(write(), target));
  const tools = el("div", { class: "controls roving", role: "toolbar", "aria-label": "Copy the table" }, "copy as",
    copier("CSV", () => csv([names, ...visible()])), copier("LaTeX", () => latexTable(table, names, visible())),
    copier("BibTeX", () => bibtex(table.title, table.id)));
  roving(made);
  roving(tools);
  const list = (tag, texts) => (texts.length ? el(tag, { class: "quiet" }, texts.map((one) => el("li", {}, one))) : null);
  const method = table.legend || table.remarks.length
    ? el("details", { class: "quiet" }, el("summary", {}, "Method and runs"), el("p", {}, table.legend), list("ul", table.remarks))
    : null;
  return el("div", { class: "table" }, el("div", { class: "controls" }, choice, filter, tools),
    el("p", { class: "quiet next", hidden: true },
      "Ratios (×) and differences over the seeds that both have, with 95 % intervals; bold: equality lies outside."),
    small ? el("p", { class: "quiet narrow" }, small) : null, el("div", { class: "scroll" }, made),
    el("p", { class: "quiet" }, table.caption), list("ol", table.notes), method);
};

// Plain rows of texts and elements as a table.
const grid = (title, heads, rows) => {
  const cell = (tag, scope) => (one) => el(tag, { class: "word", scope }, one);
  const line = ([first, ...others]) => el("tr", {}, cell("th", "row")(first), others.map(cell("td")));
  return el("div", { class: "scroll" }, el("table", {}, el("caption", {}, title),
    el("thead", {}, el("tr", {}, heads.map(cell("th", "col")))), el("tbody", {}, rows.map(line))));
};
const facts = (pairs) => el("dl", {}, pairs.flatMap(([name, what]) => [el("dt", {}, name), el("dd", {}, what)]));
const command = (one) => el("code", {}, one);
const runLink = (name, id) => el("a", { href: link({ run: `${name}/${id}` }) }, id);

const dialog = $("#dialog");
const openDialog = (title, ...inside) => {
  $("h2", dialog).textContent = title;
  $("div", dialog).replaceChildren(...inside);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
};

// The part that an address begins with.
const owner = (at) => (at.startsWith("claims/") ? "solver" : null) ?? Object.keys(packed).find((name) => at.startsWith(`${name}/`) || at.startsWith(`${name}: `));

const showCell = async (at) => {
  const name = owner(at), { tables, words, runs } = name ? await part(name) : { tables: [] };
  const sourced = (row) => row.slice(1).filter(Array.isArray);
  const cells = tables.flatMap((table) => table.rows.flatMap(sourced).map((cell) => [table, cell]));
  const found = cells.find(([table, cell]) => address(table, words, cell) === at)?.[1];
  if (!found) return openDialog("Not found", el("p", {}, `This page has no number ${at}.`));
  const [content, , , value, [, , unit, statistic, reproduce, interval, samples, methods, more]] = found;
  const known = new Set(runs.map((one) => one.id)), pairs = [["value", el("b", {}, content)]];
  if (interval) {
    const [mean, low, high, n] = interval;
    pairs.push(["mean", `${shown(mean)} ${words[unit]}`]);
    if (low !== null && low !== high) pairs.push(["interval", `${shown(low)} to ${shown(high)} ${words[unit]}`]);
    pairs.push(["n", shown(n)]);
  } else if (value !== null) pairs.push(["exact", `${shown(value)} ${words[unit]}`]);
  pairs.push(["statistic", words[statistic]]);
  for (const [method, scope] of methods) pairs.push(["method", words[method]], ["scope", words[scope]]);
  for (const [fact, what] of more) pairs.push([words[fact], words[what]]);
  pairs.push(["reproduce", command(words[reproduce])], ["in a terminal", command(`python -m bench explain '${at}'`)]);
  const rows = samples.map(([about, one, run, reason]) =>
    [words[about], shown(one), known.has(words[run]) ? runLink(name, words[run]) : words[run], words[reason]]);
  openDialog(at, facts(pairs), rows.length ? grid("Computed from", ["of", `value ${words[unit]}`, "run", "reason"], rows) : "");
};

// A run, alone or with another of its comparison.
const showRun = async (at, other) => {
  const name = owner(at), { runs, words, figures } = name ? await part(name) : { runs: [] };
  const [one, two] = [at.slice((name ?? "").length + 1), other].map((id) => runs.find((run) => run.id === id));
  if (!one) return openDialog("Not found", el("p", {}, `This page has no run ${at}.`));
  const both = [one, two].filter(Boolean);
  const lines = (kind, read) => [...new Set(both.flatMap((run) => run[kind].map(([key]) => key)))].map((key) => {
    const entries = both.map((run) => run[kind].find((entry) => entry[0] === key));
    const cells = entries.map((entry) => (entry ? read(entry) : "—"));
    return [words[key], ...cells.map((cell) => (new Set(cells).size > 1 ? el("mark", {}, cell) : cell))];
  });
  const heads = ["", ...both.map((run) => run.id)], ids = new Set(heads), plot = el("div", { class: "plot" });
  const options = [["", "no other run"], ...runs.filter((run) => run !== one).map((run) => [run.id, run.id])];
  const compare = (id) => { location.hash = link(id ? { run: at, with: id } : { run: at }); };
  const choice = select("Compare with", options, other ?? "", compare);
  const curves = figures.find((figure) => figure.id === "curves");
  const views = (curves?.views ?? []).map((view) => {
    const series = view.series.filter(([, run]) => ids.has(run)).map(([, run, ...points]) => [run, run, ...points]);
    return { ...view, series };
  }).filter((view) => view.series.length);
  openDialog(two ? "Two runs" : "A run", el("div", { class: "controls" }, choice), views.length ? plot : "",
    grid("Measures", heads, lines("measures", ([, value, unit]) => `${shown(value)} ${words[unit] === "1" ? "" : words[unit]}`)),
    grid("Settings", heads, lines("settings", ([, value]) => words[value])));
  const colours = Object.fromEntries(both.map((run, place) => [run.id, ["#0072B2", "#D55E00"][place]]));
  if (views.length) drawPlot(plot, { ...curves, views, colours });
};
