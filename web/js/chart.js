// Small line charts in SVG, from arrays of numbers in which null is a gap.
// Every curve is one <path>, so a redraw sets a few attributes and makes no elements.

const SVG = "http://www.w3.org/2000/svg";
const RING = 1.6; // radius of the mark of a plain step, pixels
const ROOM = 4; // pixels that a step needs to get a mark of its own

/** A number to draw: finite, or null. */
export function finite(value) {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

/** The least and the greatest of some arrays, without gaps; null where there is nothing. */
export function extent(arrays) {
  let low = Infinity;
  let high = -Infinity;
  for (const values of arrays) {
    for (const value of values) {
      if (value === null) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return low <= high ? [low, high] : null;
}

/**
 * A curve of at most about two points per column, which looks the same: the least and the greatest
 * of every column, in their order. Points are [place in 0..1, value or null].
 */
export function thinned(values, total, columns) {
  const place = (i) => (i + 0.5) / total;
  if (values.length <= 2 * columns) return values.map((value, i) => [place(i), value]);
  const points = [];
  for (let column = 0; column < columns; column++) {
    const from = Math.floor((column * values.length) / columns);
    const to = Math.floor(((column + 1) * values.length) / columns);
    let least = -1;
    let greatest = -1;
    for (let i = from; i < to; i++) {
      if (values[i] === null) continue;
      if (least < 0 || values[i] < values[least]) least = i;
      if (greatest < 0 || values[i] > values[greatest]) greatest = i;
    }
    if (least < 0) {
      points.push([place(from), null]);
      continue;
    }
    const [first, second] = least < greatest ? [least, greatest] : [greatest, least];
    points.push([place(first), values[first]]);
    if (second !== first) points.push([place(second), values[second]]);
  }
  return points;
}

/** The extremes of every column of a band: arrays of low and high with at most `columns` places. */
export function thinnedBand(low, high, columns) {
  if (low.length <= columns) return [low, high];
  const lows = [];
  const highs = [];
  for (let column = 0; column < columns; column++) {
    const from = Math.floor((column * low.length) / columns);
    const to = Math.floor(((column + 1) * low.length) / columns);
    const range = extent([low.slice(from, to), high.slice(from, to)]);
    lows.push(range ? range[0] : null);
    highs.push(range ? range[1] : null);
  }
  return [lows, highs];
}

/** A chart with one path per name, the first one lowest; its place is the caller's. */
export function makeChart(names) {
  const svg = document.createElementNS(SVG, "svg");
  const paths = {};
  for (const name of names) {
    paths[name] = document.createElementNS(SVG, "path");
    paths[name].setAttribute("class", `lags-${name}`);
    svg.append(paths[name]);
  }
  return { svg, paths };
}

/** How numbers become pixels: a box of width x height that shows low..high. */
export function makeScale(width, height, [low, high]) {
  const edge = RING + 1; // so that marks on the border are whole
  const span = high - low || 1;
  return {
    width,
    x: (place) => round(place * width),
    y: (value) => round(height - edge - ((value - low) / span) * (height - 2 * edge)),
  };
}

/** Draw a curve; gaps stay open, and a point between two gaps is a dot. */
export function drawLine(path, values, total, scale) {
  const parts = [];
  let down = false; // whether the pen is
  for (const [place, value] of thinned(values, total, Math.ceil(scale.width))) {
    if (value === null) {
      down = false;
      continue;
    }
    parts.push(`${down ? "L" : "M"}${scale.x(place)} ${scale.y(value)}${down ? "" : "h0"}`);
    down = true;
  }
  path.setAttribute("d", parts.join(""));
}

/** Fill between two curves, which have their gaps in the same places. */
export function drawBand(path, low, high, total, scale) {
  const full = low.length;
  const [lows, highs] = thinnedBand(low, high, Math.ceil(scale.width));
  const x = (i) => scale.x((((i + 0.5) / lows.length) * full) / total);
  const parts = [];
  for (let i = 0; i < lows.length; i++) {
    if (lows[i] === null || highs[i] === null) continue;
    const start = i;
    while (i + 1 < lows.length && lows[i + 1] !== null && highs[i + 1] !== null) i++;
    const there = [];
    const back = [];
    for (let k = start; k <= i; k++) {
      there.push(`${x(k)} ${scale.y(highs[k])}`);
      back.unshift(`${x(k)} ${scale.y(lows[k])}`);
    }
    parts.push(`M${there.concat(back).join("L")}Z`);
  }
  path.setAttribute("d", parts.join(""));
}

/** A ring at every value that is not null; nothing where they would touch. */
export function drawRings(path, values, total, scale) {
  const parts = [];
  const r = RING;
  if (scale.width / total >= ROOM) {
    values.forEach((value, i) => {
      if (value === null) return;
      const left = round(scale.x((i + 0.5) / total) - r);
      parts.push(`M${left} ${scale.y(value)}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`);
    });
  }
  path.setAttribute("d", parts.join(""));
}

/** A dot at every value that is not null. */
export function drawDots(path, values, total, scale) {
  const parts = [];
  values.forEach((value, i) => {
    if (value !== null) parts.push(`M${scale.x((i + 0.5) / total)} ${scale.y(value)}h0`);
  });
  path.setAttribute("d", parts.join(""));
}

/** A vertical line at a place in 0..1, or none for null. */
export function drawCursor(path, place, height, scale) {
  path.setAttribute("d", place === null ? "" : `M${scale.x(place)} 0V${height}`);
}

function round(value) {
  return Math.round(value * 10) / 10;
}
