// Numbers as the panel writes them.

const NONE = "–";

/** About three significant digits, two below 1, and a real minus sign. */
export function significant(value) {
  if (value === null || value === undefined) return NONE;
  const size = Math.abs(value);
  let text;
  if (size === 0) text = "0";
  else if (size >= 99999.5 || size < 0.001) text = value.toExponential(1).replace("e+", "e");
  else if (size >= 99.95) text = value.toFixed(0);
  else if (size >= 9.995) text = value.toFixed(1);
  else if (size >= 0.0995) text = value.toFixed(2);
  else text = value.toPrecision(2);
  return text.replaceAll("-", "−");
}

/** Numbers to compare: the same decimals for all, three digits for the greatest. */
export function alike(values) {
  const sizes = values.filter((value) => value !== null).map(Math.abs);
  const greatest = Math.max(...sizes, 1e-3);
  const decimals = Math.min(6, Math.max(0, 2 - Math.floor(Math.log10(greatest))));
  return values.map((value) => (value === null ? NONE : signed(value.toFixed(decimals))));
}

/** Two significant digits: the ends of an axis. */
export function brief(value) {
  const size = Math.abs(value);
  if (size === 0 || size >= 9.95) return size < 99999.5 ? signed(value.toFixed(0)) : significant(value);
  return size < 0.001 ? significant(value) : signed(String(Number(value.toPrecision(2))));
}

function signed(text) {
  return text.replace("-", "−");
}

/** A number in 0..1. */
export function share(value) {
  return value === null || value === undefined ? NONE : value.toFixed(2);
}

/** A share in percent. */
export function percent(value) {
  return value === null || value === undefined ? NONE : `${significant(value)} %`;
}

/** A time, in the unit that reads best. */
export function time(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 0.9995) return `${(seconds * 1000).toFixed(seconds < 0.00995 ? 1 : 0)} ms`;
  if (seconds < 99.5) return `${seconds.toFixed(seconds < 9.95 ? 2 : 1)} s`;
  const minutes = Math.floor(Math.round(seconds) / 60);
  return `${minutes} min ${Math.round(seconds) % 60} s`;
}
