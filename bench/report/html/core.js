// Elements, data and the keyboard.
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

const el = (tag, attributes = {}, ...inside) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value === true || value || value === 0) made.setAttribute(name, value === true ? "" : value);
  made.append(...inside.flat().filter((one) => one !== null && one !== undefined));
  return made;
};
const button = (text, click) => el("button", { type: "button", click }, text);
const select = (label, options, value, change) => {
  const made = el("select", { change: () => change(made.value) }, options.map((one) => el("option", { value: one[0] }, one[1])));
  made.value = value;
  return el("label", {}, `${label} `, made);
};

// The data of a part, unpacked at its first use.
const packed = Object.fromEntries($$("script[data-name]").map((one) => [one.dataset.name, one]));
const unpacked = {};
const text = (name) => {
  const bytes = Uint8Array.from(atob(packed[name].textContent), (character) => character.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};
const part = (name) => (unpacked[name] ??= text(name).then(JSON.parse));
const comparisons = Object.keys(packed).filter((name) => name.includes("/"));

// One tab stop for a list or a table: arrow keys move between its links, buttons and folds.
const roving = (root, selector = "a, button, summary") => {
  const items = () => $$(selector, root).filter((one) => !one.closest("[hidden]") && one.closest(".roving") === root);
  const stop = () => { // at the one that had it, or where a filter has hidden that, at the first that is left
    const all = items(), kept = all.find((one) => one.tabIndex === 0) ?? all[0];
    for (const one of all) one.tabIndex = one === kept ? 0 : -1;
  };
  items().forEach((one) => { one.tabIndex = -1; });
  stop();
  new MutationObserver(stop).observe(root, { subtree: true, attributeFilter: ["hidden"] });
  root.addEventListener("keydown", (event) => {
    const all = items(), at = all.indexOf(event.target), cell = event.target.closest("td, th");
    const by = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (at < 0 || !by) return;
    let next = all[at + by];
    if (cell && event.key !== "ArrowRight" && event.key !== "ArrowLeft") {
      const row = by > 0 ? all.slice(at + 1) : all.slice(0, at).reverse();
      next = row.find((one) => one.closest("td, th")?.cellIndex === cell.cellIndex) ?? next;
    }
    if (!next) return;
    event.preventDefault();
    for (const one of all) one.tabIndex = one === next ? 0 : -1;
    next.focus();
  });
};

// Run once when the element comes near the screen.
const whenNear = (element, act) => {
  const watch = new IntersectionObserver((seen) => {
    if (!seen.some((one) => one.isIntersecting)) return;
    watch.disconnect();
    act();
  }, { rootMargin: "300px" });
  watch.observe(element);
};

const download = (name, content) => {
  const link = el("a", { href: URL.createObjectURL(new Blob([content], { type: "text/csv" })), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
};
const copy = async (content, pressed) => {
  try { await navigator.clipboard.writeText(content); } catch {
    const area = el("textarea", {}, content);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const before = pressed.textContent;
  pressed.textContent = "copied";
  setTimeout(() => { pressed.textContent = before; }, 1200);
};
const csv = (rows) => rows.map((row) => row.map((one) => {
  const cell = String(one ?? ""), safe = /^\s*[=+@\t-]/.test(cell) && Number.isNaN(Number(cell)) ? `'${cell}` : cell;
  return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}).join(",")).join("\n");
const link = (values) => `#${Object.entries(values).map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&")}`;
const shown = (value) => (typeof value === "number" ? Number(value.toPrecision(7)).toString() : String(value ?? "n/a"));
