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

const words = new WeakMap(); // widget -> what its value stands for

/** Whether a widget has an effect; undefined for one that always has, which is not ours to hide. */
function counts(node, { name }) {
  const value = (other) => valueOf(node, other);
  const condition = CONDITIONS[node.comfyClass]?.[name];
  if (condition) return condition(value);
  if (name.split(".").at(-1) !== "strength") return undefined;
  const automatic = value(name.replace(/strength$/, "auto_nats"));
  return !automatic || !(value(name) > 0); // of an automatic strength only the sign is left
}

/**
 * Where a widget is hidden: each frontend looks elsewhere. The page keeps the state by the node's
 * id, and a new node may take over that of one that had the same.
 */
function placesOf(widget) {
  return [widget, widget.options, widget._state?.options].filter(Boolean);
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

/** Let a widget say a word for its value on the canvas, in its place. */
function say(widget, word) {
  if (!words.has(widget)) {
    const plain = inherited(widget, "_displayValue");
    const get = () => (isVue() ? null : words.get(widget)) ?? plain.call(widget);
    if (plain) Object.defineProperty(widget, "_displayValue", { configurable: true, get });
  }
  words.set(widget, word);
}

/**
 * A widget's label with a word for its value, as Nodes 2.0 says it. What is ours of a label stands
 * beside it, in the state that a new node may take over.
 */
function labelOf(widget, word) {
  const state = widget._state ?? widget;
  if (widget.label !== state.lagsLabel) state.lagsPlain = widget.label; // the page's, or the user's
  const follows = isVue() && widget._state; // older pages keep a label that they once drew
  return word && follows ? `${state.lagsPlain ?? widget.name}: ${word}` : state.lagsPlain;
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
    const effect = counts(node, widget);
    const wanted = effect === false && !isConnected(node, widget.name);
    const differs = ({ hidden = false }) => hidden !== wanted;
    if (effect !== undefined && placesOf(widget).some(differs)) hidden.push([widget, wanted]);
    const meaning = standsFor(node.comfyClass, widget.name, widget.value);
    const word = meaning ? text(meaning) : null;
    const label = labelOf(widget, word);
    const isSaid = label === widget.label && word === (words.get(widget) ?? null);
    if (!isSaid) changed.push([widget, word, label]);
  }
  if (!hidden.length && !changed.length) return;
  const fitted = fits && node.size[1] <= node.computeSize()[1] + 1;
  for (const [widget, wanted] of hidden) {
    for (const place of placesOf(widget)) place.hidden = wanted;
  }
  for (const [widget, word, label] of changed) {
    say(widget, word);
    (widget._state ?? widget).lagsLabel = widget.label = label;
  }
  if (isVue()) lookAgain(node);
  const [, needed] = node.computeSize();
  if (hidden.length && (fitted || node.size[1] < needed)) node.setSize([node.size[0], needed]);
  node.setDirtyCanvas?.(true, true);
}
