// The images of a sweep in one picture; a click shows it at full size.

import { language, text } from "./i18n.js";

const LEAST = 120; // pixels of height before there is anything
const MOST = 600; // that it asks for; a larger node shows a larger picture
const LINE = 17; // as in ../css/lags.css, like the next one
const PADDING = 8;
// What is said of a setting, by its name; a mode is its own name.
const SWEPT = { strength: "swept_strength", c: "swept_c", seed: "swept_seed" };

export class Compare {
  /**
   * api: ComfyUI's, which knows where images are. width: how wide this is when it is shown.
   */
  constructor(api, width) {
    this.api = api;
    this.width = width;
    this.root = document.createElement("div");
    this.root.className = "lags-scores lags-compare";
    this.root.dataset.lags = "compare";
    this.height = LEAST; // that it asks for
    this.isEmpty = true;
    this.again = () => this.say(text("sweep_to_come")); // what is shown, in today's language
    this.again();
  }

  /** Show the picture: the `ui` of nodes/tools/sweep.py. */
  show(output) {
    const drawn = output?.lags_compare?.at(-1);
    if (!drawn) return;
    this.isEmpty = false;
    this.again = () => this.show(output);
    const { image, width, height } = drawn;
    const button = document.createElement("button");
    const src = this.api.apiURL(`/view?${new URLSearchParams(image)}`);
    button.type = "button";
    button.title = text("enlarge");
    button.append(pictureOf(src, text("sweep")));
    button.addEventListener("click", () => enlarge(src));
    this.root.replaceChildren(button);
    this.ask(((this.width() - 2 * PADDING) * height) / width);
  }

  /** Show what a stopped sweep has finished: runs of {settings, number, image}. */
  showFinished(runs) {
    this.isEmpty = false;
    this.again = () => this.showFinished(runs);
    this.say(text("sweep_stopped"));
    const grid = document.createElement("div");
    grid.className = "lags-grid";
    for (const { settings, number, image } of runs) {
      const label = labelOf(settings, number);
      const card = document.createElement("figure");
      card.className = "lags-card";
      const caption = document.createElement("figcaption");
      caption.textContent = label;
      const src = this.api.apiURL(`/view?${new URLSearchParams(image)}`);
      card.append(pictureOf(src, label), caption);
      grid.append(card);
    }
    this.root.append(grid);
    this.ask(MOST / 2);
  }

  /** Ask for the room that something of this height needs. */
  ask(height) {
    this.height = Math.ceil(LINE + 2 * PADDING + Math.min(MOST, Math.max(LEAST, height)));
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

/** What stands under an image: the settings that differ, and its number in its batch. */
function labelOf(settings, number) {
  const parts = Object.entries(settings).map(([name, value]) => {
    if (name === "mode") return value;
    return name === "strength" && !value ? text("plain") : text(SWEPT[name], { value });
  });
  if (number > 1) parts.push(text("image_number", { number }));
  return parts.join(text("comma"));
}

function pictureOf(src, alt) {
  const picture = document.createElement("img");
  picture.src = src;
  picture.alt = alt;
  picture.draggable = false;
  return picture;
}

/** A picture at full size above the page, until a click, Enter or Escape. */
function enlarge(src) {
  const dialog = document.createElement("dialog");
  dialog.className = "lags-enlarged";
  dialog.setAttribute("aria-label", text("sweep"));
  const close = document.createElement("button"); // so that a key or a screen reader can press it
  close.type = "button";
  close.append(pictureOf(src, text("sweep")));
  dialog.append(close);
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
