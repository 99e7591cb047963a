// Numbers as the panel writes them.

import { localised, text } from "./i18n.js";

const NONE = "–";

/** About three significant digits, two below 1. */
export function significant(value) {
  if (value === null || value === undefined) return NONE;
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 99999.5 || size < 0.001) return localised(value.toExponential(1));
  if (size >= 99.95) return localised(value.toFixed(0));
  if (size >= 9.995) return localised(value.toFixed(1));
  if (size >= 0.0995) return localised(value.toFixed(2));
  return localised(value.toPrecision(2));
}

/** Numbers to compare: the same decimals for all, three digits for the greatest. */
export function alike(values) {
  const sizes = values.filter((value) => value !== null).map(Math.abs);
  const greatest = Math.max(...sizes, 1e-3);
  const decimals = Math.min(6, Math.max(0, 2 - Math.floor(Math.log10(greatest))));
  return values.map((value) => fixed(value, decimals));
}

/** Two significant digits: the ends of an axis. */
export function brief(value) {
  const size = Math.abs(value);
  if (size >= 99999.5 || (size < 0.001 && size > 0)) return significant(value);
  return localised(size >= 9.95 ? value.toFixed(0) : String(Number(value.toPrecision(2))));
}

/** A number in 0..1. */
export function share(value) {
  return fixed(value, 2);
}

/** A number with so many decimals. */
export function fixed(value, decimals) {
  return value === null || value === undefined ? NONE : localised(value.toFixed(decimals));
}

/** A share in percent, of which write() makes the number. */
export function percent(value, write = significant) {
  return value === null || value === undefined ? NONE : text("percent", { value: write(value) });
}

/** A time, in the unit that reads best. */
export function time(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 0.9995) return `${fixed(seconds * 1000, seconds < 0.00995 ? 1 : 0)} ms`;
  if (seconds < 99.5) return `${fixed(seconds, seconds < 9.95 ? 2 : 1)} s`;
  const minutes = Math.floor(Math.round(seconds) / 60);
  return `${minutes} min ${Math.round(seconds) % 60} s`;
}
