// Before anything is painted, so that no page flashes in the wrong colours.
(() => {
  let chosen = null;
  try { chosen = localStorage.getItem("hfs-theme"); } catch { /* Not allowed: the system's. */ }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
