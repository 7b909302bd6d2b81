// Runs before anything is painted, so that no page appears briefly in the wrong colours.
(() => {
  let chosen = null;
  try { chosen = localStorage.getItem("hfs-theme"); } catch { /* Not allowed: use the system's theme. */ }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
