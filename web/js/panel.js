// The live panel: what a node plans to do, and what its run does, as numbers and small charts.
//
// A panel holds its state (plan, run) and draws it at most once per animation frame, so events may
// come as fast as they like.

import {
  drawBand,
  drawCursor,
  drawDots,
  drawLine,
  drawRings,
  extent,
  finite,
  makeChart,
  makeScale,
} from "./chart.js";
import { brief, percent, share, significant, time } from "./numbers.js";

// The charts; `key` is the number's name in runtime/page.py.
const LOG_W = {
  key: "log_w",
  title: "log w",
  unit: "nats",
  write: significant,
  ends: brief,
  band: true,
  help: "Log of the weight. Line: mean over the batch; band: least to greatest.",
};
const SECONDS = {
  key: "seconds",
  title: "time",
  unit: "per step",
  write: time,
  ends: time,
  zero: true,
  help: "Wall clock of each evaluation of the model.",
};
const ALPHA = {
  key: "alpha",
  title: "alpha",
  unit: "0 to 1",
  write: share,
  ends: brief,
  fixed: [0, 1],
  help: "Share of the full shift that is applied. Dashed: planned; solid: measured; rings: no guidance.",
};
const RATIO = {
  key: "ratio",
  title: "shift",
  unit: "% of image",
  write: percent,
  ends: (value) => `${brief(value)} %`,
  zero: true,
  help: "Size of the shift relative to the denoised image.",
};
const ESS = {
  key: "ess",
  title: "ESS",
  unit: "% of all",
  write: percent,
  ends: (value) => `${brief(value)} %`,
  fixed: [0, 100],
  marked: "resampled",
  help: "Effective sample size: how many of the particles count. Dots: the good ones were copied.",
};
const LAMBDA = {
  ...ALPHA,
  title: "lambda",
  help: "Tempering: the share of log w that is used. Dashed: planned; solid: used; rings: weights not updated.",
};

/** What is charted, from top to bottom: of a guided sampler, and of one with particles. */
export const GUIDED = [ALPHA, { ...LOG_W, effective: true }, RATIO, SECONDS];
export const PARTICLES = [LAMBDA, LOG_W, ESS, SECONDS];

const PATHS = ["cursor", "band", "planned", "rings", "line", "marks"];

/** An element with a class, and its text. */
function element(tag, name, text = "") {
  const made = document.createElement(tag);
  if (name) made.className = `lags-${name}`;
  made.textContent = text;
  return made;
}

/** Write text into the page only where it is new. */
function write(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** A run's numbers of one name, one per evaluation; null where there are none. */
function column(points, key) {
  return Array.from(points, (point) => finite(point?.[key]));
}

export class Panel {
  /** charts: GUIDED or PARTICLES. */
  constructor(charts) {
    this.charts = charts;
    this.plan = null;
    this.problem = "";
    this.other = "";
    this.run = null;
    this.hovered = null; // place in 0..1 under the pointer
    this.frame = 0;
    this.build();
    new ResizeObserver(() => this.redraw()).observe(this.root);
  }

  /** Make the elements; nothing here depends on the state. */
  build() {
    this.root = element("div", "panel");
    this.root.dataset.lags = "panel";
    this.root.dataset.state = "idle";
    const head = element("div", "head");
    this.summary = head.appendChild(element("div", "summary"));
    this.summary.dataset.lags = "plan";
    this.source = head.appendChild(element("div", "source"));
    this.source.dataset.lags = "source";
    this.root.append(head);
    this.rows = this.charts.map((row) => this.buildRow(row));
    const foot = element("div", "foot");
    this.status = foot.appendChild(element("div", "status"));
    this.status.dataset.lags = "status";
    this.axis = foot.appendChild(element("div", "axis"));
    this.axis.dataset.lags = "axis";
    this.axis.append(element("span", "", "1"), element("span"), element("span"));
    this.root.append(foot);
    this.root.addEventListener("pointermove", (event) => this.hover(event));
    this.root.addEventListener("pointerleave", () => this.hover(null));
  }

  /** The elements of one chart. */
  buildRow(row) {
    const box = element("div", `row lags-of-${row.key}`);
    const words = element("div", "words");
    words.title = row.help;
    const title = element("div", "title", row.title);
    title.append(element("span", "unit", row.unit));
    const number = element("div", "number");
    number.dataset.lags = row.key;
    const note = element("div", "note");
    note.dataset.lags = `${row.key}_note`;
    words.append(title, number, note);
    const plot = element("div", "plot");
    const chart = makeChart(PATHS);
    const top = element("span", "top");
    const bottom = element("span", "bottom");
    plot.append(chart.svg);
    box.append(words, plot, top, bottom);
    this.root.append(box);
    return { ...row, number, note, plot, chart, top, bottom };
  }

  /** Show a plan, or why there is none: {plan}, {problem}, or {other}, another method's name. */
  showPlan({ plan = null, problem = "", other = "" }) {
    if (plan || other) this.plan = plan;
    this.problem = problem;
    this.other = other;
    this.redraw();
  }

  /** A run begins, or begins again. */
  start(number) {
    const expected = this.plan?.sigma.length ?? 0;
    this.run = { number, points: [], expected, state: "running", totals: null };
    this.redraw();
  }

  /** One evaluation more, or with index -1 the tilt of the initial noise. */
  step(number, index, point) {
    // A page that was opened in the middle of a run has not seen its start.
    if (this.run?.number !== number) this.start(number);
    this.run.state = "running";
    if (Number.isInteger(index) && index >= 0) this.run.points[index] = point;
    this.redraw();
  }

  /** A whole run, after its end or from ComfyUI's cache: summary() of runtime/page.py. */
  finish(trace) {
    const points = trace.points ?? [];
    this.run = { number: null, points, expected: points.length, state: "done", totals: trace };
    this.redraw();
  }

  /** The queue has ended; a run that has not is not going on. */
  stop() {
    if (this.run?.state !== "running") return;
    this.run.state = "stopped";
    this.redraw();
  }

  /** Note where the pointer is, so that the numbers are of that step. */
  hover(event) {
    this.hovered = null;
    const box = event && this.rows[0].plot.getBoundingClientRect();
    if (box?.width) {
      const place = (event.clientX - box.left) / box.width;
      if (place >= 0 && place < 1) this.hovered = place;
    }
    this.redraw();
  }

  /** Draw with the next frame. */
  redraw() {
    if (!this.frame) {
      this.frame = requestAnimationFrame(() => {
        this.frame = 0;
        this.draw();
      });
    }
  }

  /** Draw everything that the state says. */
  draw() {
    const points = this.run?.points ?? [];
    const steps = this.plan?.sigma.length ?? 0;
    const total = points.length ? Math.max(points.length, this.run.expected) : steps;
    // The plan and the run share the axis: half of the way of one is half of the other's.
    const under = (count) => (this.hovered === null ? null : Math.floor(this.hovered * count));
    const view = { points, total, step: under(steps), evaluation: under(total) };
    const ran = points.length > 0 || this.run?.state === "running";
    this.root.classList.toggle("lags-ran", ran);
    this.root.classList.toggle("lags-troubled", this.problem !== "");
    this.root.dataset.state = this.run?.state ?? "idle";
    this.root.dataset.points = points.length;
    this.drawHead();
    // All sizes are read before anything more is written: the page is laid out once, not per chart.
    const sizes = this.rows.map(({ plot }) => [plot.clientWidth, plot.clientHeight]);
    this.drawFoot(view);
    this.rows.forEach((row, i) => this.drawRow(row, view, sizes[i]));
  }

  /** What the plan comes to, and which noise levels it is for. */
  drawHead() {
    const plan = this.plan;
    const planned = this.other ? `${this.other}: drawn as it runs` : plan ? inWords(plan) : "";
    write(this.summary, this.problem ? "" : planned);
    const doubt = this.run?.totals?.doubt;
    write(this.source, this.problem || doubt || (plan?.source ? `Noise levels: ${plan.source}` : ""));
  }

  /** How far the run is, and the ends of the axis. */
  drawFoot({ points, total, step, evaluation }) {
    const [first, name, last] = this.axis.children;
    write(first, total > 1 ? "1" : "");
    write(last, total ? String(total) : "");
    write(name, points.length ? "evaluation" : "step");
    if (this.hovered === null || !total) {
      write(this.status, inState(this.run));
    } else {
      const sigma = points.length ? points[evaluation]?.sigma : this.plan?.sigma[step];
      write(this.status, `${evaluation + 1}: sigma ${significant(finite(sigma))}`);
    }
  }

  /** One chart and its numbers. */
  drawRow(row, { points, total, step, evaluation }, [width, height]) {
    const values = column(points, row.key);
    const low = row.band ? column(points, "low") : [];
    const high = row.band ? column(points, "high") : [];
    const alpha = row.key === "alpha" && this.plan ? this.plan.alpha.map(finite) : [];

    let at = values.findLastIndex((value) => value !== null);
    if (this.hovered !== null) at = evaluation;
    const value = (points.length ? values[at] : alpha[step]) ?? null;
    const planned = value === null && this.hovered === null ? spanOf(this.plan, alpha) : null;
    write(row.number, planned ?? row.write(value));
    row.number.dataset.value = value ?? "";
    write(row.note, noteOn(row, points[at], low[at], high[at]));

    if (!width || !height) return; // hidden: the observer calls again when it is not
    const limits = row.fixed ?? limitsOf(row, [values, low, high]);
    write(row.top, limits ? row.ends(limits[1]) : "");
    write(row.bottom, limits ? (limits[0] === 0 ? "0" : row.ends(limits[0])) : "");
    const scale = makeScale(width, height, limits ?? [0, 1]);
    const { svg, paths } = row.chart;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const plain = alpha.map((one, i) => (this.plan.active[i] ? null : one));
    drawLine(paths.planned, alpha, alpha.length, scale);
    drawRings(paths.rings, plain, plain.length, scale);
    drawBand(paths.band, low, high, total, scale);
    drawLine(paths.line, values, total, scale);
    const marked = row.marked ? column(points, row.marked) : [];
    drawDots(paths.marks, marked.map((share, i) => (share > 0 ? values[i] : null)), total, scale);
    const cursor = this.hovered === null || !total ? null : (evaluation + 0.5) / total;
    drawCursor(paths.cursor, cursor, height, scale);
  }
}

/** What a plan comes to. */
function inWords(plan) {
  const active = plan.active.filter(Boolean).length;
  const cost = plan.relative_cost.toFixed(2);
  const calls = plan.model_calls === 1 ? "model call" : "model calls";
  const back = plan.model_backwards ? `, ${plan.model_backwards} backward` : "";
  const took = `${plan.model_calls} ${calls}${back}, ${cost} × plain`;
  if (plan.particles) return `${plan.particles} particles, ${took}`;
  return `${active} of ${plan.active.length} steps guided, ${took}`;
}

/** How far a run is, or what it took. */
function inState(run) {
  if (!run) return "planned";
  const count = run.points.length;
  if (run.state === "stopped") return `stopped after ${count}`;
  if (run.state === "running") {
    return run.expected >= count && run.expected ? `${count} of ${run.expected}` : `${count}, running`;
  }
  if (!count) return "ran unguided";
  return `${run.totals.model_calls} calls, ${time(finite(run.totals.seconds))}`;
}

/** From where to where alpha goes in the guided steps of a plan; null for the other charts. */
function spanOf(plan, alpha) {
  const guided = alpha.filter((value, i) => value !== null && plan.active[i]);
  if (!guided.length) return null;
  const ends = [share(guided[0]), share(guided.at(-1))];
  return ends[0] === ends[1] ? ends[0] : ends.join(" to ");
}

/** What stands below a number: the band of log w, or what is special about the step. */
function noteOn({ marked, effective }, point, low = null, high = null) {
  if (point?.active === false) return "not guided";
  if (marked && point?.[marked] > 0) return "copied here";
  if (low === null || high === null) return "";
  const ess = effective ? finite(point?.ess) : null;
  return `${significant(low)} to ${significant(high)}${ess === null ? "" : `, ESS ${percent(ess)}`}`;
}

/** The numbers at the ends of a chart; null where there is nothing to draw. */
function limitsOf(row, arrays) {
  const found = extent(arrays);
  if (!found) return null;
  let [low, high] = found;
  if (row.zero) low = Math.min(low, 0);
  if (low === high) high = low + (Math.abs(low) || 1);
  return [low, high];
}
