/* The rating board: one item after the other, by keys alone if one likes. Streamlit shows the pages around it.

   What is entered lives here and is saved with every change (wire.js); the server deals the items out. */

import "../elements/index.js";
import { button, div, make } from "../elements/shown.js";
import { CONFIDENCE, form } from "./forms.js";
import { Mark } from "./marks.js";
import { others } from "./others.js";
import { pictures, sources } from "./pictures.js";
import { Refusal, Saver, Unable, Watch, call } from "./wire.js";

if (!customElements.get("um-mark")) customElements.define("um-mark", Mark);

const BREAK_SECONDS = 45 * 60;
const TYPED = ["comment", "text"];
const TYPING_MS = 2000; // changes of one field within so long are undone together
const OF_PICTURES = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "Enter", "Delete", "Backspace", "+", "-", "=", "0"];
const HELP = [
  ["1 to 8", "score of the highlighted row, or choice between the outputs"], ["Up, Down", "another row"],
  ["L, N", "of three or more: level (a tie, or in the ranking); none is good"],
  ["F", "full size, where questions can be answered as well"], ["D", "side by side, slider, difference"], ["+, -, 0", "zoom in, out, whole picture"],
  ["M", "mark defects"], ["E", "mark an error of the text"], ["T", "comment or text"], ["A", "accept the text as it is"],
  ["C, then 1 to 3", "how sure you are"], ["X", "cannot judge"], ["U", "undo the last change"], ["Enter", "submit and go on"],
  ["Z", "the one before, to revise it"], ["?", "this list"],
];

/** Puts a board into the page. `base` is the address of the studio's API. */
export class Board {
  constructor(root, base, project, purpose) {
    this.base = base;
    this.of = { project, purpose };
    this.root = root;
    this.watch = new Watch();
    this.saver = new Saver(base, (state, why) => this.showSaved(state, why));
    this.worked = 0; // seconds since the last break
    this.listen = (event) => this.key(event);
    document.addEventListener("keydown", this.listen, true);
    this.build();
    this.go("next");
  }

  close() {
    this.closed = true;
    document.removeEventListener("keydown", this.listen, true);
    this.saver.now();
  }

  build() {
    this.bar = make("progress", { max: 1, value: 0, "aria-label": "Progress" });
    this.standing = make("span", { class: "ub-standing" });
    this.saved = make("span", { class: "ub-saved", role: "status" });
    this.fault = make("p", { class: "ub-fault", role: "alert", hidden: true });
    this.place = div("ub-item");
    this.help = make("dialog", { class: "ub-help", "aria-label": "Keys" }, make("h2", {}, "Keys"),
      make("dl", {}, ...HELP.flatMap(([key, what]) => [make("dt", {}, make("kbd", {}, key)), make("dd", {}, what)])),
      button("Close", () => this.help.close()));
    this.root.replaceChildren(div("ub-head", this.bar, this.standing, this.saved,
      button("Keys [?]", () => this.help.showModal())), this.fault, this.place, this.help);
  }

  // One item after the other

  /** Gets an item: the next one, or one of one's own again. */
  async go(name, more = {}) {
    this.busy = true;
    try {
      const { task, progress } = await call(this.base, name, { ...this.of, ...more });
      if (this.closed) return;
      this.fail();
      this.show(task, progress);
    } catch (error) {
      this.fail(error, () => this.go(name, more));
    }
    this.busy = false;
  }

  show(task, progress) {
    this.task = task;
    this.form = null;
    this.bar.value = progress.total ? progress.done / progress.total : 1;
    const rest = progress.seconds && progress.done < progress.total ? `, about ${minutes(progress.seconds)} left` : "";
    this.standing.textContent = `${progress.done} of ${progress.total}${rest}`;
    this.saved.textContent = "";
    if (!task) {
      const all = progress.done >= progress.total;
      this.place.replaceChildren(make("p", { class: "ub-empty" }, all
        ? "All done. Thank you!" : "Nothing to rate now: the rest is with others, or comes later."),
      ...(all ? [] : [button("Look again", () => this.go("next"))]),
      ...(progress.done ? [button("The one before [Z]", () => this.back())] : []));
      return;
    }
    this.answer = structuredClone(task.answer);
    this.past = []; // what can be undone: {parts, at, answer}
    this.watch.begin(task.seconds);
    this.form = form(task, this.answer, (part) => this.change(part));
    this.pictures = pictures(task, this.base, {
      opened: () => this.change({ opened: true }), marked: (regions) => this.change({ regions }),
      asked: () => this.form.rows?.asked((key) => this.press({ key })) ?? [],
    });
    this.place.replaceChildren(div("ub-left", this.request(), this.pictures.element), div("ub-right", ...this.around()));
    this.pictures.show(this.answer);
    this.fill();
    this.place.querySelector("h2").focus({ preventScroll: true });
    if (this.worked > BREAK_SECONDS) {
      this.fail(new Refusal("You have rated for 45 minutes. A short break helps"));
      this.worked = 0;
    }
  }

  /** What the model was asked for, in order, with what it has said before. */
  request() {
    const { inputs, outputs, task } = this.task, neutral = outputs.length > 1 ? "Outputs" : "Output";
    const names = sources(inputs), plain = inputs.length - names.length < 2 && names.length < 2;
    const parts = inputs.filter(({ type }) => type === "text" || !plain).map((input) => {
      if (input.type !== "text") return ["Picture", names.find(({ src }) => src === input.src).name];
      return [input.generated ? "The model's answer then" : "Request", input.text];
    });
    return div("ub-request", make("h2", { tabindex: -1 }, task ? task.replaceAll("_", " ") : neutral),
      ...parts.map(([what, said]) => make("p", {}, make("strong", {}, `${what}: `), said)));
  }

  /** The form, and what goes with every kind of answer. */
  around() {
    this.sure = make("fieldset", { class: "ub-row" }, make("legend", {}, "How sure are you? [C, then a digit]"),
      ...CONFIDENCE.map((word, index) => make("label", {}, make("input", {
        type: "radio", name: "ub-confidence", value: index + 1, onchange: () => this.change({ confidence: index + 1 }),
      }), make("span", {}, make("kbd", {}, String(index + 1)), ` ${word}`))));
    this.askedSure = false;
    this.comment = make("textarea", { rows: 2, maxlength: 2000, oninput: () => this.change({ comment: this.comment.value }) });
    this.reason = make("select", {
      onchange: () => this.change({ cannot_judge: this.reason.value || null }),
    }, make("option", { value: "" }, "I can judge it"), ...this.task.reasons.map((reason) => make("option", { value: reason }, `Cannot judge: ${reason}`)));
    this.why = make("input", { type: "text", maxlength: 200 });
    this.submitting = button("Submit [Enter]", () => this.submit(), { class: "ub-main" });
    const revision = this.task.version
      ? [make("label", { class: "ub-field" }, "Reason for the revision", this.why)] : [];
    const said = this.task.others.length ? [others(this.task, (regions) => this.pictures.beside(regions))] : [];
    return [...said, this.form.element, this.sure,
      make("label", { class: "ub-field" }, "Cannot judge [X]", this.reason),
      make("label", { class: "ub-field" }, "Comment [T] – nothing that identifies a patient", this.comment),
      ...revision, div("ub-buttons", this.submitting, button("Undo [U]", () => this.undo()),
        button("The one before [Z]", () => this.back())),
      ...(this.task.revisable ? [] : [make("p", {}, "The time for corrections of this one is over.")])];
  }

  /** Shows the answer as it stands. */
  fill() {
    this.form.show(this.answer);
    this.comment.value = this.answer.comment ?? "";
    this.reason.value = this.answer.cannot_judge ?? "";
    for (const radio of this.place.querySelectorAll("[name=ub-confidence]")) {
      radio.checked = Number(radio.value) === this.answer.confidence;
    }
  }

  /** Takes a change up, and saves it. */
  change(part) {
    const parts = Object.keys(part).join(), last = this.past.at(-1), now = Date.now();
    if (last?.parts === parts && TYPED.includes(parts) && now - last.at < TYPING_MS) last.at = now;
    else if (parts !== "opened") this.past.push({ parts, at: now, answer: structuredClone(this.answer) });
    this.take({ ...this.answer, ...part });
  }

  undo() {
    const last = this.past.pop();
    if (last) this.take({ ...last.answer, opened: this.answer.opened });
    this.pictures.show(this.answer);
  }

  take(answer) {
    this.answer = answer;
    this.fill();
    this.fail();
    this.saver.put({ assignment: this.task.id, answer, seconds: this.watch.seconds });
  }

  /** Lets the next digit say how sure one is. */
  askSure(asked) {
    this.sure.classList.toggle("ub-current", this.askedSure = asked);
  }

  async submit() {
    if (this.busy || !this.task) return;
    this.busy = true;
    this.watch.alive();
    try {
      await this.pictures.loading; // whoever is quick has closed the full size before it was there
      await this.saver.hold();
      const { id } = this.task, said_at = new Date().toISOString();
      await call(this.base, "submit",
        { assignment: id, answer: this.answer, seconds: this.watch.seconds, said_at, reason: this.why.value });
      this.saver.drop();
      this.worked += this.watch.seconds - this.task.seconds;
      this.busy = false;
      await this.go("next");
    } catch (error) {
      this.busy = false;
      this.saver.release();
      this.fail(error, () => this.submit());
    }
  }

  /** The one before: to look at it again, or to revise it. */
  async back() {
    await this.saver.now();
    await this.go("item", { before: this.task?.version ? this.task.id : null });
  }

  // What goes wrong, and what is saved

  fail(error = null, again = null) {
    this.fault.hidden = !error;
    if (!error) return;
    const lost = !(error instanceof Refusal);
    const text = lost ? `${told(error)} What you have entered is kept here. ` : `${error.message} `;
    this.fault.replaceChildren(text, ...(lost && again ? [button("Try again", again)] : []),
      ...(error.status === 401 ? [button("Log in", () => location.reload())] : []));
    this.fault.scrollIntoView({ block: "nearest" });
  }

  showSaved(state, why) {
    if (state instanceof Refusal) return this.fail(state);
    const words = { saving: "Saving…", saved: "Saved", waiting: `Not saved yet: ${told(why)} Keep this page open` };
    this.saved.textContent = words[state];
    this.saved.classList.toggle("ub-waiting", state === "waiting");
  }

  // Keys

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.root.isConnected) return;
    const typing = event.target.closest?.("textarea, input[type=text], select");
    if (event.key === "Escape" && typing) return typing.blur();
    const theirs = OF_PICTURES.includes(event.key) && event.target.closest?.(".um-stage, .ub-passage");
    if (typing || theirs || this.help.open) return;
    const keys = { f: () => this.pictures?.open(), m: () => this.pictures?.mark(), t: () => this.form.write?.() ?? this.comment.focus(),
      d: () => this.pictures?.turn(), "+": () => this.pictures?.zoom(1.5), "=": () => this.pictures?.zoom(1.5),
      "-": () => this.pictures?.zoom(1 / 1.5), 0: () => this.pictures?.zoom(0), e: () => this.form.output?.focus(),
      c: () => this.askSure(true), u: () => this.undo(),
      x: () => this.reason.focus(), z: () => this.back(), "?": () => this.help.showModal(),
      Enter: () => event.target.closest?.("button, summary, a") ? null : (this.submit(), true) };
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const full = this.pictures?.dialog.open, mine = full ? ["f", "+", "=", "-", "0"] : this.task ? Object.keys(keys) : ["z", "?"];
    const own = this.tellSure(event.key) || ((!full || this.form.rows) && this.press(event));
    if (!own && (!mine.includes(name) || keys[name]() === null)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Whether a key says how sure one is, after C. */
  tellSure(key) {
    const asked = this.askedSure;
    if (asked) this.askSure(false);
    if (!asked || !CONFIDENCE[Number(key) - 1]) return false;
    this.change({ confidence: Number(key) });
    return true;
  }

  /** A key of the form, also in full size, which ends when everything is answered. */
  press(event) {
    const own = this.form?.key(event);
    if (own) this.pictures.ask(this.form.rows?.done);
    return own;
  }
}

/** Why something has not arrived. */
function told(error) {
  return error instanceof Unable ? error.message : "No connection to the studio.";
}

function minutes(seconds) {
  return seconds < 90 ? "a minute" : seconds < 5400 ? `${Math.round(seconds / 60)} minutes` : `${Math.round(seconds / 3600)} hours`;
}
