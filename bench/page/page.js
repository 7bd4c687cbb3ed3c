"use strict";
(() => {
  const { words, cells } = JSON.parse(document.getElementById("evidence").textContent);
  const panel = document.getElementById("evidence-panel");

  const made = (name, settings = {}, ...inside) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(settings)) element.setAttribute(key, value);
    element.append(...inside);
    return element;
  };
  const drawn = (name, settings = {}, text = "") => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(settings)) element.setAttribute(key, value);
    if (text) element.textContent = text;
    return element;
  };
  const button = (text, act) => {
    const element = made("button", { type: "button" }, text);
    element.addEventListener("click", act);
    return element;
  };

  // Evidence: the fields in the order in which page.py packs them.
  const chunks = (list, size) => Array.from({ length: list.length / size }, (_, i) => list.slice(size * i, size * (i + 1)));
  const unpacked = (key) => {
    const cell = cells[key];
    const [suite, group, row, column, shown, shownUnit, unit, statistic, command] = cell.slice(0, 9).map((word) => words[word]);
    const estimate = cell[9] || null;
    const readings = chunks(cell[10], 4).map(([about, value, run, why]) => (
      { about: words[about], value: Array.isArray(value) ? words[value[0]] : value, run: words[run], why: words[why] }));
    const pairs = (list) => chunks(list, 2).map((pair) => pair.map((word) => words[word]));
    return { suite, group, row, column, shown, shownUnit, unit, statistic, command, estimate, readings, methods: pairs(cell[11]), facts: pairs(cell[12]) };
  };

  const number = (value) => {
    if (typeof value !== "number") return value ?? "—";
    if (Number.isInteger(value)) return value.toLocaleString("en");
    const size = Math.abs(value);
    return size >= 1e-3 && size < 1e9 ? value.toLocaleString("en", { maximumSignificantDigits: 7 }) : value.toExponential(5);
  };

  // Each run's value as a point, the interval as a bar, the mean as a tick.
  const strip = (found) => {
    const values = found.readings.map((one) => one.value).filter((value) => typeof value === "number");
    const [mean, low, high] = found.estimate ?? [];
    if (values.length < 2 || low === null || low === undefined || low === high) return null;
    const logarithmic = found.statistic.startsWith("geometric") && low > 0 && Math.min(...values) > 0;
    const place = logarithmic ? Math.log : (value) => value;
    const ends = [...values, low, high].map(place);
    const from = Math.min(...ends), to = Math.max(...ends);
    const x = (value) => 14 + 572 * (place(value) - from) / (to - from || 1);
    const label = `Values ${values.map(number).join(", ")}; mean ${number(mean)}, interval ${number(low)} to ${number(high)}`;
    const picture = drawn("svg", { viewBox: "0 0 600 54", class: "strip", role: "img", "aria-label": label });
    picture.append(
      drawn("line", { x1: 0, x2: 600, y1: 20, y2: 20, class: "axis" }),
      drawn("line", { x1: x(low), x2: x(high), y1: 20, y2: 20, class: "span" }),
      drawn("line", { x1: x(mean), x2: x(mean), y1: 8, y2: 32, class: "mean" }),
      ...values.map((value) => drawn("circle", { cx: x(value), cy: 20, r: 5 })),
      drawn("text", { x: 0, y: 50 }, number(Math.min(...values, low))),
      drawn("text", { x: 600, y: 50, "text-anchor": "end" }, number(Math.max(...values, high)) + (logarithmic ? " (log scale)" : "")),
    );
    return picture;
  };

  const copied = (text) => {
    const copy = button("Copy", async () => {
      try { await navigator.clipboard.writeText(text); copy.textContent = "Copied"; } catch {
        getSelection().selectAllChildren(copy.previousElementSibling);
      }
    });
    return made("div", { class: "command" }, made("code", { tabindex: "0" }, text), copy);
  };
  const quoted = (text) => /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;

  const readingsTable = (found) => {
    const head = made("tr", {}, made("th", { scope: "col" }, "of"), made("th", { scope: "col" }, "value" + (found.unit ? ` (${found.unit})` : "")));
    const runs = found.readings.some((one) => one.run || one.why);
    if (runs) head.append(made("th", { scope: "col", class: "word" }, "run"));
    const body = made("tbody");
    for (const one of found.readings) {
      const line = made("tr", {}, made("th", { scope: "row" }, one.about), made("td", {}, String(number(one.value))));
      if (runs) {
        const run = made("td", { class: "run" }, one.run);
        if (one.why) run.append(made("div", { class: "why" }, one.why));
        line.append(run);
      }
      body.append(line);
    }
    const caption = made("caption", {}, `What it is made of: ${found.readings.length} ${found.readings.length === 1 ? "value" : "values"}`);
    return made("div", { class: "scroll" }, made("table", { class: "grid" }, caption, made("thead", {}, head), body));
  };

  const open = (key) => {
    const found = unpacked(key);
    const title = made("h2", { id: "evidence-title" }, `${found.column} · ${found.row}`);
    const close = button("Close", () => panel.close());
    const head = made("header", {}, made("div", {}, title, made("p", { class: "where" }, `${found.suite} · ${found.group}`)), close);
    const value = made("p", { class: "figure" }, found.shown, " ", made("small", {}, found.shownUnit));
    const list = made("dl");
    const say = (name, ...what) => list.append(made("dt", {}, name), made("dd", {}, ...what));
    say("Statistic", found.statistic);
    if (found.estimate) {
      const [mean, low, high, n] = found.estimate;
      say("Mean", `${number(mean)} ${found.unit}`);
      if (low !== null && low !== high) say("Interval", `${number(low)} to ${number(high)} ${found.unit}`);
      say("n", String(n));
    }
    for (const [method, scope] of found.methods) { say("Method", method); say("Scope", scope); }
    for (const [name, what] of found.facts) say(name, what);
    const inside = made("div", { class: "panel" }, head, value);
    const picture = strip(found);
    if (picture) inside.append(picture);
    inside.append(list);
    if (found.readings.length) inside.append(readingsTable(found));
    inside.append(made("h3", {}, "Made anew by"), copied(found.command), made("h3", {}, "In a terminal"));
    inside.append(copied(`python -m bench explain ${quoted(`${found.suite}/${found.group}/${found.row}/${found.column}`)}`));
    panel.replaceChildren(inside);
    panel.showModal();
    panel.scrollTop = 0;
    close.focus();
  };
  panel.addEventListener("click", (event) => { if (event.target === panel) panel.close(); });

  // A cell with evidence becomes a button; its footnotes stay outside.
  for (const cell of document.querySelectorAll("td[data-e]")) {
    const press = button("", () => open(Number(cell.dataset.e)));
    press.setAttribute("aria-haspopup", "dialog");
    press.append(...[...cell.childNodes].filter((node) => node.nodeName !== "SUP"));
    if (press.textContent) cell.prepend(press);
  }

  // Columns sort by the number behind the text, rows without one last; words as people sort them.
  const collator = new Intl.Collator("en", { numeric: true });
  const order = ["ascending", "descending", "none"];
  const sort = (table, head, place) => {
    const next = order[(order.indexOf(head.getAttribute("aria-sort")) + 1) % 3];
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", next);
    const body = table.tBodies[table.tBodies.length - 1];
    const lines = [...body.rows];
    lines.forEach((line, index) => { line.dataset.place ??= index; });
    const told = lines.map((line) => ({ line, at: Number(line.dataset.place), text: line.cells[place].textContent.trim(), value: line.cells[place].dataset.v }));
    const numeric = told.some((one) => one.value !== undefined);
    const sign = next === "descending" ? -1 : 1;
    told.sort((one, other) => {
      if (next === "none") return one.at - other.at;
      if (!numeric) return sign * collator.compare(one.text, other.text) || one.at - other.at;
      if (one.value === undefined || other.value === undefined) return (one.value === undefined) - (other.value === undefined) || one.at - other.at;
      const [a, b] = [Number(one.value), Number(other.value)];
      return (a === b ? 0 : sign * (a < b ? -1 : 1)) || one.at - other.at;
    });
    body.append(...told.map((one) => one.line));
  };
  for (const table of document.querySelectorAll("main table.grid")) {
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      head.setAttribute("aria-sort", "none");
      const press = button("", () => sort(table, head, place));
      press.append(...head.childNodes);
      head.append(press);
    });
  }

  // Theme, folds, the contents' place.
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const theme = document.getElementById("theme");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
  const told = () => theme.setAttribute("aria-pressed", String(dark()));
  theme.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("deq-bench-theme", root.dataset.theme); } catch { /* it lasts as long as the page */ }
    told();
  });
  system.addEventListener("change", told);
  told();

  const folds = [...document.querySelectorAll("main details")];
  const expand = document.getElementById("expand");
  expand.addEventListener("click", () => {
    const opening = folds.some((fold) => !fold.open);
    for (const fold of folds) fold.open = opening;
    expand.textContent = opening ? "Collapse all" : "Expand all";
  });
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = folds.filter((fold) => !fold.open && !fold.matches(".ids"));
    for (const fold of opened) fold.open = true;
  });
  addEventListener("afterprint", () => { for (const fold of opened) fold.open = false; });
  document.querySelector(".tools").hidden = false;

  const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-10% 0px -85% 0px" });
  for (const id of links.keys()) seen.observe(document.getElementById(id));
})();
