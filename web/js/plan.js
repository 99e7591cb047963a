// The schedule of a node's widgets, asked from the server before anything is queued.

import { executionIdOf, isConnected, originOf, valueOf, valuesOf } from "./graph.js";

const PATH = "/lags/schedule"; // runtime/page_plan.py
const NEEDED = ["sampler_name", "scheduler", "steps", "mode", "c"];
const OPTIONAL = ["cfg", "denoise", "nats", "start_at_step", "end_at_step"];
const OF_PARTICLES = ["particles", "method", "tempering", "evaluate_every"];

/** What the server has to know of a node. */
export function question(node) {
  const asked = { node: executionIdOf(node), denoise: 1 };
  for (const name of [...NEEDED, ...OPTIONAL, ...OF_PARTICLES]) {
    const value = valueOf(node, name);
    if (value !== undefined) asked[name] = value;
  }
  const options = originOf(node, "options");
  if (options?.type === "LAGSOptions") asked.options = valuesOf(options);
  if (isConnected(node, "sigmas")) asked.sigmas = true;
  return asked;
}

/**
 * Keeps the plan of a node up to date. A dial that is turned changes faster than the server
 * answers, so there is one question at a time, and the next one asks for the newest values.
 */
export class Planner {
  /**
   * api: ComfyUI's. told: called with {plan}, {problem}, or {other}: a method of its own plans.
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
    const other = originOf(this.node, "method")?.title; // another method than LAGS, connected
    const asked = other ?? JSON.stringify(question(this.node));
    if (asked === this.asked) return;
    this.asked = asked;
    if (other) {
      this.told({ other });
      return;
    }
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

  /** {plan} or {problem}; never fails. */
  async ask(asked) {
    try {
      const headers = { "Content-Type": "application/json" };
      const answer = await this.api.fetchApi(PATH, { method: "POST", headers, body: asked });
      const body = await answer.json();
      return body.error === undefined ? { plan: body } : { problem: body.error };
    } catch {
      return { problem: "The server does not answer." };
    }
  }
}
