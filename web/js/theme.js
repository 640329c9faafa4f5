// Runs before the first paint, so that the chosen theme does not flash. Not a module for that reason.
"use strict";
(() => {
  let theme = null;
  try { theme = localStorage.getItem("theme"); } catch { /* storage is off: the theme follows the system */ }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
