// The schedule of a node's widgets, asked from the server before anything is queued.

import { executionIdOf, isConnected, originOf, valueOf, valuesOf } from "./graph.js";
import { said, text } from "./i18n.js";

const PATH = "/lags/schedule"; // runtime/page_plan.py

/**
 * What the server has to know of a node: all its widgets, and those of the nodes that give it
 * options or another method. The server picks what a plan hangs on.
 */
export function question(node) {
  const asked = { ...valuesOf(node), node: executionIdOf(node) };
  const options = originOf(node, "options");
  if (options?.type === "LAGSOptions") asked.options = valuesOf(options);
  const method = methodOf(node);
  if (method) asked.method = { ...valuesOf(method), type: method.type };
  if (isConnected(node, "sigmas")) asked.sigmas = true;
  return asked;
}

/** Whether a negative prompt was typed that cfg 1 leaves without effect. */
export function ignoresNegative(node) {
  const origin = originOf(node, "negative");
  if (valueOf(node, "cfg") !== 1 || !origin || origin === originOf(node, "positive")) return false;
  return String(valueOf(origin, "text") ?? "").trim() !== "";
}

/** The node that gives another method than LAGS; Particle KSampler's `method` is a widget. */
function methodOf(node) {
  const isWidget = node.widgets?.some((widget) => widget.name === "method");
  return isWidget ? null : originOf(node, "method");
}

/**
 * Keeps the plan of a node up to date. A dial that is turned changes faster than the server
 * answers, so there is one question at a time, and the next one asks for the newest values.
 */
export class Planner {
  /**
   * api: ComfyUI's. told: called with {plan}, {problem}, or {other}: a method that has no plan.
   */
  constructor(node, api, told) {
    this.node = node;
    this.api = api;
    this.told = told;
    this.asked = null; // the last question, as text
    this.busy = false;
  }

  /** Ask if a widget has changed since the last question. */
  look() {
    if (this.busy || !this.node.graph) return;
    const asked = JSON.stringify(question(this.node));
    if (asked === this.asked) return;
    this.asked = asked;
    this.busy = true;
    this.ask(asked).then((answer) => {
      this.busy = false;
      this.told(answer);
    });
  }

  /** Ask again at the next look, because the server knows more now. */
  again() {
    this.asked = null;
  }

  /** {plan}, {problem} or {other}; never fails. */
  async ask(asked) {
    try {
      const headers = { "Content-Type": "application/json" };
      const answer = await this.api.fetchApi(PATH, { method: "POST", headers, body: asked });
      const body = await answer.json();
      if (body.error !== undefined) return { problem: said(body.error) };
      if (body.other === undefined) return { plan: body };
      return { other: methodOf(this.node)?.title ?? body.other };
    } catch {
      return { problem: text("no_answer") };
    }
  }
}
