// Nodes in ComfyUI's graph: their ids as the server knows them, their widgets, their neighbours.

const LEFT_OUT = [2, 4]; // LiteGraph's modes of nodes that no prompt holds: muted, bypassed

/** The outermost graph, whichever the user looks at. */
function rootOf(graph) {
  return graph?.rootGraph ?? graph;
}

/** The node of an id, which LiteGraph may hold as a number. */
function nodeIn(graph, id) {
  return graph.getNodeById(Number(id)) ?? graph.getNodeById(id) ?? null;
}

/** The node that the server means: "9", or "12:3" for node 3 of the subgraph that node 12 is. */
export function nodeOf(graph, executionId) {
  let inside = rootOf(graph);
  let node = null;
  for (const id of String(executionId).split(":")) {
    if (!inside) return null;
    node = nodeIn(inside, id);
    inside = node?.subgraph;
  }
  return node;
}

/** The id by which the server knows a node; of a subgraph that is used twice, the first use. */
export function executionIdOf(node) {
  const path = pathTo(rootOf(node.graph), node.graph);
  return path === null ? String(node.id) : [...path, node.id].join(":");
}

/** The ids of the nodes that lead from one graph down to another; null if none do. */
function pathTo(from, wanted) {
  if (!from || from === wanted) return [];
  for (const node of from.nodes ?? []) {
    if (!node.subgraph) continue;
    if (node.subgraph === wanted) return [node.id];
    const deeper = pathTo(node.subgraph, wanted);
    if (deeper?.length) return [node.id, ...deeper];
  }
  return null;
}

/** The first node that a subgraph is; null for the outermost graph. */
function hostOf(graph) {
  const path = pathTo(rootOf(graph), graph);
  return path?.length ? nodeOf(graph, path.join(":")) : null;
}

/**
 * The link that comes in at an input; null where there is none, or the node is in no graph. Nodes'
 * own getInputLink has another meaning for a subgraph's node: what comes in at its output, inside.
 */
function linkTo(node, input) {
  const slot = node.inputs?.find((one) => one.name === input);
  return slot?.link == null ? null : (node.graph?.getLink?.(slot.link) ?? null);
}

/** [node, input] of the subgraph's node that an input inside it is led out to; else null. */
function outside(node, input) {
  const link = linkTo(node, input);
  if (!link || link.origin_id !== node.graph.inputNode?.id) return null;
  const host = hostOf(node.graph);
  const led = host?.inputs?.[link.origin_slot]?.name;
  return led === undefined ? null : [host, led];
}

/** The node at the other end of an input, through reroutes; null where nothing is connected. */
export function originOf(node, input) {
  const led = outside(node, input);
  if (led) return originOf(...led);
  const link = linkTo(node, input);
  const origin = link && nodeIn(node.graph, link.origin_id);
  if (origin?.type === "Reroute") return originOf(origin, origin.inputs[0].name);
  return LEFT_OUT.includes(origin?.mode) ? null : (origin ?? null);
}

/** Whether something is connected to an input. */
export function isConnected(node, input) {
  return node.inputs?.some((one) => one.name === input && one.link != null) ?? false;
}

/** The value of a widget, or of the primitive or a subgraph's widget that is in its place. */
export function valueOf(node, name) {
  const led = outside(node, name);
  if (led) return valueOf(...led) ?? valueIn(node, name);
  const origin = isConnected(node, name) ? originOf(node, name) : null;
  if (origin?.type?.startsWith("Primitive")) return origin.widgets?.[0]?.value;
  return valueIn(node, name);
}

function valueIn(node, name) {
  return node.widgets?.find((widget) => widget.name === name)?.value;
}

/** The widgets of a node that hold a text, a number or a choice, by name. */
export function valuesOf(node) {
  const values = {};
  for (const { name } of node.widgets ?? []) {
    const value = valueOf(node, name);
    if (["string", "number", "boolean"].includes(typeof value)) values[name] = value;
  }
  return values;
}
