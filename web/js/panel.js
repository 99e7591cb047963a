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
import { language, localised, said, text } from "./i18n.js";
import { brief, fixed, percent, share, significant, time } from "./numbers.js";

// The charts; `key` is the number's name in runtime/page.py, and `term` that of its texts.
const LOG_W = { key: "log_w", write: significant, ends: brief, band: true };
const SECONDS = { key: "seconds", write: time, ends: time, zero: true };
const ALPHA = { key: "alpha", write: share, ends: brief, fixed: [0, 1] };
const RATIO = { key: "ratio", write: percent, ends: (value) => percent(value, brief), zero: true };
const ESS = { ...RATIO, key: "ess", fixed: [0, 100], marked: "resampled" };
const LAMBDA = { ...ALPHA, term: "lambda" };

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

/** Write into the page only what is new: text, or an attribute. */
function write(target, said, attribute = "") {
  if (!attribute) {
    if (target.textContent !== said) target.textContent = said;
  } else if (target.getAttribute(attribute) !== said) {
    target.setAttribute(attribute, said);
  }
}

/** A run's numbers of one name, one per evaluation; null where there are none. */
function column(points, key) {
  return Array.from(points, (point) => finite(point?.[key]));
}

/** Whether there is a number. */
function isKnown(value) {
  return value !== null;
}

export class Panel {
  /** charts: GUIDED or PARTICLES. name(): what the node is called. */
  constructor(charts, name) {
    this.charts = charts;
    this.name = name;
    this.plan = null;
    this.problem = ""; // with the plan
    this.failure = ""; // of the last run
    this.warnings = []; // of the last run
    this.ignoresNegative = false;
    this.other = "";
    this.run = null;
    this.hovered = null; // place in 0..1 under the pointer
    this.ended = false; // a run, which screen readers have not been told
    this.frame = 0;
    this.build();
    new ResizeObserver(() => this.redraw()).observe(this.root);
  }

  /** Make the elements; nothing here depends on the state. */
  build() {
    this.root = element("div", "panel");
    this.root.dataset.lags = "panel";
    this.root.dataset.state = "idle";
    this.root.setAttribute("role", "group");
    const head = element("div", "head");
    this.summary = head.appendChild(element("div", "summary"));
    this.summary.dataset.lags = "plan";
    this.source = head.appendChild(element("div", "source"));
    this.source.dataset.lags = "source";
    this.notes = head.appendChild(element("div", "notes"));
    this.notes.dataset.lags = "notes";
    this.notes.setAttribute("aria-live", "polite");
    this.root.append(head);
    this.rows = this.charts.map((row) => this.buildRow(row));
    const foot = element("div", "foot");
    this.status = foot.appendChild(element("div", "status"));
    this.status.dataset.lags = "status";
    this.axis = foot.appendChild(element("div", "axis"));
    this.axis.dataset.lags = "axis";
    this.axis.append(element("span", "", "1"), element("span"), element("span"));
    this.axis.setAttribute("role", "slider"); // of steps: its arrow keys do what the pointer does
    this.axis.tabIndex = 0;
    this.said = element("div", "said"); // to screen readers, when a run ends
    this.said.setAttribute("aria-live", "polite");
    this.said.dataset.lags = "said";
    this.root.append(foot, this.said);
    this.axis.addEventListener("keydown", (event) => this.walk(event));
    this.axis.addEventListener("blur", () => this.hover(null));
    this.root.addEventListener("pointermove", (event) => this.hover(event));
    this.root.addEventListener("pointerleave", () => this.hover(null));
  }

  /** The elements of one chart. */
  buildRow(row) {
    const box = element("div", `row lags-of-${row.key}`);
    const words = element("div", "words");
    const title = element("div", "title");
    const unit = element("span", "unit");
    title.append("", unit);
    const number = element("div", "number");
    number.dataset.lags = row.key;
    const note = element("div", "note");
    note.dataset.lags = `${row.key}_note`;
    words.append(title, number, note);
    const plot = element("div", "plot");
    const chart = makeChart(PATHS);
    chart.svg.setAttribute("role", "img");
    const top = element("span", "top");
    const bottom = element("span", "bottom");
    plot.append(chart.svg);
    box.append(words, plot, top, bottom);
    this.root.append(box);
    const drawn = { words, title, unit, number, note, plot, chart, top, bottom };
    return { term: row.key, ...row, ...drawn };
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
    this.failure = "";
    this.warnings = [];
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
    this.failure = "";
    this.warnings = trace.notes ?? [];
    this.ended = true;
    this.redraw();
  }

  /** A warning of the run that goes on: a message of the server's. */
  warn(message) {
    if (!this.warnings.some((one) => said(one) === said(message))) this.warnings.push(message);
    this.redraw();
  }

  /** The node has failed, with this message; it stays until the next run. */
  fail(message) {
    this.failure = message;
    this.redraw();
  }

  /** Whether the negative prompt is without effect; asked before every run. */
  advise(ignoresNegative) {
    if (ignoresNegative === this.ignoresNegative) return;
    this.ignoresNegative = ignoresNegative;
    this.redraw();
  }

  /** Why nothing can be planned, or what the last run failed with; "" where all is well. */
  get trouble() {
    return this.failure || this.problem;
  }

  /** What the user should know beside the plan, before a run and after it. */
  warned() {
    const idle = this.plan?.is_idle && !this.warnings.length; // a run says so itself
    const steps = this.plan?.sigma.length;
    const planned = idle ? [text("plan_idle", { steps })] : [];
    const cfg = this.ignoresNegative ? [text("cfg_one")] : [];
    return [...cfg, ...planned, ...this.warnings.map(said)];
  }

  /** The queue has ended; a run that has not is not going on. */
  stop() {
    if (this.run?.state !== "running") return;
    this.run.state = "stopped";
    this.ended = true;
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

  /** Go to another step by a key, as the pointer does. */
  walk(event) {
    const total = this.total();
    const at = this.hovered === null ? -1 : Math.floor(this.hovered * total);
    const leap = Math.max(1, Math.round(total / 10));
    const to = {
      ...{ ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at < 0 ? total - 1 : at - 1 },
      ...{ ArrowDown: at < 0 ? total - 1 : at - 1, PageUp: at + leap, PageDown: at - leap },
      ...{ Home: 0, End: total - 1, Escape: null },
    }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation(); // from the page's own keys
    const step = Math.min(Math.max(to, 0), total - 1);
    this.hovered = to === null || !total ? null : (step + 0.5) / total;
    this.redraw();
  }

  /** How many evaluations the axis has. */
  total() {
    const count = this.run?.points.length ?? 0;
    return count ? Math.max(count, this.run.expected) : (this.plan?.sigma.length ?? 0);
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
    const total = this.total();
    // The plan and the run share the axis: half of the way of one is half of the other's.
    const under = (count) => (this.hovered === null ? null : Math.floor(this.hovered * count));
    const view = { points, total, steps, step: under(steps), evaluation: under(total) };
    const ran = points.length > 0 || this.run?.state === "running";
    this.root.classList.toggle("lags-ran", ran);
    this.root.classList.toggle("lags-troubled", this.trouble !== "");
    this.root.dataset.state = this.run?.state ?? "idle";
    this.root.dataset.points = points.length;
    this.root.lang = language();
    this.drawHead();
    // All sizes are read before anything more is written: the page is laid out once, not per chart.
    const sizes = this.rows.map(({ plot }) => [plot.clientWidth, plot.clientHeight]);
    this.drawFoot(view);
    this.rows.forEach((row, i) => this.drawRow(row, view, sizes[i]));
    this.drawSaid(view);
  }

  /** What the plan comes to, and which noise levels it is for. */
  drawHead() {
    const plan = this.plan;
    const other = this.other && text("drawn_as_it_runs", { method: this.other });
    const planned = other || (plan ? inWords(plan) : "");
    write(this.summary, this.trouble ? "" : planned);
    const source = plan?.source ? text("noise_levels", { source: said(plan.source) }) : "";
    const noSample = this.run?.totals?.no_sample;
    write(this.source, this.trouble || (noSample ? said(noSample) : source));
    const notes = this.trouble ? "" : this.warned().join("\n");
    write(this.notes, notes);
    write(this.notes, notes, "title"); // of many the panel shows the first lines
  }

  /** What screen readers say: of the whole, of a step, and when a run has ended. */
  drawSaid({ total, step, evaluation }) {
    const read = (row) => text("value", { title: text(row.term), value: row.number.textContent });
    const shown = this.root.classList.contains("lags-ran") ? this.rows : this.rows.slice(0, 1);
    const [node, status] = [this.name(), this.status.textContent];
    const [plan, values] = [this.summary.textContent, shown.map(read).join(text("comma"))];
    const at = this.hovered === null ? 0 : (evaluation ?? step) + 1;
    const sentence = { node, plan, status, values, problem: this.trouble };
    write(this.axis, text("walk"), "aria-label");
    write(this.axis, "0", "aria-valuemin");
    write(this.axis, String(total), "aria-valuemax");
    write(this.axis, String(at), "aria-valuenow");
    write(this.axis, at ? text("walked", { step: status, values }) : status, "aria-valuetext");
    if (at) return; // the sentences are of the end, not of a step
    write(this.root, text(this.trouble ? "panel_problem" : "panel", sentence), "aria-label");
    if (this.ended) write(this.said, text("finished", sentence));
    this.ended = false;
  }

  /** How far the run is, and the ends of the axis. */
  drawFoot({ points, total, step, evaluation }) {
    const [first, name, last] = this.axis.children;
    write(first, total > 1 ? "1" : "");
    write(last, total ? localised(String(total)) : "");
    write(name, text(points.length ? "evaluation" : "step"));
    if (this.hovered === null || !total) {
      write(this.status, inState(this.run));
    } else {
      const sigma = points.length ? points[evaluation]?.sigma : this.plan?.sigma[step];
      const at = { index: evaluation + 1, sigma: significant(finite(sigma)) };
      write(this.status, text("at", at));
    }
  }

  /** One chart and its numbers. */
  drawRow(row, { points, total, steps, step, evaluation }, [width, height]) {
    const values = column(points, row.key);
    write(row.title.firstChild, text(row.term));
    write(row.unit, text(`${row.term}_unit`));
    write(row.words, text(`${row.term}_help`), "title");
    const low = row.band ? column(points, "low") : [];
    const high = row.band ? column(points, "high") : [];
    const alpha = row.key === "alpha" && this.plan ? this.plan.alpha.map(finite) : [];

    let at = values.findLastIndex(isKnown);
    if (this.hovered !== null) at = evaluation;
    const value = (points.length ? values[at] : alpha[step]) ?? null;
    const planned = value === null && this.hovered === null ? spanOf(this.plan, alpha) : null;
    write(row.number, planned ?? row.write(value));
    row.number.dataset.value = value ?? "";
    // A step that reuses a measurement weighs nothing: the last that was weighed stands.
    const ess = row.effective ? column(points.slice(0, at + 1), "ess").findLast(isKnown) : null;
    write(row.note, noteOn(row, points[at], low[at], high[at], ess ?? null));

    write(row.chart.svg, curveInWords(row, values, spanOf(this.plan, alpha), steps), "aria-label");
    if (!width || !height) return; // hidden: the observer calls again when it is not
    const limits = limitsOf(row, [values, low, high]);
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
  const forward = text("calls", { count: plan.model_calls });
  const back = { calls: forward, backward: plan.model_backwards };
  const calls = plan.model_backwards ? text("calls_and_backward", back) : forward;
  const took = { calls, cost: fixed(plan.relative_cost, 2) };
  const active = plan.active.filter(Boolean).length;
  const said = plan.particles
    ? text("plan_of_particles", { particles: plan.particles, ...took })
    : text("plan", { active, steps: plan.active.length, ...took });
  return plan.is_priced ? said : text("and_the_weight", { plan: said });
}

/** How far a run is, or what it took. */
function inState(run) {
  if (!run) return text("planned");
  const count = run.points.length;
  if (run.state === "stopped") return text("stopped_after", { count });
  if (run.state === "running") {
    const known = run.expected >= count && run.expected;
    return known ? text("so_far", { count, total: run.expected }) : text("running", { count });
  }
  if (!count) return text("unguided");
  return text("took", { count: run.totals.model_calls, time: time(finite(run.totals.seconds)) });
}

/** A curve in a sentence: how far it goes, and the last value. */
function curveInWords(row, values, span, steps) {
  const title = text(row.term);
  const known = values.filter(isKnown);
  if (!known.length) {
    return text(span ? "curve_planned" : "curve_empty", { title, span, count: steps });
  }
  const [low, high] = extent([known]).map((value) => row.write(value));
  const last = row.write(known.at(-1));
  return text("curve", { title, last, low, high, count: known.length });
}

/** From where to where alpha goes in the guided steps of a plan; null for the other charts. */
function spanOf(plan, alpha) {
  const guided = alpha.filter((value, i) => value !== null && plan.active[i]);
  if (!guided.length) return null;
  const ends = [share(guided[0]), share(guided.at(-1))];
  return ends[0] === ends[1] ? ends[0] : text("range", { low: ends[0], high: ends[1] });
}

/** What stands below a number: the band of log w, or what is special about the step. */
function noteOn({ marked }, point, low = null, high = null, ess = null) {
  if (point?.active === false) return text("not_guided");
  if (marked && point?.[marked] > 0) return text("copied_here");
  if (low === null || high === null) return "";
  const range = text("range", { low: significant(low), high: significant(high) });
  return ess === null ? range : text("range_and_ess", { range, ess: percent(ess) });
}

/** The numbers at the ends of a chart; null where there is nothing to draw. */
function limitsOf(row, arrays) {
  const found = extent(arrays);
  if (row.fixed) return [row.fixed[0], Math.max(row.fixed[1], found?.[1] ?? 0)];
  if (!found) return null;
  let [low, high] = found;
  if (row.zero) low = Math.min(low, 0);
  if (low === high) high = low + (Math.abs(low) || 1);
  return [low, high];
}
