// Thumbnails with their scores, best first.

import { finite } from "./chart.js";
import { significant } from "./numbers.js";

export class Scores {
  /**
   * api: ComfyUI's, which knows where pictures are.
   */
  constructor(api) {
    this.api = api;
    this.root = document.createElement("div");
    this.root.className = "lags-scores";
    this.root.dataset.lags = "scores";
    this.say("Scores appear here after the run.");
  }

  /** Show what the node has judged: the `ui` of nodes/score.py. */
  show(output) {
    const judged = output?.lags_scores;
    if (!judged) return;
    const name = output.lags_scores_of?.[0] ?? "score";
    const grid = document.createElement("div");
    grid.className = "lags-grid";
    grid.append(...judged.map((one) => this.card(one, name)));
    const hidden = (output.lags_scores_all?.[0] ?? judged.length) - judged.length;
    const title = hidden > 0 ? `${name}, best ${judged.length}, ${hidden} more` : name;
    this.say(title);
    this.root.append(grid);
  }

  /** A picture with its score below. */
  card({ rank, index, score, image }, name) {
    const card = document.createElement("figure");
    card.className = "lags-card";
    card.dataset.index = index;
    const picture = document.createElement("img");
    picture.src = this.api.apiURL(`/view?${new URLSearchParams(image)}`);
    picture.alt = `image ${index}`;
    picture.draggable = false;
    const caption = document.createElement("figcaption");
    caption.dataset.lags = "score";
    caption.dataset.value = score ?? "";
    caption.textContent = significant(finite(score));
    card.title = `Rank ${rank}, image ${index}: ${name} ${score}`;
    card.append(picture, caption);
    return card;
  }

  /** One line, instead of what was there. */
  say(text) {
    const line = document.createElement("div");
    line.className = "lags-source";
    line.textContent = text;
    this.root.replaceChildren(line);
  }
}
