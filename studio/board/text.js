/* Texts side by side: what a correction has changed, and where an error stands. */

import { make } from "../elements/shown.js";

export const words = (text) => text.match(/\s+|[^\s\p{P}]+|\p{P}/gu) ?? [];

/** The shortest way from one list of words to another: [kind, word] with kind "same", "out" or "in" (LCS). */
export function difference(before, after) {
  const rows = before.length, columns = after.length;
  const longest = Array.from({ length: rows + 1 }, () => new Uint16Array(columns + 1));
  for (let i = rows - 1; i >= 0; i--) {
    for (let j = columns - 1; j >= 0; j--) {
      longest[i][j] = before[i] === after[j] ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
    }
  }
  const steps = [];
  let [i, j] = [0, 0];
  while (i < rows || j < columns) {
    if (i < rows && j < columns && before[i] === after[j]) steps.push(["same", before[i++], j++]);
    else if (j < columns && (i === rows || longest[i][j + 1] > longest[i + 1][j])) steps.push(["in", after[j++]]);
    else steps.push(["out", before[i++]]);
  }
  return steps;
}

export function showDifference(place, before, after) {
  place.replaceChildren(...difference(words(before), words(after)).map(([kind, word]) =>
    kind === "same" ? word : make(kind === "in" ? "ins" : "del", {}, word)));
}

/** A text to be read. */
export function plain(name, text) {
  return make("section", { class: "ub-text" }, make("h3", {}, name), make("p", {}, text));
}

/** A text in which words are chosen with the pointer or the keys, to be marked as an error. */
export class Passage {
  constructor(text, choose) {
    let at = 0;
    this.text = text;
    this.choose = choose;
    this.words = words(text).map((word) => ({ word, start: at, end: (at += word.length) }))
      .filter(({ word }) => word.trim());
    [this.from, this.to] = [0, 0];
    this.element = make("p", {
      class: "ub-passage", tabindex: 0, role: "application",
      "aria-label": "Text of the model. Arrow keys choose a word, shift extends, Enter marks an error.",
      onkeydown: (event) => this.key(event), onmouseup: () => this.selected(),
    });
    this.show([]);
  }

  get span() {
    const [first, last] = [Math.min(this.from, this.to), Math.max(this.from, this.to)];
    return this.words.length ? { start: this.words[first].start, end: this.words[last].end } : { start: 0, end: 0 };
  }

  key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) {
      this.to = Math.min(Math.max(this.to + step, 0), this.words.length - 1);
      if (!event.shiftKey) this.from = this.to;
      this.show(this.marked);
    } else if (event.key === "Enter") {
      this.choose(this.span);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  /** What was selected with the pointer, as whole words. */
  selected() {
    const range = getSelection().rangeCount && getSelection().getRangeAt(0);
    if (!range || range.collapsed || !this.element.contains(range.commonAncestorContainer)) return;
    const before = document.createRange();
    before.setStart(this.element, 0);
    before.setEnd(range.startContainer, range.startOffset);
    const start = before.toString().length, end = start + range.toString().length;
    const inside = this.words.flatMap((word, index) => (word.start < end && word.end > start ? [index] : []));
    if (inside.length) [this.from, this.to] = [inside[0], inside.at(-1)];
    this.show(this.marked);
  }

  show(marked) {
    this.marked = marked;
    const { start, end } = this.span, parts = [];
    let at = 0;
    const within = (word, span) => word.start < span.end && word.end > span.start;
    for (const word of this.words) {
      if (word.start > at) parts.push(this.text.slice(at, word.start));
      const names = [marked.some((span) => within(word, span)) && "ub-error", within(word, { start, end }) && "ub-chosen"];
      parts.push(make("span", { class: names.filter(Boolean).join(" ") }, word.word));
      at = word.end;
    }
    this.element.replaceChildren(...parts, this.text.slice(at));
  }
}
