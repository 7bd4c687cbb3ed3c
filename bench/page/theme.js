"use strict";
// Before anything is painted: the theme that was chosen, where the browser keeps such things.
document.documentElement.classList.add("scripted");
try {
  const chosen = localStorage.getItem("deq-bench-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch { /* no storage: the system's theme */ }
