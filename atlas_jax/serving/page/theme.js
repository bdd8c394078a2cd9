// Applies the theme that was chosen, before anything is drawn. Without a choice style.css follows the system.
(() => {
  let theme = null;
  try {
    theme = localStorage.getItem('atlas-jax.theme');
  } catch {
    // Storage may be forbidden; then there is no choice to apply.
  }
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
})();
