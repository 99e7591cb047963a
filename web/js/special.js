// Values that stand for something else, in words of the page's language.

const WORDS = {
  mode: ["from mode", "随模式", "モードに従う", "selon le mode", "vom Modus"],
  method: ["from method", "随方法", "手法に従う", "selon la méthode", "von der Methode"],
  off: ["off", "关", "オフ", "désactivé", "aus"],
  never: ["never", "从不", "しない", "jamais", "nie"],
  hand: ["off, by hand", "关，手动", "オフ、手動", "non, à la main", "aus, von Hand"],
  precision: ["by precision", "随精度", "精度による", "selon la précision", "nach Genauigkeit"],
  needed: ["as needed", "按需", "必要な分", "au besoin", "nach Bedarf"],
  full: ["full size", "全尺寸", "原寸", "taille réelle", "volle Größe"],
  fit: ["as many as fit", "尽可能多", "入るだけ", "autant que possible", "so viele wie passen"],
  all: ["all", "全部", "すべて", "toutes", "alle"],
  auto: ["automatic", "自动", "自動", "automatique", "automatisch"],
  data: ["by the data", "随数据", "データによる", "selon les données", "nach den Daten"],
  fresh: ["fresh noise", "全新噪声", "新しいノイズ", "bruit neuf", "neues Rauschen"],
};
const LANGUAGES = ["en", "zh", "ja", "fr", "de"];

// By node and widget: what a value stands for.
const OF_NODE = {
  LAGSOptions: {
    skip_below: { "-1": "mode", 0: "never" },
    shift_limit: { 0: "off" },
    relative_step: { 0: "precision" },
    epsilon: { 0: "off" },
    decode_size: { "-1": "needed", 0: "full" },
    reuse_gradient: { 0: "mode" },
  },
  LAGSParticleSampler: {
    ess_threshold: { "-1": "method", 0: "never" },
    evaluate_every: { 0: "method" },
    particles_at_once: { 0: "fit" },
  },
  LAGSScoreImages: { top_k: { 0: "all" } },
  LAGSSearchSampler: { radius: { 0: "fresh" } },
  LAGSMMSOLD: { smoothing: { "-1": "data", 0: "off" }, rank: { 0: "auto" } },
};
const OF_ALL = { strength: { 0: "off" }, auto_nats: { 0: "hand" } };

/** What a widget's value stands for, in a language; null for what it says itself. */
export function standsFor(kind, widget, value, language) {
  const meanings = OF_NODE[kind]?.[widget] ?? OF_ALL[widget.split(".").at(-1)];
  const word = WORDS[meanings?.[value]];
  return word ? (word[LANGUAGES.indexOf(language)] ?? word[0]) : null;
}
