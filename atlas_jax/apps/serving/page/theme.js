// Applies the chosen theme before the first paint. Without a choice style.css follows the system.
(() => {
  let theme = null;
  try {
    theme = localStorage.getItem('atlas-jax.theme');
  } catch {
    // Storage may be forbidden; then the system's theme applies.
  }
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
})();
