// Light or dark, as the page is; the colours themselves are in ../css/lags.css.

const followers = new Set();
let watching = false;

/** Put the pack's stylesheet into the page. */
export function loadStyles() {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("../css/lags.css", import.meta.url).href;
  document.head.append(link);
}

/** Whether the page is dark: by its own background, for its themes have no names to go by. */
export function isDark() {
  const probe = document.createElement("div");
  probe.style.backgroundColor = "var(--comfy-input-bg, #222)";
  document.body.append(probe);
  const colour = getComputedStyle(probe).backgroundColor;
  probe.remove();
  const [red, green, blue] = (colour.match(/[\d.]+/g) ?? [0, 0, 0]).map(Number);
  const full = colour.startsWith("color(") ? 1 : 255;
  return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / full < 0.5;
}

/** Keep an element's data-theme at 'light' or 'dark'. */
export function followTheme(element) {
  element.dataset.theme = isDark() ? "dark" : "light";
  followers.add(new WeakRef(element));
  if (!watching) watch();
}

/** Hear when the page puts on another theme: it changes classes or variables of its root. */
function watch() {
  watching = true;
  const observer = new MutationObserver(() => {
    const theme = isDark() ? "dark" : "light";
    for (const follower of followers) {
      const element = follower.deref();
      if (!element) followers.delete(follower);
      else if (element.dataset.theme !== theme) element.dataset.theme = theme;
    }
  });
  const watched = { attributes: true, attributeFilter: ["class", "style"] };
  observer.observe(document.documentElement, watched);
  observer.observe(document.body, watched);
}
