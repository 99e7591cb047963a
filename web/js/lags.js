// Registers the pack with ComfyUI's page: panels on the nodes, and the events of their runs.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { Compare } from "./compare.js";
import { executionIdOf, nodeOf, originOf } from "./graph.js";
import { said, speak } from "./i18n.js";
import { GUIDED, PARTICLES, Panel } from "./panel.js";
import { Planner, ignoresNegative } from "./plan.js";
import { Scores } from "./scores.js";
import { followTheme, loadStyles } from "./theme.js";
import { dress } from "./widgets.js";

const WITH_PANEL = new Set(["LAGSKSampler", "LAGSKSamplerAdvanced", "LAGSScheduleVisualizer"]);
const OF_PARTICLES = new Set(["LAGSParticleSampler"]);
const WITH_SCORES = new Set(["LAGSScoreImages"]);
const WITH_IMAGES = new Set(["LAGSCompare"]);
const PANEL_HEIGHT = 216; // as in ../css/lags.css
const MARGINS = 20; // that ComfyUI leaves around a DOM widget, two sides together
const LEAST_WIDTH = 300; // of a new node with a panel, so that its first line is one line
const NOTICE_MS = 10000; // how long a notice stays
const ERROR_MS = 20000;
const FOLDER = new URL(import.meta.url).pathname.split("/extensions/")[1].split("/")[0];
const LOOK_EVERY = 60; // milliseconds between two looks at the widgets

// Panels of nodes that are in a graph: node -> {panel, planner}.
const shown = new Map();
// Scores of nodes that are in a graph.
const scored = new Set();
// Compare nodes that are in a graph: node -> its images.
const compared = new Map();
const dressed = new Set(); // nodes in a graph whose widgets show what counts
const elements = new Map(); // node in a graph -> what we have added to it

/** Add a DOM element to a node as a widget that nothing saves; height() is what it needs. */
function addElement(node, name, element, height) {
  const widget = node.addDOMWidget(name, `${name}_widget`, element, {
    serialize: false, // not in the prompt
    hideOnZoom: false,
    getMinHeight: () => height() + MARGINS,
  });
  widget.serialize = false; // not in the workflow file
  whileInGraph(node, () => elements.set(node, element), () => elements.delete(node));
  grow(node);
}

/**
 * Put a node's element where Nodes 2.0 still shows that of an earlier node with this id: it mounts
 * one per id, and a node that is packed into a subgraph keeps its own.
 */
function mount(node, element) {
  if (element.isConnected || !globalThis.LiteGraph?.vueNodesMode) return;
  if (node.graph !== app.canvas?.graph) return;
  const kind = `[data-lags="${element.dataset.lags}"]`;
  document.querySelector(`[data-node-id="${node.id}"] ${kind}`)?.replaceWith(element);
}

/** Make a node large enough for what is in it. */
function grow(node) {
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width, LEAST_WIDTH), Math.max(node.size[1], height)]);
}

/** Let the wheel and the mouse through to the canvas: zoom, move, select, as beside the panel. */
function letThrough(element) {
  for (const name of ["wheel", "pointerdown"]) {
    element.addEventListener(name, (event) => {
      if (globalThis.LiteGraph?.vueNodesMode) return; // there the page does so itself
      event.preventDefault();
      event.stopPropagation();
      app.canvas.canvas.dispatchEvent(new event.constructor(name, event));
    });
  }
  element.addEventListener("contextmenu", (event) => event.preventDefault()); // the node's comes
}

/** Call ours after a node's own callback of that name. */
function after(node, name, ours) {
  const theirs = node[name];
  node[name] = function (...given) {
    const result = theirs?.apply(this, given);
    ours(...given);
    return result;
  };
}

/** Call enter() when a node comes into a graph, or is in one, and leave() when it goes. */
function whileInGraph(node, enter, leave) {
  if (node.graph) enter();
  after(node, "onAdded", enter);
  after(node, "onRemoved", leave);
}

/** Give a sampler or a visualizer its panel, with these charts. */
function addPanel(node, charts) {
  const panel = new Panel(charts, () => node.title);
  const planner = new Planner(node, api, (answer) => panel.showPlan(answer));
  const entry = { panel, planner };
  addElement(node, "lags_panel", panel.root, () => PANEL_HEIGHT);
  followTheme(panel.root);
  letThrough(panel.root);
  whileInGraph(node, () => shown.set(node, entry), () => shown.delete(node));
  after(node, "onExecuted", (output) => show(entry, output));
}

/** Show what a node's last run left: from an event, from ComfyUI's cache, or from its memory. */
function show({ panel, planner }, output) {
  const plan = output?.lags_plan?.at(-1);
  const trace = output?.lags_trace?.at(-1);
  if (trace) panel.finish(trace);
  if (plan) panel.showPlan({ plan });
  if (plan || trace) planner.again(); // the server knows the node's model now
}

/** Give Score Images its images with their scores. */
function addScores(node) {
  const scores = new Scores(api, () => node.size[0] - MARGINS);
  addElement(node, "lags_scores", scores.root, () => scores.height);
  followTheme(scores.root);
  whileInGraph(node, () => scored.add(scores), () => scored.delete(scores));
  after(node, "onExecuted", (output) => {
    scores.show(output);
    grow(node);
  });
}

/** Give Compare its images. */
function addImages(node) {
  const images = new Compare(api, () => node.size[0] - MARGINS);
  addElement(node, "lags_compare", images.root, () => images.height);
  followTheme(images.root);
  whileInGraph(node, () => compared.set(node, images), () => compared.delete(node));
  after(node, "onExecuted", (output) => {
    images.show(output);
    grow(node);
  });
}

/** What ComfyUI keeps of a node's last output while the user is in another workflow's tab. */
function keptOf(node, id) {
  return app.nodeOutputs?.[id] ?? app.nodeOutputs?.[`${node.graph?.id}:${node.id}`];
}

/** Show the widgets that have an effect, and what their values stand for. */
function dressWidgets(node) {
  dress(node, true);
  whileInGraph(node, () => dressed.add(node), () => dressed.delete(node));
  after(node, "onConfigure", () => dress(node, false)); // a file's size is the file's
}

/**
 * Look whether widgets have changed. They change in many ways (a drag, undo, a widget of a subgraph,
 * a primitive, LAGS Options at the other end of a wire), for which no one event stands.
 */
function look() {
  if (document.hidden) return;
  speakAsThePage();
  for (const node of dressed) dress(node, true);
  for (const [node, element] of elements) mount(node, element);
  for (const [node, entry] of shown) {
    entry.panel.advise(ignoresNegative(node));
    const id = executionIdOf(node);
    entry.panel.root.dataset.node = id;
    const kept = keptOf(node, id);
    if (!entry.panel.run && kept?.lags_trace) show(entry, kept);
    entry.planner.look();
  }
  for (const [node, images] of compared) {
    if (images.isEmpty) images.show(keptOf(node, executionIdOf(node)));
  }
}

/** Say all that is shown in the language that the page has now. */
async function speakAsThePage() {
  if (!(await speak(app.extensionManager?.setting?.get("Comfy.Locale")))) return;
  for (const { panel, planner } of shown.values()) {
    panel.redraw();
    planner.again();
  }
  for (const one of [...scored, ...compared.values()]) one.again();
}

/** What is shown of the node that an event is of; undefined where the page has no such node. */
function entryOf(event) {
  if (!shown.size) return undefined; // also before there is a graph
  return shown.get(nodeOf(app.graph, event.detail?.node));
}

/** Runs that the queue has ended without a word on the node do not go on. */
function stopAll() {
  for (const { panel } of shown.values()) panel.stop();
}

/** A message in a corner of the page. */
function tell(severity, summary, detail, life) {
  app.extensionManager?.toast?.add({ severity, summary, detail, life });
}

/** Whether an error came out of this pack, in whichever node: newer pages say only that one failed. */
function isOurs({ node_type, traceback }) {
  const last = String(traceback?.at(-1)).replaceAll("\\", "/");
  return node_type?.startsWith("LAGS") || last.includes(`/custom_nodes/${FOLDER}/`);
}

/** Hear of runs, from the first moment on: a page may be opened in the middle of one. */
function listen() {
  api.addEventListener("lags.start", (event) => {
    const entry = entryOf(event);
    entry?.panel.start(event.detail.run);
    entry?.planner.again(); // the server knows the node's model from here on
  });
  api.addEventListener("lags.step", (event) => {
    const { run, index, point } = event.detail;
    entryOf(event)?.panel.step(run, index, point);
  });
  api.addEventListener("lags.finished", ({ detail }) => {
    const sampler = compared.size ? nodeOf(app.graph, detail.node) : null;
    const sweep = sampler && originOf(sampler, "strength");
    if (!sweep) return;
    for (const [node, images] of compared) {
      if (originOf(node, "sweep") !== sweep) continue;
      images.showFinished(detail.runs);
      grow(node);
    }
  });
  api.addEventListener("lags.notice", ({ detail }) => {
    const node = detail.node && nodeOf(app.graph, detail.node);
    shown.get(node)?.panel.warn(detail);
    tell("warn", node?.title ?? "LAGS", said(detail), NOTICE_MS);
  });
  api.addEventListener("execution_error", ({ detail }) => {
    if (!isOurs(detail)) return;
    const node = nodeOf(app.graph, detail.node_id);
    shown.get(node)?.panel.fail(detail.exception_message.trim());
    tell("error", node?.title ?? detail.node_type, detail.exception_message.trim(), ERROR_MS);
  });
  for (const name of ["execution_success", "execution_error", "execution_interrupted"]) {
    api.addEventListener(name, stopAll);
  }
  api.addEventListener("reconnected", () => {
    for (const { planner } of shown.values()) planner.again();
  });
}

listen();

app.registerExtension({
  name: "lags.live",
  async setup() {
    loadStyles();
    await speakAsThePage();
    setInterval(look, LOOK_EVERY);
  },
  nodeCreated(node) {
    if (node.comfyClass?.startsWith("LAGS")) dressWidgets(node);
    if (WITH_PANEL.has(node.comfyClass)) addPanel(node, GUIDED);
    if (OF_PARTICLES.has(node.comfyClass)) addPanel(node, PARTICLES);
    if (WITH_SCORES.has(node.comfyClass)) addScores(node);
    if (WITH_IMAGES.has(node.comfyClass)) addImages(node);
  },
});
