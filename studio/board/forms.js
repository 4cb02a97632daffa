/* What is asked for: scores of one output, choices between several, or a corrected text. A form shows an answer and says
   what was changed; it keeps nothing. */

import { button, div, make } from "../elements/shown.js";
import { LETTERS } from "./pictures.js";
import { Passage, plain, showDifference } from "./text.js";

/** What a confidence of 1 to 3 means. */
export const CONFIDENCE = ["unsure", "fairly sure", "sure"];
const RANKING = "ranking", LEVEL = "level"; // a row of its own, and what joins two of it

/** A ranking in letters: C > A = B. */
export function ranks(task, ranking) {
  return ranking.map((group) => group.map((index) => sideOf(task, index)).join(" = ")).join(" > ");
}

/** The letter under which an output was shown. */
export const sideOf = (task, index) => LETTERS[task.order.indexOf(index)];

/** The form of a task. `change` takes the changed part of the answer. */
export function form(task, answer, change) {
  const made = { rate: Scores, compare: Choices, correct: Correction }[task.kind];
  return new made(task, answer, change);
}

/** Rows of radio buttons, of which one is highlighted and listens to digits. */
class Rows {
  constructor(rows) {
    this.rows = rows; // {name, question, values: [[value, words, key]], choose(value), done()}
    this.current = 0;
    this.element = div("ub-rows", ...rows.map((row, index) => {
      row.element = make("fieldset", { class: "ub-row", onpointerdown: () => this.highlight(index) },
        make("legend", {}, row.question),
        ...row.values.map(([value, words, key]) => make("label", {}, make("input", {
          type: "radio", name: `ub-${row.name}`, value, onchange: () => row.choose(value),
        }), make("span", {}, make("kbd", {}, key), ` ${words}`))), row.note ?? "");
      return row.element;
    }));
    this.highlight(0);
  }

  highlight(index) {
    this.current = Math.min(Math.max(index, 0), this.rows.length - 1);
    this.rows.forEach((row, i) => row.element.classList.toggle("ub-current", i === this.current));
  }

  /** Whether every row has an answer. */
  get done() {
    return this.rows.every((row) => row.done());
  }

  /** The highlighted row, to be shown elsewhere. `press` takes the key of an answer. */
  asked(press) {
    const row = this.rows[this.current];
    return [make("strong", {}, row.question), ...row.values.map(([value, words, key]) => button(`${words} [${key}]`,
      () => press(key), { "aria-pressed": String(String(this.chosen[row.name]) === String(value)) })),
    row.note?.textContent ?? ""];
  }

  show(chosen) {
    this.chosen = chosen;
    for (const row of this.rows) {
      for (const radio of row.element.querySelectorAll("input")) radio.checked = radio.value === String(chosen[row.name]);
    }
  }

  key(event) {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key], row = this.rows[this.current];
    if (step && !["radio", "range"].includes(event.target.type)) {
      this.highlight(this.current + step);
      row.element.scrollIntoView({ block: "nearest" });
      return true;
    }
    const value = row?.values.find(([, , key]) => key === event.key.toUpperCase());
    if (!value) return false;
    row.choose(value[0]);
    if (!row.note) this.highlight(this.current + 1); // there is more to rank
    this.rows[this.current].element.scrollIntoView({ block: "nearest" });
    return true;
  }
}

class Scores {
  constructor(task, answer, change) {
    const rows = task.rubric.criteria.map((criterion) => ({
      name: criterion.name, question: criterion.question,
      values: criterion.anchors.map((anchor, index) => [index + 1, anchor, String(index + 1)]),
      choose: (score) => change({ scores: { ...this.scores, [criterion.name]: score } }),
      done: () => criterion.name in this.scores,
    }));
    this.rows = new Rows(rows);
    this.output = task.outputs[0].kind === "text" ? new ModelText(task, change) : null;
    this.element = div("ub-form", ...(this.output ? [this.output.element] : []), this.rows.element);
  }

  show(answer) {
    this.scores = answer.scores ?? {};
    this.rows.show(this.scores);
    this.output?.show(answer);
  }

  key(event) {
    return this.rows.key(event);
  }
}

class Choices {
  constructor(task, answer, change) {
    this.task = task;
    const sides = task.order.map((index, side) => [index, LETTERS[side], String(side + 1)]);
    const pair = sides.length === 2;
    const values = pair
      ? [sides[0], ["tie", "Tie", "2"], [sides[1][0], "B", "3"], ["both_bad", "Both bad", "4"]]
      : [...sides, ["tie", "Tie", "L"], ["both_bad", "None is good", "N"]];
    const rows = task.rubric.criteria.map((criterion) => ({
      name: criterion.name, question: criterion.question, values,
      choose: (choice) => change({ choices: { ...this.choices, [criterion.name]: choice } }),
      done: () => criterion.name in this.choices,
    }));
    this.rank = make("p", { class: "ub-rank", role: "status" });
    if (!pair) rows.push({ name: RANKING, question: "Rank them: the best first", note: this.rank,
      values: [...sides, [LEVEL, "Next one level with the last", "L"]],
      choose: (value) => value === LEVEL ? this.join(!this.level) : change({ ranking: this.ranked(value) }),
      done: () => this.ranking.flat().length === sides.length });
    this.rows = new Rows(rows);
    this.element = div("ub-form", this.rows.element);
  }

  /** Whether the next one that is ranked is level with the last. */
  join(level) {
    this.level = level && this.ranking.length > 0;
    this.show({ choices: this.choices, ranking: this.ranking });
  }

  /** The ranking with one more behind it, or level with its last; whoever is in it already leaves it. */
  ranked(index) {
    const { level, ranking } = this;
    this.level = false;
    if (ranking.flat().includes(index)) {
      return ranking.map((group) => group.filter((one) => one !== index)).filter((group) => group.length);
    }
    return level ? [...ranking.slice(0, -1), [...ranking.at(-1), index]] : [...ranking, [index]];
  }

  show(answer) {
    this.choices = answer.choices ?? {};
    this.ranking = answer.ranking ?? [];
    this.level &&= this.ranking.length > 0;
    this.rows.show({ ...this.choices, [RANKING]: this.level ? LEVEL : null });
    this.rank.textContent = this.ranking.length
      ? `Ranking: ${ranks(this.task, this.ranking)}${this.level ? " = …" : ""}` : "No ranking yet";
  }

  key(event) {
    return this.rows.key(event);
  }
}

/** The model's text, and where the rubric has classes of errors those that are marked in it. */
class ModelText {
  constructor(task, change) {
    this.task = task;
    this.change = change;
    const { text } = task.outputs[0];
    this.passage = task.rubric.errors.length ? new Passage(text, (span) => this.add(span)) : null;
    this.list = make("ul", { class: "ub-list" });
    const name = "Text – may be AI-generated";
    this.element = this.passage ? div("ub-errors", make("h3", {}, name), this.passage.element, div("ub-buttons",
      button("Mark the chosen words as an error [E, Enter]", () => this.add(this.passage.span))), this.list)
      : plain(name, text);
  }

  focus() {
    this.passage?.element.focus();
  }

  add({ start, end }) {
    const span = { start, end, error: this.task.rubric.errors[0], significant: true, laterality: false, measurement: false };
    this.change({ spans: [...this.spans, span] });
  }

  show(answer) {
    if (!this.passage) return;
    this.spans = answer.spans ?? [];
    this.passage.show(this.spans);
    const set = (index, part) => this.change({ spans: this.spans.map((span, i) => (i === index ? { ...span, ...part } : span)) });
    const box = (index, name) => make("label", {}, make("input", {
      type: "checkbox", checked: this.spans[index][name], onchange: (event) => set(index, { [name]: event.target.checked }),
    }), name);
    this.list.replaceChildren(...this.spans.map((span, index) => make("li", {},
      make("q", {}, this.task.outputs[0].text.slice(span.start, span.end)),
      make("select", { "aria-label": "Kind of error", onchange: (event) => set(index, { error: event.target.value }) },
        ...this.task.rubric.errors.map((error) => make("option", { value: error, selected: error === span.error }, error))),
      box(index, "significant"), box(index, "laterality"), box(index, "measurement"),
      button("Delete", () => this.change({ spans: this.spans.filter((_, i) => i !== index) })))));
  }
}

class Correction {
  constructor(task, answer, change) {
    this.own = task.outputs[0].text;
    this.change = change;
    this.output = new ModelText(task, change);
    this.editor = make("textarea", { rows: 8, maxlength: 20000, oninput: () => change({ text: this.editor.value }) });
    this.difference = make("p", { class: "ub-difference", "aria-live": "off" });
    this.editor.value = answer.text ?? this.own;
    this.element = div("ub-form", this.output.element,
      make("label", { class: "ub-field" }, "What it should say [T]", this.editor),
      make("h3", {}, "What you have changed"), this.difference,
      div("ub-buttons", button("Accept as it is [A]", () => this.accept())));
  }

  show(answer) {
    if (document.activeElement !== this.editor) this.editor.value = answer.text ?? this.own;
    showDifference(this.difference, this.own, this.editor.value);
    this.output.show(answer);
  }

  accept() {
    this.editor.value = this.own;
    this.change({ text: this.own });
  }

  write() {
    this.editor.focus();
    return true;
  }

  key(event) {
    if (event.key.toLowerCase() !== "a") return false;
    this.accept();
    return true;
  }
}
