// Values that stand for something else, by node and widget: the text that says what.

const OF_NODE = {
  LAGSOptions: {
    skip_below: { "-1": "from_mode", 0: "never" },
    shift_limit: { 0: "off" },
    relative_step: { 0: "by_precision" },
    epsilon: { 0: "off" },
    decode_size: { "-1": "as_needed", 0: "full_size" },
    reuse_gradient: { 0: "from_mode" },
  },
  LAGSParticleSampler: {
    ess_threshold: { "-1": "from_method", 0: "never" },
    evaluate_every: { 0: "from_method" },
    particles_at_once: { 0: "as_many_as_fit" },
  },
  LAGSScoreImages: { top_k: { 0: "all_of_them" } },
  LAGSSearchSampler: { radius: { 0: "fresh_noise" } },
  LAGSMMSOLD: { smoothing: { "-1": "by_the_data", 0: "off" }, rank: { 0: "automatic" } },
};
const OF_ALL = { strength: { 0: "off" }, auto_nats: { 0: "off_by_hand" } };

/** The key of what a widget's value stands for; undefined for what it says itself. */
export function standsFor(kind, widget, value) {
  const meanings = OF_NODE[kind]?.[widget] ?? OF_ALL[widget.split(".").at(-1)];
  return meanings?.[value];
}
