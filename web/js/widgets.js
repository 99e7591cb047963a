// Widgets that show what counts: one without effect is hidden, a value that stands for something
// else says what. Values stay as they are, on the page, in files and in prompts.

import { isConnected, valueOf } from "./graph.js";
import { text } from "./i18n.js";
import { standsFor } from "./special.js";

// When a widget has an effect, by the values of the node's others.
const CONDITIONS = {
  LAGSWeightColor: {
    hue: (value) => value("attribute") === "hue",
    colour: (value) => value("attribute") === "mean colour",
  },
  LAGSOptions: { sigma_gate: (value) => value("schedule") === "hard gate" },
  LAGSParticleSampler: { count: (value) => ["draw", "diverse"].includes(value("output")) },
};

const labels = new WeakMap(); // widget -> its label without our words
const words = new WeakMap(); // widget -> what its value stands for

/** Whether a widget has an effect. */
function counts(node, { name }) {
  const value = (other) => valueOf(node, other);
  const condition = CONDITIONS[node.comfyClass]?.[name];
  if (condition) return condition(value);
  if (name.split(".").at(-1) !== "strength") return true;
  const automatic = value(name.replace(/strength$/, "auto_nats"));
  return !automatic || !(value(name) > 0); // of an automatic strength only the sign is left
}

/** Hide a widget, or show it; each frontend looks elsewhere. */
function hide(widget, hidden) {
  widget.hidden = hidden;
  widget.options.hidden = hidden;
  if (widget._state?.options) widget._state.options.hidden = hidden;
}

/** A getter that an object has from its class. */
function inherited(object, name) {
  while (object) {
    object = Object.getPrototypeOf(object);
    const found = object && Object.getOwnPropertyDescriptor(object, name)?.get;
    if (found) return found;
  }
  return null;
}

/** Let a widget say a word for its value: on the canvas in its place, in Nodes 2.0 by its label. */
function say(widget, word) {
  if (!labels.has(widget)) {
    labels.set(widget, widget.label);
    const plain = inherited(widget, "_displayValue");
    const get = () => (isVue() ? null : words.get(widget)) ?? plain.call(widget);
    if (plain) Object.defineProperty(widget, "_displayValue", { configurable: true, get });
  }
  words.set(widget, word);
  const label = labels.get(widget);
  const follows = isVue() && widget._state; // older pages keep a label that they once drew
  widget.label = word && follows ? `${label ?? widget.name}: ${word}` : label;
}

function isVue() {
  return Boolean(globalThis.LiteGraph?.vueNodesMode);
}

/** Let a page whose widgets' states are no stores look at them again: it does at such an event. */
function lookAgain({ id, mode, graph }) {
  const event = { nodeId: id, property: "mode", oldValue: mode, newValue: mode };
  graph?.trigger?.("node:property:changed", event);
}

/**
 * Bring a node's widgets up to date. A node that is as high as its widgets need stays so, where
 * `fits` is true; one that is too low grows.
 */
export function dress(node, fits) {
  const hidden = [];
  const changed = [];
  for (const widget of node.widgets ?? []) {
    if (widget.type === undefined || widget.element) continue;
    const wanted = !counts(node, widget) && !isConnected(node, widget.name);
    if (wanted !== Boolean(widget.hidden)) hidden.push([widget, wanted]);
    const meaning = standsFor(node.comfyClass, widget.name, widget.value);
    const word = meaning ? text(meaning) : null;
    const key = word && `${isVue()} ${word}`;
    if ((widget.lagsSaid ?? null) !== key) changed.push([widget, word, key]);
  }
  if (!hidden.length && !changed.length) return;
  const fitted = fits && node.size[1] <= node.computeSize()[1] + 1;
  for (const [widget, wanted] of hidden) hide(widget, wanted);
  for (const [widget, word, key] of changed) {
    say(widget, word);
    widget.lagsSaid = key;
  }
  if (isVue()) lookAgain(node);
  const [, needed] = node.computeSize();
  if (hidden.length && (fitted || node.size[1] < needed)) node.setSize([node.size[0], needed]);
  node.setDirtyCanvas?.(true, true);
}
