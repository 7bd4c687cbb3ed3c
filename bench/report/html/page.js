"use strict";
(() => {
  const unpack = (text) => {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };
  for (const image of document.querySelectorAll("img[data-svg]"))
    unpack(image.dataset.svg).then((svg) => { image.src = `data:image/svg+xml,${encodeURIComponent(svg)}`; });

  const button = (act, ...inside) => {
    const made = document.createElement("button");
    made.type = "button";
    made.append(...inside);
    made.addEventListener("click", act);
    return made;
  };

  // A number opens its source, the text that `bench explain` prints.
  const dialog = document.getElementById("source");
  const sources = unpack(document.getElementById("sources").textContent).then(JSON.parse);
  for (const cell of document.querySelectorAll("td[data-source]")) {
    const open = async () => {
      dialog.querySelector("pre").textContent = (await sources)[cell.dataset.source];
      dialog.showModal();
    };
    const inside = [...cell.childNodes].filter((node) => node.nodeName !== "SUP");
    if (cell.textContent.trim()) cell.prepend(button(open, ...inside));
  }

  // A head sorts its column, least first, then greatest first; cells without a number stay last.
  const collator = new Intl.Collator("en", { numeric: true });
  for (const head of document.querySelectorAll("table.sortable thead th")) {
    const sort = () => {
      const table = head.closest("table"), sign = head.ariaSort === "ascending" ? -1 : 1;
      for (const other of head.parentNode.cells) other.ariaSort = null;
      head.ariaSort = sign > 0 ? "ascending" : "descending";
      const value = (row) => row.cells[head.cellIndex].dataset.value ?? "";
      const text = (row) => row.cells[head.cellIndex].textContent.trim();
      const body = table.tBodies[table.tBodies.length - 1], rows = [...body.rows];
      const numeric = rows.some(value);
      rows.sort((one, other) => {
        if (!numeric) return sign * collator.compare(text(one), text(other));
        if (!value(one) || !value(other)) return !value(one) - !value(other);
        const [a, b] = [Number(value(one)), Number(value(other))];
        return a === b ? 0 : sign * (a < b ? -1 : 1);
      });
      body.append(...rows);
    };
    head.append(button(sort, ...head.childNodes));
  }
})();
