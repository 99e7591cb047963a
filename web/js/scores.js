// Thumbnails with their scores, best first.

import { finite } from "./chart.js";
import { language, text } from "./i18n.js";
import { alike } from "./numbers.js";

// Sizes of ../css/lags.css, in pixels.
const PICTURE = 64; // least width
const GAP = 6;
const PADDING = 8;
const LINE = 17;
const CAPTION = 17;
const MOST_ROWS = 4;

export class Scores {
  /**
   * api: ComfyUI's, which knows where images are. width: how wide this is when it is shown.
   */
  constructor(api, width) {
    this.api = api;
    this.width = width;
    this.root = document.createElement("div");
    this.root.className = "lags-scores";
    this.root.dataset.lags = "scores";
    this.height = LINE + 2 * PADDING; // that it asks for
    this.output = null;
    this.again();
  }

  /** Show what the node has judged: the `ui` of nodes/tools/score.py. */
  show(output) {
    const judged = output?.lags_scores;
    if (!judged) return;
    this.output = output;
    const name = output.lags_scores_of?.[0] ?? "score";
    const grid = document.createElement("div");
    grid.className = "lags-grid";
    grid.setAttribute("role", "list");
    grid.setAttribute("aria-label", text("scores", { name, count: judged.length }));
    grid.tabIndex = 0; // so that it scrolls by keys
    const numbers = alike(judged.map((one) => finite(one.score)));
    grid.append(...judged.map((one, i) => this.card(one, numbers[i], name)));
    const left = (output.lags_scores_all?.[0] ?? judged.length) - judged.length;
    this.say(left > 0 ? text("scores_left", { name, count: judged.length, left }) : name);
    this.root.append(grid);
    this.fit(judged.length);
  }

  /** An image with its score below. */
  card({ rank, index, score, image }, number, name) {
    const card = document.createElement("figure");
    card.className = "lags-card";
    card.dataset.index = index;
    card.setAttribute("role", "listitem");
    const picture = document.createElement("img");
    picture.src = this.api.apiURL(`/view?${new URLSearchParams(image)}`);
    picture.draggable = false;
    const caption = document.createElement("figcaption");
    caption.dataset.lags = "score";
    caption.dataset.value = score ?? "";
    caption.textContent = number;
    picture.alt = text("score", { rank, index, name, score: score ?? "–" });
    card.title = picture.alt;
    card.append(picture, caption);
    return card;
  }

  /** Ask for the room that some rows of images need; more are scrolled to. */
  fit(count) {
    const width = (this.root.clientWidth || this.width()) - 2 * PADDING;
    const columns = Math.max(1, Math.floor((width + GAP) / (PICTURE + GAP)));
    const rows = Math.min(MOST_ROWS, Math.ceil(count / columns));
    const row = (width + GAP) / columns + CAPTION;
    this.height = Math.ceil(LINE + rows * row + 2 * PADDING);
    this.root.style.minHeight = `${this.height}px`;
  }

  /** Show what is shown once more, in the language that is spoken now. */
  again() {
    if (this.output) this.show(this.output);
    else this.say(text("scores_to_come"));
  }

  /** One line, instead of what was there. */
  say(said) {
    const line = document.createElement("div");
    line.className = "lags-source";
    line.textContent = said;
    this.root.lang = language();
    this.root.replaceChildren(line);
  }
}
